"""Notices: whoever writes events, however late it commits, whoever listens hears of them, once told they are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from mailerd.config.outgoing import Webhook
from mailerd.store import notices, webhooks
from mailerd.store.database import Session
from mailerd.store.notices import Event
from mailerd.store.settle import settle
from tests.store.rows import STREAM, done, fill, take

HOOK = Webhook(name="shop", url="https://shop.example/hook", secret=("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",))


async def told(session: Session, name: str) -> list[Event]:
    found: list[Event] = []

    async def telling(events: list[Event]) -> None:
        found.extend(events)

    while await notices.tell(session, name, telling):
        pass
    return found


async def write(
    connection: asyncpg.Connection[asyncpg.Record], *types: str, stream: str = STREAM, at: datetime | None = None
) -> list[int]:
    rows = await connection.fetch(
        "INSERT INTO mailerd.event (message_id, type, recipient, stream, at) "
        "SELECT 4000000 + n, t, 'a@b.example', $2, coalesce($3, now()) FROM unnest($1::text[]) WITH ORDINALITY AS x(t, n) RETURNING id",
        types,
        stream,
        at,
    )
    return [row[0] for row in rows]


async def test_a_settle_and_a_cancel_are_heard_of_by_those_who_asked(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await notices.subscribe(session, "tail:all")
    await notices.subscribe(session, "tail:cancelled", ["cancelled"])
    await notices.subscribe(session, "tail:elsewhere", streams=["other"])
    await notices.subscribe(session, "tail:gone", seconds=-1)
    ids = await fill(connection, 3)
    assert await connection.fetchval("SELECT mailerd.cancel($1)", ids[2])
    await settle(session, STREAM, [done(job) for job in await take(session)])
    assert [e.message_id for e in await told(session, "tail:cancelled")] == [ids[2]]
    everything = await told(session, "tail:all")
    assert [(e.type, e.message_id) for e in everything] == [
        ("cancelled", ids[2]),
        ("sent", ids[0]),
        ("sent", ids[1]),
    ]
    assert not await told(session, "tail:elsewhere")
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.notice"), "told, or never written"


async def test_an_event_that_commits_late_is_heard_of(
    database: str, connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await notices.subscribe(session, "tail:x")
    slow = await asyncpg.connect(database)
    try:
        open_ = slow.transaction()
        await open_.start()
        (late,) = await write(slow, "bounced")
        (early,) = await write(connection, "sent")
        assert [e.id for e in await told(session, "tail:x")] == [early]
        await open_.commit()
        assert [e.id for e in await told(session, "tail:x")] == [late]
    finally:
        await slow.close()


async def test_an_event_of_another_day_is_found(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await notices.subscribe(session, "tail:x")
    (id_,) = await write(connection, "opened", at=datetime.now(UTC) - timedelta(days=1))
    assert [e.id for e in await told(session, "tail:x")] == [id_]


async def test_what_was_not_told_comes_again(connection: asyncpg.Connection[asyncpg.Record], session: Session) -> None:
    await notices.subscribe(session, "tail:x")
    (id_,) = await write(connection, "sent")

    async def fails(_: list[Event]) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await notices.tell(session, "tail:x", fails)
    assert [e.id for e in await told(session, "tail:x")] == [id_]


async def test_subscribers_that_are_gone_are_swept_up(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await notices.subscribe(session, "tail:x")
    await notices.subscribe(session, "tail:y")
    await webhooks.publish(session, [HOOK])
    await write(connection, "sent")
    await connection.execute("UPDATE mailerd.subscriber SET until = now() - interval '1 s' WHERE name = 'tail:x'")
    await notices.sweep(session)
    left = await connection.fetch("SELECT subscriber FROM mailerd.notice ORDER BY 1")
    assert [row[0] for row in left] == ["tail:y", "webhook:shop"]


async def test_recent_events_are_the_newest_in_order(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    ids = await write(connection, "sent", "bounced", "sent")
    assert [e.id for e in await notices.recent(session, 60, 2)] == ids[1:]
    assert [e.id for e in await notices.recent(session, 60, 9, ["bounced"])] == [ids[1]]


async def test_deliveries_keep_their_id_and_events(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await webhooks.publish(session, [HOOK])
    written = [await write(connection, "sent", "sent", "bounced"), await write(connection, "sent", "opened")]
    assert await webhooks.prepare(session, "shop", 2) == 2
    leased = await webhooks.lease(session, "shop", 9, 60, 1)
    assert sorted(e for d in leased for e in d.events) == sorted(written[0] + written[1])
    assert [len(d.events) for d in leased].count(2) == 2
    assert not await webhooks.lease(session, "shop", 9, 60, 2), "leased already"
    await connection.execute("UPDATE mailerd.webhook_delivery SET run_at = now()")
    again = await webhooks.lease(session, "shop", 9, 60, 3)
    assert {(d.id, *d.events) for d in again} == {(d.id, *d.events) for d in leased}
    assert {d.attempts for d in again} == {2}
    await webhooks.delivered(session, "shop", leased[0], 1, "late")  # fenced
    assert await connection.fetchval("SELECT count(*) FROM mailerd.webhook_delivery") == 3
    for delivery in again:
        await webhooks.delivered(session, "shop", delivery, 3, "200 OK")
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.webhook_delivery")


async def fail(
    session: Session, delivery: webhooks.Delivery, token: int, give_up: float = 86400, gone: bool = False
) -> bool:
    return await webhooks.failed(session, "shop", delivery, token, "500", delay=0, give_up=give_up, gone=gone)


async def test_a_webhook_that_fails_rests_and_is_disabled_after_days(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await webhooks.publish(session, [HOOK])
    for _ in range(4):
        await write(connection, "sent")
        await webhooks.prepare(session, "shop", 1)
    leased = await webhooks.lease(session, "shop", 3, 60, 1)
    for delivery in leased:
        assert not await fail(session, delivery, 1)
    assert not await webhooks.lease(session, "shop", 9, 60, 2), "it rests as a whole"
    await connection.execute("UPDATE mailerd.webhook SET retry_at = now()")
    assert len(await webhooks.lease(session, "shop", 9, 60, 3)) == 1, "one request tries it"
    await write(connection, "sent")
    assert await webhooks.prepare(session, "shop", 1) == 0
    await connection.execute("UPDATE mailerd.webhook SET failing_since = now() - interval '2 days'")
    assert await fail(session, leased[0], 3)
    assert await connection.fetchval("SELECT detail FROM mailerd.audit WHERE action = 'webhook disable'")
    await write(connection, "sent")
    (standing,) = await webhooks.standings(session)
    assert standing.disabled_at is not None
    assert standing.waiting == 5, "nothing new waits for it, what waited is kept"
    await webhooks.publish(session, [HOOK])
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.subscriber"), "a restart does not enable it"
    assert await webhooks.enable(session, "shop", "ann")
    assert len(await webhooks.lease(session, "shop", 9, 60, 4)) >= 3


async def test_gone_means_disabled_at_once_and_replay_brings_back(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    await webhooks.publish(session, [HOOK])
    ids = await write(connection, "sent", "bounced")
    await webhooks.prepare(session, "shop", 10)
    (delivery,) = await webhooks.lease(session, "shop", 9, 60, 1)
    assert await fail(session, delivery, 1, gone=True)
    await connection.execute("DELETE FROM mailerd.webhook_delivery")
    assert await webhooks.enable(session, "shop", "ann")
    assert await webhooks.replay(session, "shop", before, datetime.now(UTC), "ann") == 2
    await webhooks.prepare(session, "shop", 10)
    (again,) = await webhooks.lease(session, "shop", 9, 60, 2)
    assert again.events == ids
    assert again.id != delivery.id


async def test_one_request_that_never_succeeds_is_dropped(
    connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await webhooks.publish(session, [HOOK])
    await write(connection, "sent")
    await webhooks.prepare(session, "shop", 10)
    (delivery,) = await webhooks.lease(session, "shop", 9, 60, 1)
    await connection.execute(
        "UPDATE mailerd.webhook_delivery SET made_at = now() - interval '2 days'; UPDATE mailerd.webhook SET succeeded_at = now()"
    )
    assert not await fail(session, delivery, 1)
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.webhook_delivery")
    assert await connection.fetchval("SELECT count(*) FROM mailerd.audit WHERE action = 'webhook give up'") == 1
