"""Keeps the library of stored templates up to date: one cheap look at the store every half second, on its own session.

Polling, not NOTIFY: it needs no session of its own behind PgBouncer, misses nothing after an interruption, and half a
second is well within the two that a push may take. While Postgres is away, what is in memory goes on being used.
"""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import msgspec

from mailerd.compose.bundle import Library
from mailerd.config.model import Database
from mailerd.store.database import Session, Unavailable
from mailerd.store.templates import refresh

__all__ = ["Shelf"]

log = logging.getLogger("mailerd.templates")

LOOK = 0.5  # seconds
TROUBLE = 30.0  # seconds after a defect, which would fill the log


class Shelf:
    """`library` is given to composers; `run` fills it until cancelled."""

    def __init__(self, settings: Database) -> None:
        self.versions = Library()
        self._settings = settings

    async def run(self) -> None:
        session = Session(self._settings, "mailerd:templates")
        try:
            while True:
                try:
                    if names := await refresh(session, self.versions):
                        log.info("templates changed: %s", ", ".join(names[:20]))
                except Unavailable as error:
                    log.debug("templates: %s", error)
                except (asyncpg.PostgresError, msgspec.MsgspecError) as error:
                    log.error("templates: %s", error)
                except Exception:  # a defect of ours: mail goes on with the versions that are known
                    log.exception("templates: unexpected trouble")
                    await asyncio.sleep(TROUBLE)
                await asyncio.sleep(LOOK)
        finally:
            session.drop()
