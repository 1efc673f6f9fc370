"""TERM drains, a second TERM stops now, kill -9 loses nothing."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import asyncpg

from tests.daemon.harness import daemon, enqueue, events, until
from tests.scenarios.peer import Peer

Connection = asyncpg.Connection


async def fill(connection: Connection, count: int) -> None:
    await connection.execute(
        "INSERT INTO mailerd.outbox (recipient, sender, text_body) SELECT 'u' || i || '@d' || i % 9 || '.example', 'shop', 'x' "
        "FROM generate_series(1, $1) i",
        count,
    )


async def slowly(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
    await asyncio.sleep(0.05)
    await peer.ok(writer, content)


async def never(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
    await asyncio.Event().wait()


async def test_drain_finishes_what_flies_and_gives_back_the_rest(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    peer = Peer()
    peer.at_dot = slowly
    await peer.start()
    await fill(connection, 500)
    async with daemon(database, peer.port, tmp_path, provider="connections = 5") as running:
        await until(lambda: len(peer.accepted) >= 20, "some accepted")
        assert await running.stop() == 0
    sent = await connection.fetchval("SELECT count(*) FROM mailerd.event WHERE type = 'sent'")
    assert sent == len(peer.accepted) == len(set(peer.accepted))
    assert await connection.fetchval("SELECT count(*) FROM mailerd.ready") == 500 - sent
    assert await connection.fetchval("SELECT count(*) FROM mailerd.ready WHERE lease_until > now()") == 0
    assert await connection.fetchval("SELECT max(leases) FROM mailerd.ready") == 0
    assert await connection.fetchval("SELECT count(*) FROM mailerd.instance") == 0
    await peer.stop()


async def test_a_second_term_stops_at_once(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()
    peer.at_dot = never
    await peer.start()
    async with daemon(database, peer.port, tmp_path) as running:
        id_ = await enqueue(connection, "u@example.org")
        await until(lambda: peer.ended == 1, "past its dot")
        running.signal(signal.SIGTERM)
        await until(lambda: "draining" in running.log.read_text(), "draining")
        started = time.monotonic()
        running.signal(signal.SIGTERM)
        assert await running.ended(within=5) == 0
        assert time.monotonic() - started < 5
    # What was past its dot may have been accepted: it says so.
    assert await events(connection, id_) == ["in_doubt"]
    await peer.stop()


async def test_kill_9_loses_nothing_and_repeats_little(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()
    await peer.start()
    await fill(connection, 3000)
    top = '[lease]\nttl = "7s"'
    for _ in range(3):
        async with daemon(database, peer.port, tmp_path, top=top, provider="connections = 4") as running:
            goal = min(len(peer.accepted) + 300, 3000)
            await until(lambda goal=goal: len(peer.accepted) >= goal, "some accepted")
            running.process.kill()
            await running.process.wait()
    async with daemon(database, peer.port, tmp_path, top=top) as running:

        async def all_ended() -> bool:
            return await connection.fetchval("SELECT count(*) FROM mailerd.ready") == 0

        await until(all_ended, "all ended", within=40)
        assert await running.stop() == 0
    counts = Counter(peer.accepted)
    assert len(counts) == 3000
    repeated = sum(n - 1 for n in counts.values())
    assert repeated <= 3 * (512 + 4), "more than the declared bound"
    assert await connection.fetchval("SELECT count(DISTINCT message_id) FROM mailerd.event WHERE type = 'sent'") == 3000
    await peer.stop()
