"""An HTTP/1.1 server for strangers: few features, every one of them bounded. The public listener stands on it.

httptools (llhttp) parses; this file keeps the limits that a parser has none of: octets of a head and of a body, seconds
that a request may take to arrive and an answer to leave, connections in all and from one peer, octets of unfinished
bodies. One request of a connection is handed over when it is whole, to a plain function; its answer may come later, and
answers leave in the order of their requests (RFC 9112 §9.3.2). No request has a task, none is awaited.

It does without TLS (a proxy's), HTTP/2, upgrades, ranges and compression. aiohttp's server, bare, took twice the CPU,
and waits for a slow head as long as the peer likes; measured in bench/RESULTS.md.

Hazards: `handle` runs in the parser's callback: it must not block, and what it raises becomes a 500. Peers behind a
proxy are one peer here: put the proxies into `uncounted`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
import msgspec

__all__ = ["Answer", "Limits", "Request", "Response", "Server"]

log = logging.getLogger("mailerd.public")

_PIPELINED: Final = 32  # requests of one connection that wait for an answer before we stop reading it
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request(msgspec.Struct, frozen=True, eq=False):
    """A whole request. `path` and `query` are as they came, percent-encoded; names of headers are lower-case, values of
    equal names are joined by a comma."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    peer: str  # the address of the other end of the connection


class Response:
    """An answer; one object may answer many requests. `close` ends the connection behind it."""

    __slots__ = ("body", "close", "head", "status")

    def __init__(
        self, status: int, body: bytes = b"", headers: Sequence[tuple[str, str]] = (), *, close: bool = False
    ) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
        if status != 204:
            lines.append(f"Content-Length: {len(body)}")
        self.status = status
        self.body = body
        self.close = close
        self.head = ("\r\n".join(lines) + "\r\n").encode("latin-1")


Answer = Callable[[Response], None]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer may cost. Octets and seconds; `body` gives the octets of a body by the path."""

    body: Callable[[str], int]
    url: int = 16 << 10
    head: int = 32 << 10  # all header fields and the URL
    bodies: int = 64 << 20  # of bodies that are not whole yet, of all connections
    connections: int = 4096
    per_peer: int = 512
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    answer_seconds: float = 60.0  # of an answer to be made, and of one to be read by the peer
    linger_seconds: float = 2.0  # in which a refused peer may read why


class Server:
    """`start`, `stop`. `handle(request, answer)` calls `answer` once, at once or later. `observe` is told (status,
    request or None) of every answer."""

    def __init__(
        self,
        handle: Callable[[Request, Answer], None],
        limits: Limits,
        *,
        refusal: Callable[[int], Response],
        observe: Callable[[int], None],
        uncounted: Callable[[str], bool] = lambda peer: False,
    ) -> None:
        self.handle = handle
        self.limits = limits
        self.refusal = refusal
        self.observe = observe
        self.uncounted = uncounted
        self.connections: set[_Connection] = set()
        self.peers: dict[str, int] = {}
        self.buffered = 0  # octets of bodies that are not whole yet
        self.closing = False
        self.turned_away = 0  # connections
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._date = (0, b"")

    async def start(self, host: str | None, port: int) -> tuple[str, int]:
        """Opens the listener; where it listens. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=1024)
        self._sweeper = asyncio.create_task(self._sweep(), name="public sweeper")
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    def refuse_more(self) -> None:
        """No new connections; those without a request end, the others behind their answer."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.end_if_idle()

    async def stop(self, grace: float) -> None:
        """After `refuse_more`: gives requests in hand `grace` seconds to be answered."""
        self.refuse_more()
        deadline = time.monotonic() + grace
        while self.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            for connection in list(self.connections):
                if connection.deadline < now:
                    connection.late()

    def date(self) -> bytes:
        """The Date field (RFC 9110 §6.6.1) of this second, and the empty line."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode("ascii"))
        return self._date[1]


class _Exchange:
    """A request and the place of its answer in the order of its connection."""

    __slots__ = ("connection", "head_only", "keep", "response")

    def __init__(self, connection: _Connection, *, head_only: bool = False, keep: bool = False) -> None:
        self.connection = connection
        self.head_only = head_only
        self.keep = keep
        self.response: Response | None = None

    def __call__(self, response: Response) -> None:
        if self.response is None:
            self.response = response
            self.connection.flush()


class _Connection(asyncio.Protocol):
    """One connection. `deadline` is the monotonic second at which the sweeper calls `late`."""

    __slots__ = (
        "_body",
        "_body_limit",
        "_clogged",
        "_counted",
        "_discarding",
        "_exchanges",
        "_head_octets",
        "_headers",
        "_in_message",
        "_parser",
        "_paused",
        "_peer",
        "_refused",
        "_server",
        "_size",
        "_transport",
        "_unheaded",
        "_url",
        "deadline",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchanges: deque[_Exchange] = deque()
        self._peer = ""
        self._counted = self._paused = self._clogged = self._discarding = False
        self._refused = 0  # the status of a request that is not read further
        self._unheaded = 0  # octets that came without completing a head
        self._reset()
        self.deadline = time.monotonic() + server.limits.head_seconds

    def _reset(self) -> None:
        self._in_message = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_octets = 0
        self._body: list[bytes] = []
        self._body_limit = -1  # -1: the head is not complete
        self._size = 0

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        server = self._server
        name = transport.get_extra_info("peername")
        self._transport = transport
        self._peer = str(name[0]).removeprefix("::ffff:") if name else ""
        server.connections.add(self)
        if not server.uncounted(self._peer):
            self._counted = True
            server.peers[self._peer] = server.peers.get(self._peer, 0) + 1
        many = self._counted and server.peers[self._peer] > server.limits.per_peer
        if many or server.closing or len(server.connections) > server.limits.connections:
            server.turned_away += 1
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        server = self._server
        server.connections.discard(self)
        server.buffered -= self._size
        self._size = 0
        if self._counted:
            left = server.peers[self._peer] - 1
            if left:
                server.peers[self._peer] = left
            else:
                del server.peers[self._peer]
        self._transport = None
        self._exchanges.clear()

    def eof_received(self) -> bool:
        if not self._exchanges:
            return False
        self._exchanges[-1].keep = False  # the answers to what came before it may still leave
        return True

    def data_received(self, data: bytes) -> None:
        if self._discarding or self._refused:
            return
        if not self._in_message and not self._exchanges:
            self.deadline = time.monotonic() + self._server.limits.head_seconds
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400)
        except httptools.HttpParserError:
            if not self._refused:
                self._refuse(400)
        if self._body_limit < 0 and self._in_message:
            self._unheaded += len(data)
            if self._unheaded > self._server.limits.head + self._server.limits.url:
                self._refuse(431)
        if len(self._exchanges) > _PIPELINED:
            self._pause()

    def pause_writing(self) -> None:
        self._clogged = True
        self.deadline = time.monotonic() + self._server.limits.answer_seconds
        self._pause()

    def resume_writing(self) -> None:
        self._clogged = False
        self.flush()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    # The parser's side.

    def on_message_begin(self) -> None:
        self._in_message = True

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._server.limits.url:
            self._refuse(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_octets += len(name) + len(value) + 4
        if self._head_octets > self._server.limits.head:
            self._refuse(431)
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._unheaded = 0
        headers, limits = self._headers, self._server.limits
        if self._parser.should_upgrade():
            self._refuse(400)
            return
        self._body_limit = limits.body(self._url.decode("latin-1"))
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return
        if length is not None and (len(length) > 18 or not length.isdigit() or int(length) > self._body_limit):
            self._refuse(413)
            return
        self.deadline = time.monotonic() + limits.body_seconds
        if headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(_CONTINUE)

    def on_body(self, piece: bytes) -> None:
        if self._refused:
            return
        self._size += len(piece)
        self._server.buffered += len(piece)
        if self._size > self._body_limit:
            self._refuse(413)
        elif self._server.buffered > self._server.limits.bodies:
            self._refuse(429)
        else:
            self._body.append(piece)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        server, parser = self._server, self._parser
        server.buffered -= self._size
        method = parser.get_method().decode("latin-1")
        path, _, query = self._url.decode("latin-1").partition("?")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(method, path, query.partition("#")[0], self._headers, body, self._peer)
        exchange = _Exchange(self, head_only=method == "HEAD", keep=parser.should_keep_alive())
        if not exchange.keep:
            self._refused = -1  # nothing behind it is a request
        self._reset()
        self._exchanges.append(exchange)
        self.deadline = time.monotonic() + server.limits.answer_seconds
        try:
            server.handle(request, exchange)
        except Exception:
            log.exception("a request could not be handled")
            exchange(server.refusal(500))

    # Answers.

    def _refuse(self, status: int) -> None:
        """Answers in its turn, and reads no further."""
        if self._refused:
            return
        self._refused = status
        self._server.buffered -= self._size
        self._size = 0
        self._body.clear()
        exchange = _Exchange(self)
        self._exchanges.append(exchange)
        exchange(self._server.refusal(status))

    def flush(self) -> None:
        """Writes the answers whose turn it is."""
        transport, exchanges, server = self._transport, self._exchanges, self._server
        if transport is None or self._discarding or self._clogged:
            return
        while exchanges and (response := exchanges[0].response) is not None:
            exchange = exchanges.popleft()
            keep = exchange.keep and not response.close and not server.closing
            server.observe(response.status)
            body = b"" if exchange.head_only else response.body
            transport.write(
                b"".join((response.head, server.date(), b"\r\n" if keep else b"Connection: close\r\n\r\n", body))
            )
            if not keep:
                self._linger()
                return
            if self._is_clogged():
                return
        if exchanges:
            return
        if not self._in_message:
            self.deadline = time.monotonic() + server.limits.idle_seconds
        if self._paused:
            self._paused = False
            transport.resume_reading()

    def _is_clogged(self) -> bool:
        return self._clogged  # by now: writing may have called `pause_writing`

    def _linger(self) -> None:
        """Ends our side. The peer may read why before the connection is gone: closing with octets unread resets it."""
        self._exchanges.clear()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._refused > 0 and transport.can_write_eof():
            self._discarding = True
            self.deadline = time.monotonic() + self._server.limits.linger_seconds
            transport.write_eof()
            if self._paused:
                self._paused = False
                transport.resume_reading()
        else:
            self.deadline = time.monotonic() + self._server.limits.answer_seconds
            transport.close()

    def end_if_idle(self) -> None:
        """We are going: nothing is in hand, so nobody loses anything."""
        if not self._exchanges and not self._in_message and self._transport is not None:
            self._transport.close()

    def late(self) -> None:
        """The deadline is over: a peer that sends or reads too slowly, or an idle one."""
        if self._in_message and not self._exchanges and not self._discarding and not self._clogged:
            self._refuse(408)
        else:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
