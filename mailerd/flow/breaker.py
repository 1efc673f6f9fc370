"""A circuit breaker: after trouble, nobody tries for a while; then one probe; then everybody again. Pure.

    closed ──failures──▶ open ──its time is over──▶ half_open (one probe) ──success──▶ closed
                          ▲                              └──────failure──────▶ open, for longer

It knows no provider, keeps no clock and draws no random numbers: `now` (monotonic seconds) and `chance` (0 ≤ c < 1)
are passed in. It decides nothing about messages: trouble of a provider costs them no attempt.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Breaker", "State"]

State = Literal["closed", "open", "half_open"]


class Breaker:
    """`threshold` failures in a row open it; `first` and `longest` bound each wait, in seconds.

    The wait is drawn between `first` and three times the one before ("decorrelated jitter"), so that instances that
    lost a provider together do not come back together.
    """

    __slots__ = ("_first", "_longest", "_threshold", "failures", "state", "until", "wait")

    def __init__(self, threshold: int = 1, first: float = 1.0, longest: float = 60.0) -> None:
        self._threshold = threshold
        self._first = first
        self._longest = longest
        self.state: State = "closed"
        self.failures = 0  # in a row
        self.wait = 0.0  # the last one drawn
        self.until = 0.0  # end of the last wait

    @property
    def clean(self) -> bool:
        """Nothing to forget: a success would change nothing."""
        return self.failures == 0 and self.state == "closed"

    def failure(self, now: float, chance: float) -> bool:
        """One more failure; true if it opened the breaker. A failed probe opens it at once."""
        self.failures += 1
        if self.state == "open" or (self.state == "closed" and self.failures < self._threshold):
            return False
        self.trip(now, chance)
        return True

    def trip(self, now: float, chance: float) -> None:
        """Opens it now, whatever the count. Open already: no change, so that many failures of one event are one."""
        if self.state == "open":
            return
        before = max(self.wait, self._first)
        self.wait = min(self._longest, self._first + chance * (before * 3 - self._first))
        self.until = now + self.wait
        self.state = "open"

    def success(self) -> bool:
        """It works; true if that closed the breaker."""
        was = self.state
        self.state = "closed"
        self.failures = 0
        self.wait = 0.0
        return was != "closed"

    def probe(self, now: float) -> bool:
        """Whether the caller may try now although it was open; it is half open then. True once a wait."""
        if self.state != "open" or now < self.until:
            return False
        self.state = "half_open"
        return True

    def abandon(self, now: float) -> None:
        """The probe never took place: the next one may start at once."""
        if self.state == "half_open":
            self.state = "open"
            self.until = now
