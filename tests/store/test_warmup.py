"""What was sent under a warm-up, counted by those who send: by the days of its zone, and added up over instances."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from zoneinfo import ZoneInfo

import asyncpg

from mailerd.config import model
from mailerd.flow.warmup import Counts
from mailerd.store.database import Session
from mailerd.store.warmup import Counted, count, counted, forget

Connection = asyncpg.Connection
BULK = "pool:bulk"


async def test_what_instances_count_is_added_up(session: Session, settings: model.Database) -> None:
    zones = {BULK: "UTC", "provider:relay": "UTC"}
    async with Session(settings, "another") as other:
        for _ in range(5):  # in any order, at once, and never waiting for each other
            await asyncio.gather(
                count(session, zones, {(BULK, "gmail"): Counts(sent=2), ("provider:relay", ""): Counts(sent=2)}),
                count(other, zones, {("provider:relay", ""): Counts(rejected=1), (BULK, "gmail"): Counts(bounced=1)}),
            )
    now, rows = await counted(session, [BULK, "provider:relay", "pool:nobody"])
    assert sorted(rows) == [
        Counted(BULK, now.date(), "gmail", Counts(sent=10, bounced=5)),
        Counted("provider:relay", now.date(), "", Counts(sent=10, rejected=5)),
    ]
    assert [row.schedule for row in (await counted(session, [BULK]))[1]] == [BULK]


async def test_days_are_those_of_the_zone(session: Session) -> None:
    """Between these two the date is always another one."""
    zones = {"pool:east": "Pacific/Kiritimati", "pool:west": "Pacific/Pago_Pago"}
    await count(session, zones, {(key, ""): Counts(sent=1) for key in zones})
    now, rows = await counted(session, list(zones))
    assert {row.schedule: row.day for row in rows} == {
        key: now.astimezone(ZoneInfo(zone)).date() for key, zone in zones.items()
    }
    assert len({row.day for row in rows}) == 2


async def test_nothing_to_count_is_no_statement(session: Session) -> None:
    await count(session, {}, {})
    assert (await counted(session, [BULK]))[1] == []


async def test_days_of_long_ago_are_forgotten(session: Session, connection: Connection) -> None:
    await count(session, {BULK: "UTC"}, {(BULK, ""): Counts(sent=1)})
    for days in (400, 600):
        await connection.execute(
            "INSERT INTO mailerd.warmup_day (schedule, day, domain) VALUES ($1, current_date - $2::int, '')", BULK, days
        )
    await forget(session)
    now, rows = await counted(session, [BULK])
    assert sorted(now.date() - row.day for row in rows) == [timedelta(0), timedelta(400)]
