"""The sink's processes: they share a port, run until told to end, and add up what they saw.

The parent binds and forks; each child has a listening socket of its own (SO_REUSEPORT: the kernel spreads connections)
and an event loop, and writes its ledger at least every 100 ms. TERM or INT ends all; a child that dies by itself ends
the others too, as half a sink would falsify every figure. Children end when the parent is gone.

Hazard: SO_REUSEPORT lets two sinks of one user share a port and silently split the traffic. So the parent first binds
without it, which fails when anybody is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from mailerd.bench.ledger import Ledger
from mailerd.bench.sink import IDLE_SECONDS, Settings, Sink, Tally

__all__ = ["PortTaken", "bind", "serve"]

_FLUSH_SECONDS = 0.1
_BACKLOG = 1024


class PortTaken(Exception):
    """Somebody listens there already, or the address is not ours; the text says which."""


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one port (0: a free one), nobody else being there. Raises `PortTaken`."""
    sockets: list[socket.socket] = []
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            # SO_REUSEADDR passes over connections in TIME-WAIT, never over a listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            address = probe.getsockname()
        for _ in range(count):
            listener = socket.socket(family)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        for listener in sockets:
            listener.listen(_BACKLOG)
            listener.setblocking(False)
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return sockets


def serve(
    settings: Settings,
    sockets: list[socket.socket],
    *,
    record: Path | None = None,
    certificate: Path | None = None,
    started: Callable[[], None] = lambda: None,
) -> Tally:
    """Runs one process a socket until TERM or INT; returns the sum of what they saw.

    `certificate` is a PEM file with key and certificate, needed with TLS. `started` is called once all processes are
    there. Raises RuntimeError when a process died by itself.
    """
    parent = os.getpid()
    children: dict[int, int] = {}  # pid: the pipe that its tally comes through
    awaited = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        for number, listener in enumerate(sockets):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    os.close(reading)
                    for other in sockets:
                        if other is not listener:
                            other.close()
                    tally = _child(settings, number, listener, record, certificate, parent)
                    os.write(writing, msgspec.json.encode(tally))
                    os._exit(0)
                os._exit(1)
            os.close(writing)
            children[pid] = reading
        for listener in sockets:
            listener.close()
        started()
        died = signal.sigwait(awaited) == signal.SIGCHLD
        return _collect(children, died)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _collect(children: dict[int, int], died: bool) -> Tally:
    total = Tally()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid, reading in children.items():
        with open(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(pid, 0)
        if said:
            total.add(msgspec.json.decode(said, type=Tally))
    if died:
        raise RuntimeError("a process of the sink died")
    return total


def _child(
    settings: Settings, number: int, listener: socket.socket, record: Path | None, certificate: Path | None, parent: int
) -> Tally:
    """One process of the sink, from fork to end."""
    ledger = None if record is None else Ledger(record / f"{parent}-{number}.ledger")
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    make: type[Sink] = Sink
    if settings.dialect:
        from mailerd.bench.httpsink import HttpSink as make  # aiohttp's server is no part of an SMTP sink
    sink = make(msgspec.structs.replace(settings, seed=settings.seed + number), ledger, context)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(sink, listener, parent))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        if ledger is not None:
            ledger.close()
    return sink.tally


async def _run(sink: Sink, listener: socket.socket, parent: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    implicit = sink.tls if sink.settings.tls == "implicit" else None
    server = await loop.create_server(sink, sock=listener, ssl=implicit)
    idle_check = loop.time() + IDLE_SECONDS
    while not ended.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _FLUSH_SECONDS)
        if sink.ledger is not None:
            sink.ledger.flush()
        if loop.time() >= idle_check:
            sink.close_idle()
            idle_check = loop.time() + IDLE_SECONDS
    server.close()
    for session in list(sink.sessions):
        session.close()
    await asyncio.sleep(0)  # lets what was written leave
