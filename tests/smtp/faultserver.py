"""An SMTP server on a real socket that does exactly what a table says, and writes down what it was told.

It is strict where clients go wrong: a nested MAIL, a command of a group that was never offered, an empty message are
`violations`, and every test that uses `serve` fails on them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

OFFERS = ("PIPELINING", "SIZE 100000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
WITHOUT_PIPELINING = OFFERS[1:]


class Do(NamedTuple):
    """What to do at a point: say these lines, then go on, `close`, `reset` (RST), or fall `silent` for ever."""

    say: str = ""
    then: str = ""


CLOSE = Do(then="close")
RESET = Do(then="reset")
SILENCE = Do(then="silent")

DEFAULTS: dict[str, str] = {
    "greeting": "220 fault.example ESMTP",
    "HELO": "250 fault.example",
    "STARTTLS": "454 4.7.0 no TLS here",
    "AUTH": "535 5.7.8 no",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 go on",
    "dot": "250 2.0.0 Ok: queued as F00",
    "RSET": "250 2.0.0 Ok",
    "QUIT": "221 2.0.0 Bye",
    "other": "500 5.5.2 what?",
}

Script = Mapping[str, "Do | str | Sequence[Do | str]"]
"""What to do at `greeting`, a verb, `RCPT:local-part`, `content` (its first octets), `dot`. A list: one after another,
the last stays. What is not in it is answered as by any server."""


class Received(NamedTuple):
    """One message that was accepted."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    parameters: str


class FaultServer:
    """`scripts[i]` is for the i-th connection, the last one for all later ones."""

    def __init__(
        self, *scripts: Script, offers: Sequence[str] = OFFERS, dribble: bool = False, batch: bool = False
    ) -> None:
        self.scripts = scripts or ({},)
        self.offers = offers
        self.dribble = dribble  # replies go out octet by octet
        self.batch = batch  # the replies to all that came in one packet go out in one
        self.connections: list[Conversation] = []
        self.received: list[Received] = []
        self.taken: list[Received] = []  # also those whose acceptance the client never heard of
        self.violations: list[str] = []
        self.port = 0

    def contents(self) -> list[bytes]:
        return [message.content for message in self.received]

    def commands(self, connection: int = 0) -> list[str]:
        return self.connections[connection].commands if connection < len(self.connections) else []

    def verbs(self, connection: int = 0) -> list[str]:
        return [command.split(":")[0].split()[0].upper() for command in self.commands(connection)]


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: FaultServer) -> None:
        self.server = server
        index = min(len(server.connections), len(server.scripts) - 1)
        self.script = dict(server.scripts[index])
        self.counts: dict[str, int] = {}
        self.commands: list[str] = []
        self.chunks: list[bytes] = []
        self.buffer = b""
        self.batched = b""
        self.content: list[bytes] | None = None
        self.sender: str | None = None
        self.parameters = ""
        self.recipients: list[str] = []
        self.over = False  # silent, or closed by us
        self.closed = asyncio.Event()
        self.out: asyncio.Queue[bytes | None] = asyncio.Queue()
        server.connections.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of no common class
        if self.server.dribble:
            self.dribbling = asyncio.get_running_loop().create_task(self._dribble())
        self.act("greeting")
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self.closed.set()
        self.out.put_nowait(None)

    async def _dribble(self) -> None:
        while (data := await self.out.get()) is not None:
            for octet in data:
                self.transport.write(bytes((octet,)))
                await asyncio.sleep(0)

    def write(self, data: bytes) -> None:
        if self.server.dribble:
            self.out.put_nowait(data)
        elif self.server.batch:
            self.batched += data
        else:
            self.transport.write(data)

    def act(self, point: str, default: str = "") -> str:
        """Does what the table says at this point; what it said."""
        entry = self.script.get(point)
        if entry is None and ":" in point:
            return self.act(point.split(":")[0], default)
        if entry is None:
            entry = default or DEFAULTS.get(point, "")
        if not isinstance(entry, str | Do):
            count = self.counts.get(point, 0)
            self.counts[point] = count + 1
            entry = entry[min(count, len(entry) - 1)]
        do = Do(entry) if isinstance(entry, str) else entry
        if do.say:
            self.write(do.say.encode("utf-8", "surrogateescape").replace(b"\n", b"\r\n") + b"\r\n")
        if do.then:
            self.over = True
        if do.then == "close":
            self.transport.close()
        elif do.then == "reset":
            self.transport.abort()
        return do.say

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self.buffer += data
        self._read()
        self._flush()

    def _flush(self) -> None:
        self.transport.write(self.batched)
        self.batched = b""

    def _read(self) -> None:
        while not self.over:
            if self.content is not None:
                if not self._take_content():
                    return
                continue
            line, found, rest = self.buffer.partition(b"\r\n")
            if not found:
                return
            self.buffer = rest
            if rest and "PIPELINING" not in self.server.offers:
                self.server.violations.append(f"a group of commands without PIPELINING: {line!r} {rest[:60]!r}")
            self.command(line.decode("utf-8"))

    def command(self, line: str) -> None:
        self.commands.append(line)
        verb = line.split(":")[0].split(" ")[0].upper()
        if verb == "EHLO":
            lines = ("fault.example", *self.server.offers)
            self.act("EHLO", "\n".join(f"250{' ' if o is lines[-1] else '-'}{o}" for o in lines))
        elif verb == "MAIL":
            if self.sender is not None:
                self.server.violations.append("nested MAIL")
            path, _, parameters = line[len("MAIL FROM:") :].partition(">")
            if self.act("MAIL").startswith("2"):
                self.sender, self.parameters, self.recipients = path.strip("< "), parameters.strip(), []
        elif verb == "RCPT":
            address = line[len("RCPT TO:") :].partition(">")[0].strip("< ")
            said = self.act(
                f"RCPT:{address.partition('@')[0]}", "" if self.sender is not None else "503 5.5.1 MAIL first"
            )
            if said.startswith("2") and self.sender is not None:
                self.recipients.append(address)
        elif verb == "DATA":
            if self.buffer:
                self.server.violations.append(f"something behind DATA in its group: {self.buffer[:60]!r}")
            said = self.act("DATA", "" if self.recipients else "554 5.5.1 no valid recipients")
            if said.startswith("354"):
                self.content = []
        elif verb == "RSET":
            self.sender, self.recipients = None, []
            self.act("RSET")
        elif verb == "QUIT":
            self.act("QUIT")
            self.over = True
            self.transport.close()
        else:
            self.act(verb if verb in ("HELO", "STARTTLS", "AUTH") else "other")

    def _take_content(self) -> bool:
        """Reads content; true once the dot was read (or it is over)."""
        assert self.content is not None
        if "content" in self.script and self.buffer:
            self.act("content")
            del self.script["content"]
            if self.over:
                return True
        *lines, self.buffer = self.buffer.split(b"\r\n")
        for index, line in enumerate(lines):
            if line == b".":
                self.buffer = b"\r\n".join([*lines[index + 1 :], self.buffer])
                self._dot(b"".join(part + b"\r\n" for part in self.content))
                return True
            self.content.append(line.removeprefix(b"."))
        return False

    def _dot(self, content: bytes) -> None:
        sender, recipients = self.sender or "", tuple(self.recipients)
        if recipients and not content:
            self.server.violations.append("an empty message")
        self.content, self.sender, self.recipients = None, None, []
        said = self.act("dot", "" if recipients else "554 5.5.1 no valid recipients")
        message = Received(sender, recipients, content, self.parameters)
        if not said.startswith(("4", "5")):
            self.server.taken.append(message)
        if said.startswith("2"):
            self.server.received.append(message)


@asynccontextmanager
async def serve(
    *scripts: Script,
    offers: Sequence[str] = OFFERS,
    dribble: bool = False,
    batch: bool = False,
    violations: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[FaultServer]:
    """A running server. Fails at the end if the client broke a rule, unless `violations` may be. `tls`: implicit."""
    server = FaultServer(*scripts, offers=offers, dribble=dribble, batch=batch)
    listener = await asyncio.get_running_loop().create_server(lambda: Conversation(server), "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for conversation in server.connections:
            if not conversation.closed.is_set():
                conversation.transport.abort()
        await asyncio.gather(*(c.closed.wait() for c in server.connections))
        await asyncio.gather(*(c.dribbling for c in server.connections if server.dribble), return_exceptions=True)
        assert violations or not server.violations
