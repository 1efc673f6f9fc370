"""Quoted-printable by pieces: the same octets as of the whole, however the text is cut and whatever is known already."""

from __future__ import annotations

import binascii

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose import mime, plan

_WORDS = [" ", "\t", ".", "\n", "=", "=_", "é", "×", "😀", "x", "word ", "a" * 74, "b" * 75, "c" * 76, ".\n", " \n", "~\x7f"]
_LINES = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=12).map("".join)
_PIECES = st.lists(_LINES | st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"])), max_size=12)


def _whole(pieces: list[str]) -> bytes:
    return binascii.b2a_qp("".join(pieces).replace("\n", "\r\n").encode() + b"\r\n")[:-2]


@given(_PIECES)
@example([])
@example(["a" * 75, ".", "\n"])
@example(["a long literal that ends in a space ", "\n"])
@example(["a long first line\n", ".", "\nand more of it"])
@settings(max_examples=400, deadline=None)
def test_pieces_are_encoded_as_the_whole_is(pieces: list[str]) -> None:
    for _ in range(3):  # never seen, seen once, kept
        assert plan.quoted(pieces) == _whole(pieces)


@given(st.lists(_LINES, min_size=1, max_size=4), st.lists(_LINES, max_size=3))
@settings(max_examples=200, deadline=None)
def test_a_literal_is_the_same_behind_any_column(literals: list[str], values: list[str]) -> None:
    for column in (0, 1, 70, 72, 73, 74, 75, 76, 77):
        pieces = ["x" * column, *(piece for literal in literals for piece in (literal, *values))]
        assert plan.quoted(pieces) == _whole(pieces)


@given(_PIECES, st.sampled_from(["", "\r\n", "\r", "é" * 50, "=_"]))
@settings(max_examples=200, deadline=None)
def test_a_part_of_pieces_is_the_part_of_the_text(pieces: list[str], more: str) -> None:
    pieces = [*pieces, more]
    for subtype, width in (("html", mime.HTML_WIDTH), ("plain", mime.PLAIN_WIDTH)):
        assert mime._text(subtype, pieces, width) == mime._text(subtype, "".join(pieces), width)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = plan._Kept()
    monkeypatch.setattr(plan, "_kept", kept)
    monkeypatch.setattr(plan, "KEPT_LIMIT", 10_000)
    monkeypatch.setattr(plan, "SEEN_LIMIT", 50)
    for i in range(300):
        piece = f"{i} " + "é" * 90
        assert plan.quoted([piece]) == plan.quoted([piece]) == _whole([piece])
        assert len(kept.seen) <= 50
        assert sum(map(len, kept.literals)) <= 10_000
    assert kept.literals
