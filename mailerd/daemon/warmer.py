"""Keeps the warm-ups going: writes what this instance sent under them, reads what all did, and sets today's limits by it.

Every two seconds, in two short statements; an instance without a warm-up runs nothing of this. When Postgres is away the
limits stay as they are, and what was counted is written later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from mailerd.config.model import Database
from mailerd.flow.warming import Warming
from mailerd.store.database import Session, Unavailable
from mailerd.store.warmup import count, counted

__all__ = ["Warmer"]

log = logging.getLogger("mailerd.warmup")

EVERY: Final = 2.0  # seconds
_STATEMENT: Final = 5.0  # seconds that both may take
_TROUBLE = (Unavailable, asyncpg.PostgresError, TimeoutError)


class Warmer:
    """`on_change` is called when lanes fall under other limits than before."""

    def __init__(self, settings: Database, warming: Warming, on_change: Callable[[], None]) -> None:
        self._session = Session(settings, "mailerd:warmup")
        self._warming = warming
        self._on_change = on_change

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_STATEMENT):
                    await self._turn()
                failures = 0
            except _TROUBLE as error:
                failures += 1
                if failures in (1, 10):
                    log.warning("warm-up: %s; trying again", str(error) or "no answer in time")
            await asyncio.sleep(EVERY)

    async def _turn(self) -> None:
        await self._write()
        now, rows = await counted(self._session, list(self._warming.schedules))
        if self._warming.tell(rows, now):
            self._on_change()

    async def _write(self) -> None:
        seen = self._warming.seen()
        if not seen:
            return
        try:
            await count(self._session, self._warming.zones, seen)
        except BaseException:
            # It may have been stored: a few messages that count twice end a day sooner, never later.
            self._warming.unseen(seen)
            raise

    async def close(self) -> None:
        """Writes what is left, and goes."""
        try:
            async with asyncio.timeout(_STATEMENT):
                await self._write()
        except _TROUBLE as error:
            log.warning("warm-up: what was sent at last is not counted: %s", str(error) or "no answer in time")
        await self._session.close()
