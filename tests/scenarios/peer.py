"""A relay that can be scripted per message, with the whole conversation in its hands: for what aiosmtpd would not do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

Dot = Callable[["Peer", asyncio.StreamWriter, int, bytes], Awaitable[None]]


class Peer:
    """Accepts everything. `at_dot` may do what it likes when message number n (from 1) has ended; `greeting` may refuse."""

    def __init__(self) -> None:
        self.accepted: list[str] = []  # ids out of Message-ID
        self.ended = 0
        self.at_dot: Dot | None = None
        self.greeting = b"220 peer.example ESMTP\r\n"
        self.at_mail = b"250 2.1.0 ok\r\n"
        self.connections = 0
        self._server: asyncio.Server | None = None
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port or self.port, limit=1 << 25)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._open):
            writer.close()

    async def ok(self, writer: asyncio.StreamWriter, content: bytes) -> None:
        found = re.search(rb"(?i)^message-id: <(\d+)\.", content, re.MULTILINE)
        self.accepted.append(found[1].decode() if found else "?")
        writer.write(b"250 2.0.0 queued\r\n")
        await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            writer.write(self.greeting)
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    writer.write(b"250-peer.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n")
                elif verb == b"MAIL":
                    writer.write(self.at_mail)
                    if self.at_mail.startswith(b"421"):
                        await writer.drain()
                        return
                elif verb == b"DATA":
                    writer.write(b"354 go ahead\r\n")
                    await writer.drain()
                    content = await reader.readuntil(b"\r\n.\r\n")
                    self.ended += 1
                    if self.at_dot is not None:
                        await self.at_dot(self, writer, self.ended, content)
                        if writer.is_closing():
                            return
                    else:
                        await self.ok(writer, content)
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    await writer.drain()
                    return
                else:
                    writer.write(b"250 2.0.0 ok\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
