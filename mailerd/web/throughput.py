"""Messages a second of this instance over the last minutes, from samples of its own counters.

It holds five minutes of samples and nothing else; what the whole fleet does is for Prometheus to add up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

__all__ = ["INTERVAL", "Throughput"]

INTERVAL: Final = 2.0  # seconds between samples
_KEPT: Final = 151  # five minutes and the sample they start from


class Throughput:
    """Fed with `sample` every `INTERVAL` seconds; time and counts come from the caller."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, int]]] = deque(maxlen=_KEPT)

    def sample(self, now: float, sent: Mapping[str, int]) -> None:
        """Recipients sent so far, by stream, at the monotonic time `now`."""
        self._samples.append((now, dict(sent)))

    def rate(self, seconds: float, stream: str | None = None) -> float:
        """The mean per second over the last `seconds`, or what there is of them; of one stream, or of all."""
        if len(self._samples) < 2:
            return 0.0
        end, now = self._samples[-1]
        start, before = next((s for s in self._samples if s[0] >= end - seconds - INTERVAL / 2), self._samples[-2])
        if end <= start:
            return 0.0
        names = now if stream is None else (stream,)
        return sum(now.get(name, 0) - before.get(name, 0) for name in names) / (end - start)

    def series(self) -> list[float]:
        """The rate between each two samples, oldest first."""
        return [
            (sum(b.values()) - sum(a.values())) / max(until - since, 1e-9)
            for (since, a), (until, b) in pairwise(self._samples)
        ]
