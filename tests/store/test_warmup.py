"""What was sent a day, counted from events: by the day of a zone, and from no other partitions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from mailerd.flow.warmup import Counts, Schedule, window
from mailerd.message import Action, Outcome, OutcomeKind, Phase, Recipient, Settlement
from mailerd.store import upkeep
from mailerd.store.database import Session
from mailerd.store.settle import settle
from mailerd.store.warmup import ACTUAL, PLANNING, Actual, actual, clock
from tests.store.rows import STREAM, done, fill, take

Connection = asyncpg.Connection


def outset(zone: str = "UTC") -> datetime:
    """Midnight of today there: of tomorrow, there may be no partition."""
    plan = Schedule(begin=date(2026, 1, 1), days=(1,), zone=zone)
    return window(plan, datetime.now(UTC))[0]


async def happened(
    connection: Connection, at: datetime, kind: str = "sent", recipient: str | None = "ann@d.example", **columns: object
) -> None:
    columns = {"provider": "relay"} | columns
    names = "".join(f", {name}" for name in columns)
    marks = "".join(f", ${i + 4}" for i in range(len(columns)))
    await connection.execute(
        f"INSERT INTO mailerd.event (message_id, at, type, recipient{names}) VALUES (1, $1, $2, $3{marks})",
        at,
        kind,
        recipient,
        *columns.values(),
    )


async def partition(connection: Connection, day: date) -> None:
    """Days before today have none in a new database."""
    await connection.execute(
        f"CREATE TABLE mailerd.event_{day:%Y%m%d} PARTITION OF mailerd.event "
        f"FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
    )


@pytest.fixture
async def past(connection: Connection) -> None:
    known = {row[2] for row in await connection.fetch(upkeep.CHILDREN, "event")}
    for back in range(1, 6):
        day = upkeep.today() - timedelta(days=back)
        if day not in known:
            await partition(connection, day)


async def test_what_the_daemon_settles_is_counted(session: Session, connection: Connection) -> None:
    await fill(connection, 5, domains=2)
    jobs = await take(session, domains=2)
    refusal = Outcome(OutcomeKind.REJECTED, Phase.RCPT, 550, "5.1.1", "no such user", "relay")
    refused = Settlement(
        jobs[0], Action.DONE, [("rejected", Recipient(0, jobs[0].recipient), refusal)], dead=1, reason="no such user"
    )
    await settle(session, STREAM, [refused, *(done(job) for job in jobs[1:])])
    rows = await actual(session, ["relay"], outset(), "UTC")
    assert [(row.provider, row.domain) for row in rows] == [("relay", "d0.example"), ("relay", "d1.example")]
    assert sum((row.counts for row in rows), Counts()) == Counts(sent=4, rejected=1)
    assert {row.domain: row.counts.rejected for row in rows}[jobs[0].domain] == 1


async def test_by_provider_and_domain_and_kind(session: Session, connection: Connection) -> None:
    now = await clock(session)
    for kind, times in (
        ("sent", 3),
        ("bounced", 2),
        ("rejected", 4),
        ("complained", 1),
        ("deferred", 7),
        ("opened", 2),
    ):
        for _ in range(times):
            await happened(connection, now, kind)
    await happened(connection, now, recipient="Bo <bo@D.Example.>")
    await happened(connection, now, recipient='"a@b"@other.example')
    await happened(connection, now, recipient=None)
    await happened(connection, now, provider="second")
    await happened(connection, now, provider="third")
    await happened(connection, now, provider=None)
    rows = await actual(session, ["relay", "second", "nobody"], outset(), "UTC")
    today = now.date()
    assert rows == [
        Actual(today, "relay", "", Counts(sent=1)),
        Actual(today, "relay", "d.example", Counts(sent=4, bounced=2, rejected=4, complained=1)),
        Actual(today, "relay", "other.example", Counts(sent=1)),
        Actual(today, "second", "d.example", Counts(sent=1)),
    ]


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles", "Australia/Lord_Howe"])
async def test_days_are_those_of_the_zone(session: Session, connection: Connection, zone: str) -> None:
    there = ZoneInfo(zone)
    midnight = outset(zone) - timedelta(days=1)
    if midnight.astimezone(there).hour:  # the clocks were changed this night
        midnight -= timedelta(days=1)
    moment = timedelta(microseconds=1)
    await happened(connection, midnight - moment)
    await happened(connection, midnight)
    await happened(connection, midnight + timedelta(hours=22))
    rows = await actual(session, ["relay"], midnight - timedelta(days=2), zone)
    day = midnight.astimezone(there).date()
    assert [(row.day, row.counts.sent) for row in rows] == [(day - timedelta(days=1), 1), (day, 2)]
    assert [row.day for row in await actual(session, ["relay"], midnight, zone)] == [day]


@pytest.mark.usefixtures("past")
async def test_only_the_partitions_of_the_time_are_read(session: Session, connection: Connection) -> None:
    midnight = outset()
    begin = midnight - timedelta(days=2)
    for back in range(5):
        await happened(connection, midnight - timedelta(days=back))
    assert [row.counts.sent for row in await actual(session, ["relay"], begin, "UTC")] == [1, 1, 1]
    read = {name for name, _ in await scans(connection, begin)}
    # One more when it is a minute to midnight.
    assert len(read) in (3, 4), read
    assert min(read) == f"event_{begin:%Y%m%d}"


async def test_many_events_are_read_in_order_without_statistics(connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.event (message_id, at, type, recipient, provider) "
        "SELECT i, $1, 'sent', 'u@d' || i % 100 || '.example', 'relay' FROM generate_series(1, 20000) i",
        outset(),
    )
    table = f"event_{outset():%Y%m%d}"
    assert dict(await scans(connection, outset()))[table] == "Seq Scan"
    assert dict(await scans(connection, outset(), settings=()))[table] != "Seq Scan", "the role's own plan"


async def scans(connection: Connection, begin: datetime, settings: Sequence[str] = PLANNING) -> list[tuple[str, str]]:
    """The tables that the statement reads, and how."""
    found: list[tuple[str, str]] = []

    def walk(node: dict[str, Any]) -> None:
        if node.get("Actual Loops") and "Relation Name" in node:
            found.append((node["Relation Name"], node["Node Type"]))
        for child in node.get("Plans", ()):
            walk(child)

    async with connection.transaction():
        for setting in settings:
            await connection.execute(setting)
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {ACTUAL}", ["relay"], begin, "UTC")
    walk(json.loads(plan)[0]["Plan"])
    return found


async def test_the_role_keeps_its_plans(session: Session) -> None:
    """Reading in the order of the table is for this one statement."""
    before = await session.value("SHOW enable_seqscan")
    await actual(session, ["relay"], outset(), "UTC")
    assert await session.value("SHOW enable_seqscan") == before == "off"
