"""The answer to the final dot never comes: the stream's policy decides, and no other message suffers."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg

from tests.daemon.harness import daemon, enqueue, events, settled, until
from tests.scenarios.peer import Peer

Connection = asyncpg.Connection


async def lose_the_first_answer(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
    if n == 1:
        writer.close()
    else:
        await peer.ok(writer, content)


async def test_resend(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()
    peer.at_dot = lose_the_first_answer
    await peer.start()
    async with daemon(database, peer.port, tmp_path, stream='retry = { first = "50ms" }') as _:
        id_ = await enqueue(connection, "u@example.org")
        await until(lambda: peer.accepted == [str(id_)], "sent again")

        async def recorded() -> bool:
            return await events(connection, id_) == ["in_doubt", "sent"]

        await until(recorded, "recorded")
    await peer.stop()


async def test_hold(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()
    peer.at_dot = lose_the_first_answer
    await peer.start()
    async with daemon(database, peer.port, tmp_path, stream='on_uncertain = "hold"') as _:
        held = await enqueue(connection, "u@example.org")
        await until(lambda: peer.ended == 1, "the first was sent")
        other = await enqueue(connection, "v@example.org")
        await until(lambda: peer.accepted == [str(other)], "the other is accepted")
        await settled(connection)
        assert await events(connection, held) == ["in_doubt"]
        assert await connection.fetchval("SELECT status FROM mailerd.status($1)", held) == "in_doubt"
        assert await connection.fetchval("SELECT message_id FROM mailerd.in_doubt") == held
        assert peer.ended == 2
    await peer.stop()


async def test_a_crash_after_the_dot(database: str, connection: Connection, tmp_path: Path) -> None:
    """The intent was committed before the dot: the next instance sends nothing, and the message is held."""
    peer = Peer()
    reached = asyncio.Event()

    async def never_answer(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
        reached.set()
        await asyncio.Event().wait()

    peer.at_dot = never_answer
    await peer.start()
    top, stream = '[lease]\nttl = "5s"', 'on_uncertain = "hold"'
    async with daemon(database, peer.port, tmp_path, stream=stream, top=top) as first:
        id_ = await enqueue(connection, "u@example.org")
        await asyncio.wait_for(reached.wait(), 20)
        assert await connection.fetchval("SELECT intent FROM mailerd.ready")
        first.signal(signal.SIGKILL)
        await first.ended()
    peer.at_dot = None
    async with daemon(database, peer.port, tmp_path, stream=stream, top=top) as _:
        other = await enqueue(connection, "v@example.org")
        await until(lambda: peer.accepted == [str(other)], "the other is accepted")
        await settled(connection)
        assert await events(connection, id_) == ["in_doubt"]
        assert peer.ended == 2
    await peer.stop()


async def test_what_was_given_back_is_in_no_doubt(database: str, connection: Connection, tmp_path: Path) -> None:
    """A stop gives back what had its intent committed and was not started: it is sent, not held."""
    peer = Peer()
    started = asyncio.Event()

    async def slowly(peer: Peer, writer: asyncio.StreamWriter, n: int, content: bytes) -> None:
        started.set()
        await asyncio.sleep(0.2)
        await peer.ok(writer, content)

    peer.at_dot = slowly
    await peer.start()
    stream = 'on_uncertain = "hold"\nconcurrency = 1'
    await connection.execute(
        """INSERT INTO mailerd.outbox (recipient, subject, text_body)
           SELECT 'u' || i || '@example.org', 's', 't' FROM generate_series(1, 30) i"""
    )
    async with daemon(database, peer.port, tmp_path, stream=stream) as first:
        await asyncio.wait_for(started.wait(), 20)
        assert await first.stop() == 0
    left = await connection.fetchrow("SELECT count(*), bool_or(intent), max(leases) FROM mailerd.ready")
    assert left is not None
    assert left[0] >= 20
    assert left[1:] == (False, 0)
    peer.at_dot = None
    async with daemon(database, peer.port, tmp_path, stream=stream) as _:
        await settled(connection)
    assert len(peer.accepted) == len(set(peer.accepted)) == 30
    await peer.stop()
