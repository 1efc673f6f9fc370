"""One session with an IMAP server (RFC 9051): TLS, login, one folder; its commands, and waiting for new mail (RFC 2177).

The library blocks, so each command has a thread, which nobody waits for beyond the deadline: whoever gives up shuts the
socket, and the thread ends by itself. The session decides nothing about mails. What goes wrong is `Trouble`, whose words
are safe to log.

Hazards: the library quotes folders and passwords, but not the names of users. It reads a literal as long as the server
says that it is: the server is ours. A mail that arrives in the very moment in which waiting begins may go unheard, so nobody
should wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from imapclient import IMAPClient, SocketTimeout
from imapclient.exceptions import IMAPClientAbortError, IMAPClientError, IMAPClientReadOnlyError, LoginError

from mailerd.config.inbound import Imap
from mailerd.message import clean

__all__ = ["KEYWORD", "Mailbox", "Trouble"]

T = TypeVar("T")
KEYWORD: Final = "$Mailerd"
_FAREWELL: Final = 2.0  # seconds
_bytes_repr = re.compile(r"""b(['"])(.*)\1""", re.DOTALL).fullmatch


class Trouble(Exception):
    """The server cannot be used now. `kind`: connect, tls, login, folder, command, timeout, lost or protocol."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Mailbox:
    """An open session. Methods raise `Trouble`, and then nothing is left but to `leave`."""

    def __init__(self, client: IMAPClient, settings: Imap) -> None:
        self._client = client
        self._timeout = float(settings.timeout)
        self._lost = False
        self.folder = settings.folder
        self.validity = 0  # of its UIDs: another number, other mails
        self.keywords = False  # does the server keep `KEYWORD`?
        self.idles = False  # does it tell of new mail?

    @classmethod
    async def open(cls, settings: Imap) -> Mailbox:
        """Connected, logged in, the folder selected."""
        mailbox = cls(await _deadline("connect", float(settings.timeout), lambda: _connect(settings)), settings)
        try:
            await mailbox._say("login", lambda client: _login(client, settings))
            selected = await mailbox._say("folder", lambda client: client.select_folder(settings.folder))
            mailbox.validity = int(selected.get(b"UIDVALIDITY", 0))
            flags = {bytes(flag).lower() for flag in selected.get(b"PERMANENTFLAGS", ())}
            mailbox.keywords = bool(flags & {rb"\*", KEYWORD.lower().encode()})
            mailbox.idles = await mailbox.can("IDLE")
        except BaseException:
            await mailbox.leave()
            raise
        return mailbox

    async def can(self, capability: str) -> bool:
        """Does the server say so?"""
        return await self._say("command", lambda client: bool(client.has_capability(capability)))

    async def search(self, criteria: Sequence[str]) -> list[int]:
        """UIDs."""
        found = await self._say("command", lambda client: client.search(list(criteria)))
        return [int(uid) for uid in found]

    async def fetch(self, uid: int, octets: int) -> tuple[bytes, int] | None:
        """A mail's start and its whole size; None if it is gone. Leaves \\Seen as it is."""
        parts = ["RFC822.SIZE", f"BODY.PEEK[]<0.{octets}>"]
        found = (await self._say("command", lambda client: client.fetch([uid], parts))).get(uid, {})
        raw = found.get(b"BODY[]<0>")
        if not isinstance(raw, bytes):
            return None
        return raw, max(int(found.get(b"RFC822.SIZE", 0)), len(raw))

    async def mark(self, uid: int, flag: str) -> None:
        await self._say("command", lambda client: client.add_flags([uid], [flag], silent=True))

    async def move(self, uid: int, folder: str) -> None:
        """Into another folder; where the server has no MOVE by what it replaces (RFC 6851 §3.3)."""
        if await self.can("MOVE"):
            await self._say("command", lambda client: client.move([uid], folder))
            return
        await self._say("command", lambda client: client.copy([uid], folder))
        await self.mark(uid, r"\Deleted")
        if await self.can("UIDPLUS"):  # else it stays, deleted: EXPUNGE alone would take along others'
            await self._say("command", lambda client: client.uid_expunge([uid]))

    async def wait(self, seconds: float) -> bool:
        """Returns when new mail may be there, at the latest after so long. False: the server does not do that after all."""
        return await self._say("command", lambda client: _idle(client, seconds), patience=seconds + self._timeout)

    async def leave(self) -> None:
        """Politely, unless something went wrong."""
        if not self._lost:
            with contextlib.suppress(Trouble):
                await _deadline("lost", _FAREWELL, self._client.logout)
        _wake(self._client)
        with contextlib.suppress(Trouble):  # closing waits for whoever still reads
            await _deadline("lost", _FAREWELL, lambda: _close(self._client))

    async def _say(self, kind: str, call: Callable[[IMAPClient], T], patience: float | None = None) -> T:
        try:
            return await _deadline(kind, patience or self._timeout, lambda: call(self._client))
        except BaseException as error:  # its thread may still be at it: no other may use the connection any more
            self._lost = not (isinstance(error, Trouble) and error.kind == kind)  # refused is no loss
            if self._lost:
                _wake(self._client)
            raise


# What happens in threads.


def _connect(settings: Imap) -> IMAPClient:
    timeout = float(settings.timeout)
    context = None if settings.tls == "none" else ssl.create_default_context(cafile=settings.tls_ca)
    client = IMAPClient(
        settings.host,
        settings.port,
        ssl=settings.tls == "implicit",
        ssl_context=context if settings.tls == "implicit" else None,
        timeout=SocketTimeout(connect=timeout, read=timeout),
    )
    client.folder_encode = False  # the configuration has names as the server does
    if settings.tls == "starttls":
        try:
            client.starttls(context)  # raises where the server offers none: nothing is said in the clear
        except BaseException:
            _close(client)
            raise
    return client


def _login(client: IMAPClient, settings: Imap) -> None:
    if client.has_capability("AUTH=PLAIN"):
        client.plain_login(settings.username, settings.password)  # in UTF-8, whatever its characters
    elif client.has_capability("LOGINDISABLED"):  # RFC 9051 §6.2.3: then a client must not try
        raise LoginError("the server takes no password over this connection")
    else:
        name = settings.username.replace("\\", "\\\\").replace('"', '\\"')
        client.login(f'"{name}"', settings.password)


def _idle(client: IMAPClient, seconds: float) -> bool:
    end = time.monotonic() + seconds
    try:
        client.idle()
    except IMAPClientAbortError:
        raise
    except IMAPClientError:
        return False
    while (left := end - time.monotonic()) > 0:
        heard = client.idle_check(left)
        # Nothing heard is the end of the time, or of the connection, which the next command finds.
        if not heard or any(len(response) > 1 and response[1] == b"EXISTS" for response in heard):
            break
    client.idle_done()
    return True


def _close(client: IMAPClient) -> None:
    with contextlib.suppress(OSError):
        client.shutdown()


def _wake(client: IMAPClient) -> None:
    """Ends the connection, and with it the thread that reads from it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(client.socket(), socket.SHUT_RDWR)


async def _deadline(kind: str, seconds: float, call: Callable[[], T]) -> T:
    """What the call returns, from a thread of its own. Raises `Trouble`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            if isinstance(result, IMAPClient):  # connected, and nobody waits for it any more
                threading.Thread(target=_close, args=(result,), name="imap", daemon=True).start()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as wrong:
            error = _trouble(kind, wrong)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    # Not an executor's: the process would wait for it at its end.
    threading.Thread(target=work, name="imap", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await future
    except TimeoutError:
        raise Trouble("timeout", "no answer in time") from None


def _trouble(kind: str, error: Exception) -> Trouble:
    """What went wrong while something of this kind was done, in words without secrets: the server's, mostly."""
    if isinstance(error, TimeoutError):
        return Trouble("timeout", "no answer in time")
    if kind == "connect" and isinstance(error, ssl.SSLError):
        return Trouble("tls", f"TLS: {error.reason or error}")
    if kind == "connect" and isinstance(error, OSError):
        return Trouble("connect", error.strerror or type(error).__name__)
    cause = error.__context__ if isinstance(error, LoginError) else error
    if isinstance(cause, OSError | IMAPClientAbortError) and not isinstance(cause, IMAPClientReadOnlyError):
        return Trouble("lost", "the connection was lost")
    if isinstance(error, IMAPClientError):
        words = str(error.args[0] if error.args else error)
        found = _bytes_repr(words)
        text = clean(" ".join((found[2] if found else words).split()), 200)
        return Trouble(kind, text if kind == "command" else f"{kind}: {text}")
    return Trouble("protocol", f"{type(error).__name__} in what the server says")
