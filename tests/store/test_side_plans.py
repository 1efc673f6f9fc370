"""What runs beside sending keeps its plans too, on 100 000 rows that were never analysed: webhooks both ways, mail that came back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from mailerd.store import inbound, inbox, notices, webhooks
from tests.store.test_plans import explain, reads, scans

Connection = asyncpg.Connection
INDEX = {"Index Scan", "Index Only Scan"}
TABLES = ("webhook", "webhook_delivery", "notice", "inbound_mail", "inbox", "inbox_unread")


@pytest.fixture
async def empty(connection: Connection) -> Connection:
    """Analysed when empty, the worst that statistics can say, and autovacuum kept away."""
    await connection.execute("ANALYZE")
    for table in TABLES:
        await connection.execute(f"ALTER TABLE mailerd.{table} SET (autovacuum_enabled = off)")
    return connection


async def test_deliveries_of_a_webhook(empty: Connection) -> None:
    """Half of them another webhook's, a quarter not due."""
    await empty.execute("INSERT INTO mailerd.webhook (name, url) VALUES ('shop', ''), ('other', '')")
    await empty.execute(
        "INSERT INTO mailerd.webhook_delivery (webhook, id, first_at, last_at, events, messages, run_at) "
        "SELECT CASE WHEN i % 2 = 0 THEN 'shop' ELSE 'other' END, gen_random_uuid(), now(), now(), ARRAY[i], ARRAY[i], "
        "now() + make_interval(secs => CASE WHEN i % 4 = 0 THEN 3600 ELSE -i END) FROM generate_series(1, 100000) i"
    )
    plan = await explain(empty, webhooks._LEASE, "shop", 4, 45.0, 7)
    assert {n["Node Type"] for n in scans(plan, "webhook_delivery")} <= INDEX | {"Tid Scan"}
    assert reads(plan, "webhook_delivery") <= 8
    leased = await empty.fetchval("SELECT id FROM mailerd.webhook_delivery WHERE token = 7 LIMIT 1")
    assert isinstance(leased, UUID)
    for sql, arguments in (
        (webhooks._FAILED, ("shop", leased, 7, "500", 5.0, 259200.0, False)),
        (webhooks._DELIVERED, ("shop", leased, 7, "200")),
    ):
        plan = await explain(empty, sql, *arguments)
        assert {n["Node Type"] for n in scans(plan, "webhook_delivery")} <= INDEX
        assert reads(plan, "webhook_delivery") <= 2


async def test_notices(empty: Connection) -> None:
    await empty.execute("INSERT INTO mailerd.webhook (name, url) VALUES ('shop', '')")
    await empty.execute(
        "INSERT INTO mailerd.notice (subscriber, first_at, last_at, events, messages) "
        "SELECT 'webhook:' || CASE WHEN i % 2 = 0 THEN 'shop' ELSE 'other' END, now(), now(), ARRAY[i], ARRAY[i] "
        "FROM generate_series(1, 100000) i"
    )
    plan = await explain(empty, notices._TAKE, "webhook:shop", 50)
    assert {n["Node Type"] for n in scans(plan, "notice")} <= INDEX
    assert reads(plan, "notice") <= 100
    plan = await explain(empty, webhooks._PREPARE, "shop", 100, 50)
    assert {n["Node Type"] for n in scans(plan, "notice")} <= INDEX | {"Tid Scan"}
    assert reads(plan, "notice") <= 150


async def test_the_events_of_a_notice(empty: Connection) -> None:
    await empty.execute(
        "INSERT INTO mailerd.event (message_id, type) SELECT i, 'sent' FROM generate_series(1, 100000) i"
    )
    rows = await empty.fetch("SELECT id, message_id FROM mailerd.event ORDER BY id LIMIT 100")
    now = datetime.now(UTC)
    plan = await explain(
        empty,
        notices.READ,
        [r[0] for r in rows],
        [r[1] for r in rows],
        now - timedelta(hours=1),
        now + timedelta(hours=1),
    )
    assert {n["Node Type"] for n in scans(plan, "event")} <= INDEX
    assert reads(plan, "event") <= 200


async def test_mail_that_came_back(empty: Connection) -> None:
    """Most of it read, some of it due."""
    await empty.execute(
        "INSERT INTO mailerd.inbound_mail (source, digest, size, raw, next_at) "
        "SELECT 'listen', int8send(i), 1, 'x', CASE WHEN i % 10 = 0 THEN now() - make_interval(secs => i) END "
        "FROM generate_series(1, 100000) i"
    )
    plan = await explain(empty, inbound._TAKE, 20, 60.0)
    assert {n["Node Type"] for n in scans(plan, "inbound_mail")} <= INDEX | {"Tid Scan"}
    assert reads(plan, "inbound_mail") <= 60
    plan = await explain(empty, inbound._FINISH, 50_000, "bounce", "{}", 1, "return_path", 1)
    assert reads(plan, "inbound_mail") <= 1
    columns = (["listen"] * 50, [None] * 50, [None] * 50, ["[]"] * 50)
    new = [b"%d" % i for i in range(50)]
    plan = await explain(empty, inbound._KEEP, *columns, new, [1] * 50, [b"x"] * 50)
    assert not scans(plan, "inbound_mail"), "found by its digest, not by looking"


async def test_webhooks_that_came_in(empty: Connection) -> None:
    await empty.execute(
        "INSERT INTO mailerd.inbox (provider, headers, body) SELECT 'p', '{}', 'x' FROM generate_series(1, 100000)"
    )
    await empty.execute("INSERT INTO mailerd.inbox_unread SELECT id FROM mailerd.inbox WHERE id % 2 = 0")
    plan = await explain(empty, inbox._TAKE, 100)
    assert {n["Node Type"] for table in ("inbox", "inbox_unread") for n in scans(plan, table)} <= INDEX
    assert reads(plan, "inbox") <= 200  # both, by the start of their names
    plan = await explain(empty, inbox._CLOSE, list(range(2, 202, 2)))
    assert {n["Node Type"] for n in scans(plan, "inbox_unread")} <= INDEX
    assert reads(plan, "inbox_unread") <= 100
