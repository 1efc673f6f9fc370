"""`status()` says where a message is, for every place it can be, from one row or many."""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from mailerd.store.database import Session
from mailerd.store.settle import settle
from tests.store.rows import done, fill, take

Connection = asyncpg.Connection
STATUS = "SELECT * FROM mailerd.status($1)"


async def status(connection: Connection, message: int) -> str:
    row = await connection.fetchrow(STATUS, message)
    view = await connection.fetchrow("SELECT * FROM mailerd.message_status WHERE id = $1", message)
    assert row == view, "the function is the view's row"
    return str(row["status"])


async def event(connection: Connection, message: int, kind: str, **columns: object) -> None:
    names = "".join(f", {name}" for name in columns)
    marks = "".join(f", ${i + 3}" for i in range(len(columns)))
    await connection.execute(
        f"INSERT INTO mailerd.event (message_id, type{names}) VALUES ($1, $2{marks})", message, kind, *columns.values()
    )


async def test_waiting_states(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    assert await status(connection, message) == "ready"
    (job,) = await take(session)
    assert await status(connection, message) == "leased"
    await connection.execute("UPDATE mailerd.ready SET lease_until = now() - interval '1 second'")
    assert await status(connection, message) == "ready", "the lease has run out"
    await settle(session, "marketing", [done(job)])
    assert await status(connection, message) == "sent"
    (later,) = await fill(connection, 1, send_at=await connection.fetchval("SELECT now() + interval '1 day'"))
    assert await status(connection, later) == "scheduled"
    assert (await connection.fetchrow(STATUS, later))["next_attempt_at"] is not None
    await connection.execute("UPDATE mailerd.scheduled SET deferred = true, attempt = 3")
    assert await status(connection, later) == "deferred"
    assert (await connection.fetchrow(STATUS, later))["attempts"] == 3


async def test_settled_states_are_the_last_event(connection: Connection) -> None:
    kinds = ("sent", "delivered", "bounced", "rejected", "failed", "suppressed", "expired", "cancelled", "in_doubt")
    words = {"provider": "relay", "code": 250, "enhanced_code": "2.0.0", "detail": "ok", "provider_message_id": "q1"}
    for message, kind in zip(await fill(connection, len(kinds)), kinds, strict=True):
        await connection.execute("DELETE FROM mailerd.ready")
        await event(connection, message, "deferred", code=450, detail="later")
        await event(connection, message, kind, **words)
        assert await status(connection, message) == kind
        row = await connection.fetchrow(STATUS, message)
        assert (row["provider"], row["provider_message_id"], row["last_reply"]) == ("relay", "q1", "250 2.0.0 ok")


async def test_what_comes_back_later_does_not_hide_how_it_ended(connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    await connection.execute("DELETE FROM mailerd.ready")
    await event(connection, message, "sent")
    for kind in ("opened", "clicked", "complained", "unsubscribed"):
        await event(connection, message, kind)
    assert await status(connection, message) == "sent"
    await event(connection, message, "bounced")
    assert await status(connection, message) == "bounced"


async def test_status_is_that_of_the_recipient_not_of_cc(connection: Connection) -> None:
    (message,) = await fill(connection, 1, cc=["c@x.example"])
    await connection.execute("DELETE FROM mailerd.ready")
    await event(connection, message, "sent", rcpt=0)
    await event(connection, message, "rejected", rcpt=1)
    assert await status(connection, message) == "sent"


async def test_in_doubt_and_held(connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    await connection.execute(
        "WITH g AS (DELETE FROM mailerd.ready RETURNING *) "
        "INSERT INTO mailerd.in_doubt (message_id, stream, priority, domain) SELECT id, stream, priority, domain FROM g"
    )
    await event(connection, message, "in_doubt")
    assert await status(connection, message) == "in_doubt"


async def test_a_kept_payload_still_has_a_status(connection: Connection) -> None:
    """Its partition is gone; what was unsettled was copied."""
    (message,) = await fill(connection, 1)
    await connection.execute(
        "INSERT INTO mailerd.outbox_kept (id, created_at, stream, priority, recipient, text_body) "
        "SELECT id, created_at, stream, priority, recipient, text_body FROM mailerd.outbox"
    )
    await connection.execute("DELETE FROM mailerd.outbox")
    assert await status(connection, message) == "ready"
    assert await connection.fetchval("SELECT mailerd.cancel($1)", message) is True
    assert await status(connection, message) == "cancelled"


async def test_nobody_knows_it(connection: Connection) -> None:
    row = await connection.fetchrow(STATUS, 42)
    assert row["id"] is None


async def test_cancel_is_for_unsent_messages_only(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    (job,) = await take(session)
    assert await connection.fetchval("SELECT mailerd.cancel($1)", message) is False, "leased"
    await settle(session, "marketing", [done(job)])
    assert await connection.fetchval("SELECT mailerd.cancel($1)", message) is False, "sent"
    assert await connection.fetchval("SELECT mailerd.cancel(7)") is False, "unknown"
    (later,) = await fill(connection, 1, send_at=await connection.fetchval("SELECT now() + interval '1 day'"))
    assert await connection.fetchval("SELECT mailerd.cancel($1)", later) is True
    assert await connection.fetchval("SELECT mailerd.cancel($1)", later) is False, "once"
    assert await status(connection, later) == "cancelled"
    assert await connection.fetchval("SELECT count(*) FROM mailerd.scheduled") == 0


async def test_status_of_one_reads_the_partitions_of_its_time_only(connection: Connection) -> None:
    """With 90 days of events a look-up must not read 90 indexes."""
    (message,) = await fill(connection, 1)
    plan = await connection.fetchval(
        f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM mailerd.message_status WHERE id = {message}"
    )
    read: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if node.get("Actual Loops") and "Relation Name" in node:
            read.add(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(json.loads(plan)[0]["Plan"])
    assert len([name for name in read if name.startswith("outbox_2")]) == 1, read
    assert 1 <= len([name for name in read if name.startswith("event_2")]) <= 2, read  # two around midnight
