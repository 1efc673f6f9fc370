"""Leases: exclusive, fenced by their token, renewable, and free for anyone once they have run out."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from mailerd.config import model
from mailerd.message import Action, Outcome, OutcomeKind, Phase, Recipient, Settlement
from mailerd.store.database import Session
from mailerd.store.lease import INLINE_LIMIT, Claim, fetch_payloads, give_back, lease, renew
from mailerd.store.settle import settle
from tests.store.rows import STREAM, claims, count, done, fill, take

Connection = asyncpg.Connection


async def test_a_lease_takes_each_row_once_in_the_order_of_ids(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 10)
    first = await take(session, quota=4)
    second = await take(session, quota=100)
    assert sorted(j.id for j in first) == ids[:4]
    assert sorted(j.id for j in second) == ids[4:]
    assert not await take(session)
    assert {j.lease.token >> 32 for j in first} == {7}


async def test_the_row_comes_back_whole(session: Session, connection: Connection) -> None:
    await connection.execute(
        """INSERT INTO mailerd.outbox (recipient, stream, priority, sender, cc, bcc, reply_to, subject, template, params, locale,
             headers, attachments, thread_key, campaign, tags, metadata, expires_at)
           VALUES ('Ann <ann@EXAMPLE.org>', 'marketing', 2, 'news', '{c@x.example}', '{b@x.example}', 'r@x.example', 'hi', 'welcome',
             '{"a": 1}', 'pt-BR', '{"X-A": "b"}', '[]', 't', 'camp', '{x,y}', '{"m": 1}', now() + interval '1 hour')"""
    )
    (job,), _, _ = await lease(session, STREAM, [Claim(2, "example.org", "camp", 5)], 1, 60)
    assert (job.recipient, job.sender, job.cc, job.bcc, job.reply_to) == (
        "Ann <ann@EXAMPLE.org>",
        "news",
        ["c@x.example"],
        ["b@x.example"],
        "r@x.example",
    )
    assert (job.subject, job.template, job.params, job.locale) == ("hi", "welcome", '{"a": 1}', "pt-BR")
    assert (job.headers, job.attachments, job.thread_key, job.tags, job.metadata) == (
        '{"X-A": "b"}',
        "[]",
        "t",
        ["x", "y"],
        '{"m": 1}',
    )
    assert job.expires is not None
    assert 3500 < job.expires - job.leased_at <= 3600
    assert 0 <= job.age < 60


async def test_an_expired_lease_is_leasable_again_and_the_late_settle_is_fenced(
    session: Session, connection: Connection
) -> None:
    await fill(connection, 3)
    zombie = await take(session, ttl=0.05)
    async with asyncio.timeout(5):
        while not (again := await take(session, ttl=60)):
            await asyncio.sleep(0.02)
    assert {j.id for j in again} == {j.id for j in zombie}
    assert {j.leases for j in again} == {2}
    assert await settle(session, STREAM, [done(j) for j in zombie]) == set()
    assert await count(connection, "event") == 0
    assert await settle(session, STREAM, [done(j) for j in again]) == {j.id for j in again}
    assert await count(connection, "ready") == 0


async def test_renewing_extends_and_names_what_was_lost(session: Session, connection: Connection) -> None:
    await fill(connection, 3)
    jobs = await take(session, ttl=6)
    before = jobs[0].lease.deadline
    await connection.execute("UPDATE mailerd.ready SET lease_token = 1 WHERE id = $1", jobs[1].id)
    assert await renew(session, STREAM, jobs, 60) == {jobs[1].id}
    assert jobs[0].lease.deadline > before + 50


async def test_what_is_given_back_can_be_leased_at_once_and_does_not_count(
    session: Session, connection: Connection
) -> None:
    await fill(connection, 3)
    assert await give_back(session, STREAM, await take(session)) == 3
    assert {j.leases for j in await take(session)} == {1}


async def test_large_payloads_are_left_out_and_fetched(session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.outbox (recipient, stream, text_body) VALUES ('a@d0.example', 'marketing', repeat('x', $1))",
        INLINE_LIMIT + 1,
    )
    light, (heavy,), _ = await lease(session, STREAM, claims(5), 1, 60)
    assert not light
    assert heavy.text_body is None
    (whole,), missing = await fetch_payloads(session, [heavy])
    assert not missing
    assert len(whole.text_body or "") == INLINE_LIMIT + 1
    assert whole.recipient == "a@d0.example"
    assert whole.lease is heavy.lease
    await connection.execute("DELETE FROM mailerd.outbox")
    assert await fetch_payloads(session, [heavy]) == ([], [heavy])


async def test_rows_with_intent_come_apart_and_are_not_for_sending(session: Session, connection: Connection) -> None:
    await fill(connection, 2)
    await connection.execute("UPDATE mailerd.ready SET intent = true WHERE id = (SELECT min(id) FROM mailerd.ready)")
    light, _, doubtful = await lease(session, STREAM, claims(5), 1, 60)
    assert len(light) == len(doubtful) == 1


async def test_low_water_skips_what_lies_below(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 5)
    light, _, _ = await lease(session, STREAM, [Claim(5, "d0.example", "", 9, ids[3])], 1, 60)
    assert sorted(j.id for j in light) == ids[3:]


async def test_four_instances_lease_renew_and_settle_one_lane_without_double_lease(
    settings: model.Database, connection: Connection
) -> None:
    ids = await fill(connection, 2000)
    seen: list[int] = []

    async def instance(number: int) -> None:
        async with Session(settings, f"i{number}") as session:
            while jobs := await take(session, quota=50, instance=number):
                seen.extend(j.id for j in jobs)
                assert not await renew(session, STREAM, jobs, 60)
                keep, rest = jobs[: len(jobs) // 2 + 1], jobs[len(jobs) // 2 + 1 :]
                assert await settle(session, STREAM, [done(j) for j in keep]) == {j.id for j in keep}
                for job in rest:
                    seen.remove(job.id)
                await give_back(session, STREAM, rest)

    async def canceller() -> int:
        async with Session(settings, "cancel") as session:
            return sum([await session.value("SELECT mailerd.cancel($1)", id_) for id_ in ids[::40]])

    *_, cancelled = await asyncio.wait_for(asyncio.gather(*map(instance, range(1, 5)), canceller()), 60)
    # SKIP LOCKED: an instance may see nothing while others hold locks, and stop early.
    while await count(connection, "ready"):
        await instance(9)
    assert len(seen) == len(set(seen)) == 2000 - cancelled
    assert await count(connection, "event") == 2000


@pytest.mark.parametrize("action", ["retry", "doubt"])
async def test_settled_rows_leave_ready_whatever_the_action(
    session: Session, connection: Connection, action: str
) -> None:
    await fill(connection, 1)
    (job,) = await take(session)
    outcome = Outcome(OutcomeKind.DEFERRED, Phase.RCPT, 450, "4.2.1", "slow down", "relay", category="rate")
    await settle(
        session,
        STREAM,
        [Settlement(job, Action(action), [("deferred", Recipient(0, job.recipient), outcome)], delay=9, left=1)],
    )
    assert await count(connection, "ready") == 0
    table = "scheduled" if action == "retry" else "in_doubt"
    row = await connection.fetchrow(f"SELECT * FROM mailerd.{table}")
    assert row is not None
    assert row["rcpt"] == 1
    status = await connection.fetchrow("SELECT * FROM mailerd.status($1)", job.id)
    assert status is not None
    assert (status["status"], status["attempts"]) == ("deferred" if action == "retry" else "in_doubt", 1)
    assert status["last_reply"] == "450 4.2.1 slow down"
