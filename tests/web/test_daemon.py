"""The listener in a real daemon: kill -9 after the 200 loses nothing; TERM answers what is in hand and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mailerd.bench.port import free_port
from tests.daemon.harness import Running, configuration, until
from tests.web.rig import SECRET, TOKENS, read_reply, sign
from tests.web.test_visits import LEAVER

if TYPE_CHECKING:
    import asyncpg

EXTRA = """
[public]
listen = "127.0.0.1:{port}"
base_url = "https://mail.example.org"
secret = "{secret}"
[[provider]]
name = "hook"
kind = "resend"
api_key = "key"
webhook_secret = "whsec_MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0"
"""


@asynccontextmanager
async def daemon(database: str, folder: Path, port: int) -> AsyncIterator[Running]:
    ops = free_port()
    config, log = folder / f"{ops}.toml", folder / f"{ops}.log"
    config.write_text(configuration(database, free_port(), ops=ops, extra=EXTRA.format(port=port, secret=SECRET)))
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.web.patched", "--config", str(config), "run"),
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    running = Running(process, config, log, ops)

    async def ready() -> bool:
        assert process.returncode is None, log.read_text()
        return (await running.get("/readyz"))[0] == 200

    try:
        await until(ready, "ready")
        yield running
    except BaseException:
        print(log.read_text()[-5000:])
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_nothing_that_was_answered_is_lost(
    database: str, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    port = free_port()
    answered: list[bytes] = []

    async def client(name: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for n in range(10_000):
            body = b'[{"type":"delivered","to":"%d-%d@x.example"}]' % (name, n)
            writer.write(
                f"POST /webhooks/hook HTTP/1.1\r\nX-Signature: {sign(body)}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            reply = await read_reply(reader)
            assert reply.status == 200
            answered.append(body)

    async with daemon(database, tmp_path, port) as running:
        clients = [asyncio.create_task(client(n)) for n in range(20)]
        await until(lambda: len(answered) > 500 or any(c.done() for c in clients), "answered")
        running.signal(signal.SIGKILL)
        await running.ended()
        results = await asyncio.gather(*clients, return_exceptions=True)
        assert all(isinstance(result, OSError | EOFError) for result in results), results
    stored = {row[0] for row in await connection.fetch("SELECT body FROM mailerd.inbox")}
    assert len(answered) > 500
    assert set(answered) <= stored

    async with daemon(database, tmp_path, port) as running:
        page = f"GET /u/{TOKENS.unsubscribe(LEAVER)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(page)
        assert b"Unsubscribe" in (await read_reply(reader)).body
        assert await running.metric("mailerd_visits_total", route="u", result="asked") == 1
        assert "[+] public: listening on" in (await running.get("/readyz?verbose"))[1]

        async def read() -> bool:
            return not await connection.fetchval("SELECT count(*) FROM mailerd.inbox_unread")

        await until(read, "what the dead one left is read")
        assert await running.stop() == 0
        assert await reader.read() == b""
        writer.close()
