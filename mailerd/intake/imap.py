"""Takes new mail from a mailbox over IMAP (RFC 9051): each mail is fetched, stored, and then marked or moved, by its UID.

Where the server tells of new mail (IDLE), the session stays and hears of it at once; else each look is a session of its
own. Either way it looks every `poll`. Nothing is remembered between sessions but what the server keeps: a mail that bears
the keyword $Mailerd (or \\Seen where the server keeps no keywords), or is gone from the folder, has been stored. A crash in
between stores a mail again, and the store knows it by its digest. A mail's first megabyte is fetched, without setting \\Seen.

Trouble is told once, and a server that is in trouble is asked less and less often: no account is locked by us.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from mailerd.config.inbound import Imap
from mailerd.inbound.transfer import KEPT
from mailerd.intake.desk import Desk, Refused
from mailerd.intake.mailbox import KEYWORD, Mailbox, Trouble
from mailerd.store.database import Unavailable
from mailerd.store.inbound import Arrived

__all__ = ["ImapWatch"]

log = logging.getLogger("mailerd.inbound")

_AT_A_TIME: Final = 200  # mails of one look; the next follows at once
_LONGEST_IDLE: Final = 28 * 60.0  # seconds; RFC 2177: a server may drop who says nothing for 30 minutes
_LONGEST_SESSION: Final = 3600.0  # seconds: the library keeps what a server tells it, as long as the session lasts
_FIRST_PAUSE: Final = 60.0  # after trouble, unless `poll` is shorter
_LONGEST_PAUSE: Final = 900.0
_passing: Final = re.compile(r"\([^)]*\)|[\d.]+")


class ImapWatch:
    """`run` until cancelled. `refused` is told why a mail was not taken, `looked` what came of each look: ok, or why not."""

    def __init__(
        self, settings: Imap, desk: Desk, refused: Callable[[str], None], looked: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._source = f"imap:{settings.name}"
        self._desk = desk
        self._refused = refused
        self._looked = looked
        self._validity = 0
        self._hopeless: set[int] = set()  # UIDs that the store will not have
        self._trouble = ""
        self._failures = 0

    async def run(self) -> None:
        poll = float(self._settings.poll)
        while True:
            pause = poll
            try:
                if await self.visit(stay=True):
                    continue
            except Exception as error:  # also a bug, ours or the library's: it must not stop what sends
                pause = self._fail(error)
            await asyncio.sleep(pause)

    async def visit(self, *, stay: bool = False) -> bool:
        """One session: takes what is there; to `stay` is to do so for as long as the server tells of new mail. Whether the
        next should follow at once. Raises `Trouble`, `Unavailable`."""
        end = time.monotonic() + _LONGEST_SESSION
        mailbox = await Mailbox.open(self._settings)
        try:
            self._number_anew(mailbox)
            taken: set[int] = set()
            while True:
                # What came meanwhile may have been told in passing, and is not told again: until there is nothing.
                while await self._look(mailbox, taken):
                    pass
                self._well()
                if not stay or not mailbox.idles:
                    return False
                if time.monotonic() >= end:
                    return True
                if not await mailbox.wait(min(float(self._settings.poll), _LONGEST_IDLE)):
                    return False
        finally:
            await mailbox.leave()

    def _number_anew(self, mailbox: Mailbox) -> None:
        """RFC 9051 §2.3.1.1: with another UIDVALIDITY, a UID is another mail's."""
        if self._validity and mailbox.validity != self._validity:
            self._hopeless.clear()
            self._looked("renumbered")
            log.warning(
                "%s: the folder %s was made anew, and numbers its mails anew (UIDVALIDITY)",
                self._source,
                mailbox.folder,
            )
        self._validity = mailbox.validity

    async def _look(self, mailbox: Mailbox, taken: set[int]) -> bool:
        """Takes some of what is there; whether there was any. `taken`: UIDs that this session is done with."""
        if self._settings.move_to is not None:
            wanted: tuple[str, ...] = ("UNDELETED",)
        else:
            wanted = ("UNDELETED", "UNKEYWORD", KEYWORD) if mailbox.keywords else ("UNDELETED", "UNSEEN")
        found = await mailbox.search(wanted)
        taken.intersection_update(found)
        left = [uid for uid in found if uid not in taken and uid not in self._hopeless][:_AT_A_TIME]
        for uid in left:
            await self._take(mailbox, uid)
            taken.add(uid)
        return bool(left)

    async def _take(self, mailbox: Mailbox, uid: int) -> None:
        fetched = await mailbox.fetch(uid, KEPT + 1)
        if fetched is None:  # somebody else was faster
            return
        raw, size = fetched
        mail = Arrived(source=self._source, raw=raw, size=size, hashed=sha256(b"%d:%b" % (size, raw)).digest())
        try:
            await self._desk.keep(mail)
        except Refused as error:
            self._hopeless.add(uid)
            self._refused("unstorable")
            log.error("%s: the mail with UID %d cannot be stored, and stays: %s", self._source, uid, error)
            return
        if self._settings.move_to is not None:
            await mailbox.move(uid, self._settings.move_to)
        else:
            await mailbox.mark(uid, KEYWORD if mailbox.keywords else r"\Seen")

    def _well(self) -> None:
        if self._trouble:
            log.info("%s: works again", self._source)
        self._trouble, self._failures = "", 0
        self._looked("ok")

    def _fail(self, error: Exception) -> float:
        """Seconds until the next try."""
        known = isinstance(error, Trouble | Unavailable)
        text = str(error) if known else type(error).__name__  # what a library says may hold the login
        self._looked(error.kind if isinstance(error, Trouble) else "store" if known else "protocol")
        told = _passing.sub("", text)  # some servers say how long it took
        if told != self._trouble:
            self._trouble = told
            log.log(logging.WARNING if known else logging.ERROR, "%s: %s; trying again", self._source, text)
        pause = min(float(self._settings.poll), _FIRST_PAUSE)
        if isinstance(error, Unavailable):  # of the store: the mailbox may be asked as often as ever
            return pause
        self._failures += 1
        return min(pause * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
