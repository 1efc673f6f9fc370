"""Quoted-printable by lines: the octets that the standard library makes of the whole, whatever is known already."""

from __future__ import annotations

import binascii

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose import mime, quoted

_WORDS = [" ", "\t", ".", "\n", "=", "=_", "é", "😀", "x", "word ", "a" * 73, "b" * 74, "c" * 75, "d" * 76, "~\x7f"]
_TEXTS = st.lists(st.sampled_from(_WORDS), max_size=20).map("".join) | st.text(
    st.characters(exclude_characters="\r\0", exclude_categories=["Cs"])
)


def _whole(text: str) -> bytes:
    return binascii.b2a_qp(text.replace("\n", "\r\n").encode() + b"\r\n")[:-2]


@given(_TEXTS)
@example("")
@example("a" * 75 + ".")
@example("a" * 74 + "=" + "b" * 74 + "=")
@settings(max_examples=600, deadline=None)
def test_lines_are_encoded_as_the_whole_is(text: str) -> None:
    for _ in range(3):  # never seen, seen once, kept
        assert quoted.quoted(text) == _whole(text)


@pytest.mark.parametrize("tail", ["", "=", "x", ".", "==", "=x=", " ", "= ", "é"])
def test_soft_line_breaks_at_every_column(tail: str) -> None:
    for width in range(60, 160):
        for middle in ("", "=", "é", " "):
            text = "x" * width + middle + tail
            assert quoted.quoted(text) == _whole(text)


@given(_TEXTS)
@settings(max_examples=200, deadline=None)
def test_the_choice_of_encoding_is_that_of_counting_octets(text: str) -> None:
    data = text.encode()
    dear = sum(octet > 127 for octet in data) * 6 > len(data) + data.count(b"\n")
    part = mime._text("html", text, 1)
    if b"7bit" not in part:
        assert (b": base64\r\n" in part) == dear


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = quoted._Lines()
    monkeypatch.setattr(quoted, "_kept", kept)
    monkeypatch.setattr(quoted, "KEPT_LINES", 50)
    monkeypatch.setattr(quoted, "SEEN_LINES", 70)
    for i in range(300):
        text = f"{i} é\n" + "é" * (quoted.KEPT_WIDTH + 1)
        assert quoted.quoted(text) == quoted.quoted(text) == _whole(text)
        assert len(kept.seen) <= 70
        assert 0 < len(kept) <= 50
        assert max(map(len, kept)) <= quoted.KEPT_WIDTH
