"""The log of events: a JSON line on stdout for each, for whoever ships logs (`log.events = "stdout"`).

All instances that say so share one subscription, so each event is printed by one of them; after a crash or a stall in
the middle, some are printed again, with the same id. Nothing is printed while Postgres is away, and nothing is lost:
what nobody printed waits for a week. A reader of stdout that stands still holds up these lines, and no mail.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable

import asyncpg
import msgspec

from mailerd.config.model import Database
from mailerd.store import notices
from mailerd.store.database import Session, Unavailable

__all__ = ["SUBSCRIBER", "EventLog"]

log = logging.getLogger("mailerd.events")

SUBSCRIBER = "log"
KEEP_SECONDS = 7 * 86400.0
RENEW_EVERY = 3600.0
IDLE = 0.5
TROUBLE = 5.0  # seconds


def _print(lines: bytes) -> None:
    sys.stdout.buffer.write(lines)
    sys.stdout.buffer.flush()


class EventLog:
    """`run` until cancelled."""

    def __init__(self, settings: Database, write: Callable[[bytes], None] = _print) -> None:
        self._settings = settings
        self._write = write

    async def run(self) -> None:
        session = Session(self._settings, "mailerd:events")
        renewed = float("-inf")
        try:
            while True:
                try:
                    if time.monotonic() - renewed > RENEW_EVERY:
                        await notices.subscribe(session, SUBSCRIBER, seconds=KEEP_SECONDS)
                        renewed = time.monotonic()
                    if not await notices.tell(session, SUBSCRIBER, self._tell):
                        await asyncio.sleep(IDLE)
                except (Unavailable, asyncpg.PostgresError) as error:
                    log.debug("events are not printed: %s", error)
                    await asyncio.sleep(1.0)
                except BrokenPipeError:
                    log.error("nobody reads stdout: events are printed no more")
                    await asyncio.Event().wait()
                except OSError as error:  # a full disk, where stdout is a file: they are printed when there is room
                    log.error("events cannot be printed: %s", error)
                    await asyncio.sleep(TROUBLE)
        finally:
            session.drop()

    async def _tell(self, events: list[notices.Event]) -> None:
        await asyncio.to_thread(self._write, b"".join(msgspec.json.encode(event) + b"\n" for event in events))
