"""Partitions come and go while an application's transaction stands open, and no producer waits for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from mailerd.config import model
from mailerd.store import upkeep
from mailerd.store.database import Session
from tests.store.rows import count, fill

Connection = asyncpg.Connection
INSERT = "INSERT INTO mailerd.outbox (recipient, text_body) VALUES ('a@d.example', 'x')"


async def test_no_producer_waits_while_a_transaction_is_open_across_creation_and_drop(
    settings: model.Database, session: Session, connection: Connection
) -> None:
    today = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    old = today - timedelta(days=40)
    assert await session.value("SELECT mailerd.create_partition('outbox', $1)", old)
    holder = await asyncpg.connect(settings.url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(INSERT)

    async def upkeep_runs() -> None:
        await session.value("SELECT mailerd.create_partition('outbox', $1)", today + timedelta(days=36))
        await session.value("SELECT mailerd.create_partition('event', $1)", today + timedelta(days=36))
        await upkeep.drop_partitions(session, patience=1.0)  # DETACH CONCURRENTLY waits for the holder, alone

    slowest = 0.0
    task = asyncio.create_task(upkeep_runs())
    while not task.done():
        async with asyncio.timeout(0.5):  # a producer that had to wait for the holder would never return
            await connection.execute(INSERT)
        await asyncio.sleep(0.01)
    await task
    assert slowest < 0.5
    attached = {r["name"] for r in await session.fetch(upkeep.CHILDREN, "outbox")}
    assert f"outbox_{today + timedelta(days=36):%Y%m%d}" in attached
    await transaction.commit()
    await holder.close()
    async with Session(settings, "finish") as again:
        assert await upkeep.drop_partitions(again) or f"outbox_{old:%Y%m%d}" not in attached
    assert f"outbox_{old:%Y%m%d}" not in {r["name"] for r in await session.fetch(upkeep.CHILDREN, "outbox")}
    assert await session.value("SELECT to_regclass($1)", f"mailerd.outbox_{old:%Y%m%d}") is None
    await connection.execute(INSERT)


async def test_unsettled_payloads_outlive_their_partition(session: Session, connection: Connection) -> None:
    kept, settled = await fill(connection, 2)
    await connection.execute("DELETE FROM mailerd.ready WHERE id = $1", settled)
    # By the server's date: midnight may have passed since the partitions were made.
    today = await connection.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
    over = {row["name"] for row in await session.fetch(upkeep.CHILDREN, "outbox") if row["name"][-8:] <= today}
    assert len(over) >= 2
    assert set(await upkeep.drop_partitions(session, outbox_days=-1)) == over
    assert await connection.fetchval("SELECT array_agg(id) FROM mailerd.outbox_kept") == [kept]
    assert await connection.fetchval("SELECT status FROM mailerd.message_status WHERE id = $1", kept) == "ready"
    assert await connection.fetchval("SELECT mailerd.cancel($1)", kept)


async def test_a_kept_payload_goes_when_its_message_has_ended(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 9, domains=2, campaign="spring")
    # One for each of the four places; the rest will be over.
    ready, scheduled, dead, doubt = ids[:4]
    await connection.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) VALUES ('s', 1, now(), $1, 'x')",
        scheduled,
    )
    for table, id_, column, value in (("dead_letter", dead, "reason", "r"), ("in_doubt", doubt, "detail", "d")):
        await connection.execute(
            f"INSERT INTO mailerd.{table} (message_id, stream, priority, domain, {column}) VALUES ($1, 's', 1, 'x', $2)",
            id_,
            value,
        )
    await upkeep.drop_partitions(session, outbox_days=-1)
    assert await count(connection, "outbox_kept") == 9
    assert await upkeep.forget_kept(session, batch=2) == 0
    await connection.execute("DELETE FROM mailerd.ready WHERE id <> $1", ready)
    assert await upkeep.forget_kept(session, batch=2) == 5
    assert await connection.fetchval("SELECT array_agg(id ORDER BY id) FROM mailerd.outbox_kept") == ids[:4]
    for table, column in (
        ("ready", "id"),
        ("scheduled", "id"),
        ("dead_letter", "message_id"),
        ("in_doubt", "message_id"),
    ):
        await connection.execute(f"DELETE FROM mailerd.{table}")
        assert await upkeep.forget_kept(session) == 1, column


async def test_payloads_are_kept_in_batches(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 450)
    await upkeep._keep(session, f"outbox_{upkeep.today():%Y%m%d}")
    assert await connection.fetchval("SELECT array_agg(id ORDER BY id) FROM mailerd.outbox_kept") == ids


async def test_the_audit_of_a_year_ago_goes(session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.audit (at, action, target) SELECT now() - make_interval(days => 375 - i), 'pause', 'x' FROM generate_series(1, 20) i"
    )
    assert await upkeep.forget_audit(session, batch=4) == 10
    assert await connection.fetchval("SELECT max(now() - at) < interval '365 days' FROM mailerd.audit")
    assert await upkeep.forget_audit(session) == 0


async def test_missing_partitions_are_made_and_tomorrows_absence_is_seen(
    session: Session, connection: Connection
) -> None:
    await upkeep.make_partitions(session)
    assert await upkeep.partitions_ok(session)
    assert await upkeep.make_partitions(session) == 0
    tomorrow = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date + 1")
    await connection.execute(f"DROP TABLE mailerd.event_{tomorrow:%Y%m%d}")
    assert not await upkeep.partitions_ok(session)
    assert await upkeep.make_partitions(session) == 1
    assert await upkeep.partitions_ok(session)


async def test_tables_of_other_people_are_left_alone_and_stop_nothing(session: Session, connection: Connection) -> None:
    theirs = ["outbox_12345678", "outbox_20200231", "outbox_20200101", "event_20200101", "outbox_20200102"]
    for name in theirs[:-1]:
        await connection.execute(f"CREATE TABLE mailerd.{name} AS SELECT 1 AS kept_by_a_person")
    # Attached, but no day of ours; and in a place that is not ours.
    await connection.execute("CREATE TABLE mailerd.outbox_20200102 (LIKE mailerd.outbox INCLUDING ALL)")
    await connection.execute("CREATE TABLE mailerd.outbox_29999999 (LIKE mailerd.outbox INCLUDING ALL)")
    await connection.execute("CREATE TABLE public.outbox_20200103 (LIKE mailerd.outbox INCLUDING ALL)")
    for name, low in (("mailerd.outbox_29999999", 1), ("public.outbox_20200103", 2)):
        await connection.execute(
            f"ALTER TABLE mailerd.outbox ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({low + 1})"
        )
    ours = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date - 40")
    assert await session.value("SELECT mailerd.create_partition('outbox', $1)", ours)
    assert await upkeep.drop_partitions(session) == [f"outbox_{ours:%Y%m%d}"]
    for name in [*(f"mailerd.{name}" for name in theirs), "mailerd.outbox_29999999", "public.outbox_20200103"]:
        assert await session.value("SELECT to_regclass($1)", name) is not None, name


async def test_what_was_detached_before_a_crash_is_dropped_later(session: Session, connection: Connection) -> None:
    ours = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date - 40")
    assert await session.value("SELECT mailerd.create_partition('event', $1)", ours)
    await upkeep._detach(session, "event", f"event_{ours:%Y%m%d}", False, 5.0)
    assert await upkeep.drop_partitions(session) == [f"event_{ours:%Y%m%d}"]


async def test_a_partition_that_cannot_go_keeps_no_other(session: Session, connection: Connection) -> None:
    today = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    names = []
    for parent, age in (("outbox", 41), ("outbox", 40), ("event", 100)):
        assert await session.value("SELECT mailerd.create_partition($1, $2)", parent, today - timedelta(days=age))
        names.append(f"{parent}_{today - timedelta(days=age):%Y%m%d}")
    await connection.execute(f"CREATE VIEW public.somebody AS SELECT id FROM mailerd.{names[0]}")
    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await upkeep.drop_partitions(session)
    for name, gone in zip(names, (False, True, True), strict=True):
        assert (await session.value("SELECT to_regclass($1)", f"mailerd.{name}") is None) is gone, name


async def test_a_foreign_table_in_a_partitions_place_is_seen_and_keeps_no_other(
    session: Session, connection: Connection
) -> None:
    tomorrow = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date + 1")
    await connection.execute(f"DROP TABLE mailerd.outbox_{tomorrow:%Y%m%d}")
    await connection.execute(f"CREATE TABLE mailerd.outbox_{tomorrow:%Y%m%d} (x int)")
    with pytest.raises(asyncpg.PostgresError):
        await upkeep.make_partitions(session, days=4)
    assert not await upkeep.partitions_ok(session)
    made = {r["name"] for r in await session.fetch(upkeep.CHILDREN, "outbox")}
    assert f"outbox_{tomorrow + timedelta(days=3):%Y%m%d}" in made
