"""Fetches tokens for all buckets of the instance, and gives back what nobody needed: one statement for all of them, twice
a second while mail flows, none while it rests.

A bucket that has run dry before its time may pull the statement forward, as far as an allowance of two a second goes:
that is how a first message need not wait for the next round. What the statement brought wakes the pipelines. When Postgres
is away there are no tokens, and nothing is sent that a limit covers; the buckets keep what they have.

It also writes what replies taught (`daemon.feedback`), and reads which rates hold at the moment besides the configured ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from mailerd.config.model import Database
from mailerd.daemon.feedback import Feedback
from mailerd.flow.limits import Held, Limits
from mailerd.store.database import Session, Unavailable
from mailerd.store.throttle import grant, make_buckets, overrides
from mailerd.web.metrics import Metrics

__all__ = ["Mint"]

log = logging.getLogger("mailerd.mint")

EVERY: Final = 0.5  # seconds between statements
SOONEST: Final = 0.05  # and at the least
LOOK: Final = 0.02  # seconds between looks whether a bucket ran dry
ALLOWANCE: Final = 6.0  # statements that may be pulled forward in a row; two a second come back
RATES_EVERY: Final = 1.0
STATEMENT: Final = 2.0  # seconds that it may take: by then what it grants is of little use
_TROUBLE = (Unavailable, asyncpg.PostgresError)


class Mint:
    """`on_granted(changed)` is called when tokens came; `changed`: the rates themselves are others now."""

    def __init__(
        self,
        settings: Database,
        limits: Limits,
        feedback: Feedback,
        metrics: Metrics,
        on_granted: Callable[[bool], None],
    ) -> None:
        self._feedback = feedback
        self._session = Session(settings, "mailerd:mint")
        self._limits = limits
        self._on_granted = on_granted
        self._timing = metrics.statement("grant")
        self._metrics = metrics
        self._known: set[str] = set()
        self._instances = 1
        self._last = -1e9
        self._allowance = ALLOWANCE
        self._rates_at = -1e9
        self._failures = 0

    def share(self, instances: int) -> None:
        """How many instances there are, as of the last heartbeat."""
        self._instances = instances

    async def run(self) -> None:
        """Until cancelled."""
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            for kind in {bucket.kind for bucket in self._limits.buckets() if bucket.waits}:
                self._metrics.throttle_wait(kind, now - looked)
            looked, failed = now, False
            for step in (self._write, self._read, self._fetch):  # whatever becomes of one, the others have their turn
                try:
                    async with asyncio.timeout(STATEMENT):
                        await step(now)
                except (*_TROUBLE, TimeoutError) as error:
                    failed = True
                    if self._failures in (0, 9):
                        log.warning("tokens: %s; trying again", str(error) or "no answer in time")
            self._failures = self._failures + 1 if failed else 0
            if failed:
                await asyncio.sleep(min(0.1 * 2 ** min(self._failures, 10), 2.0))
            await asyncio.sleep(LOOK)

    async def _write(self, now: float) -> None:
        if self._feedback.due(now):
            await self._feedback.flush(self._session)

    async def _read(self, now: float) -> None:
        if now - self._rates_at >= RATES_EVERY:
            self._rates_at = now
            await self._read_rates()

    async def _fetch(self, now: float) -> None:
        if self._due(now):
            await self._ask()

    def _due(self, now: float) -> bool:
        since = now - self._last
        if since >= EVERY:
            return True
        if since < SOONEST or self._allowance < 1.0:
            return False
        return any(bucket.hungry(now) for bucket in self._limits.buckets())

    async def _ask(self) -> None:
        now = time.monotonic()
        buckets = {bucket.limit.key: bucket for bucket in self._limits.buckets()}
        if new := buckets.keys() - self._known:
            await make_buckets(self._session, list(new))
            self._known |= new
        asks = {key: ask for key, bucket in buckets.items() if (ask := bucket.ask(now, self._instances)) is not None}
        if not asks:
            return
        self._allowance = min(ALLOWANCE, self._allowance + (now - self._last) / EVERY) - 1.0
        self._last = now
        try:
            found = await grant(self._session, list(asks.values()))
        except BaseException:
            for key, ask in asks.items():
                buckets[key].failed(ask)
            raise
        self._timing.observe(time.monotonic() - now)
        some = False
        for key, ask in asks.items():
            answer = found.get(key)
            if answer is None:  # its row is gone
                self._known.discard(key)
                buckets[key].failed(ask)
                continue
            buckets[key].granted(*answer)
            some |= answer.tokens > 0
        if some:
            self._on_granted(False)

    async def _read_rates(self) -> None:
        held = [Held(x.key, x.source, x.rate) for x in await overrides(self._session)]
        self._feedback.known({x.key for x in held if x.source == "learned"})
        if self._limits.hold(held):
            self._on_granted(True)

    async def close(self) -> None:
        """Gives back what is in hand, and goes."""
        asks = [ask for bucket in self._limits.buckets() if (ask := bucket.surrender()) is not None]
        if asks:
            with contextlib.suppress(*_TROUBLE, TimeoutError):
                async with asyncio.timeout(STATEMENT):
                    await grant(self._session, asks)
        await self._session.close()
