"""How many messages of a stream are kept ready: a quarter second of its present rate, measured as it goes.

So a slow or dying instance hoards nothing; a full second would double what a crash delays. It grows at once when more than
that has gone within the quarter second, at most twofold at a time, and follows the rate down. Pure.
"""

from __future__ import annotations

__all__ = ["Depth"]

LEAST, MOST = 50, 1000
SECONDS = 0.25


class Depth:
    """`messages` is the depth now."""

    def __init__(self, now: float) -> None:
        self.messages = LEAST
        self._at = now
        self._sent = 0  # when it was looked at last

    def measure(self, now: float, sent: int) -> None:
        """`sent` messages were sent until `now`, in all."""
        passed = now - self._at
        if passed >= SECONDS:
            rate = (sent - self._sent) / passed
            self.messages = max(LEAST, min(MOST, int(rate * SECONDS), 2 * self.messages))
            self._at, self._sent = now, sent
        elif sent - self._sent > self.messages:
            self.messages = min(MOST, 2 * self.messages)
