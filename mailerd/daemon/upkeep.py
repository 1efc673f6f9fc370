"""Runs the store's upkeep on a clock: partitions, gauges, dedup keys, unknown streams, gone instances.

Every instance runs it; an advisory lock lets one of them work at a time. Each task has its own clock and its own try:
one that fails is logged and comes again within a minute, and the tasks behind it run all the same. Nothing here can
stop mail, except one thing on purpose: when tomorrow's partitions are missing, /readyz fails and leasing stops, before
inserts would.

Hazards: the tasks share one connection, so a statement that waits until its deadline makes the others wait as long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import asyncpg
import msgspec

from mailerd.config.model import Database
from mailerd.store import feedback, notices, upkeep, warmup
from mailerd.store.database import Session, Unavailable
from mailerd.store.overview import overview
from mailerd.store.work import due
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics

__all__ = ["Upkeep"]

log = logging.getLogger("mailerd.upkeep")

GAUGE_EVERY = 15.0
PACE = 20.0  # a paced task rests this many times its own last duration: counting five million rows is not free
OVERVIEW_EVERY = 5.0
MINUTE = 60.0
HOUR = 3600.0


class Task(msgspec.Struct):
    """One thing to do, `every` so many seconds; when it fails, again after a minute at the latest."""

    work: Callable[[Session], Awaitable[None]]
    every: float
    paced: bool = False
    due: float = 0.0
    failures: int = 0


class Upkeep:
    """`run` until cancelled."""

    def __init__(self, settings: Database, metrics: Metrics, health: Health, streams: Callable[[], list[str]]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._streams = streams
        self._tasks = {
            "partitions": Task(self._partitions, HOUR),
            "tomorrow": Task(self._tomorrow, MINUTE),
            "gauge": Task(self._gauge, GAUGE_EVERY, paced=True),
            "figures": Task(self._figures, GAUGE_EVERY),
            "overview": Task(self._overview, OVERVIEW_EVERY, paced=True),
            "unknown": Task(self._unknown, MINUTE),
            "stray": Task(self._stray, MINUTE),
            "dedup": Task(self._dedup, MINUTE),
            "gone": Task(self._gone, MINUTE),
            "kept": Task(self._kept, HOUR),
            "audit": Task(self._audit, HOUR),
            "drop": Task(self._drop, HOUR),
        }

    async def run(self) -> None:
        session = Session(self._settings, "mailerd:upkeep")
        try:
            while True:
                for name, task in self._tasks.items():
                    await self._try(session, name, task)
                await asyncio.sleep(1.0)
        finally:
            session.drop()

    async def _try(self, session: Session, name: str, task: Task) -> None:
        started = time.monotonic()
        if started < task.due:
            return
        task.due = started + task.every
        try:
            await task.work(session)
            task.failures = 0
        except Exception as error:  # whatever it is: the tasks behind this one must have their turn
            task.due = min(task.due, started + MINUTE)
            task.failures += 1
            if task.failures == 1:
                self._report(name, error)
        if task.paced:  # after a failure as well: what runs into its deadline costs the most
            ended = time.monotonic()
            task.due = max(task.due, ended + PACE * (ended - started))

    def _report(self, name: str, error: Exception) -> None:
        if isinstance(error, Unavailable) and not self._health.checks["database"][0]:
            return  # the heartbeat reports it
        known = isinstance(error, Unavailable | asyncpg.PostgresError)
        log.warning("upkeep (%s): %s; trying again", name, error, exc_info=None if known else error)

    # The tasks.

    async def _partitions(self, session: Session) -> None:
        if await upkeep.only_one(session, "partitions"):
            await upkeep.make_partitions(session)

    async def _tomorrow(self, session: Session) -> None:
        ok = await upkeep.partitions_ok(session)
        self._health.set(
            "partitions", ok, "made ahead" if ok else "tomorrow's partitions are missing: inserts will fail"
        )
        if not ok:
            self._tasks["partitions"].due = self._tasks["tomorrow"].due = 0.0

    async def _gauge(self, session: Session) -> None:
        if await upkeep.only_one(session, "gauge"):
            await upkeep.gauge(session)

    async def _figures(self, session: Session) -> None:
        rows = await session.fetch(upkeep.GAUGES)
        self._metrics.queue((row[0], row[1], row[2], row[3]) for row in rows)

    async def _overview(self, session: Session) -> None:
        self._health.overview = await overview(session)

    async def _unknown(self, session: Session) -> None:
        if await upkeep.only_one(session, "unknown"):
            failed = await upkeep.fail_unknown_streams(session)
            if failed:
                log.error("%d messages of streams that no instance lists were failed", failed)

    async def _stray(self, session: Session) -> None:
        if await upkeep.only_one(session, "stray"):
            known = set(self._streams())
            stray = [s for s in await upkeep.stray_streams(session) if s not in known]
            if stray:
                await due(session, stray)  # so that what nobody sends is found by the rule for unknown streams

    async def _dedup(self, session: Session) -> None:
        if await upkeep.only_one(session, "dedup"):
            await upkeep.turn_dedup(session)

    async def _gone(self, session: Session) -> None:
        if await upkeep.only_one(session, "gone"):
            await upkeep.sweep_up(session)
            await notices.sweep(session)

    async def _kept(self, session: Session) -> None:
        if await upkeep.only_one(session, "kept"):
            await upkeep.forget_kept(session)

    async def _audit(self, session: Session) -> None:
        if await upkeep.only_one(session, "audit"):
            await upkeep.forget_audit(session)
            await upkeep.forget_counts(session)
            await upkeep.forget_rates(session)
            await warmup.forget(session)
            await feedback.forget(session)

    async def _drop(self, session: Session) -> None:
        if await upkeep.only_one(session, "drop"):
            await upkeep.drop_partitions(session)
