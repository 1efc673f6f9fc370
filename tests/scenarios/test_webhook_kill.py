"""kill -9 while an outgoing webhook is being delivered: every event arrives, and what comes twice bears the same id.

A receiver that remembers each `webhook-id` hears of every event exactly once, wherever the process died.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg
from aiohttp import web
from standardwebhooks import Webhook

from mailerd.bench.port import free_port
from tests.daemon.harness import Server, daemon, enqueue, until

Connection = asyncpg.Connection
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """Answers 200, but while `hold` is cleared it answers nothing."""

    def __init__(self) -> None:
        self.port = free_port()
        self.hold = asyncio.Event()
        self.requests: dict[str, list[bytes]] = {}  # webhook-id → body of each attempt
        self.told: dict[str, list[int]] = {}  # what a receiver that remembers ids has heard: → event ids
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Receiver:
        app = web.Application()
        app.router.add_post("/hook", self.hook)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hold.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        found = Webhook(SECRET).verify(body, dict(request.headers))
        identifier = request.headers["webhook-id"]
        self.requests.setdefault(identifier, []).append(body)
        await self.hold.wait()
        self.told.setdefault(identifier, [event["id"] for event in found["data"]])
        return web.Response()

    def events(self) -> list[int]:
        return sorted(event for events in self.told.values() for event in events)

    @property
    def section(self) -> str:
        return f"""
[[webhook]]
name = "shop"
url = "http://127.0.0.1:{self.port}/hook"
secret = ["{SECRET}"]
allow_private = true
batch_size = 2
"""


async def subscribed(connection: Connection) -> None:
    await until(lambda: connection.fetchval("SELECT count(*) FROM mailerd.subscriber"), "subscribed")


async def an_event_without_a_daemon(connection: Connection) -> None:
    later = await connection.fetchval(
        "SELECT mailerd.enqueue('b@example.org', send_at => now() + interval '1 day', text_body => 'x')"
    )
    assert await connection.fetchval("SELECT mailerd.cancel($1)", later)


async def leases_run_out(connection: Connection) -> None:
    """What takes half a minute otherwise."""
    await connection.execute("UPDATE mailerd.webhook_delivery SET run_at = now() WHERE token <> 0")


async def everything_is_told_once(connection: Connection, receiver: Receiver) -> None:
    written = [row[0] for row in await connection.fetch("SELECT id FROM mailerd.event ORDER BY id")]
    await until(lambda: set(receiver.events()) == set(written), "all told")
    assert receiver.events() == written, "no event under two ids"
    for attempts in receiver.requests.values():
        assert len(set(attempts)) == 1, "a request comes again as it was"

    async def forgotten() -> bool:
        return not await connection.fetchval(
            "SELECT (SELECT count(*) FROM mailerd.webhook_delivery) + (SELECT count(*) FROM mailerd.notice)"
        )

    await until(forgotten, "nothing left to tell")


async def test_between_request_and_answer(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with Receiver() as receiver:
        async with daemon(database, server.port, tmp_path, extra=receiver.section) as first:
            await subscribed(connection)
            for n in range(9):
                await enqueue(connection, f"a{n}@example.org")
            await until(lambda: len(receiver.requests) == 4, "as many requests under way as there may be")
            first.signal(signal.SIGKILL)
            await first.ended()
        assert not receiver.told
        asked = set(receiver.requests)
        await an_event_without_a_daemon(connection)
        receiver.hold.set()
        await leases_run_out(connection)
        async with daemon(database, server.port, tmp_path, extra=receiver.section):
            await everything_is_told_once(connection, receiver)
            assert all(len(receiver.requests[identifier]) == 2 for identifier in asked)


async def test_between_answer_and_commit(database: str, connection: Connection, server: Server, tmp_path: Path) -> None:
    async with Receiver() as receiver:
        async with daemon(database, server.port, tmp_path, extra=receiver.section) as first:
            await subscribed(connection)
            await enqueue(connection, "a@example.org")
            await until(lambda: receiver.requests, "a request under way")
            other = await asyncpg.connect(database)
            async with other.transaction():
                await other.execute("SELECT FROM mailerd.webhook_delivery FOR UPDATE")
                receiver.hold.set()

                async def waiting() -> int | None:
                    return await connection.fetchval(
                        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                        "AND application_name = 'mailerd:webhooks' AND wait_event_type = 'Lock'"
                    )

                statement = await until(waiting, "an answer that cannot be written down")
                first.signal(signal.SIGKILL)
                await first.ended()
                # Postgres would carry out what its dead client has asked for.
                assert await connection.fetchval("SELECT pg_terminate_backend($1, 5000)", statement)
            await other.close()
        (asked,) = receiver.told
        await an_event_without_a_daemon(connection)
        await leases_run_out(connection)
        async with daemon(database, server.port, tmp_path, extra=receiver.section):
            await everything_is_told_once(connection, receiver)
            assert len(receiver.requests[asked]) == 2
