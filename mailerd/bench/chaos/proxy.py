"""A TCP proxy on loopback that loses, delays and cuts: the network between a daemon and its provider, at our command.

It runs in a process of its own (`python -m mailerd.bench.chaos.proxy HOST:PORT SEED`), so that neither the daemons nor
the test wait for it. Commands come by lines on its standard input, one answer each: `cut`, `freeze`, `deafen`, `slow
SECONDS JITTER [OCTETS-PER-SECOND]`, `cut-some SHARE`, `heal`, `counts`. `Proxy` is the other end, in the test.

A cut connection is reset (RST), both ways. A frozen one is half open: it stays, and nothing passes ever again, as after
a firewall has forgotten it. A deafened one passes what the daemon says and swallows the answers: mail is accepted, and
nobody learns of it. Under delay and jitter octets keep their order, and the end of a connection comes after them.
Hazard: what the kernel has taken from a daemon may still be delivered after a cut, as on a real network.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final, Literal, cast

import mailerd as package
from mailerd.bench.child import ChildFailed

__all__ = ["Proxy"]

Mode = Literal["pass", "refuse", "freeze", "deafen"]
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST
_DEADLINE: Final = 10.0  # seconds for an answer of the proxy's process
_ON_THE_WAY: Final = 1 << 18  # octets that one direction of a slow connection holds, before its sender has to wait


class Pipe(asyncio.Protocol):
    """One direction's reading end; `other` writes what it reads."""

    def __init__(self, relay: Relay, *, from_client: bool) -> None:
        self.relay = relay
        self.from_client = from_client
        self.transport: asyncio.Transport | None = None
        self.other: Pipe | None = None
        self.dead = False  # frozen for ever
        self.deaf = False  # what the server says is dropped
        self.choked = False  # the other side takes nothing now
        self._early: list[bytes] = []  # read before the other side was connected
        self._late: deque[bytes] = deque()  # on its way; no octets mean the end
        self._held = 0  # octets in `_late`
        self._sent = 0.0  # when the last octet has left, and when it arrives
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.relay.pipes.add(self)
        if self.from_client:
            self.relay.welcome(self)

    def data_received(self, data: bytes) -> None:
        if self.relay.slowed or self._late:
            self._delay(data)
        else:
            self._pass(data)

    def _delay(self, data: bytes) -> None:
        relay, loop = self.relay, asyncio.get_running_loop()
        now = loop.time()
        self._sent = max(self._sent, now) + (len(data) / relay.rate if relay.rate else 0.0)
        # Never before what came earlier.
        self._due = max(self._due, self._sent + relay.delay + relay.jitter * relay.chance.random())
        self._late.append(data)
        self._held += len(data)
        loop.call_at(self._due, self._pass_late)
        self.pace()

    def _pass_late(self) -> None:
        data = self._late.popleft()
        self._held -= len(data)
        if data:
            self._pass(data)
        else:
            self._end()
        self.pace()

    def _pass(self, data: bytes) -> None:
        # Asked here and not when it was read: what is on its way when the network breaks is lost, too.
        if self.dead or (self.deaf and not self.from_client):
            return
        if self.other is None:
            self._early.append(data)
        elif self.other.open:
            self.relay.octets += len(data)
            cast("asyncio.Transport", self.other.transport).write(data)

    def _end(self) -> None:
        if self.other is not None and not self.dead and not self.other.dead and self.other.open:
            cast("asyncio.Transport", self.other.transport).close()

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def pace(self) -> None:
        """Reads on, or leaves the sender's octets to the kernel, until there is room. The dead read all, into nothing."""
        if self.open:
            transport = cast("asyncio.Transport", self.transport)
            if not self.dead and (self.choked or self._held > _ON_THE_WAY):
                transport.pause_reading()
            else:
                transport.resume_reading()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.choked = True
            self.other.pace()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.choked = False
            self.other.pace()

    def join(self, other: Pipe) -> None:
        self.other, other.other = other, self
        early, self._early = self._early, []
        for data in early:
            self._pass(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.relay.pipes.discard(self)
        if self.relay.slowed or self._late:
            self._delay(b"")
        else:
            self._end()

    def freeze(self) -> None:
        self.dead = True
        self.pace()

    def reset(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            s = self.transport.get_extra_info("socket")
            if s is not None:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


class Relay:
    """The proxy's process: all connections and how they are treated."""

    def __init__(self, host: str, port: int, seed: int) -> None:
        self.target = (host, port)
        self.chance = random.Random(seed)
        self.mode: Mode = "pass"
        self.delay = self.jitter = self.rate = 0.0
        self.octets = self.total = self.peak = 0
        self.pipes: set[Pipe] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._place = _socket(0)  # never listens: it keeps the port ours while connections are refused
        self.port = int(self._place.getsockname()[1])

    @property
    def slowed(self) -> bool:
        return bool(self.delay or self.jitter or self.rate)

    async def listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Pipe(self, from_client=True), sock=_socket(self.port), backlog=1024
            )

    def refuse(self) -> None:
        """Nobody listens, so the kernel refuses."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def clients(self) -> list[Pipe]:
        return [pipe for pipe in self.pipes if pipe.from_client]

    def welcome(self, client: Pipe) -> None:
        self.total += 1
        self.peak = max(self.peak, len(self.clients()))
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: Pipe) -> None:
        if self.mode == "refuse":
            client.reset()
            return
        if self.mode == "freeze":
            client.freeze()
            return
        if self.delay:
            await asyncio.sleep(self.delay)
        try:
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: Pipe(self, from_client=False), *self.target
            )
        except OSError:
            client.reset()
            return
        # What befell the client while we connected befalls this side, too; its first words may not be here yet.
        made.dead = client.dead
        made.deaf = client.deaf = client.deaf or self.mode == "deafen"
        client.join(made)
        made.join(client)
        if client.transport is None or client.transport.is_closing():
            made.reset()

    async def command(self, words: list[str]) -> str:
        match words:
            case ["cut"]:
                self.mode = "refuse"
                self.refuse()
                for pipe in list(self.pipes):
                    pipe.reset()
            case ["freeze"]:
                self.mode = "freeze"
                for pipe in self.pipes:
                    pipe.freeze()
                await self.listen()
            case ["deafen"]:
                self.mode = "deafen"
                for pipe in self.pipes:
                    pipe.deaf = True
                await self.listen()
            case ["slow", delay, jitter, *rate]:
                self.delay, self.jitter, self.rate = float(delay), float(jitter), float(rate[0]) if rate else 0.0
            case ["cut-some", share]:
                struck = [pipe for pipe in self.clients() if self.chance.random() < float(share)]
                for pipe in struck:
                    if pipe.other is not None:
                        pipe.other.reset()
                    pipe.reset()
                return f"ok {len(struck)}"
            case ["heal"]:
                self.mode = "pass"
                for pipe in list(self.pipes):
                    if pipe.dead or pipe.deaf:
                        pipe.reset()
                await self.listen()
            case ["counts"]:
                return f"ok {len(self.clients())} {self.peak} {self.total} {self.octets}"
            case _:
                return f"no such command: {' '.join(words)}"
        return "ok"


def _socket(port: int) -> socket.socket:
    """Bound to a loopback port that may be shared among our own sockets."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def serve(host: str, port: int, seed: int) -> None:
    relay = Relay(host, port, seed)
    loop = asyncio.get_running_loop()
    await relay.listen()
    _tell(str(relay.port))
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():  # the end of our input is the end of us
        _tell(await relay.command(line.decode().split()))
    relay.refuse()


class Proxy:
    """The test's end. Calls block for as long as the proxy takes to obey: a moment. They raise `ChildFailed`.

    `seed` is that of its draws: jitter, and which connections `cut_some` strikes.
    """

    def __init__(self, target: tuple[str, int], log: Path, seed: int = 0) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mailerd.bench.chaos.proxy", f"{target[0]}:{target[1]}", str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                cwd=Path(package.__file__).parent.parent,  # a checkout that is not installed is found all the same
                start_new_session=True,
            )
        self.log = log
        try:
            self.port = int(self._answer())
        except ChildFailed:
            self.stop()
            raise

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answers = select.poll()
        answers.register(self._process.stdout, select.POLLIN)  # ready also when the process has ended
        if not answers.poll(_DEADLINE * 1000):
            raise ChildFailed(f"the proxy does not answer: {self.log.read_text(errors='replace')[-500:]}")
        line = self._process.stdout.readline()  # one answer to each command, in one write
        if not line:
            raise ChildFailed(f"the proxy ended: {self.log.read_text(errors='replace')[-500:]}")
        return line.strip()

    def _say(self, command: str) -> list[str]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
        except OSError:
            raise ChildFailed(f"the proxy ended: {self.log.read_text(errors='replace')[-500:]}") from None
        answer = self._answer().split()
        if answer[:1] != ["ok"]:
            raise ChildFailed(f"the proxy did not {command}: {' '.join(answer)}")
        return answer[1:]

    def cut(self) -> None:
        """Resets every connection, and refuses new ones (ECONNREFUSED)."""
        self._say("cut")

    def freeze(self) -> None:
        """Every connection is half open from now on, new ones too."""
        self._say("freeze")

    def deafen(self) -> None:
        """What the server answers is lost, on every connection."""
        self._say("deafen")

    def slow(self, delay: float, jitter: float = 0.0, octets_per_second: float = 0.0) -> None:
        """Each packet takes `delay` to `delay + jitter` seconds, each way; a rate limits each way of each connection."""
        self._say(f"slow {delay} {jitter} {octets_per_second}")

    def cut_some(self, share: float) -> int:
        """Resets about this share of the connections; how many."""
        return int(self._say(f"cut-some {share}")[0])

    def heal(self) -> None:
        """New connections work; those that were frozen or deafened are reset."""
        self._say("heal")

    def counts(self) -> tuple[int, int, int, int]:
        """(connections now, at most at once, ever, octets passed)."""
        now, peak, total, octets = map(int, self._say("counts"))
        return now, peak, total, octets

    def stop(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # what could not be said to one that is gone
                self._process.stdin.close()
        deadline = time.monotonic() + _DEADLINE
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self._process.kill()
        self._process.wait(_DEADLINE)
        if self._process.stdout is not None:
            self._process.stdout.close()


if __name__ == "__main__":
    import uvloop

    address, _, number = sys.argv[1].rpartition(":")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(address, int(number), int(sys.argv[2])))
