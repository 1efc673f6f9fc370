"""Quoted-printable (RFC 2045 §6.7), a line at a time: octet for octet what `binascii.b2a_qp` writes, for about half of what it takes.

Mail from one template has most of its lines in common. A line that is seen for the second time is kept with what it
becomes; a line with a value in it is new in every message, is not kept, and is cut into its soft-broken lines without a
look at each character, if it is printable ASCII. What is kept is found by the line itself, so nothing that a value
says can change what another line becomes.

Hazards: the text must hold neither CR nor NUL (the caller looks). It is used from several threads: entries are only added whole,
and one that is lost is made again.
"""

from __future__ import annotations

import binascii

__all__ = ["quoted"]

WIDTH = 75  # characters before the = of a soft line break, as b2a_qp breaks them
KEPT_WIDTH = 1000
KEPT_LINES = 4096  # of that width: 8 MB at the worst
SEEN_LINES = 16_384


class _Lines(dict[str, str]):
    """Lines to their quoted-printable with a CRLF. Started anew when it is full."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __missing__(self, line: str) -> str:
        made = _line(line)
        if len(line) <= KEPT_WIDTH:
            mark = hash(line)
            if mark in self.seen:
                if len(self) >= KEPT_LINES:
                    self.clear()
                self[line] = made
            else:
                if len(self.seen) >= SEEN_LINES:
                    self.seen.clear()
                self.seen.add(mark)
        return made


_kept = _Lines()


def _line(line: str) -> str:
    if not (line.isascii() and line.isprintable()) or line[-1:] == " " or line == ".":
        return binascii.b2a_qp(line.encode() + b"\r\n").decode("ascii")
    if "=" in line:
        line = line.replace("=", "=3D")
    if len(line) <= WIDTH:
        return line + "\r\n"
    done, start, end = [], 0, len(line)
    while end - start > WIDTH:
        # Never between the characters of a `=3D`.
        at = line.rfind("=", start + WIDTH - 2, start + WIDTH)
        stop = start + WIDTH if at < 0 else at
        done.append(line[start:stop])
        start = stop
    done.append(line[start:])
    return "=\r\n".join(done) + "\r\n"


def quoted(text: str) -> bytes:
    """`text`, whose lines end in LF, in quoted-printable with CRLF. Raises `UnicodeEncodeError` for unpaired surrogates."""
    return "".join(map(_kept.__getitem__, text.split("\n"))).encode("ascii")[:-2]
