"""The dead-letter queue: messages, or some recipients of them, that were given up, waiting for an operator.

`retry` puts them back to `ready` as new ones (no attempts, a new age), `drop` forgets them; both go through any number of
letters in statements of a thousand, each whole by itself and audited per message. A letter cannot be retried when its
payload is gone, when its own `expires_at` has passed, or while its message is still on the way to other recipients.

Events are never changed: the story of a message keeps its failures.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from mailerd.store.database import Session

__all__ = ["Filter", "Letter", "Verdict", "count", "drop", "letters", "retry"]

BATCH: Final = 1000


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters; all conditions must hold, None asks nothing.

    `reason` is a part of the reason, in any case. `recipient` is an address, or `@domain` for everybody there.
    """

    ids: Sequence[int] | None = None
    stream: str | None = None
    category: str | None = None
    reason: str | None = None
    recipient: str | None = None
    since: datetime | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__struct_fields__)

    def arguments(self) -> tuple[Any, ...]:
        return (self.ids, self.stream, self.category, self.reason, self.recipient, self.since)


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter. `payload` says that its content is still there, so that it can be sent."""

    message_id: int
    at: datetime
    stream: str
    priority: int
    domain: str
    campaign: str
    recipient: str | None
    attempts: int
    reason: str
    category: str | None = msgspec.field(name="class")
    provider: str | None
    detail: str | None
    payload: bool


class Verdict(msgspec.Struct, frozen=True):
    """What `retry` or `drop` did with one letter: `done`, or why not in `words`."""

    id: int
    done: bool
    words: str


_WHERE: Final = """
  ($1::bigint[] IS NULL OR d.message_id = ANY ($1::bigint[]))
  AND ($2::text IS NULL OR d.stream = $2)
  AND ($3::text IS NULL OR d.class = $3)
  AND ($4::text IS NULL OR position(lower($4) IN lower(d.reason)) > 0)
  AND ($5::text IS NULL OR CASE WHEN starts_with($5, '@')
    THEN right(lower(coalesce(substring(d.recipient FROM '<([^<>]*)>$'), d.recipient)), length($5)) = lower($5)
    ELSE lower(coalesce(substring(d.recipient FROM '<([^<>]*)>$'), d.recipient)) = lower($5) END)
  AND ($6::timestamptz IS NULL OR d.at >= $6)"""

_LIST: Final = f"""
SELECT d.message_id, d.at, d.stream, d.priority, d.domain, d.campaign, d.recipient, d.attempts::int, d.reason, d.class, d.provider,
  d.detail, coalesce(o.found, false) AS payload
FROM (SELECT * FROM mailerd.dead_letter d WHERE {_WHERE} ORDER BY d.at DESC, d.message_id DESC LIMIT $7) d
LEFT JOIN LATERAL (
  (SELECT true AS found FROM mailerd.outbox o WHERE o.id = d.message_id LIMIT 1)
  UNION ALL (SELECT true FROM mailerd.outbox_kept o WHERE o.id = d.message_id LIMIT 1) LIMIT 1) o ON true
ORDER BY d.at DESC, d.message_id DESC
"""
_PICK: Final = f"""
pick AS MATERIALIZED (
  SELECT d.ctid AS at_row, d.* FROM mailerd.dead_letter d WHERE {_WHERE} AND d.message_id > $7
  ORDER BY d.message_id LIMIT $8 FOR UPDATE SKIP LOCKED)"""
_RETRY: Final = f"""
WITH {_PICK},
judged AS MATERIALIZED (
  SELECT p.*, o.expires_at AS own_end,
    CASE WHEN o.id IS NULL THEN 'its payload is gone: send it anew'
      WHEN o.expires_at <= now() THEN 'its expires_at has passed'
      WHEN r.id IS NOT NULL OR s.id IS NOT NULL OR q.message_id IS NOT NULL THEN 'still on its way to other recipients'
    END AS obstacle
  FROM pick p
  LEFT JOIN LATERAL (
    (SELECT o.id, o.expires_at FROM mailerd.outbox o WHERE o.id = p.message_id LIMIT 1)
    UNION ALL (SELECT o.id, o.expires_at FROM mailerd.outbox_kept o WHERE o.id = p.message_id LIMIT 1) LIMIT 1) o ON true
  LEFT JOIN LATERAL (SELECT r.id FROM mailerd.ready r WHERE r.stream = p.stream AND r.priority = p.priority
    AND r.domain = p.domain AND r.campaign = p.campaign AND r.id = p.message_id LIMIT 1) r ON true
  LEFT JOIN LATERAL (SELECT s.id FROM mailerd.scheduled s WHERE s.id = p.message_id LIMIT 1) s ON true
  LEFT JOIN LATERAL (SELECT q.message_id FROM mailerd.in_doubt q WHERE q.message_id = p.message_id LIMIT 1) q ON true),
gone AS (
  DELETE FROM mailerd.dead_letter WHERE ctid = ANY (ARRAY(SELECT at_row FROM judged WHERE obstacle IS NULL))),
put AS (
  INSERT INTO mailerd.ready (stream, priority, domain, campaign, id, rcpt, size, expires_at)
  SELECT j.stream, j.priority, j.domain, j.campaign, j.message_id, j.rcpt, j.size,
    -- The stream's age limit counts from the queueing: without an end of its own, an old letter would expire at once.
    coalesce(j.own_end, now() + coalesce((SELECT t.expires FROM mailerd.stream t WHERE t.name = j.stream), interval '3 days'))
  FROM judged j WHERE j.obstacle IS NULL ON CONFLICT DO NOTHING),
log AS (
  INSERT INTO mailerd.audit (actor, action, target, detail)
  SELECT $9, 'dead retry', 'message:' || message_id, reason FROM judged WHERE obstacle IS NULL)
SELECT message_id, obstacle FROM judged ORDER BY message_id
"""
_DROP: Final = f"""
WITH {_PICK},
gone AS (DELETE FROM mailerd.dead_letter WHERE ctid = ANY (ARRAY(SELECT at_row FROM pick))),
log AS (
  INSERT INTO mailerd.audit (actor, action, target, detail)
  SELECT $9, 'dead drop', 'message:' || message_id, reason FROM pick)
SELECT message_id, NULL::text FROM pick ORDER BY message_id
"""
_COUNT: Final = f"SELECT count(*) FROM mailerd.dead_letter d WHERE {_WHERE}"


async def letters(session: Session, which: Filter, limit: int) -> list[Letter]:
    """The newest letters first."""
    rows = await session.fetch(_LIST, *which.arguments(), limit)
    return [msgspec.convert(dict(row), Letter) for row in rows]


async def count(session: Session, which: Filter) -> int:
    """How many letters there are."""
    return int(await session.value(_COUNT, *which.arguments()))


def retry(session: Session, which: Filter, actor: str, limit: int | None = None) -> AsyncIterator[list[Verdict]]:
    """Puts letters back to `ready`, oldest first, at most `limit`; the verdicts, a batch at a time."""
    return _through(session, _RETRY, "queued again", which, actor, limit)


def drop(session: Session, which: Filter, actor: str, limit: int | None = None) -> AsyncIterator[list[Verdict]]:
    """Forgets letters, oldest first, at most `limit`; the verdicts, a batch at a time."""
    return _through(session, _DROP, "dropped", which, actor, limit)


async def _through(
    session: Session, sql: str, done: str, which: Filter, actor: str, limit: int | None
) -> AsyncIterator[list[Verdict]]:
    after, left = 0, limit
    while left is None or left > 0:
        size = BATCH if left is None else min(BATCH, left)
        rows = await session.fetch(sql, *which.arguments(), after, size, actor)
        if rows:
            yield [Verdict(row[0], row[1] is None, row[1] or done) for row in rows]
            after = rows[-1][0]
            left = None if left is None else left - len(rows)
        if len(rows) < size:
            return
