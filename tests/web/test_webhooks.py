"""Webhooks: durable before the 200, refused without a proof, read later, nothing lost by a failure in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import asyncpg
import msgspec
from aiohttp import web

from mailerd.bench.port import free_port
from mailerd.config import model
from mailerd.feedback import Feedback
from mailerd.store import inbox
from mailerd.store.database import Session, Unavailable
from mailerd.webhook.dialect import Post, Verdict
from tests.daemon.harness import until
from tests.web.rig import Applied, ask, listener, post

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


def events(*recipients: str, id_: str = "") -> bytes:
    return msgspec.json.encode([{"type": "bounced", "to": to, "id": id_} for to in recipients])


async def test_stored_then_read(database: str, connection: Connection) -> None:
    applied = Applied()
    async with listener(database, applied) as server:
        reply = await post(server, events("a@x.example", "b@x.example"), X_Kept="1", Authorization="secret")
        assert (reply.status, reply.body) == (200, b"ok\n")
        row = await connection.fetchrow("SELECT provider, headers, body FROM mailerd.inbox")
        assert row is not None
        assert tuple(row) == ("relay", '{"x-kept":"1"}', events("a@x.example", "b@x.example"))
        await until(lambda: len(applied.reports) == 2, "read")
        assert [r.recipient for r in applied.reports] == ["a@x.example", "b@x.example"]
        assert {r.provider for r in applied.reports} == {"relay"}
        assert {r.source for r in applied.reports} == {"webhook:relay"}
        assert len({r.source_id for r in applied.reports}) == 2, "each has an id, so that it counts once"
        await until(lambda: _all_read(connection), "closed")


async def _all_read(connection: Connection) -> bool:
    return not await connection.fetchval("SELECT count(*) FROM mailerd.inbox_unread")


async def test_refused(database: str, connection: Connection) -> None:
    async with listener(database) as server:
        for path, headers, status in (
            ("/webhooks/relay", {"X-Signature": "wrong"}, 401),
            ("/webhooks/relay", {}, 401),
            ("/webhooks/nobody", {}, 404),
            ("/webhooks/", {}, 404),
            ("/webhooks", {}, 404),
            ("/webhooks/relay/../relay", {}, 404),
        ):
            assert (await ask(server, "POST", path, headers, b"[1]")).status == status, path
        assert not await connection.fetchval("SELECT count(*) FROM mailerd.inbox")
        assert server.traffic.webhooks == {("relay", "refused"): 2}
        assert (await ask(server, "HEAD", "/webhooks/relay")).status == 200
        assert (await ask(server, "GET", "/webhooks/relay")).status == 405


async def test_pings_and_repeats_are_not_stored(database: str, connection: Connection) -> None:
    async with listener(database) as server:
        assert (await post(server, b"[]")).status == 200
        for _ in range(3):
            assert (await post(server, events("a@x.example"), X_Once="7")).status == 200
        assert await connection.fetchval("SELECT count(*) FROM mailerd.inbox") == 1


async def test_what_cannot_be_read_is_kept_and_concerns_no_other(database: str, connection: Connection) -> None:
    applied = Applied()
    applied.poison = "poison@x.example"
    async with listener(database, applied) as server:
        for body in (b"{nonsense", events("poison@x.example"), events("good@x.example"), b'[{"no":"type"}]'):
            assert (await post(server, body)).status == 200
        await until(lambda: _all_read(connection), "all read")
        assert [r.recipient for r in applied.reports] == ["good@x.example"]
        reasons = await connection.fetch("SELECT reason FROM mailerd.inbox ORDER BY id")
        assert [bool(r[0]) for r in reasons] == [True, True, False, True]
        assert reasons[1][0] == "cannot be applied: ValueError: poison"
        assert reasons[3][0] == "a defect of ours: KeyError"


async def test_postgres_fails_while_applying(database: str, connection: Connection) -> None:
    applied = Applied()
    applied.failures = [Unavailable("gone")]
    async with listener(database, applied) as server:
        assert (await post(server, events("a@x.example"))).status == 200
        await until(lambda: applied.reports, "read again")
        assert len(applied.reports) == 1


async def test_without_postgres_the_sender_is_told_to_come_again(database: str, connection: Connection) -> None:
    async with listener(database) as server:
        await connection.execute("ALTER TABLE mailerd.inbox RENAME TO away")
        reply = await post(server, events("a@x.example"), X_Once="1")
        assert (reply.status, reply.headers["retry-after"]) == (429, "5")
        await connection.execute("ALTER TABLE mailerd.away RENAME TO inbox")
        assert (await post(server, events("a@x.example"), X_Once="1")).status == 200
        assert await connection.fetchval("SELECT count(*) FROM mailerd.inbox") == 1


async def test_overload(database: str, connection: Connection) -> None:
    async with listener(database) as server:
        server._received._most = 0
        assert (await post(server, events("a@x.example"))).status == 429
        assert server.traffic.webhooks == {("relay", "overload"): 1}


async def test_two_readers_take_different_rows(settings: model.Database, session: Session) -> None:
    await inbox.put(session, [inbox.Raw("relay", "{}", b"%d" % n) for n in range(10)])
    found: list[int] = []

    async def first(run: object) -> None:
        found.extend(raw.id for raw in await inbox.take(run, 6))  # type: ignore[arg-type]
        async with Session(settings, "other") as other:
            await other.together(second)

    async def second(run: object) -> None:
        rows = await inbox.take(run, 6)  # type: ignore[arg-type]
        found.extend(raw.id for raw in rows)
        await inbox.close(run, [raw.id for raw in rows])  # type: ignore[arg-type]

    await session.together(first)
    assert len(found) == len(set(found)) == 10
    assert await inbox.unread(session) == 6, "what the first did not close is unread again"


async def test_old_requests_are_forgotten(session: Session, connection: Connection) -> None:
    await inbox.put(session, [inbox.Raw("relay", "{}", b"%d" % n) for n in range(7)])
    ids = [r[0] for r in await connection.fetch("SELECT id FROM mailerd.inbox ORDER BY id")]
    await connection.execute("UPDATE mailerd.inbox SET at = now() - interval '4 days' WHERE id <= $1", ids[4])
    await connection.execute("UPDATE mailerd.inbox SET reason = 'why' WHERE id = $1", ids[1])
    assert await inbox.forget(session, batch=2) == 4
    left = [r[0] for r in await connection.fetch("SELECT id FROM mailerd.inbox ORDER BY id")]
    assert left == [ids[1], *ids[5:]]
    assert await inbox.unread(session) == 3


async def test_many_at_once_share_statements(database: str, connection: Connection) -> None:
    async with listener(database) as server:
        replies = await asyncio.gather(*(post(server, events(f"{n}@x.example")) for n in range(200)))
        assert {reply.status for reply in replies} == {200}
        assert await connection.fetchval("SELECT count(*) FROM mailerd.inbox") == 200
        assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM mailerd.inbox") < 100


class Certified:
    """Wants a certificate first, as SNS does; confirms a subscription by a visit."""

    keep = ()

    def __init__(self, base: str) -> None:
        self.base = base

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        url = self.base + post.headers.get("x-path", "/cert")
        if post.body == b"confirm":
            return Verdict(visit=url, empty=True)
        if url not in certificates:
            return Verdict(certificate=url)
        return Verdict() if certificates[url] == b"good" else Verdict(403, "wrong certificate", certificate=url)

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        return []


async def test_what_must_be_fetched_first(database: str, connection: Connection) -> None:
    asked: list[str] = []

    async def elsewhere(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/cert"})
        return web.Response(body={"/cert": b"good", "/large": b"x" * 100_000}.get(request.path, b"bad"))

    runner = web.ServerRunner(web.Server(elsewhere))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    try:
        async with listener(database) as server:
            server._receiver.webhooks = {"relay": Certified(f"http://127.0.0.1:{port}")}

            async def status(path: str, body: bytes = b"x") -> int:
                return (await ask(server, "POST", "/webhooks/relay", {"X-Path": path}, body)).status

            assert [await status("/cert") for _ in range(3)] == [200] * 3
            assert asked == ["/cert"], "it is kept"
            assert [await status("/bad") for _ in range(2)] == [403] * 2
            assert asked == ["/cert", "/bad", "/bad"], "and forgotten, where it was of no use"
            assert [await status(path) for path in ("/large", "/moved")] == [429, 429]
            assert await status("/confirm", b"confirm") == 200
            assert asked[-1] == "/confirm"
            assert await connection.fetchval("SELECT count(*) FROM mailerd.inbox") == 3
    finally:
        await runner.cleanup()
