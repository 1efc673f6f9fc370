"""Quoted-printable of a text that comes in pieces, what recurs encoded once.

A template yields its text in pieces: its own literals, the same in every message, and values between them. A literal
is encoded when it is seen for the second time and its octets are kept, so that a message costs what its values cost.
Quoted-printable (RFC 2045 §6.7) is written from left to right, and what has gone before matters by one number, the
column; so a literal is kept in two halves, its first line by the column it begins in, and the rest, which begins at 0.

Octet for octet what `binascii.b2a_qp` makes of the whole with CRLF line ends. What is kept is found by its text, not by
where it came from: nothing that a value says can change what another piece becomes. Nothing is kept of pieces
longer than `PIECE_LIMIT`; all is let go when `KEPT_LIMIT` is reached.

Hazards: the text must hold neither CR nor NUL (the caller looks). Used from several threads: entries are only ever
added whole, and a lost one is made again.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence

__all__ = ["quoted"]

WIDTH = 75  # characters of a line before its soft break's =, as b2a_qp breaks them
SHORT = 12  # a piece of fewer characters is written as fast as it is found
PIECE_LIMIT = 131_072  # characters
KEPT_LIMIT = 8_388_608  # characters
SEEN_LIMIT = 32_768

_SOFT = "=\r\n"


class _Literal:
    """A piece that recurs. `first` is its first line with its line end, if it has one, else all of it; `heads` is that,
    by column: what it becomes, and the column behind it. `rest` follows a line end. `last` is its last character, where what that
    becomes depends on what follows (white space before a line end, a dot alone on a line), and is in neither half."""

    __slots__ = ("breaks", "column", "first", "heads", "last", "lines", "rest")

    def __init__(self, piece: str) -> None:
        self.breaks = piece[0] == "\n"
        self.last = piece[-1] if piece[-1] in " \t." else ""
        body = piece[:-1] if self.last else piece
        first, newline, rest = body.partition("\n")
        self.lines = bool(newline)
        self.first = first + newline
        self.rest, self.column = _encoded(rest, 0)
        self.heads: dict[int, tuple[str, int]] = {}

    def head(self, column: int) -> tuple[str, int]:
        self.heads[column] = made = _encoded(self.first, column)
        return made


class _Kept:
    """The literals, and the hashes of what was seen once."""

    def __init__(self) -> None:
        self.literals: dict[str, _Literal] = {}
        self.seen: set[int] = set()
        self.size = 0

    def see(self, piece: str) -> _Literal | None:
        """The literal that `piece` becomes when it is seen again."""
        if len(piece) > PIECE_LIMIT:
            return None
        mark = hash(piece)
        if mark not in self.seen:
            if len(self.seen) >= SEEN_LIMIT:
                self.seen.clear()
            self.seen.add(mark)
            return None
        self.size += len(piece)
        if self.size > KEPT_LIMIT:
            self.literals.clear()
            self.size = len(piece)
        self.literals[piece] = literal = _Literal(piece)
        return literal


_kept = _Kept()


def _encoded(text: str, column: int) -> tuple[str, int]:
    """`text` as it stands behind `column` characters of a line, whatever but a line end follows; the column behind it."""
    if not text:
        return "", column
    # Other characters stand for the line so far and for what follows. Without a CRLF in its data, b2a_qp ends soft
    # breaks with LF.
    data = ("x" * column + text + "x\n").replace("\n", "\r\n").encode()
    made = binascii.b2a_qp(data)[column:-3].decode("ascii")
    if made.endswith(_SOFT):  # never of the text itself, whose = are written =3D
        made = made[:-3]
        if not made:
            return "", column
    newline = made.rfind("\n")
    return made, column + len(made) if newline < 0 else len(made) - newline - 1


def quoted(pieces: Sequence[str]) -> bytes:
    """The pieces, one after the other, in quoted-printable; their LF as CRLF. Raises `UnicodeEncodeError`."""
    out: list[str] = []
    write = out.append
    find = _kept.literals.get
    column = 0
    last = ""
    for piece in pieces:
        if not piece:
            continue
        literal = find(piece) if len(piece) >= SHORT else None
        if last:
            made, column = _last(last, column, literal.breaks if literal is not None else piece[0] == "\n")
            write(made)
            last = ""
        if literal is None:
            if (
                column + len(piece) <= WIDTH
                and piece.isascii()
                and piece.isprintable()
                and "=" not in piece
                and piece[-1] not in " ."
            ):
                write(piece)
                column += len(piece)
                continue
            literal = _kept.see(piece) if len(piece) >= SHORT else None
            if literal is None:
                if piece[-1] in " \t.":
                    last = piece[-1]
                    piece = piece[:-1]
                made, column = _encoded(piece, column)
                write(made)
                continue
        made, behind = literal.heads.get(column) or literal.head(column)
        write(made)
        if literal.lines:
            write(literal.rest)
            column = literal.column
        else:
            column = behind
        last = literal.last
    if last:
        write(_last(last, column, True)[0])
    return "".join(out).encode("ascii")


def _last(character: str, column: int, breaks: bool) -> tuple[str, int]:
    """White space or a dot at a piece's end, now that it is known whether the line ends behind it."""
    if character == "." and breaks and column == 0:
        return "=2E", 3
    soft = ""
    if column >= WIDTH:
        soft, column = _SOFT, 0
    if breaks and character != ".":
        return soft + ("=20" if character == " " else "=09"), column + 3
    return soft + character, column + 1
