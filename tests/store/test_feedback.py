"""Feedback in the store: which message a report is about, its event, and what follows for the address."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.config import model
from mailerd.feedback import Feedback
from mailerd.store import feedback as feedbacks
from mailerd.store.database import Session
from mailerd.store.feedback import Message, Policy, apply, decide
from mailerd.store.gates import suppressed
from mailerd.store.instances import publish_streams
from mailerd.store.settle import settle
from tests.store.rows import STREAM, done, fill, take
from tests.store.test_plans import explain, reads, scans

Connection = asyncpg.Connection
NOW = datetime(2026, 11, 26, tzinfo=UTC)


async def events(connection: Connection) -> list[tuple[Any, ...]]:
    rows = await connection.fetch("SELECT message_id, type, rcpt, recipient, stream FROM mailerd.event ORDER BY id")
    return [tuple(row) for row in rows]


async def listed(connection: Connection) -> set[tuple[str, str, str]]:
    rows = await connection.fetch("SELECT address, stream, reason FROM mailerd.suppression")
    return {tuple(row) for row in rows}


async def test_by_our_id(session: Session, connection: Connection) -> None:
    (id_,) = await fill(connection, 1)
    report = Feedback(type="bounced", message_id=id_, rcpt=0, hard=True, detail="no such\0user", source="mail")
    assert await apply(session, [report]) == 1
    assert await events(connection) == [(id_, "bounced", 0, "u1@d0.example", STREAM)]
    ((address, stream, reason),) = await listed(connection)
    assert (stream, reason) == ("", "bounce")
    assert await suppressed(session, "transactional", [address]) == {address: "bounce"}


async def test_by_what_the_provider_called_it(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 2)
    jobs = await take(session)
    outcome = done(jobs[0]).events[0][2]
    for job, name in zip(jobs, ("a-1", "b-2"), strict=True):
        await settle(session, STREAM, [done(job, msgspec.structs.replace(outcome, provider_message_id=name))])
    report = Feedback(type="delivered", provider_message_id="b-2", provider="relay")
    assert await apply(session, [report, Feedback(type="delivered", provider_message_id="b-2", provider="other")]) == 1
    assert (await events(connection))[-1][:2] == (ids[1], "delivered")


async def test_by_our_message_id_and_its_stamp(session: Session, connection: Connection) -> None:
    (id_,) = await fill(connection, 1)
    created = await connection.fetchval("SELECT created_at FROM mailerd.outbox")
    stamp = (created - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    guessed = Feedback(type="bounced", header_ids=(f"{id_}.{stamp + 1:x}@shop.example",), hard=True)
    ours = Feedback(type="bounced", header_ids=(f"{id_}.{stamp:x}@shop.example",), hard=True)
    assert await apply(session, [guessed]) == 0
    assert await listed(connection) == set()
    assert await apply(session, [ours]) == 1
    assert len(await listed(connection)) == 1


async def test_by_recipient_and_time(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 3)
    whom = await connection.fetchval("SELECT recipient FROM mailerd.outbox WHERE id = $1", ids[2])
    await apply(session, [Feedback(type="delivered", recipient=whom.upper())])
    await apply(session, [Feedback(type="delivered", recipient=whom, at=datetime.now(UTC) - timedelta(days=2))])
    assert [e[0] for e in await events(connection)] == [ids[2], 0]
    # Whoever knows whom we write to could say so.
    forged = Feedback(type="bounced", recipient=whom, provider_message_id="nothing", hard=True)
    assert await apply(session, [forged, Feedback(type="complained", recipient=whom)]) == 2
    assert await listed(connection) == set()


async def test_a_strangers_report_suppresses_nobody(session: Session, connection: Connection) -> None:
    reports = [
        Feedback(type="bounced", recipient="ann@example.org", hard=True),
        Feedback(type="complained", recipient="ann@example.org"),
        Feedback(type="bounced", message_id=1 << 50, hard=True),
    ]
    assert await apply(session, reports) == 2  # the third names nobody
    assert await listed(connection) == set()


async def test_a_report_counts_once(session: Session, settings: model.Database, connection: Connection) -> None:
    (id_,) = await fill(connection, 1)
    report = Feedback(type="opened", message_id=id_, source="pixel", source_id="x")
    async with Session(settings, "another") as other:
        counts = [
            n for _ in range(4) for n in await asyncio.gather(*(apply(s, [report] * 2) for s in (session, other)))
        ]
    assert sum(counts) == 1
    assert len(await events(connection)) == 1
    assert await apply(session, [Feedback(type="opened", message_id=id_)] * 2) == 2  # without a name each counts


async def test_complaints_stop_marketing_and_nothing_else(session: Session, connection: Connection) -> None:
    streams = (model.Stream(name="reset"), model.Stream(name="news", kind="marketing"), model.Stream(name="marketing"))
    await publish_streams(session, streams)
    (id_,) = await fill(connection, 1)
    await apply(session, [Feedback(type="complained", message_id=id_)])
    assert {(stream, reason) for _, stream, reason in await listed(connection)} == {
        ("news", "complaint"),
        ("marketing", "complaint"),
    }


async def test_unsubscribing_concerns_its_stream(session: Session, connection: Connection) -> None:
    (id_,) = await fill(connection, 1)
    await apply(session, [Feedback(type="unsubscribed", message_id=id_, source="one-click")])
    # A link works after its message is gone: the token says who.
    await apply(session, [Feedback(type="unsubscribed", message_id=77, recipient="bob@example.org", stream="news")])
    assert {(stream, reason) for _, stream, reason in await listed(connection)} == {
        (STREAM, "unsubscribe"),
        ("news", "unsubscribe"),
    }


async def test_soft_bounces_add_up(session: Session, connection: Connection) -> None:
    (id_,) = await fill(connection, 1)
    policy = Policy(soft_bounces=3, within_days=7, suppress_days=30)
    report = Feedback(type="bounced", message_id=id_)
    await connection.execute("INSERT INTO mailerd.soft_bounce VALUES ('u1@d0.example', current_date - 8, 9)")
    await apply(session, [report], policy)
    await apply(session, [report], policy)
    assert await listed(connection) == set()
    await apply(session, [report], policy)
    until = await connection.fetchval("SELECT until - now() FROM mailerd.suppression WHERE reason = 'soft bounces'")
    assert timedelta(days=29) < until <= timedelta(days=30)
    # What is for ever replaces it, and stays.
    await apply(session, [Feedback(type="bounced", message_id=id_, hard=True)])
    await apply(session, [report], policy)
    assert {reason for *_, reason in await listed(connection)} == {"bounce"}


async def test_engagement_is_that_of_people(session: Session, connection: Connection) -> None:
    (id_,) = await fill(connection, 1)
    kinds = [("opened", False), ("opened", True), ("clicked", False), ("clicked", True), ("opened", False)]
    await apply(session, [Feedback(type=kind, message_id=id_, bot=bot) for kind, bot in kinds])
    row = await connection.fetchrow("SELECT opens, clicks, last_open = last_click AS same FROM mailerd.engagement")
    assert tuple(row) == (2, 1, True)
    marked = await connection.fetchval("SELECT count(*) FROM mailerd.event WHERE (metadata ->> 'bot')::bool")
    assert marked == 2


async def test_times_and_words_of_strangers(session: Session, connection: Connection) -> None:
    (id_,) = await fill(connection, 1)
    at = datetime.now(UTC) + timedelta(days=400)
    odd = {"url": "https://example.org/\0", "\ud800": ["\udfff", object()], "deep": {"a": "b" * 9000}}
    reports = [
        Feedback(type="clicked", message_id=id_, at=at, metadata=odd, detail="\ud800", category="\0", code=-7),
        Feedback(type="clicked", message_id=-1, rcpt=99, recipient="no address", provider="\0"),
    ]
    assert await apply(session, reports) == 1
    row = await connection.fetchrow("SELECT at, metadata ->> 'reported_at' AS said FROM mailerd.event")
    assert abs(row[0] - datetime.now(UTC)) < timedelta(minutes=1)
    assert row[1] == at.isoformat()


async def test_several_recipients(session: Session, connection: Connection) -> None:
    await fill(connection, 1, cc=["Bob <bob@example.org>"], bcc=["cay@example.org"])
    id_ = await connection.fetchval("SELECT id FROM mailerd.outbox")
    reports = [
        Feedback(type="bounced", message_id=id_, rcpt=2, hard=True),
        Feedback(type="bounced", message_id=id_, recipient="BOB@example.org", hard=True),
        Feedback(type="bounced", message_id=id_, recipient="forwarded@example.net", hard=True),
    ]
    await apply(session, reports)
    assert [(e[2], e[3]) for e in await events(connection)] == [
        (2, "cay@example.org"),
        (1, "bob@example.org"),
        (0, None),
    ]
    assert {address for address, *_ in await listed(connection)} == {"cay@example.org", "bob@example.org"}


async def test_old_names_and_soft_bounces_are_forgotten(session: Session, connection: Connection) -> None:
    for n in range(3):
        await connection.execute(f"INSERT INTO mailerd.feedback_seen_{n} VALUES (gen_random_uuid())")
    await connection.execute(
        "INSERT INTO mailerd.soft_bounce VALUES ('a', current_date - 91, 1), ('a', current_date, 1)"
    )
    generation = await session.value(feedbacks._NEXT)
    await feedbacks.forget(session)
    left = [await connection.fetchval(f"SELECT count(*) FROM mailerd.feedback_seen_{n}") for n in range(3)]
    assert left == [0 if n == generation else 1 for n in range(3)]
    assert await connection.fetchval("SELECT count(*) FROM mailerd.soft_bounce") == 1


async def test_finding_keeps_its_plan(session: Session, connection: Connection) -> None:
    await connection.execute("ANALYZE")
    ids = await fill(connection, 20_000, domains=200)
    await connection.execute(
        "INSERT INTO mailerd.event (message_id, type, recipient, stream, provider, provider_message_id) "
        "SELECT id, 'sent', recipient, stream, 'relay', 'p-' || id FROM mailerd.outbox"
    )
    few = ids[:10]
    now = datetime.now(UTC)
    plan = await explain(
        connection,
        feedbacks.FIND,
        list(range(30)),
        [*few, *[0] * 20],
        [0] * 30,
        [""] * 10 + ["relay"] * 10 + [""] * 10,
        [""] * 10 + [f"p-{n}" for n in few] + [""] * 10,
        [""] * 20 + [f"u{n}@d{n % 200}.example" for n in range(1, 11)],
        [now] * 30,
    )
    for relation in ("outbox", "event"):
        assert all(n["Node Type"] in ("Index Scan", "Index Only Scan") for n in scans(plan, relation))
        assert reads(plan, relation) < 500


words = st.text(max_size=40)


@given(
    report=st.builds(
        Feedback,
        type=st.sampled_from(["bounced", "complained", "opened", "unsubscribed", "delivered"]),
        message_id=st.none() | st.integers(),
        rcpt=st.none() | st.integers(-3, 70),
        recipient=words | st.emails(),
        source=words,
        source_id=words,
        at=st.none() | st.datetimes() | st.datetimes(timezones=st.just(UTC)),
        code=st.integers(),
        hard=st.booleans(),
        detail=words,
        metadata=st.dictionaries(words, st.recursive(words | st.integers(0, 9), st.lists), max_size=3),
    ),
    recipients=st.lists(words | st.emails(), max_size=3),
    found=st.booleans(),
)
def test_any_report_is_decided(report: Feedback, recipients: Sequence[str], found: bool) -> None:
    message = Message(id=5, stream="news", recipients=recipients) if found else None
    made = decide(report, message, ["news"], NOW)
    if made is None:
        assert message is None
        return
    if message is None:
        assert made.message_id == 0
        assert not any((made.soft, made.open, made.click))
        assert all(report.type == "unsubscribed" for _ in made.suppress)
    assert "\0" not in made.detail
    assert made.recipient == made.recipient.lower()


@pytest.mark.parametrize("kind", ["unknown", "nonsense"])
async def test_what_is_no_event_is_none(session: Session, connection: Connection, kind: str) -> None:
    (id_,) = await fill(connection, 1)
    assert await apply(session, [Feedback(type=kind, message_id=id_)]) == 0
    assert await events(connection) == []
