"""A row whose value the driver cannot read, put there past the constraints: its neighbours go out, the daemon lives."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from tests.daemon.harness import Server, daemon, enqueue, until

Connection = asyncpg.Connection


async def test_neighbours_go_on(database: str, connection: Connection, server: Server, tmp_path: Path) -> None:
    await connection.execute(
        'ALTER TABLE mailerd.outbox DROP CONSTRAINT "send_at: not between the years 2000 and 9999"'
    )
    bad = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, sender, text_body, send_at) VALUES ('bad@example.org', 'shop', 'x', '4000-01-01 BC') RETURNING id"
    )
    async with daemon(database, server.port, tmp_path, top='[lease]\nttl = "5s"') as running:
        await until(lambda: "a row cannot be read" in running.log.read_text(), "noticed")
        for i in range(10):
            await enqueue(connection, f"good{i}@example.org")
        await until(lambda: len(server.taken) == 10, "its neighbours are sent")
        await connection.execute("UPDATE mailerd.ready SET leases = 10, lease_until = '-infinity' WHERE id = $1", bad)

        async def poisoned() -> bool:
            return (
                await connection.fetchval("SELECT class FROM mailerd.dead_letter WHERE message_id = $1", bad)
                == "poison"
            )

        await until(poisoned, "dead-lettered after ten leases")
        assert await running.stop() == 0
