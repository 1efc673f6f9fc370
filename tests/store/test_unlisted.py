"""Messages of a stream that nobody sends: failed after an hour in which no live instance listed it, and not before."""

from __future__ import annotations

import asyncpg

from mailerd.store import upkeep
from mailerd.store.database import Session
from mailerd.store.instances import beat
from tests.store.rows import STREAM, count, fill

Connection = asyncpg.Connection


async def instance(connection: Connection, id_: int, streams: list[str], seconds: float = 0.0) -> None:
    """An instance that was last seen so many seconds ago."""
    await connection.execute(
        "INSERT INTO mailerd.instance AS i (id, name, pid, version, streams, seen_at) VALUES ($1, 'a', 1, '0', $2, now() - make_interval(secs => $3)) "
        "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
        id_,
        streams,
        seconds,
    )


async def old(connection: Connection, number: int) -> None:
    """Messages of an hour and more ago."""
    await fill(connection, number)
    await connection.execute("UPDATE mailerd.ready SET id = id - (3700::bigint << 21)")


async def later(connection: Connection, seconds: float, *, watched: bool = True) -> None:
    """Makes the notes older, as time would with somebody looking every minute (or with nobody)."""
    await connection.execute(
        "UPDATE mailerd.unlisted SET since = since - make_interval(secs => $1), seen = seen - make_interval(secs => $2)",
        seconds,
        60.0 if watched else seconds,
    )


async def test_after_an_hour_in_which_no_live_instance_listed_it(session: Session, connection: Connection) -> None:
    await old(connection, 2)
    await instance(connection, 1, ["other"])
    assert await upkeep.fail_unknown_streams(session) == 0
    await later(connection, 3500)
    assert await upkeep.fail_unknown_streams(session) == 0
    await later(connection, 110)
    await fill(connection, 1)  # of this minute: it has its hour too
    assert await upkeep.fail_unknown_streams(session) == 2
    assert await count(connection, "ready") == 1
    assert await count(connection, "dead_letter") == 2
    assert (
        await connection.fetchval("SELECT detail FROM mailerd.event LIMIT 1")
        == "no instance lists the stream marketing"
    )


async def test_not_when_its_instance_missed_some_heartbeats(session: Session, connection: Connection) -> None:
    await old(connection, 3)
    await instance(connection, 1, ["transactional"])
    await instance(connection, 2, [STREAM], seconds=16)
    for _ in range(3):
        assert await upkeep.fail_unknown_streams(session) == 0
    assert await connection.fetchval("SELECT stream FROM mailerd.unlisted") == STREAM
    await later(connection, 3590)
    await beat(session, 2, "a", [STREAM], "running", [])  # back again, for a second
    assert await count(connection, "unlisted") == 0
    await instance(connection, 2, [STREAM], seconds=16)
    assert await upkeep.fail_unknown_streams(session) == 0
    await later(connection, 3500)
    assert await upkeep.fail_unknown_streams(session) == 0
    assert await count(connection, "ready") == 3


async def test_a_tick_sees_that_it_is_listed_again(session: Session, connection: Connection) -> None:
    await old(connection, 1)
    await instance(connection, 1, ["other"])
    await upkeep.fail_unknown_streams(session)
    await later(connection, 4000)
    await instance(connection, 2, [STREAM])
    assert await upkeep.fail_unknown_streams(session) == 0
    assert await count(connection, "unlisted") == 0


async def test_an_outage_of_ours_fails_nothing(session: Session, connection: Connection) -> None:
    await old(connection, 1)
    assert await upkeep.fail_unknown_streams(session, -1) == 0
    assert await count(connection, "unlisted") == 0
    await instance(connection, 1, ["other"])
    await upkeep.fail_unknown_streams(session)
    await later(connection, 7200, watched=False)
    for _ in range(2):
        assert await upkeep.fail_unknown_streams(session) == 0


async def test_what_may_have_been_sent_is_held_and_not_failed(session: Session, connection: Connection) -> None:
    await fill(connection, 2, expires_at=None)
    await connection.execute(
        "UPDATE mailerd.ready SET intent = true, leases = 1, rcpt = 1 WHERE id = (SELECT min(id) FROM mailerd.ready)"
    )
    await instance(connection, 1, ["other"])
    assert await upkeep.fail_unknown_streams(session, -1) == 2
    assert await count(connection, "dead_letter") == 1
    assert await connection.fetchval("SELECT rcpt FROM mailerd.in_doubt") == 1
    assert await connection.fetchval("SELECT array_agg(type ORDER BY message_id) FROM mailerd.event") == [
        "in_doubt",
        "failed",
    ]


async def test_each_recipient_that_is_left_has_its_event(session: Session, connection: Connection) -> None:
    await fill(connection, 1, cc=["b@x.example"], bcc=["c@x.example"])
    await connection.execute("UPDATE mailerd.ready SET rcpt = -2")  # the first one has had it
    await connection.execute(
        "INSERT INTO mailerd.dead_letter (message_id, stream, priority, domain, rcpt, reason) SELECT id, stream, 5, domain, 1, 'x' FROM mailerd.ready"
    )
    await instance(connection, 1, ["other"])
    assert await upkeep.fail_unknown_streams(session, -1) == 1
    rows = await connection.fetch("SELECT rcpt, recipient FROM mailerd.event ORDER BY rcpt")
    assert [tuple(row) for row in rows] == [(1, "b@x.example"), (2, "c@x.example")]
    assert await connection.fetchval("SELECT rcpt FROM mailerd.dead_letter") == -1


async def test_what_nobody_has_any_more_is_forgotten(session: Session, connection: Connection) -> None:
    await instance(connection, 1, ["other"])
    await fill(connection, 1)
    await upkeep.fail_unknown_streams(session)
    await connection.execute("DELETE FROM mailerd.ready")
    await later(connection, 3700, watched=False)
    await upkeep.fail_unknown_streams(session)
    assert await count(connection, "unlisted") == 0


async def test_stray_streams_are_those_that_no_live_instance_lists(session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) SELECT s, 5, now(), 1, 'x' FROM unnest('{a,b,c}'::text[]) s"
    )
    await instance(connection, 1, ["a"])
    await instance(connection, 2, ["b"], seconds=16)
    assert await upkeep.stray_streams(session) == ["b", "c"]
