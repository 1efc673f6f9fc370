"""The store of attachments cannot be reached for a while: its messages are retried with the reason, no provider hears of
them, other mail goes out, and all of it arrives when the store is back."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg

from mailerd.bench.port import free_port
from tests.daemon.harness import Server, daemon, enqueue, events, settled, until
from tests.fetch.rig import shop, status

Connection = asyncpg.Connection


async def test_a_store_that_refuses_connections_and_then_is_busy(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    retry = 'retry = { first = "300ms", factor = 1, jitter = 0, attempts = 100 }'
    top = f'[attachments]\norigins = ["{origin}"]\n'
    async with daemon(database, server.port, tmp_path, top=top, stream=retry) as running:
        items = json.dumps([{"url": f"{origin}/bill.pdf"}])
        ids = [await enqueue(connection, f"u{i}@example.org", attachments=items) for i in range(5)]
        await enqueue(connection, "other@example.org")
        await until(lambda: server.attempts == {"other": 1}, "other mail goes out")

        async def deferred() -> bool:
            rows = await connection.fetch(
                "SELECT DISTINCT message_id, class, detail FROM mailerd.event WHERE type = 'deferred'"
            )
            reason = f"attachments[0] ('bill.pdf'): {origin} does not answer: Cannot connect to host"
            return {row[0] for row in rows} == set(ids) and all(
                row["class"] == "attachment" and row["detail"].startswith(reason) for row in rows
            )

        await until(deferred, "each is deferred, with the reason")
        async with shop(port) as store:
            store.answers["/bill.pdf"] = status(503)
            await until(lambda: store.asked.total(), "asked again")
            assert server.attempts == {"other": 1}
            store.answers["/bill.pdf"] = b"%PDF"
            await until(lambda: len(server.taken) == 6, "all arrive")
            await settled(connection)
            for id_ in ids:
                assert (await events(connection, id_))[-1] == "sent"
        for taken in server.taken[1:]:
            assert [part.get_payload(decode=True) for part in taken.message.iter_attachments()] == [b"%PDF"]
        assert not await connection.fetchval("SELECT count(*) FROM mailerd.dead_letter")
        assert await running.stop() == 0
    assert server.attempts == {"other": 1, **{f"u{i}": 1 for i in range(5)}}
