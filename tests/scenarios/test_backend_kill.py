"""Every connection to Postgres is killed again and again, the LISTEN one too: the daemon lives, all is sent and settled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg

from tests.daemon.harness import daemon, until
from tests.scenarios.peer import Peer

Connection = asyncpg.Connection
MESSAGES = 400


async def test_all_backends_ten_times(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()

    async def slowly(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
        await asyncio.sleep(0.02)
        await peer.ok(writer, content)

    peer.at_dot = slowly
    await peer.start()
    await connection.execute(
        "INSERT INTO mailerd.outbox (recipient, sender, text_body) SELECT 'u' || i || '@d' || i % 9 || '.example', 'shop', 'x' "
        "FROM generate_series(1, $1) i",
        MESSAGES,
    )
    async with daemon(database, peer.port, tmp_path, provider="connections = 4") as running:
        for _ in range(10):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'mailerd:%' AND datname = current_database()"
            )
            await asyncio.sleep(0.15)

        async def all_settled() -> bool:
            return (
                await connection.fetchval("SELECT count(DISTINCT message_id) FROM mailerd.event WHERE type = 'sent'")
                == MESSAGES
            )

        await until(all_settled, "all settled", within=60)

        async def listening() -> bool:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mailerd:listen' AND datname = current_database()"
            return await connection.fetchval(sql) == 1

        await until(listening, "LISTEN is back", within=20)
        started = time.monotonic()
        id_ = await connection.fetchval("SELECT mailerd.enqueue('z@example.org', sender => 'shop', text_body => 'x')")
        await until(lambda: str(id_) in peer.accepted, "sent after it all", within=5)
        assert time.monotonic() - started < 5
        assert await running.stop() == 0
    assert len(set(peer.accepted)) == MESSAGES + 1
    assert len(peer.accepted) == MESSAGES + 1, "nothing is sent twice: leases outlive connections"
    await peer.stop()
