"""Outgoing webhooks by the real daemon: a real receiver, and the reference library as the judge of signatures."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
from aiohttp import web
from standardwebhooks import Webhook

from mailerd.bench.port import free_port
from mailerd.config import model
from mailerd.config import outgoing as config
from mailerd.daemon.webhooks import Webhooks
from mailerd.store import webhooks
from mailerd.store.database import Session
from mailerd.web.metrics import Metrics
from tests.daemon.harness import Server, daemon, enqueue, until

SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "QUJD" * 8)


class Receiver:
    """Takes and verifies webhooks; answers `answers` first, then 200. What was verified is in `taken`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: list[int] = []
        self.requests: list[tuple[str, list[int]]] = []  # webhook-id and event ids, refused ones too
        self.taken: dict[str, list[dict[str, object]]] = {}
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self.hook)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        for secret in SECRETS:  # each of them alone must be enough
            found = Webhook(secret).verify(body, dict(request.headers))
        assert request.headers["x-shop"] == "1"
        self.requests.append((request.headers["webhook-id"], [event["id"] for event in found["data"]]))
        if self.answers:
            return web.Response(status=self.answers.pop(0), text="not now\0")
        self.taken.setdefault(request.headers["webhook-id"], found["data"])
        return web.Response()

    def events(self) -> list[dict[str, object]]:
        return [event for events in self.taken.values() for event in events]


async def test_an_event_is_posted_signed_and_posted_again_until_it_is_taken(
    database: str, connection: asyncpg.Connection[asyncpg.Record], server: Server, tmp_path: Path
) -> None:
    receiver = Receiver(free_port())
    hook = f"""
[[webhook]]
name = "shop"
url = "http://127.0.0.1:{receiver.port}/hook"
secret = ["{SECRETS[0]}", "{SECRETS[1]}"]
headers = ["X-Shop: 1"]
events = ["sent", "cancelled"]
allow_private = true
batch_size = 2
"""
    async with daemon(database, server.port, tmp_path, extra=hook) as running:
        await until(lambda: connection.fetchval("SELECT count(*) FROM mailerd.subscriber"), "subscribed")
        # Nobody is there at first.
        first = [await enqueue(connection, f"a{n}@example.org", metadata='{"order": 7}') for n in range(5)]
        await until(
            lambda: connection.fetchval("SELECT count(*) FROM mailerd.webhook WHERE failures > 0"), "failed once"
        )
        receiver.answers = [500, 302]
        await receiver.start()
        later = await connection.fetchval(
            "SELECT mailerd.enqueue('b@example.org', send_at => now() + interval '1 day', text_body => 'x')"
        )
        assert await connection.fetchval("SELECT mailerd.cancel($1)", later)

        # Its back-off would be seconds: enabling does not wait, nor do we.
        async def taken() -> bool:
            await connection.execute("UPDATE mailerd.webhook SET retry_at = '-infinity', failures = 0")
            await connection.execute("UPDATE mailerd.webhook_delivery SET run_at = now() WHERE token = 0")
            return len(receiver.events()) >= 6

        await until(taken, "all taken")
        assert await running.metric("mailerd_webhook_requests_total", webhook="shop", outcome="failed") >= 3
        assert await running.stop() == 0
    await receiver.stop()
    events = receiver.events()
    assert sorted(int(str(e["message_id"])) for e in events) == sorted([*first, later])
    ids = [e["id"] for e in events]
    assert len(set(ids)) == len(ids), "no event under two request ids"
    by_id: dict[str, list[int]] = {}
    for identifier, held in receiver.requests:
        assert by_id.setdefault(identifier, held) == held, "a request comes again as it was"
        assert len(held) <= 2
    assert {e["type"] for e in events} == {"sent", "cancelled"}
    assert any(e.get("message_metadata") == {"order": 7} for e in events)
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.webhook_delivery")
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.notice")


async def test_events_as_json_lines_on_stdout(
    database: str, connection: asyncpg.Connection[asyncpg.Record], server: Server, tmp_path: Path
) -> None:
    extra = '[log]\nevents = "stdout"\n'
    async with daemon(database, server.port, tmp_path, extra=extra) as running:
        await until(lambda: connection.fetchval("SELECT count(*) FROM mailerd.subscriber"), "subscribed")
        id_ = await enqueue(connection, "a@example.org")
        line = await until(
            lambda: next((x for x in running.log.read_text().splitlines() if x.startswith("{")), None), "printed"
        )
        assert await running.stop() == 0
    event = json.loads(line)
    assert (event["type"], event["message_id"], event["recipient"]) == ("sent", id_, "a@example.org")


async def test_a_dead_endpoint_delays_no_other_and_a_reload_brings_new_ones(
    settings: model.Database, connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    receiver = Receiver(free_port())
    await receiver.start()
    hold = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    dead = await asyncio.start_server(never, "127.0.0.1", 0)
    port = dead.sockets[0].getsockname()[1]
    well = config.Webhook(
        name="well",
        url=f"http://127.0.0.1:{receiver.port}/hook",
        secret=SECRETS,
        headers=("X-Shop: 1",),
        allow_private=True,
    )
    ill = config.Webhook(name="ill", url=f"http://127.0.0.1:{port}/", secret=SECRETS, allow_private=True)
    await webhooks.publish(session, [ill])
    for _ in range(12):
        await connection.execute("INSERT INTO mailerd.event (message_id, type) VALUES (1, 'sent')")
        await webhooks.prepare(session, "ill", 1)
    hooks = Webhooks(settings, Metrics(), [ill])
    running = asyncio.create_task(hooks.run())
    try:
        await until(
            lambda: connection.fetchval("SELECT count(*) >= 4 FROM mailerd.webhook_delivery WHERE token <> 0"), "stuck"
        )
        hooks.configure([ill, well])
        await until(
            lambda: connection.fetchval("SELECT count(*) FROM mailerd.subscriber WHERE name = 'webhook:well'"), "known"
        )
        await connection.execute("INSERT INTO mailerd.event (message_id, type) VALUES (2, 'bounced')")
        await until(receiver.events, "told", within=5)
        assert [e["type"] for e in receiver.events()] == ["bounced"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        hold.set()
        dead.close()
        await receiver.stop()
