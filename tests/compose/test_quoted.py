"""Quoted-printable by lines: the octets that the standard library makes of the whole, whatever is known already."""

from __future__ import annotations

import binascii
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose import kept, mime, quoted
from mailerd.compose.kept import Kept

_WORDS = [" ", "\t", ".", "\n", "=", "=_", "é", "😀", "x", "word ", "a" * 73, "b" * 74, "c" * 75, "d" * 76, "~\x7f"]
_TEXTS = st.lists(st.sampled_from(_WORDS), max_size=20).map("".join) | st.text(
    st.characters(exclude_characters="\r\0", exclude_categories=["Cs"])
)


def _whole(text: str) -> bytes:
    made = binascii.b2a_qp(text.replace("\n", "\r\n").encode() + b"\r\n")[:-2]
    return re.sub(rb"(?m)^([^\r]{74})(=20|=09)(?=\r|\Z)", rb"\1=\r\n\2", made)


@given(_TEXTS)
@example("")
@example("a" * 75 + ".")
@example("a" * 74 + "=" + "b" * 74 + "=")
@settings(max_examples=600, deadline=None)
def test_lines_are_encoded_as_the_whole_is(text: str) -> None:
    for _ in range(3):  # never seen, seen once, kept
        made = quoted.quoted(text)
        assert made == _whole(text)
        assert max(map(len, made.split(b"\r\n"))) <= 76


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
    lines = Kept(quoted._line)
    monkeypatch.setattr(quoted, "_kept", lines)
    monkeypatch.setattr(kept, "ENTRIES", 50)
    monkeypatch.setattr(kept, "SEEN", 70)
    for i in range(300):
        text = f"{i} é\n" + "é" * (kept.WIDTH + 1)
        assert quoted.quoted(text) == quoted.quoted(text) == _whole(text)
        assert len(lines.seen) <= 70
        assert 0 < len(lines) <= 50
        assert max(map(len, lines)) <= kept.WIDTH


@given(st.lists(_TEXTS, max_size=4))
@example(["x" * 72 + " ", "y"])
@example(["x" * 75, "", "y\n", " "])
@settings(max_examples=500, deadline=None)
def test_pieces_stand_beside_any_other(texts: list[str]) -> None:
    made = quoted.joined("".join(map(quoted.piece, texts)))
    assert binascii.a2b_qp(made).decode() == "".join(texts).replace("\n", "\r\n")
    for row in made.split(b"\r\n"):
        assert len(row) <= 76
        assert not row.endswith((b" ", b"\t"))
