"""Where mail that comes in is stored, before anybody says that it was taken: one statement for all that wait.

`keep` returns when its mail is durable. What waits is bounded (`busy`): who is told so tells his peer to come again.
It retries nothing: whoever brought a mail still has it, and brings it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import asyncpg

from mailerd.config.model import Database
from mailerd.store.database import DataError, Session, Unavailable
from mailerd.store.inbound import Arrived, keep

__all__ = ["Desk", "Refused"]

_OCTETS: Final = 32 << 20  # that may wait
_MAILS: Final = 1000
_BATCH_OCTETS: Final = 8 << 20
_BATCH: Final = 100
_DEADLINE: Final = 20.0  # seconds for one statement: the peer waits for as long


class Refused(Exception):
    """Postgres will not have this mail, now or ever."""


class Desk:
    """`run` in a task. `stored` is called with the source of each mail that was new."""

    def __init__(self, settings: Database, stored: Callable[[str], None]) -> None:
        self._session = Session(settings, "mailerd:inbound")
        self._stored = stored
        self._waiting: list[tuple[Arrived, asyncio.Future[None]]] = []
        self._octets = 0
        self._some = asyncio.Event()

    def busy(self) -> str:
        """Why no more is taken now, '' if it is."""
        return "too much at a time" if self._octets > _OCTETS or len(self._waiting) >= _MAILS else ""

    async def keep(self, mail: Arrived) -> None:
        """Returns when it is durable. Raises `Unavailable` (bring it again) or `Refused`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((mail, future))
        self._octets += len(mail.raw)
        self._some.set()
        await future

    async def run(self) -> None:
        """Until cancelled. What waits then is told that it was not stored."""
        try:
            while True:
                await self._some.wait()
                batch = self._next()
                if not self._waiting:
                    self._some.clear()
                try:
                    await self._store(batch)
                finally:
                    self._fail(batch, Unavailable("the process stops"))
        finally:
            self._fail(self._waiting, Unavailable("the process stops"))
            self._session.drop()

    def _next(self) -> list[tuple[Arrived, asyncio.Future[None]]]:
        number, octets = 0, 0
        for mail, _ in self._waiting[:_BATCH]:
            octets += len(mail.raw)
            if number and octets > _BATCH_OCTETS:
                break
            number += 1
        batch, self._waiting = self._waiting[:number], self._waiting[number:]
        self._octets -= sum(len(mail.raw) for mail, _ in batch)
        return batch

    async def _store(self, batch: list[tuple[Arrived, asyncio.Future[None]]]) -> None:
        try:
            async with asyncio.timeout(_DEADLINE):
                new = await keep(self._session, [mail for mail, _ in batch])
        except (Unavailable, TimeoutError) as error:
            self._fail(batch, Unavailable(str(error) or "no answer from Postgres in time"))
        except (*DataError, ValueError, TypeError) as error:
            if len(batch) == 1:
                self._fail(batch, Refused(str(error)))
                return
            for one in batch:  # which of them it is
                await self._store([one])
        except asyncpg.PostgresError as error:  # a schema that is not ours, no privilege: somebody will mend it
            self._fail(batch, Unavailable(str(error)))
        else:
            for mail, future in batch:
                if mail.digest in new:
                    new.discard(mail.digest)  # two alike in one batch
                    self._stored(mail.source)
                if not future.done():
                    future.set_result(None)

    def _fail(self, batch: list[tuple[Arrived, asyncio.Future[None]]], error: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)
                with contextlib.suppress(asyncio.CancelledError):
                    future.exception()  # whoever asked may be gone
