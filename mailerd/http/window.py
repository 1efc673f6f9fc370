"""A provider's own count of our calls, as its answers tell it: so many left until the window ends. Pure.

Header names differ (`ratelimit-…`, `x-ratelimit-…`, `x-sib-ratelimit-…`), and so does what a reset means: seconds left,
or a Unix time. Calls in flight have not been counted by the peer when it wrote its answer, so they are taken off what
it says is left. A peer that says nothing limits nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["Window"]

_PREFIXES: Final = ("ratelimit-", "x-ratelimit-", "x-sib-ratelimit-")
_EPOCH: Final = 1e8  # what is larger is a Unix time
LONGEST: Final = 60.0  # seconds that are believed: a window is short, and a quota is said otherwise


class Window:
    """`room(now)` calls may be started; `until` is when there will be more, should there be none."""

    __slots__ = ("_left", "_limit", "until")

    def __init__(self) -> None:
        self._limit = math.inf
        self._left = math.inf
        self.until = 0.0

    def room(self, now: float) -> float:
        if now >= self.until:
            self._left = self._limit
        return self._left

    def start(self, now: float) -> None:
        """One more call begins."""
        self._left = self.room(now) - 1

    def tell(self, headers: Mapping[str, str], now: float, wall: float, others: int) -> None:
        """An answer came, while `others` were still in flight. `now` is monotonic, `wall` a Unix time."""
        for prefix in _PREFIXES:
            said = headers.get(prefix + "remaining")
            if said is None:
                continue
            left, reset = _number(said), _number(headers.get(prefix + "reset"))
            if left is None or reset is None:
                continue
            wait = min(max(reset - wall if reset > _EPOCH else reset, 0.0), LONGEST)
            limit = _number(headers.get(prefix + "limit"))
            self._limit = limit if limit is not None and limit >= 1 else math.inf
            self._left = left - others
            self.until = now + wait
            return


def _number(value: str | None) -> float | None:
    try:
        number = float((value or "").partition(",")[0].partition(";")[0])
    except ValueError:
        return None
    return number if math.isfinite(number) else None
