"""Events cannot be written because a partition is gone: leasing stops, /readyz says so, nothing is lost or repeated."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from tests.daemon.harness import Server, daemon, enqueue, events, until

Connection = asyncpg.Connection


async def test_todays_event_partition_is_dropped_under_a_running_daemon(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path) as running:
        today = await connection.fetchval("SELECT 'event_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")

        async def looked() -> bool:
            """The last statement of the first round of upkeep: until then it would put the partition back."""
            return await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mailerd:upkeep' AND query LIKE '%NOT c.relispartition%'"
            )

        await until(looked, "its first round of upkeep is over")
        await connection.execute(f"ALTER TABLE mailerd.event DETACH PARTITION mailerd.{today}")
        id_ = await enqueue(connection, "a@example.org")
        await until(lambda: server.taken, "accepted")
        await until(lambda: "cannot be settled" in running.log.read_text(), "noticed")
        low = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
        await connection.execute(
            f"DO $$ BEGIN EXECUTE format('ALTER TABLE mailerd.event ATTACH PARTITION mailerd.{today} FOR VALUES FROM (%L) TO (%L)', "
            f"'{low} 00:00+00', (date '{low}' + 1)::text || ' 00:00+00'); END $$"
        )

        async def recorded() -> bool:
            return await events(connection, id_) == ["sent"]

        await until(recorded, "settled once the partition is back")
        assert await running.stop() == 0
    assert len(server.taken) == 1
