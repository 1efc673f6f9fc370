"""Asks a mailbox for new mail over IMAP (RFC 9051): each mail is fetched, stored, and then marked or moved, by its UID.

Every look is a connection of its own, so nothing is remembered between looks but what the server keeps: a mail that bears the
keyword $Mailerd (or \\Seen where the server keeps no keywords), or is gone from the folder, has been stored. A crash in between
stores a mail again, and the store knows it by its digest. A mail's first megabyte is fetched, without setting \\Seen.

Hazards: the library writes its last command into some exceptions, and that may be the login: what it raises is never logged
as it is. It also leaves quoting to its callers, and reads what a server says without bounds of its own: the server is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from aioimaplib import IMAP4, IMAP4_SSL, AioImapException, CommandTimeout, quoted

from mailerd.config.inbound import Imap
from mailerd.inbound.transfer import KEPT
from mailerd.intake.desk import Desk, Refused
from mailerd.message import clean
from mailerd.store.database import Unavailable
from mailerd.store.inbound import Arrived

__all__ = ["ImapPoll"]

log = logging.getLogger("mailerd.inbound")

KEYWORD: Final = "$Mailerd"
_AT_A_TIME: Final = 200  # mails of one look; the rest waits for the next, which follows at once
_SIZE: Final = re.compile(rb"RFC822\.SIZE (\d{1,19})")


class _Trouble(Exception):
    """The server cannot be used now. The text is safe to log."""


class ImapPoll:
    """`run` until cancelled. `refused` is told why something was not taken."""

    def __init__(self, settings: Imap, desk: Desk, refused: Callable[[str], None]) -> None:
        self._settings = settings
        self._source = f"imap:{settings.name}"
        self._desk = desk
        self._refused = refused
        self._hopeless: set[bytes] = set()  # UIDs that the store will not have
        self._trouble = ""

    async def run(self) -> None:
        while True:
            more = False
            try:
                more = await self.look()
                self._trouble = ""
            except (_Trouble, Unavailable) as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self._refused("imap")
                    log.warning("%s: %s; trying again", self._source, error)
            except Exception as error:  # a bug, ours or the library's, must not stop what sends; nor tell the login
                if self._trouble != type(error).__name__:
                    self._trouble = type(error).__name__
                    self._refused("imap")
                    log.error("%s: %s; trying again", self._source, self._trouble)
            if not more:
                await asyncio.sleep(float(self._settings.poll))

    async def look(self) -> bool:
        """Takes what is there; whether there is more. Raises `_Trouble`, `Unavailable`."""
        settings = self._settings
        client: Any = None
        try:
            try:
                client = self._client()
                await client.wait_hello_from_server()
                await self._ok(client.login(quoted(settings.username), settings.password), "login")
                async with asyncio.timeout(float(settings.timeout)):
                    await client.protocol.capability()
                selected = await self._ok(client.select(quoted(settings.folder)), "select")
                marks = _marks(selected, settings.move_to)
                found = await self._ok(client.uid_search(*marks.wanted, charset=None), "search")
                uids = [
                    uid for line in found[:-1] for uid in bytes(line).removeprefix(b"SEARCH").split() if uid.isdigit()
                ]
                left = [uid for uid in uids if uid not in self._hopeless]
                for uid in left[:_AT_A_TIME]:
                    await self._take(client, uid.decode(), marks)
                return len(left) > _AT_A_TIME
            except TimeoutError:
                raise _Trouble("no answer in time") from None
            except CommandTimeout:
                raise _Trouble("no answer in time") from None
            except ssl.SSLError as error:
                raise _Trouble(f"TLS: {error.reason or error}") from None
            except OSError as error:
                raise _Trouble(error.strerror or type(error).__name__) from None
            except (AioImapException, ValueError, IndexError, UnicodeError, RecursionError) as error:
                raise _Trouble(f"{type(error).__name__} in what the server says") from None
        finally:
            if client is not None:
                await _leave(client)

    def _client(self) -> IMAP4:
        settings = self._settings
        if settings.tls == "none":
            return IMAP4(settings.host, settings.port, timeout=float(settings.timeout))
        context = ssl.create_default_context(cafile=settings.tls_ca)
        return IMAP4_SSL(settings.host, settings.port, timeout=float(settings.timeout), ssl_context=context)

    async def _ok(self, call: Any, what: str) -> list[Any]:
        """The lines of a response. Raises `_Trouble` for one that is not OK."""
        async with asyncio.timeout(float(self._settings.timeout)):
            response = await call
        if response.result != "OK":
            words = clean(bytes(response.lines[-1]).decode("utf-8", "replace") if response.lines else "", 200)
            raise _Trouble(f"{what}: {words or response.result}")
        return list(response.lines)

    async def _take(self, client: Any, uid: str, marks: _Marks) -> None:
        parts = f"(RFC822.SIZE BODY.PEEK[]<0.{KEPT + 1}>)"
        lines = await self._ok(client.uid("fetch", uid, parts), "fetch")
        raw = next((bytes(line) for line in lines if isinstance(line, bytearray)), None)
        if raw is None:  # somebody else was faster
            return
        sizes = [int(found[1]) for line in lines if isinstance(line, bytes) and (found := _SIZE.search(line))]
        size = max(sizes[0] if sizes else 0, len(raw))
        mail = Arrived(source=self._source, raw=raw, size=size, hashed=sha256(b"%d:%b" % (size, raw)).digest())
        try:
            await self._desk.keep(mail)
        except Refused as error:
            self._hopeless.add(uid.encode())
            self._refused("unstorable")
            log.error("%s: the mail with UID %s cannot be stored, and stays: %s", self._source, uid, error)
            return
        move_to = self._settings.move_to
        if move_to is None:
            await self._ok(client.uid("store", uid, "+FLAGS.SILENT", f"({marks.mark})"), "store")
        elif client.has_capability("MOVE"):
            await self._ok(client.uid("move", uid, quoted(move_to)), "move")
        else:  # RFC 6851 §3.3, what it replaces
            await self._ok(client.uid("copy", uid, quoted(move_to)), "copy")
            await self._ok(client.uid("store", uid, "+FLAGS.SILENT", r"(\Deleted)"), "store")
            if client.has_capability("UIDPLUS"):  # else it stays, deleted: EXPUNGE alone would take along others'
                await self._ok(client.uid("expunge", uid), "expunge")


class _Marks:
    """How this mailbox tells what was stored: `mark` is set, `wanted` finds what has none."""

    def __init__(self, mark: str, wanted: tuple[str, ...]) -> None:
        self.mark = mark
        self.wanted = wanted


def _marks(selected: list[Any], move_to: str | None) -> _Marks:
    if move_to is not None:
        return _Marks("", ("UNDELETED",))
    permanent = b" ".join(bytes(line) for line in selected if b"PERMANENTFLAGS" in bytes(line))
    if rb"\*" in permanent or KEYWORD.encode() in permanent:
        return _Marks(KEYWORD, ("UNDELETED", "UNKEYWORD", KEYWORD))
    return _Marks(r"\Seen", ("UNDELETED", "UNSEEN"))


async def _leave(client: Any) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(2):
            await client.logout()
    with contextlib.suppress(Exception):
        client._client_task.cancel()
        if client.protocol.transport is not None:
            client.protocol.transport.abort()
