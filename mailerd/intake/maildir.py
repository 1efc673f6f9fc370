"""Watches a Maildir: each mail of `new` is stored, then moved to `cur` (seen) or deleted, in this order.

A crash between the two leaves the mail in `new`, and the next look stores it again, which the store knows it by its digest
for. Several instances may watch the same one: whose rename comes second finds nothing. Only plain files are read, links are
not followed. What cannot be read is said once, and left alone.

Hazard: the folder is somebody else's; a file may be gone, or another, at any moment. Each is looked at through one open file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from mailerd.config.inbound import Maildir
from mailerd.inbound.transfer import KEPT
from mailerd.intake.desk import Desk, Refused
from mailerd.store.database import Unavailable
from mailerd.store.inbound import Arrived

__all__ = ["MaildirWatch"]

log = logging.getLogger("mailerd.inbound")

LOOK: Final = 1.0  # seconds between looks
TROUBLE: Final = 10.0  # after one that failed
_BATCH: Final = 50


class MaildirWatch:
    """`run` until cancelled. `refused` is told why something was not taken."""

    def __init__(self, settings: Maildir, desk: Desk, refused: Callable[[str], None]) -> None:
        self._new = Path(settings.path, "new")
        self._cur = Path(settings.path, "cur")
        self._keep = settings.after == "keep"
        self._source = f"maildir:{settings.path}"
        self._desk = desk
        self._refused = refused
        self._hopeless: set[str] = set()  # names that could not be read
        self._trouble = ""

    async def run(self) -> None:
        while True:
            wait = LOOK
            try:
                while await self.look():
                    pass
                self._trouble = ""
            except Exception as error:  # whatever it is, it must not stop what sends
                wait = TROUBLE
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    known = isinstance(error, OSError | Unavailable)
                    log.warning("%s: %s; trying again", self._source, error, exc_info=not known)
            await asyncio.sleep(wait)

    async def look(self) -> int:
        """Takes some of what is there; how many. Raises `OSError` for the folder, `Unavailable`."""
        names = await asyncio.to_thread(self._names)
        read = await asyncio.gather(*(asyncio.to_thread(self._read, name) for name in names))
        outcomes = await asyncio.gather(*map(self._take, names, read), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(mail is not None for mail in read)

    async def _take(self, name: str, mail: Arrived | None) -> None:
        if mail is None:
            return
        try:
            await self._desk.keep(mail)
        except Refused as error:
            self._give_up(name, str(error))
            return
        await asyncio.to_thread(self._done, name)

    def _names(self) -> list[str]:
        with os.scandir(self._new) as entries:
            names = [
                entry.name for entry in entries if not entry.name.startswith(".") and entry.name not in self._hopeless
            ]
        return sorted(names)[:_BATCH]  # a name begins with the second of its delivery

    def _read(self, name: str) -> Arrived | None:
        try:
            descriptor = os.open(self._new / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(name, error.strerror or str(error))
            return None
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            self._give_up(name, "no plain file")
            return None
        with open(descriptor, "rb") as file:
            raw, size = file.read(KEPT + 1), facts.st_size
        return Arrived(source=self._source, raw=raw, size=size, hashed=sha256(b"%d:%b" % (size, raw)).digest())

    def _done(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another instance was faster
            if self._keep:
                os.rename(self._new / name, self._cur / (name.partition(":")[0] + ":2,S"))
            else:
                os.unlink(self._new / name)

    def _give_up(self, name: str, why: str) -> None:
        self._hopeless.add(name)
        self._refused("file")
        log.error("%s: %s: %s; it stays in new", self._source, name[:255], why)
