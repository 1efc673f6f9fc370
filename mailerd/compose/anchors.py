"""Where the links of HTML stand: `cut` gives a text in pieces, and what those of them are that a tracker changes.

HTML is cut at each `<`, and a piece, that is a tag with the text behind it, is judged by itself; what it is, is kept
(`compose.kept`), so of mail from one template only the pieces with values are looked at. Comments, and elements whose content is no HTML,
are stepped over. Where a tag does not end in its piece (a `<` in a value of an attribute, the end of the input), the whole is read again
in one pass, with the same result. No tree is built, and nothing is written: `"<".join` of the pieces is the text.

Hazards: every pattern here is possessive, so hostile HTML costs linear time; keep it so. A tag that the end of the input cuts off
is no link.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from html import unescape
from itertools import compress, pairwise

import msgspec

from .kept import Kept
from .text import RAW

__all__ = ["Anchor", "Mark", "as_followed", "cut", "opaque"]

_ATTRIBUTES = r"""(?:[^>=]++|=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))?+)*+"""
_NAMES = "|".join(["a", "area", *RAW, "/body"])
# All up to the next tag that matters: a link, an element whose content is no HTML, the end of the body.
_skip = re.compile(
    rf"""(?:[^<]++|<(?!(?:{_NAMES})(?:[\s/>]|\Z))"""
    rf"""(?:/?+[a-z]{_ATTRIBUTES}(?:>|\Z)|!--(?:[^-]++|-(?!->))*+(?:-->|\Z)|[!?/][^>]*+(?:>|\Z))?+)*+""",
    re.IGNORECASE,
).match
_tag = re.compile(rf"(/?+[a-z][^\s/>]*+)({_ATTRIBUTES})(>|\Z)", re.IGNORECASE).match
_matters = re.compile(rf"(?:{_NAMES})(?:[\s/>]|\Z)", re.IGNORECASE).match
_other = re.compile(rf"(?:/?+[a-z]{_ATTRIBUTES}|[!?/][^>]*+)(>|\Z)", re.IGNORECASE).match
_attributes = re.compile(
    r"""[\s/]*+([^\s/>=]++|=)(?:\s*+=\s*+(?:"([^"]*+)"?+|'([^']*+)'?+|([^\s>]*+)))?+""",
).finditer
_unsafe = re.compile(r"[\x00-\x20\x7f]").search
_EDGES = "".join(map(chr, range(33)))
_GONE = dict.fromkeys(map(ord, "\t\r\n"))
_MARKS = frozenset(("data-no-track", "data-unsubscribe"))


class Anchor(msgspec.Struct, frozen=True):
    """A link to `url`: with another target its piece is `before`, the target in quotes, `after`. Is it `spared`, then it is to
    be left alone, and `before` is its piece without the mark that says so."""

    url: str
    before: str
    after: str = ""
    spared: bool = False


class Raw(msgspec.Struct, frozen=True):
    """An element whose content is no HTML, and the search for its end."""

    close: Callable[[str], re.Match[str] | None]


class Mark(Enum):
    """What else a piece can be."""

    BODY = auto()  # the end of the body
    COMMENT = auto()  # a comment that ends in a later piece
    OPEN = auto()  # a tag that does not end here


Found = list[tuple[int, Anchor | Mark]]


def cut(html: str) -> tuple[list[str], Found]:
    """The pieces of `html`, with "<" between each two of them, and by their index the links and the ends of the body."""
    pieces = html.split("<")
    walked = _walk(pieces)
    return _scan(html) if walked is None else (pieces, walked[0])


def opaque(html: str) -> set[int] | None:
    """The indexes of those pieces that are of a comment, or of an element whose content is no HTML; None where a tag does not end in
    its piece, or one of those does not end at all."""
    pieces = html.split("<")
    walked = _walk(pieces)
    if walked is None:
        return None
    stepped = {i for begin, end in walked[1] for i in range(begin, end)}
    return None if len(pieces) in stepped else stepped


def _walk(pieces: list[str]) -> tuple[Found, list[tuple[int, int]]] | None:
    """What is found, and from which piece to which it is stepped over, beyond the last if that has no end; None if there is a tag that
    does not end in its piece."""
    kinds = list(map(_kinds.__getitem__, pieces))
    found: Found = []
    stepped: list[tuple[int, int]] = []
    count = len(pieces)
    resume = 1
    for i in compress(range(count), kinds):
        kind = kinds[i]
        if i < resume or kind is None:
            continue
        if kind is Mark.COMMENT:
            resume = next((j for j in range(i + 1, count) if "-->" in pieces[j]), count) + 1
            stepped.append((i, resume))
        elif isinstance(kind, Raw):
            resume = next((j for j in range(i + 1, count) if kind.close("<" + pieces[j])), count + 1)
            stepped.append((i, resume))
        elif kind is Mark.OPEN:
            return None
        else:
            found.append((i, kind))
    return found, stepped


def _kind(piece: str) -> Anchor | Raw | Mark | None:
    """What stands behind a "<": None for what does not matter."""
    tag, end, _ = piece.partition(">")
    return None if end and _plain[tag] else _look(piece)


def _look(piece: str) -> Anchor | Raw | Mark | None:
    if not _matters(piece):
        if piece.startswith("!--"):
            return None if piece.find("-->", 3) >= 0 else Mark.COMMENT
        other = _other(piece)
        return None if other is None or other[1] else Mark.OPEN
    tag = _tag(piece)
    assert tag is not None
    if not tag[3]:
        return Mark.OPEN
    name = tag[1].lower()
    if name == "/body":
        return Mark.BODY
    if name in RAW:
        return None if tag[2][-1:] == "/" else Raw(RAW[name])
    return _anchor(piece, tag.start(2), tag.end(2))


def _is_plain(tag: str) -> bool:
    """Is this, with a ">" behind it, all of a tag that does not matter, whatever follows?"""
    return not tag.startswith("!--") and _look(tag + ">") is None


_plain = Kept(_is_plain)
_kinds = Kept(_kind)


def _anchor(piece: str, start: int, end: int) -> Anchor | None:
    """A link whose attributes stand from `start` to `end`; None if it has no target and no mark."""
    target: re.Match[str] | None = None
    marks: list[re.Match[str]] = []
    for attribute in _attributes(piece, start, end):
        name = attribute[1].lower()
        if name == "href":
            target = target or attribute
        elif name in _MARKS:
            marks.append(attribute)
    url = ""
    if target is not None:
        value = target[2] or target[3] or target[4] or ""
        url = as_followed(unescape(value) if "&" in value else value)
    if marks:
        kept, done = [], 0
        for mark in marks:
            kept.append(piece[done : mark.start()])
            done = mark.end()
        return Anchor(url, "".join(kept) + piece[done:], spared=True)
    if target is None:
        return None
    return Anchor(url, f"{piece[: target.end(1)]}=", piece[target.end() :])


def as_followed(url: str) -> str:
    """`url` as a browser takes it (WHATWG URL §4.4)."""
    return url.strip(_EDGES).translate(_GONE) if _unsafe(url) else url


def _scan(html: str) -> tuple[list[str], Found]:
    """As `cut`, in one pass over the whole, and cut at what matters alone."""
    starts: list[int] = []
    start = 0
    while True:
        skipped = _skip(html, start)
        start = skipped.end() if skipped else len(html)
        tag = _tag(html, start + 1)
        if tag is None:
            break
        name, end = tag[1].lower(), tag.end()
        if close := RAW.get(name):
            if tag[2][-1:] != "/":
                closing = close(html, end)
                end = closing.start() if closing else len(html)
        elif tag[3] or name == "/body":
            starts.append(start)
        start = end
    pieces = [html[begin:end] for begin, end in pairwise((0, *(start + 1 for start in starts), len(html) + 1))]
    pieces[:-1] = [piece[:-1] for piece in pieces[:-1]]
    found: Found = []
    for i, piece in enumerate(pieces[1:], 1):
        tag = _tag(piece)
        assert tag is not None
        kind = Mark.BODY if tag[1].lower() == "/body" else _anchor(piece, tag.start(2), tag.end(2))
        if kind is not None:
            found.append((i, kind))
    return pieces, found
