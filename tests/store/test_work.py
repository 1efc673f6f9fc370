"""Finding work: the tail, what is due, the sweep."""

from __future__ import annotations

import asyncpg

from mailerd.store.database import Session
from mailerd.store.work import Lane, due, sweep, tail
from tests.store.rows import STREAM, fill, take

Connection = asyncpg.Connection


async def test_the_tail_names_lanes_once_and_then_only_news(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 6, domains=3)
    lanes, seen, more = await tail(session, 0)
    assert set(lanes) == {Lane(STREAM, 5, f"d{i}.example", "") for i in range(3)}
    assert (seen, more) == (max(ids), False)
    assert await tail(session, seen) == ([], seen, False)
    await fill(connection, 1, campaign="spring")
    assert (await tail(session, seen))[0] == [Lane(STREAM, 5, "d0.example", "spring")]


async def test_due_moves_urgent_ones_first_and_leaves_the_rest(session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain, attempt, rcpt, deferred) SELECT $1, CASE WHEN i = 50 THEN 0 ELSE 9 END, "
        "now() - interval '1 hour' + make_interval(secs => i), i, 'd' || i || '.example', 2, 5, true FROM generate_series(1, 100) i",
        STREAM,
    )
    await connection.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) VALUES ($1, 0, now() + interval '1 hour', 999, 'later.example')",
        STREAM,
    )
    lanes, more = await due(session, [STREAM], limit=3)
    assert set(lanes) == {Lane(STREAM, p, f"d{d}.example", "", d) for p, d in ((0, 50), (9, 1), (9, 2))}
    assert more
    moved = await connection.fetch("SELECT attempt, rcpt, leases FROM mailerd.ready")
    assert [tuple(r) for r in moved] == [(2, 5, 0)] * 3
    while more:
        _, more = await due(session, [STREAM], limit=50)
    assert await connection.fetchval("SELECT array_agg(id) FROM mailerd.scheduled") == [999]


async def test_what_one_stream_has_due_delays_no_other(session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) "
        "SELECT 'bulk', i % 3, now() - interval '1 hour', i, 'd' || i % 10 FROM generate_series(1, 5000) i"
    )
    await connection.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) "
        "VALUES ('transactional', 9, now() - interval '1 second', 9001, 'x'), ('transactional', 9, now() + interval '1 hour', 9002, 'x')"
    )
    lanes, more = await due(session, ["bulk", "idle", "transactional"], limit=900)
    assert Lane("transactional", 9, "x", "", 9001) in lanes
    assert more == ["bulk"]
    moved = "SELECT stream, priority, count(*) FROM mailerd.ready GROUP BY 1, 2 ORDER BY 1, 2"
    assert [tuple(r) for r in await connection.fetch(moved)] == [("bulk", 0, 300), ("transactional", 9, 1)]
    await due(session, more, limit=2000)  # who is hungry alone has the whole limit
    assert [tuple(r) for r in await connection.fetch(moved)][:2] == [("bulk", 0, 1666), ("bulk", 1, 634)]


async def test_the_sweep_pages_through_lanes_most_urgent_first(session: Session, connection: Connection) -> None:
    await fill(connection, 30, domains=10)
    (urgent,) = await fill(connection, 1, priority=0)
    first = await sweep(session, STREAM, None, limit=4)
    rest = await sweep(session, STREAM, first[-1], limit=100)
    assert first[0] == Lane(STREAM, 0, "d0.example", "", urgent)
    assert [*first, *rest] == sorted([*first, *rest])
    assert len(first) + len(rest) == 11


async def test_the_sweep_says_where_the_first_row_lies_that_may_be_leased(
    session: Session, connection: Connection
) -> None:
    """Below what is leased: a late commit, or a lease that ran out. A lane of which all is leased is none."""
    first, second, third = await fill(connection, 3)
    await take(session, 3)
    assert await sweep(session, STREAM, None) == []
    await connection.execute("UPDATE mailerd.ready SET lease_until = now() - interval '1 s' WHERE id >= $1", second)
    assert [lane.first for lane in await sweep(session, STREAM, None)] == [second]
    await connection.execute("UPDATE mailerd.ready SET lease_until = '-infinity' WHERE id = $1", first)
    assert [lane.first for lane in await sweep(session, STREAM, None)] == [first]
    assert third > second
