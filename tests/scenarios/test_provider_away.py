"""The provider cannot be reached for a while: messages wait, none loses an attempt, all go out when it is back."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from mailerd.bench.port import free_port
from tests.daemon.harness import daemon, enqueue, events, until
from tests.scenarios.peer import Peer

Connection = asyncpg.Connection


async def test_refused_connections(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()
    port = free_port()
    async with daemon(database, port, tmp_path) as running:
        ids = [await enqueue(connection, f"u{i}@example.org") for i in range(5)]

        async def seen() -> bool:
            return (
                await connection.fetchval(
                    "SELECT count(*) FROM mailerd.provider_state WHERE state = 'open' AND reason <> ''"
                )
                == 1
            )

        await until(seen, "the breaker is open and says why")
        assert not await connection.fetchval("SELECT count(*) FROM mailerd.event")
        await peer.start(port)
        await until(lambda: len(peer.accepted) == 5, "all accepted", within=30)

        async def recorded() -> bool:
            return [await events(connection, id_) for id_ in ids] == [["sent"]] * 5

        await until(recorded, "one event each")
        assert await connection.fetchval("SELECT max(attempt) FROM mailerd.event") == 1
        assert await running.stop() == 0
    await peer.stop()


async def test_421_at_every_mail_opens_the_breaker_and_costs_no_attempt(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    peer = Peer()
    peer.at_mail = b"421 4.3.2 try again later, closing connection\r\n"
    await peer.start()
    async with daemon(database, peer.port, tmp_path) as running:
        id_ = await enqueue(connection, "u@example.org")

        async def seen() -> bool:
            return await connection.fetchval("SELECT count(*) FROM mailerd.provider_state WHERE state = 'open'") == 1

        await until(seen, "the breaker is open")
        opened = peer.connections
        assert opened < 20
        peer.at_mail = b"250 2.1.0 ok\r\n"
        await until(lambda: peer.accepted == [str(id_)], "accepted", within=40)

        async def recorded() -> bool:
            return (await events(connection, id_))[-1:] == ["sent"]

        await until(recorded, "recorded")
        assert await connection.fetchval("SELECT max(attempt) FROM mailerd.event WHERE type = 'sent'") == 1
        assert await running.stop() == 0
    await peer.stop()


async def test_the_second_pool_takes_over(database: str, connection: Connection, tmp_path: Path) -> None:
    peer = Peer()
    await peer.start()
    extra = f"""
[[provider]]
name = "spare"
host = "127.0.0.1"
port = {peer.port}
tls = "none"
[[pool]]
name = "first"
providers = ["relay"]
[[pool]]
name = "second"
providers = ["spare"]
"""
    async with daemon(database, free_port(), tmp_path, extra=extra, stream='pools = ["first", "second"]') as _:
        id_ = await enqueue(connection, "u@example.org")
        await until(lambda: peer.accepted == [str(id_)], "accepted")

        async def recorded() -> bool:
            return await connection.fetchval("SELECT provider FROM mailerd.status($1)", id_) == "spare"

        await until(recorded, "recorded with the provider that took it")
    await peer.stop()
