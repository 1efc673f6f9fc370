"""What a pure function gives for pieces of text, kept for those pieces that come back.

Mail from one template has most of its pieces in common; a piece with a value in it is new in every message. So a result is
kept when its piece is seen for the second time. It is found by the piece itself, so nothing that a value says can change
what another piece becomes. Bounded: wide pieces are not kept, and when it is full it starts anew.

Hazard: used from several threads; entries are only added whole, and one that is lost is made again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Kept"]

WIDTH = 1000  # characters of the widest piece that is kept
ENTRIES = 4096  # of that width: 8 MB at the worst
SEEN = 16_384  # pieces that are remembered, by their hash, as seen once

Made = TypeVar("Made")


class Kept(dict[str, Made], Generic[Made]):
    """`kept[piece]` is `make(piece)`, and `make` is asked but twice for a piece that recurs."""

    def __init__(self, make: Callable[[str], Made]) -> None:
        super().__init__()
        self._make = make
        self.seen: set[int] = set()

    def __missing__(self, piece: str) -> Made:
        made = self._make(piece)
        if len(piece) <= WIDTH:
            mark = hash(piece)
            if mark in self.seen:
                if len(self) >= ENTRIES:
                    self.clear()
                self[piece] = made
            else:
                if len(self.seen) >= SEEN:
                    self.seen.clear()
                self.seen.add(mark)
        return made
