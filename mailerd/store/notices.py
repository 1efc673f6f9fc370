"""Notices: which events a subscriber has yet to hear of, written by the trigger on `event` in the writer's transaction.

A subscriber is an outgoing webhook, a `mailerd events tail`, or the log of events. It gets every event that is written
by a statement that began after its subscription was committed, whenever that commits. It takes notices, tells of their
events, and drops them: at least once. A subscriber that does not come back is forgotten when its time is up.

Events are read back by message and time, for which there is an index; never by scanning.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from mailerd.store.database import Run, Session

__all__ = ["BITMAPS", "READ", "Event", "event_of", "read", "recent", "subscribe", "sweep", "tell", "unsubscribe"]

_COLUMNS: Final = """e.id, e.at, e.message_id, e.type, e.rcpt, e.recipient, e.stream, e.provider, e.provider_message_id, e.attempt,
  e.code, e.enhanced_code, e.class, e.detail, e.metadata"""
# What the application said of the message goes along, unless it is a document.
_MESSAGE: Final = """
LEFT JOIN LATERAL (SELECT o.campaign, o.tags, CASE WHEN pg_column_size(o.metadata) <= 4096 THEN o.metadata END AS metadata
  FROM mailerd.outbox o WHERE o.id = e.message_id LIMIT 1) o ON true
"""
READ: Final = f"""
SELECT {_COLUMNS}, o.campaign, o.tags, o.metadata AS message_metadata
FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS w(id, message, n)
CROSS JOIN LATERAL (SELECT e.* FROM mailerd.event e
  WHERE e.message_id = w.message AND e.at >= $3 AND e.at <= $4 AND e.id = w.id LIMIT 1) e
{_MESSAGE} ORDER BY w.n
"""
# BRIN is read through a bitmap, which our role has turned off: to be turned on in the transaction, before the statement.
BITMAPS: Final = "SELECT set_config('enable_bitmapscan', 'on', true), set_config('enable_seqscan', 'off', true)"
_RECENT: Final = f"""
SELECT {_COLUMNS}, o.campaign, o.tags, o.metadata AS message_metadata
FROM (SELECT e.* FROM mailerd.event e WHERE e.at > now() - make_interval(secs => $1)
  AND ($2::text[] IS NULL OR e.type = ANY ($2)) AND ($3::text[] IS NULL OR e.stream = ANY ($3))
  ORDER BY e.at DESC, e.id DESC LIMIT $4) e
{_MESSAGE} ORDER BY e.at, e.id
"""
_SUBSCRIBE: Final = """
INSERT INTO mailerd.subscriber AS s (name, types, streams, until) VALUES ($1, $2, $3, now() + make_interval(secs => $4))
ON CONFLICT (name) DO UPDATE SET types = excluded.types, streams = excluded.streams, until = excluded.until
"""
_TAKE: Final = """
SELECT n.id, n.first_at, n.last_at, n.events, n.messages FROM mailerd.notice n
WHERE n.subscriber = $1 ORDER BY n.id LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_DROP: Final = "DELETE FROM mailerd.notice WHERE subscriber = $1 AND id = ANY ($2::bigint[])"
_SWEEP: Final = """
WITH gone AS (DELETE FROM mailerd.subscriber WHERE until < now() RETURNING name)
DELETE FROM mailerd.webhook WHERE name IN (SELECT substr(g.name, 9) FROM gone g WHERE g.name LIKE 'webhook:%')
"""
# Whose subscriber is gone and who is no disabled webhook, whose notices are kept.
_ORPHANS: Final = """
WITH RECURSIVE s AS (
  (SELECT subscriber FROM mailerd.notice ORDER BY subscriber LIMIT 1)
  UNION ALL
  SELECT n.subscriber FROM s CROSS JOIN LATERAL (
    SELECT x.subscriber FROM mailerd.notice x WHERE x.subscriber > s.subscriber ORDER BY x.subscriber LIMIT 1) n)
DELETE FROM mailerd.notice WHERE subscriber IN (SELECT s.subscriber FROM s
  WHERE NOT EXISTS (SELECT FROM mailerd.subscriber k WHERE k.name = s.subscriber)
    AND NOT EXISTS (SELECT FROM mailerd.webhook w WHERE 'webhook:' || w.name = s.subscriber))
"""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event as the world is told of it. `id` and `message_id` are below 2⁵³; what is not known is left out."""

    id: int
    type: str
    at: datetime
    message_id: int
    recipient: str | None = None
    rcpt: int | None = None
    stream: str | None = None
    campaign: str | None = None
    tags: list[str] | None = None
    provider: str | None = None
    provider_message_id: str | None = None
    attempt: int | None = None
    code: int | None = None
    enhanced_code: str | None = None
    category: str | None = msgspec.field(default=None, name="class")
    detail: str | None = None
    metadata: msgspec.Raw | None = None
    message_metadata: msgspec.Raw | None = None


def event_of(row: Any) -> Event:
    """A row of `READ` as an `Event`."""
    return Event(
        id=row["id"],
        type=row["type"],
        at=row["at"],
        message_id=row["message_id"],
        recipient=row["recipient"],
        rcpt=row["rcpt"],
        stream=row["stream"],
        campaign=row["campaign"] or None,
        tags=row["tags"],
        provider=row["provider"] or None,
        provider_message_id=row["provider_message_id"] or None,
        attempt=row["attempt"],
        code=row["code"] or None,
        enhanced_code=row["enhanced_code"] or None,
        category=row["class"] or None,
        detail=row["detail"] or None,
        metadata=_raw(row["metadata"]),
        message_metadata=_raw(row["message_metadata"]),
    )


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


async def subscribe(
    session: Session, name: str, types: Sequence[str] = (), streams: Sequence[str] = (), seconds: float = 60.0
) -> None:
    """From now on `name` gets notices, for so many seconds; again: for so many more. Empty: all types, all streams."""
    await session.execute(_SUBSCRIBE, name, list(types) or None, list(streams) or None, seconds)


async def unsubscribe(session: Session, name: str) -> None:
    """No more notices, and those that wait are dropped."""
    await session.execute("DELETE FROM mailerd.subscriber WHERE name = $1", name)
    await session.execute("DELETE FROM mailerd.notice WHERE subscriber = $1", name)


async def tell(session: Session, name: str, telling: Callable[[list[Event]], Awaitable[None]], limit: int = 50) -> int:
    """Has `telling` tell of the events of a subscriber's oldest notices, then drops these, in one transaction; how many
    notices there were. If `telling` raises, or the transaction cannot commit, they come again."""
    told = 0

    async def work(run: Run) -> None:
        nonlocal told
        found = await run(_TAKE, name, limit)
        if found:
            events = [event for row in found for event in row["events"]]
            messages = [message for row in found for message in row["messages"]]
            first, last = min(row["first_at"] for row in found), max(row["last_at"] for row in found)
            await telling([event_of(row) for row in await run(READ, events, messages, first, last)])
            await run(_DROP, name, [row["id"] for row in found])
        told = len(found)

    await session.together(work)
    return told


async def read(
    session: Session, events: Sequence[int], messages: Sequence[int], first_at: datetime, last_at: datetime
) -> list[Event]:
    """The events of a notice; those whose partition was dropped are missing."""
    return [event_of(row) for row in await session.fetch(READ, list(events), list(messages), first_at, last_at)]


async def recent(
    session: Session, seconds: float, limit: int, types: Sequence[str] = (), streams: Sequence[str] = ()
) -> list[Event]:
    """The newest events of the last so many seconds, the oldest first."""
    found: list[Event] = []

    async def work(run: Run) -> None:
        await run(BITMAPS)
        found.extend(
            event_of(row) for row in await run(_RECENT, seconds, list(types) or None, list(streams) or None, limit)
        )

    await session.together(work)
    return found


async def sweep(session: Session) -> None:
    """Forgets subscribers whose time is up, and what waited for them."""
    await session.execute(_SWEEP)
    await session.execute(_ORPHANS)
    await session.execute(
        "DELETE FROM mailerd.webhook_delivery d WHERE NOT EXISTS (SELECT FROM mailerd.webhook w WHERE w.name = d.webhook)"
    )
