"""Quoted-printable (RFC 2045 §6.7), a line at a time: octet for octet what `binascii.b2a_qp` writes, for about half of what it
takes, but for lines of 77 characters, which it makes and no reader has to take.

Mail from one template has most of its lines in common. A line that is seen for the second time is kept with what it
becomes; a line with a value in it is new in every message, is not kept, and is cut into its soft-broken lines without a
look at each character, if it is printable ASCII. What is kept is found by the line itself, so nothing that a value
says can change what another line becomes.

Hazards: the text must hold neither CR nor NUL (the caller looks). It is used from several threads: entries are only added whole,
and one that is lost is made again.
"""

from __future__ import annotations

import binascii

from .kept import Kept

__all__ = ["joined", "piece", "quoted"]

WIDTH = 75  # characters before the = of a soft line break, as b2a_qp breaks them


def _line(line: str) -> str:
    if not (line.isascii() and line.isprintable()) or line[-1:] == " " or line == ".":
        made = binascii.b2a_qp(line.encode() + b"\r\n").decode("ascii")
        # b2a_qp does not count the space at the end of a line as the three characters that it makes of it.
        if len(made) - made.rfind("\n", 0, -2) - 3 > WIDTH + 1:
            made = f"{made[:-5]}=\r\n{made[-5:]}"
        return made
    if "=" in line:
        line = line.replace("=", "=3D")
    if len(line) <= WIDTH:
        return line + "\r\n"
    if line.find("=", 1) < 0:
        return "=\r\n".join([line[start : start + WIDTH] for start in range(0, len(line), WIDTH)]) + "\r\n"
    done, start, end = [], 0, len(line)
    while end - start > WIDTH:
        # Never between the characters of a `=3D`.
        at = line.rfind("=", start + WIDTH - 2, start + WIDTH)
        stop = start + WIDTH if at < 0 else at
        done.append(line[start:stop])
        start = stop
    done.append(line[start:])
    return "=\r\n".join(done) + "\r\n"


_kept = Kept(_line)


def quoted(text: str) -> bytes:
    """`text`, whose lines end in LF, in quoted-printable with CRLF. Raises `UnicodeEncodeError` for unpaired surrogates."""
    return "".join(map(_kept.__getitem__, text.split("\n"))).encode("ascii")[:-2]


def piece(text: str) -> str:
    """A piece of a text, behind which any other may follow: it begins on a line of its own, and ends with a line break, hard where
    the text has one and soft (`=`) where it has none. Raises `UnicodeEncodeError` for unpaired surrogates."""
    whole, end, last = text.rpartition("\n")
    lines = "".join(map(_line, whole.split("\n"))) if end else ""
    if not last:
        return lines
    # With one more character, so that there is room for the =, and a space at the end may stay what it is.
    row = _line(last + "x")[:-3]
    return lines + (row if row.endswith("=\r\n") else row + "=\r\n")


def joined(pieces: str) -> bytes:
    """The text that consists of these pieces, in quoted-printable."""
    text = pieces.removesuffix("=\r\n")
    if text[-1:] in (
        " ",
        "\t",
    ):  # RFC 2045 §6.7 (3): white space may be the last on a line only in front of a soft break
        text = f"{text[:-1]}=\r\n={ord(text[-1]):02X}"
    return text.encode("ascii")
