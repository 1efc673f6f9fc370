"""The listener for SMTP and LMTP: sockets, deadlines and TLS around `inbound.transfer`, which decides everything.

At most so many connections; who is over it is told 421. A mail is answered when it is stored, and meanwhile nothing more is
read from its connection, so a session holds one mail at a time. When more than half of the connections are in use, idle ones
are given a tenth of the time.

Hazards: STARTTLS: reading stops in the very call in which the command was read, so that nothing in the clear is taken for
something that was encrypted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from mailerd.config.inbound import endpoint
from mailerd.inbound.transfer import Transfer
from mailerd.intake.desk import Desk, Refused
from mailerd.store.database import Unavailable
from mailerd.store.inbound import Arrived

__all__ = ["CannotListen", "Listener", "Terms"]

log = logging.getLogger("mailerd.inbound")

IDLE: Final = 300.0  # seconds, RFC 5321 §4.5.3.2.7
STRESSED: Final = 30.0
WHOLE: Final = 900.0  # seconds for one mail's content, however it trickles
HANDSHAKE: Final = 30.0
FAREWELL: Final = 5.0


class CannotListen(Exception):
    """A place of `inbound.listen` cannot be used; the text says which and why."""


class Terms:
    """What a reload may change while connections are open."""

    def __init__(
        self, accepts: Callable[[str], bool], limit: int, connections: int, tls: ssl.SSLContext | None
    ) -> None:
        self.accepts = accepts
        self.limit = limit
        self.connections = connections
        self.tls = tls

    def adopt(self, other: Terms) -> None:
        """Becomes like the other."""
        self.accepts, self.limit, self.connections, self.tls = other.accepts, other.limit, other.connections, other.tls


class Listener:
    """One place where mail is taken. `refused` is told why something was not taken."""

    def __init__(
        self, place: str, terms: Terms, desk: Desk, connections: set[Connection], refused: Callable[[str], None]
    ) -> None:
        self.place = place
        self.terms = terms
        self.desk = desk
        self.connections = connections  # of all listeners together
        self.refused = refused
        self.protocol, self._host, self._port = endpoint(place)
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port in use, 0 for a socket in the file system."""
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    async def open(self) -> None:
        """Raises `CannotListen`."""
        loop = asyncio.get_running_loop()
        try:
            if self._port >= 0:
                self._server = await loop.create_server(
                    lambda: Connection(self), self._host or None, self._port, backlog=512
                )
                return
            await asyncio.to_thread(_clear, self._host)
            self._server = await loop.create_unix_server(lambda: Connection(self), self._host, backlog=512)
            os.chmod(self._host, 0o666)  # noqa: S103 (as open as a port of the loopback; the folder may say less)
        except (OSError, OverflowError) as error:
            raise CannotListen(
                f"inbound.listen: {self.place}: {error.strerror if isinstance(error, OSError) else error}"
            ) from error

    def close(self) -> None:
        """No new connections; open ones go on."""
        if self._server is not None:
            self._server.close()
            if self._port < 0:
                Path(self._host).unlink(missing_ok=True)


def _clear(path: str) -> None:
    """Removes the socket of a process that is gone. Raises OSError if it is somebody's."""
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(1)
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        else:
            raise FileExistsError(17, "somebody listens there already")


class Connection(asyncio.Protocol):
    """One session."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._terms = listener.terms
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._peer = ""
        self._refused = 0
        self._heard = self._begun = 0.0
        self._core = Transfer(
            lmtp=listener.protocol == "lmtp",
            name=_NAME,
            limit=self._terms.limit,
            accepts=lambda address: self._terms.accepts(address),
            busy=self._busy,
            tls=self._terms.tls is not None,
        )

    def _busy(self) -> str:
        why = self._listener.desk.busy()
        if why:
            self._listener.refused("busy")
        return why

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        transport = self._transport
        self._heard = asyncio.get_running_loop().time()
        name = transport.get_extra_info("peername")
        self._peer = str(name[0]) if isinstance(name, tuple) else "local"
        if len(self._listener.connections) >= self._terms.connections:
            self._listener.refused("connections")
            self.end("421 4.3.2 too many connections")
            return
        self._listener.connections.add(self)
        self._write(self._core.greeting())

    def data_received(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        self._heard = now
        if not self._core.receiving:
            self._begun = now
        self._after(self._core.feed(data))

    def pause_writing(self) -> None:
        """The peer reads no replies: we read no commands."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and self._task is None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        self._core.closed = True
        self._transport = None

    # What it does.

    def _write(self, octets: bytes) -> None:
        if octets and self._transport is not None and not self._transport.is_closing():
            self._transport.write(octets)

    def _after(self, octets: bytes) -> None:
        self._write(octets)
        if self._core.refused > self._refused:
            for _ in range(self._core.refused - self._refused):
                self._listener.refused("recipient")
            self._refused = self._core.refused
        if self._transport is None:
            return
        if self._core.closed:
            self._close()
        elif self._core.mail is not None or self._core.upgrade:
            self._transport.pause_reading()
            work = self._encrypt() if self._core.upgrade else self._store()
            self._task = asyncio.create_task(work)

    async def _store(self) -> None:
        mail = self._core.mail
        assert mail is not None
        arrived = Arrived(
            source="listen",
            raw=bytes(mail.kept),
            size=mail.size,
            hashed=mail.hashed,
            sender=mail.sender,
            recipients=tuple(mail.recipients),
            peer=self._peer,
        )
        try:
            await self._listener.desk.keep(arrived)
            reply = "250 2.0.0 stored"
        except Unavailable:
            self._listener.refused("unavailable")
            reply = "451 4.3.0 cannot be stored now, try again later"
        except Refused as error:
            log.warning("a mail from %s cannot be stored: %s", self._peer, error)
            self._listener.refused("unstorable")
            reply = "554 5.6.0 cannot be stored"
        self._task = None
        self._heard = asyncio.get_running_loop().time()
        self._after(self._core.answer(reply))
        if self._transport is not None and self._task is None and not self._core.closed:
            self._transport.resume_reading()

    async def _encrypt(self) -> None:
        assert self._transport is not None
        assert self._terms.tls is not None
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, self._terms.tls, server_side=True, ssl_handshake_timeout=HANDSHAKE
            )
        except (OSError, TimeoutError):
            self._listener.refused("tls")
            transport = None
        self._task = None
        if transport is None:
            if self._transport is not None:
                self._transport.abort()
            return
        self._transport = transport
        self._after(self._core.encrypted())

    def expire(self, now: float) -> None:
        """Ends what has said nothing for too long."""
        if self._task is not None or self._transport is None:
            return
        stressed = len(self._listener.connections) * 2 > self._terms.connections
        patience = STRESSED if stressed and not self._core.receiving else IDLE
        if now - self._heard > patience or (self._core.receiving and now - self._begun > WHOLE):
            self._listener.refused("timeout")
            self.end("421 4.4.2 too slow")

    def end(self, reply: str, *, abort: bool = False) -> None:
        """Ends it with these words, or with none."""
        if self._transport is None:
            return
        if abort:
            self._transport.abort()
            return
        self._write(self._core.end(reply))
        self._close()

    def _close(self) -> None:
        assert self._transport is not None
        self._transport.close()
        # A peer that does not read what was said would keep it open for ever.
        asyncio.get_running_loop().call_later(FAREWELL, self._transport.abort)

    @property
    def storing(self) -> bool:
        """A mail is being stored, and its peer waits for the answer."""
        return self._task is not None and self._core.mail is not None


_NAME: Final = socket.gethostname() or "localhost"
