"""A push reaches a running process within two seconds, and its events say which version it was."""

from __future__ import annotations

import json
import time
from pathlib import Path

import asyncpg

from mailerd.compose.bundle import Edition, Version
from mailerd.store.database import Session
from mailerd.store.templates import push
from tests.daemon.harness import Server, daemon, enqueue, settled, until


async def test_a_push_is_picked_up(
    database: str, connection: asyncpg.Connection[asyncpg.Record], session: Session, server: Server, tmp_path: Path
) -> None:
    schema = {"properties": {"name": {"type": "string"}}}

    async def pushed(text: str, variant: str = "") -> None:
        version = Version("welcome", 0, {"": Edition(subject="Hi", text=text + " {{ name }}")}, schema)
        await push(session, version, {}, text, "ann", 100, variant)

    async with daemon(database, server.port, tmp_path):
        # The row comes with the version that this process has never heard of.
        await pushed("one")
        await enqueue(connection, "a@example.org", template="welcome", params=json.dumps({"name": "Ann"}))
        await until(lambda: server.taken, "sent with the first version")
        assert "one Ann" in server.taken[0].content.decode()

        await pushed("two", "b")
        start = time.monotonic()

        async def second() -> bool:
            before = len(server.taken)
            await enqueue(connection, "a@example.org", template="welcome", params=json.dumps({"name": "Ann"}))
            await until(lambda: len(server.taken) > before, "sent")
            return "two Ann" in server.taken[-1].content.decode()

        await until(second, "picked up", within=2.0)
        assert time.monotonic() - start <= 2.0
        pinned = await enqueue(connection, "p@example.org", template="welcome@1", params=json.dumps({"name": "Ann"}))
        wrong = await enqueue(connection, "w@example.org", template="welcome", params=json.dumps({"name": 1}))
        missing = await enqueue(connection, "m@example.org", template="welcome@9", params="{}")
        await settled(connection)
        assert "one Ann" in server.taken[-1].content.decode()

    async def said(id_: int) -> str:
        return str(
            await connection.fetchval("SELECT type || ' ' || detail FROM mailerd.event WHERE message_id = $1", id_)
        )

    assert (await said(pinned)).startswith("sent [template welcome@1]")
    assert "params.name" in await said(wrong)
    assert "no such version" in await said(missing)
    assert await connection.fetchval("SELECT count(*) FROM mailerd.event WHERE detail LIKE '[template welcome@2 b]%'")
