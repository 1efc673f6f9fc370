"""Somebody else holds locks in the database: what is leased stays ours, what is not locked goes on, nothing is sent twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from tests.daemon.harness import daemon, enqueue, events, settled, until
from tests.scenarios.peer import Peer

Connection = asyncpg.Connection
SHORT = '[lease]\nttl = "5s"'


async def outlive_the_leases(connection: Connection) -> None:
    """Returns when the leases of this moment would be over, were they not renewed; not before there are any."""

    async def first_end() -> object:
        return await connection.fetchval("SELECT max(lease_until) FROM mailerd.ready WHERE lease_until > now()")

    end = await until(first_end, "leased")

    async def over() -> bool:
        return bool(await connection.fetchval("SELECT now() > $1::timestamptz + interval '1 s'", end))

    await until(over, "later than the leases' first end")


async def test_events_cannot_be_written_for_longer_than_a_lease(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    """A CREATE INDEX on the events, say. Renewals go on, so that no other instance takes what was accepted."""
    peer = Peer()
    await peer.start()
    blocker = await asyncpg.connect(database)
    async with daemon(database, peer.port, tmp_path, top=SHORT), daemon(database, peer.port, tmp_path, top=SHORT):
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE mailerd.event IN SHARE MODE")
            ids = [await enqueue(connection, f"u{n}@example.org") for n in range(5)]
            await until(lambda: len(peer.accepted) == 5, "accepted")
            await outlive_the_leases(connection)
        await settled(connection)
        assert sorted(peer.accepted) == sorted(map(str, ids))
        for id_ in ids:
            assert await events(connection, id_) == ["sent"]
    await blocker.close()
    await peer.stop()


async def test_one_locked_row_holds_up_no_other(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()
    go = asyncio.Event()

    async def wait(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
        if n == 1:
            await go.wait()
        await peer.ok(writer, content)

    peer.at_dot = wait
    await peer.start()
    blocker = await asyncpg.connect(database)
    async with daemon(database, peer.port, tmp_path, stream="concurrency = 4"):
        first = await enqueue(connection, "first@example.org")
        await until(lambda: peer.ended == 1, "on its way")
        async with blocker.transaction():
            assert await blocker.fetchval("SELECT id FROM mailerd.ready FOR UPDATE") == first
            go.set()
            others = [await enqueue(connection, f"u{n}@example.org") for n in range(30)]

            async def others_are_settled() -> bool:
                return await connection.fetchval("SELECT count(*) FROM mailerd.ready WHERE id = ANY ($1)", others) == 0

            await until(others_are_settled, "the others are settled")
            assert await events(connection, first) == []
        await settled(connection)
        assert await events(connection, first) == ["sent"]
    assert len(peer.accepted) == len(set(peer.accepted)) == 31
    await blocker.close()
    await peer.stop()


async def test_mail_that_cannot_be_checked_waits_unspent(database: str, connection: Connection, tmp_path: Path) -> None:
    """The suppression list cannot be read for longer than a lease: nothing is sent, and no lease is counted twice."""
    peer = Peer()
    await peer.start()
    blocker = await asyncpg.connect(database)
    async with daemon(database, peer.port, tmp_path, top=SHORT):
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE mailerd.suppression IN ACCESS EXCLUSIVE MODE")
            for n in range(3):
                await enqueue(connection, f"u{n}@example.org")
            await outlive_the_leases(connection)
            assert await connection.fetchval("SELECT max(leases) FROM mailerd.ready") == 1
            assert peer.ended == 0
        await until(lambda: len(peer.accepted) == 3, "sent")
        await settled(connection)
    await blocker.close()
    await peer.stop()
