"""How long the phases of sending take: counters in fixed buckets, cheap enough for every message.

It exports nothing and keeps no samples; whoever serves metrics reads `counts` and `total` and builds a histogram of
them (a Prometheus `le` bucket is the running sum of `counts`).
"""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["BOUNDS", "Timing", "Timings"]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds in seconds; one more bucket takes what is longer."""


class Timing:
    """Durations of one phase. `counts[i]` is how many lay in bucket i (not cumulative), `total` the sum in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def add(self, other: Timing) -> None:
        """Adds the other's counts: several pools of one provider are one histogram."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Timings:
    """One provider's phases: `connect` (to a session ready for mail), `mail` (envelope to 354), `dot` (content to the
    reply to its dot)."""

    __slots__ = ("connect", "dot", "mail")

    def __init__(self) -> None:
        self.connect = Timing()
        self.mail = Timing()
        self.dot = Timing()

    def items(self) -> tuple[tuple[str, Timing], ...]:
        """(value of the label `phase`, its counters)."""
        return (("connect", self.connect), ("mail", self.mail), ("dot", self.dot))
