"""The daemon and addresses that were erased: a suppression goes on holding."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from mailerd.config.model import Database
from mailerd.store import privacy
from mailerd.store.database import Session
from tests.daemon.harness import Server, daemon, enqueue, events, settled

SECRET = "a secret for tests only"


async def test_mail_to_an_erased_address_is_still_suppressed(
    database: str, connection: asyncpg.Connection, server: Server, tmp_path: Path
) -> None:
    await connection.execute("INSERT INTO mailerd.suppression (address, reason) VALUES ('ann@x.example', 'complaint')")
    key = privacy.key((SECRET,))
    assert key is not None
    async with Session(Database(url=database), "test") as session:
        await privacy.erase(session, "ann@x.example", key, "somebody")
    assert await connection.fetchval("SELECT address LIKE 'erased:%' FROM mailerd.suppression")
    async with daemon(database, server.port, tmp_path, top=f'[public]\nsecret = ["{SECRET}"]\n') as _:
        stopped = await enqueue(connection, "Ann <ANN@x.example>")
        other = await enqueue(connection, "joann@x.example")
        await settled(connection)
        assert await events(connection, stopped) == ["suppressed"]
        assert await events(connection, other) == ["sent"]
