"""Rates over real events: counted once however late they commit, an alert in the audit, a pause that an operator ends."""

from __future__ import annotations

import time

import asyncpg

from mailerd.config.alerts import Alerts
from mailerd.config.model import Config, Stream
from mailerd.config.model import Database as DatabaseSettings
from mailerd.daemon.numbers import Numbers, shares
from mailerd.store import control, rates
from mailerd.store.database import Session
from mailerd.store.settle import settle
from mailerd.web.metrics import Metrics
from tests.store.rows import STREAM, done, fill, take

WRITE = """
INSERT INTO mailerd.event (message_id, type, recipient, stream, provider, class, metadata)
SELECT g, $1, 'u' || g || $2, $3, 'relay', $4, $5::jsonb FROM generate_series(1, $6) g
"""


async def write(
    connection: asyncpg.Connection[asyncpg.Record],
    type_: str,
    events: int,
    domain: str = "gmail.com",
    category: str | None = None,
    metadata: str | None = None,
) -> None:
    await connection.execute(WRITE, type_, f"@{domain}", STREAM, category, metadata, events)


def group_of(domain: str) -> str | None:
    return "gmail" if domain == "gmail.com" else None


def numbers(settings: DatabaseSettings, metrics: Metrics, **limits: float) -> Numbers:
    config = Config(database=settings, stream=(Stream(name=STREAM),), alerts=Alerts(**limits))  # type: ignore[arg-type]
    return Numbers(lambda: config, group_of, metrics)


async def test_events_count_once_by_stream_provider_and_group(
    database: str, connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    await fill(connection, 3)
    await settle(session, STREAM, [done(job) for job in await take(session)])
    slow = await asyncpg.connect(database)
    late = slow.transaction()
    await late.start()
    await write(slow, "complained", 2)
    await write(connection, "opened", 4)
    await write(connection, "opened", 3, metadata='{"bot": true}')
    assert await rates.add_up(session, group_of) == (3, {"opened": 7}), "a settle's events are no reports"
    await late.commit()
    await slow.close()
    assert await rates.add_up(session, group_of) == (1, {"complained": 2})
    assert await rates.add_up(session, group_of) == (0, {})
    await rates.gauge(session)
    await rates.gauge(session)
    found = {(r.hours, r.provider, r.group, r.type, r.category): r.events for r in await rates.gauged(session)}
    assert found == {
        (hours, "relay", group, type_, category): events
        for hours in rates.HOURS
        for group, type_, category, events in (
            ("", "sent", "", 3),
            ("gmail", "opened", "", 4),
            ("gmail", "opened", "bot", 3),
            ("gmail", "complained", "", 2),
        )
    }


async def test_complaints_pause_the_marketing_stream_until_somebody_resumes_it(
    connection: asyncpg.Connection[asyncpg.Record], session: Session, settings: DatabaseSettings
) -> None:
    metrics = Metrics()
    watch = numbers(settings, metrics, minimum=100)
    await write(connection, "sent", 2000)
    await write(connection, "complained", 5)
    await watch.turn(session, time.monotonic())
    assert [(a.kind, a.level) for a in await rates.alerts_now(session)] == [("complaints", "warn")]
    await write(connection, "complained", 1)
    await watch.turn(session, time.monotonic() + 60)
    assert [(a.kind, a.level) for a in await rates.alerts_now(session)] == [("complaints", "pause")]
    row = await connection.fetchrow("SELECT kind, name, actor, reason FROM mailerd.lane_control")
    assert row is not None
    assert tuple(row)[:3] == ("stream", STREAM, "mailerd")
    assert "0.30%: 6 of 2000" in row["reason"].replace(" of a day's mail", "")
    await watch.turn(session, time.monotonic() + 120)
    actions = await connection.fetch("SELECT action FROM mailerd.audit ORDER BY id")
    assert [r[0] for r in actions] == ["alert warn", "alert pause", "pause"], "each is said once"

    assert await control.resume(session, "stream", STREAM, "ann")
    await watch.turn(session, time.monotonic() + 180)
    assert not await rates.alerts_now(session), "judged by what it does from now on"
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.lane_control")


async def test_a_scrape_shows_shares_alerts_and_what_came_back(
    connection: asyncpg.Connection[asyncpg.Record], session: Session, settings: DatabaseSettings
) -> None:
    metrics = Metrics()
    await write(connection, "sent", 100)
    await write(connection, "bounced", 20, category="recipient")
    await numbers(settings, metrics, minimum=100, minimum_events=1).turn(session, time.monotonic())
    text = metrics.render()[0].decode()
    label = 'group="gmail",provider="relay",rate="bounced",stream="marketing",window="24h"'
    lines = {
        line.partition("{")[0] + "{" + ",".join(sorted(line.partition("{")[2].partition("}")[0].split(","))): line
        for line in text.splitlines()
        if "{" in line
    }
    assert lines[f"mailerd_event_rate_ratio{{{label}"].endswith(" 0.2")
    assert 'mailerd_alert{kind="bounces",level="warn",stream="marketing"} 1.0' in text
    assert 'mailerd_events_total{type="bounced"} 20.0' in text
    assert not shares([])


async def test_old_spans_are_forgotten(connection: asyncpg.Connection[asyncpg.Record], session: Session) -> None:
    await write(connection, "sent", 1)
    await rates.add_up(session, group_of)
    await connection.execute("UPDATE mailerd.event_rate SET span = span - interval '9 days'")
    await rates.forget(session)
    assert not await connection.fetchval("SELECT count(*) FROM mailerd.event_rate")
