"""What has ended in one stream, written in batches and counted: the way from the backlog's settlements to the store.

One statement writes a batch (`store.settle`). What could not be written goes first next time; what somebody else has locked
goes last, so that it holds up nobody. Only what was written counts as an event; what was fenced counts as that.

Hazard: `write` is called by the pipeline's one task alone, never beside its other statements.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from mailerd.daemon.backlog import Backlog
from mailerd.message import Settlement
from mailerd.store.database import Session
from mailerd.store.settle import settle
from mailerd.web.metrics import Metrics

__all__ = ["Settling"]

log = logging.getLogger("mailerd.settling")

BATCH = 1000
# Seconds between settles of a busy stream: what a statement costs by itself is shared by its batch. In batches of 46 a row
# costs Postgres and us 33 µs, of 92 it costs 24 (bench/RESULTS.md). A crash may send again what was accepted since the last.
PAUSE = 0.02


class Settling:
    """One stream's. `timed` measures a statement by its name."""

    def __init__(
        self,
        stream: str,
        backlog: Backlog,
        session: Session,
        metrics: Metrics,
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._stream = stream
        self._backlog = backlog
        self._session = session
        self._metrics = metrics
        self._timed = timed
        self._latency = metrics.enqueue_to_sent(stream)
        self._written = 0.0  # monotonic; when last

    @property
    def pending(self) -> int:
        return len(self._backlog.settlements)

    def wait(self, now: float) -> float:
        """Seconds until there should be a `write`: not before others have come together; inf: there is nothing."""
        if not self.pending:
            return math.inf
        return 0.0 if self.pending >= BATCH // 4 else max(self._written + PAUSE - now, 0.0)

    async def write(self) -> None:
        """The oldest ones. Raises what Postgres raises; nothing is lost then."""
        batch = self._backlog.take_settlements(BATCH)
        self._written = time.monotonic()
        locked: list[Settlement] = []
        try:
            with self._timed("settle"):
                done = await settle(self._session, self._stream, batch, locked)
        except BaseException:
            self._backlog.put_back(batch)
            raise
        if locked:
            log.warning("stream %s: %d rows are locked by somebody else", self._stream, len(locked))
            self._backlog.settlements += locked  # behind the others
            ids = {settlement.job.id for settlement in locked}
            batch = [settlement for settlement in batch if settlement.job.id not in ids]
        self._backlog.settled(batch)
        self._count(batch, done)

    def _count(self, batch: Sequence[Settlement], done: set[int]) -> None:
        outcomes: dict[tuple[str, str], int] = {}
        events: dict[str, int] = {}
        retries: dict[tuple[str, str], int] = {}
        for settlement in batch:
            for event, _, outcome in settlement.events:
                key = (outcome.provider, outcome.kind.value)
                outcomes[key] = outcomes.get(key, 0) + 1
                if settlement.job.id in done:
                    events[event] = events.get(event, 0) + 1
                    if event == "deferred":
                        retry = (outcome.provider, outcome.category or "other")
                        retries[retry] = retries.get(retry, 0) + 1
        for (provider, outcome_name), n in outcomes.items():
            self._metrics.sent(self._stream, provider, outcome_name, n)
        for event, n in events.items():
            self._metrics.event(event, n)
        for (provider, category), n in retries.items():
            self._metrics.retried(provider, category, n)
        if len(done) < len(batch):
            self._metrics.fenced(len(batch) - len(done))
        self._latency.observe_all(self._backlog.latencies)
        self._backlog.latencies.clear()
