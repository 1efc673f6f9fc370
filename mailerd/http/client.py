"""One HTTP call at a time: a `Request` out, a `Response` back, or why there is none. aiohttp does the protocol.

Redirects are not followed, cookies not kept, proxies of the environment not used, compressed answers not asked for.
Connecting and the answer have deadlines, the answer's body a limit. The body of a request is handed to the socket as a
whole at the very end of what can fail: until `Call.written` nothing can have been accepted, since a server does not act
on a request whose length it was told and that did not come; from then on, without an answer, nobody knows.

Hazard: aiohttp would send a PUT again by itself, over a connection that had just died; the body refuses a second time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from mailerd import __version__
from mailerd.config.provider import Provider
from mailerd.http.dialect import Request, Response
from mailerd.message import Phase, clean

__all__ = ["Call", "Client", "Lost", "context"]

PIECE: Final = 65_536
LIMIT: Final = 65_536  # octets of an answer that are read
LIMIT_EACH: Final = 1_024  # and more for each message that it speaks of
_AGENT: Final = f"mailerd/{__version__}"


class Lost(Exception):
    """There is no answer: where it ended, and why; `ours`: it was we who did not send it. Raised by `Client.call`."""

    def __init__(self, phase: Phase, text: str, *, ours: bool = False) -> None:
        super().__init__(f"{phase}: {text}")
        self.ours = ours
        self.phase = phase
        self.text = text


class Call(Payload):
    """A request on its way. `withheld` says why it may not be sent any more, or '', and is asked at the last moment;
    `on_written` is called right before the last octet is handed over."""

    def __init__(
        self,
        request: Request,
        withheld: Callable[[], str] = lambda: "",
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(request.body, content_type=request.headers.get("Content-Type", "application/octet-stream"))
        self._size = len(request.body)
        self.request = request
        self._withheld = withheld
        self._on_written = on_written
        self.connected = False
        self.written = False
        self.late = ""

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)

    async def write(self, writer: AbstractStreamWriter) -> None:
        body = memoryview(self.request.body)
        self.connected = True
        while True:
            self.late = "it was sent before" if self.written else self._withheld()
            if self.late:
                raise ConnectionAbortedError(self.late)
            piece, body = body[:PIECE], body[PIECE:]
            if not body:
                self.written = True
                self._on_written()
            await writer.write(piece)
            if not body:
                return

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.request.body.decode(encoding, errors)


class Client:
    """Calls to one provider, at `url`. Made and used in a running event loop; `close` ends it."""

    def __init__(self, provider: Provider, url: str) -> None:
        self._provider = provider
        self._plain = url.startswith("http:")
        self._session: aiohttp.ClientSession | None = None
        self._opening: asyncio.Lock = asyncio.Lock()

    async def call(self, call: Call, messages: int = 1) -> Response:
        """The answer. Raises `Lost`, and nothing else but CancelledError; `call` says then whether it was written."""
        times = self._provider.timeouts
        request = call.request
        try:
            session = self._session or await self._open()
            async with asyncio.timeout(times.connect + times.content + times.command):
                async with session.request(
                    request.method,
                    request.url,
                    data=call,
                    headers=request.headers,
                    allow_redirects=False,
                ) as answer:
                    body = await _read(answer, LIMIT + LIMIT_EACH * messages)
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    return Response(answer.status, headers, body, datetime.now(UTC))
        except TimeoutError:
            what = f"no answer within {times.command:g} s" if call.written else "not taken in time"
            raise Lost(_phase(call), call.late or what, ours=bool(call.late)) from None
        except (
            aiohttp.ClientError,
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # RuntimeError: a session that is closed
            raise Lost(
                _phase(call), call.late or clean(str(error) or repr(error), 300), ours=bool(call.late)
            ) from error

    async def close(self) -> None:
        """Ends it; connections close within the loop's next turns."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                provider = self._provider
                plain = self._plain  # reading authorities takes milliseconds
                verified = True if plain else await asyncio.to_thread(context, provider.tls_ca)
                source = provider.source[0] if provider.source else None
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        ssl=verified,
                        limit=0,  # the pool counts
                        keepalive_timeout=float(provider.idle),
                        local_addr=(source, 0) if source else None,
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                    headers={"User-Agent": _AGENT, "Accept": "application/json", "Accept-Encoding": "identity"},
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        connect=float(provider.timeouts.connect),
                        sock_connect=float(provider.timeouts.connect),
                        sock_read=float(provider.timeouts.command),
                    ),
                )
            return self._session


def _phase(call: Call) -> Phase:
    return Phase.RESPONSE if call.written else Phase.REQUEST if call.connected else Phase.CONNECT


def context(tls_ca: str | None) -> ssl.SSLContext:
    """TLS that verifies the name and the certificate. Reads files. Raises OSError."""
    made = ssl.create_default_context(cafile=tls_ca)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or as much of it as `limit` allows; the connection is not used again then. The status stands already:
    what cannot be read of the body leaves it as it is."""
    pieces: list[bytes] = []
    left = limit
    try:
        while left > 0:
            piece: Any = await answer.content.read(left)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            left -= len(piece)
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    answer.close()
    return b"".join(pieces)
