"""A free port stays ours until its server binds it, whoever else asks, also in another process."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import subprocess
import sys

import pytest
import uvloop

from mailerd.bench.port import free_port

ANOTHER = (
    "import sys, random, mailerd.bench.port as p; random.sample = lambda *_: [int(sys.argv[1])]; print(p.free_port())"
)


def test_nobody_else_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError) as caught:
        other.bind(("127.0.0.1", port))
    assert caught.value.errno == errno.EADDRINUSE
    monkeypatch.setattr(random, "sample", lambda *_: [port])
    assert free_port() != port
    ran = subprocess.run([sys.executable, "-c", ANOTHER, str(port)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) != port


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_its_server_does(run: object) -> None:
    port = free_port()

    async def serve() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):  # and once more after a restart
            async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert await reader.read() == b""
                writer.close()

    run(serve())  # type: ignore[operator]
