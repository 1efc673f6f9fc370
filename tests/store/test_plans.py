"""The hot statements keep their plans on 100 000 rows that were never analysed, with statistics of an empty table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from mailerd.config import model
from mailerd.store import gates, upkeep, work
from mailerd.store import lease as leases
from mailerd.store import settle as settles
from mailerd.store.database import Session
from tests.store.rows import STREAM, claims, done, fill, take

Connection = asyncpg.Connection
ROWS = 100_000


@pytest.fixture
async def full(session: Session, connection: Connection) -> Connection:
    """Analysed when empty (the worst that statistics can say), then filled, and autovacuum kept away."""
    await connection.execute("ANALYZE")
    for table in ("ready", "scheduled", "suppression"):
        await connection.execute(f"ALTER TABLE mailerd.{table} SET (autovacuum_enabled = off)")
    await fill(connection, ROWS // 2, domains=200)
    await fill(connection, ROWS // 2, domains=1)
    return connection


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def explain(connection: Connection, sql: str, *arguments: Any) -> list[dict[str, Any]]:
    """Every node of the generic plan, as executed."""
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *arguments)
    return list(nodes(json.loads(text)[0]["Plan"]))


def scans(plan: list[dict[str, Any]], relation: str) -> list[dict[str, Any]]:
    return [
        n
        for n in plan
        if n.get("Relation Name", "").startswith(relation) and n["Node Type"] != "ModifyTable" and n["Actual Loops"]
    ]


def reads(plan: list[dict[str, Any]], relation: str) -> float:
    """Rows that scans of a relation touched."""
    return sum(
        n["Actual Loops"]
        * (n["Actual Rows"] + n.get("Rows Removed by Filter", 0) + n.get("Rows Removed by Index Recheck", 0))
        for n in scans(plan, relation)
    )


async def test_lease(full: Connection) -> None:
    wanted = claims(2, domains=200)
    plan = await explain(
        full,
        leases.LEASE,
        STREAM,
        [c.priority for c in wanted],
        [c.domain for c in wanted],
        [c.campaign for c in wanted],
        [c.quota for c in wanted],
        [c.low for c in wanted],
        1 << 32,
        60.0,
    )
    assert {n["Node Type"] for n in scans(plan, "ready")} == {"Index Scan", "Tid Scan"}
    assert all(n["Node Type"] in ("Index Scan", "Index Only Scan") for n in scans(plan, "outbox"))
    assert reads(plan, "ready") < 2500


async def test_settle_renew_and_give_back(session: Session, full: Connection) -> None:
    jobs = await take(session, quota=2, domains=200)
    assert len(jobs) == 400
    for sql, arguments in (
        (leases.RENEW, (STREAM, *leases._keys(jobs), 60.0)),
        (settles.SETTLE, (STREAM, *settles._columns([done(j) for j in jobs]))),
    ):
        plan = await explain(full, sql, *arguments)
        assert {n["Node Type"] for n in scans(plan, "ready")} == {"Index Scan", "Tid Scan"}, sql
        assert reads(plan, "ready") < 2500, sql


async def test_finding_work(full: Connection) -> None:
    plan = await explain(full, work.SWEEP, STREAM, -1, "", "", 1000)
    assert {n["Node Type"] for n in scans(plan, "ready")} <= {"Index Scan", "Index Only Scan"}
    assert reads(plan, "ready") < 1000
    plan = await explain(full, work.TAIL, 0)
    assert {n["Node Type"] for n in scans(plan, "outbox")} <= {"Index Scan", "Index Only Scan"}
    assert reads(plan, "outbox") <= work.TAIL_LIMIT


async def test_due(full: Connection) -> None:
    await full.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) "
        f"SELECT '{STREAM}', i % 10, now() + make_interval(secs => i - 50000), i, 'd.example' FROM generate_series(1, 100000) i"
    )
    plan = await explain(full, work.DUE, [STREAM, "other", "third"], 500)
    assert {n["Node Type"] for n in scans(plan, "scheduled")} == {"Index Scan", "Tid Scan"}
    assert reads(plan, "scheduled") < 3000


async def test_forgetting_kept_payloads(full: Connection) -> None:
    await full.execute(
        "INSERT INTO mailerd.outbox_kept (id, created_at, stream, priority, recipient, text_body) "
        "SELECT id, created_at, stream, priority, recipient, 'x' FROM mailerd.outbox ORDER BY id LIMIT 2000"
    )
    await full.execute("DELETE FROM mailerd.ready WHERE id IN (SELECT id FROM mailerd.outbox_kept WHERE id % 2 = 0)")
    plan = await explain(full, upkeep.FORGET, 0, 500)
    for relation in ("ready", "outbox_kept"):
        assert {n["Node Type"] for n in scans(plan, relation)} <= {"Index Scan", "Index Only Scan"}
        assert reads(plan, relation) <= 1000


async def test_suppression(full: Connection) -> None:
    await full.execute(
        "INSERT INTO mailerd.suppression (address) SELECT 'u' || i || '@x.example' FROM generate_series(1, 100000) i"
    )
    plan = await explain(full, gates.SUPPRESSED, [f"u{i}@x.example" for i in range(400)], STREAM)
    assert {n["Node Type"] for n in scans(plan, "suppression")} <= {"Index Scan", "Index Only Scan"}
    both = [f"u{i}@x.example" for i in range(400)], STREAM, [f"erased:{i:032x}" for i in range(400)]
    plan = await explain(full, gates.SUPPRESSED_OR_ERASED, *both)
    assert {n["Node Type"] for n in scans(plan, "suppression")} <= {"Index Scan", "Index Only Scan"}
    assert sum(n["Actual Loops"] for n in scans(plan, "suppression")) == 400


async def test_status(full: Connection) -> None:
    id_ = await full.fetchval("SELECT max(id) FROM mailerd.outbox")
    plan = await explain(full, "SELECT * FROM mailerd.message_status WHERE id = $1", id_)
    assert not [n for n in plan if n["Node Type"] == "Seq Scan" and n["Actual Loops"] and n["Actual Rows"] > 10]
    assert reads(plan, "ready") <= 1


async def test_every_statement_prepares_without_prepared_statements_too(
    settings: model.Database, connection: Connection
) -> None:
    """`prepare = "off"` (old PgBouncer): the same statements, inside explicit transactions."""
    await fill(connection, 5)
    async with Session(model.Database(url=settings.url, prepare="off"), "test") as session:
        jobs = await take(session)
        assert len(jobs) == 5
        assert not await leases.renew(session, STREAM, jobs, 60)
        assert len(await settles.settle(session, STREAM, [done(j) for j in jobs])) == 5
        assert await work.tail(session, 0)
        assert await work.due(session, [STREAM]) == ([], [])
        assert await work.sweep(session, STREAM, None) == []
