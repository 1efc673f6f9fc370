"""Postgres goes away while mail is being sent: what was accepted is settled afterwards, nothing is sent twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from mailerd.bench.postgres import Postgres
from mailerd.config import model
from mailerd.store.database import Session
from mailerd.store.migrate import migrate
from tests.daemon.harness import daemon, until
from tests.scenarios.peer import Peer

MESSAGES = 400


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_postgres_restarts(tmp_path: Path, mode: str) -> None:
    import tempfile

    peer = Peer()

    async def slowly(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
        await asyncio.sleep(0.02)
        await peer.ok(writer, content)

    peer.at_dot = slowly
    await peer.start()
    with tempfile.TemporaryDirectory(prefix="mailerd-pg-") as folder, Postgres(Path(folder)) as server:
        async with Session(model.Database(url=server.url), "test") as session:
            await migrate(session)
            await session.execute(
                "INSERT INTO mailerd.outbox (recipient, sender, text_body) SELECT 'u' || i || '@d' || i % 9 || '.example', 'shop', 'x' "
                "FROM generate_series(1, $1) i",
                MESSAGES,
            )
        async with daemon(server.url, peer.port, tmp_path, provider="connections = 4") as running:
            await until(lambda: len(peer.accepted) > MESSAGES // 10, "some accepted")
            await asyncio.to_thread(server.stop, mode)
            code, _ = await running.get("/readyz")
            await until(
                lambda: "database" in running.log.read_text() or "Postgres" in running.log.read_text(), "noticed"
            )
            code, _ = await running.get("/livez")
            assert code == 200
            await asyncio.to_thread(server.start)
            connection = await asyncpg.connect(server.url)

            async def all_settled() -> bool:
                return await connection.fetchval("SELECT count(*) FROM mailerd.event WHERE type = 'sent'") == MESSAGES

            await until(all_settled, "all settled", within=60)

            async def ready() -> bool:
                return (await running.get("/readyz"))[0] == 200

            await until(ready, "ready again")
            assert await running.stop() == 0
            assert await connection.fetchval("SELECT count(*) FROM mailerd.ready") == 0
            await connection.close()
    twice = {id_: n for id_, n in Counter(peer.accepted).items() if n > 1}
    assert len(set(peer.accepted)) == MESSAGES
    assert not twice
    await peer.stop()
