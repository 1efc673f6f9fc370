"""The inbox of webhooks: raw requests, durable before they are answered, read once and kept for a while.

`put` writes a batch in one statement. `take` gives some unread ones to a reader, inside its transaction: rows that
another instance reads are passed over, and what a dead reader held is unread again. `close` ends the turn. A request is
never changed; what could not be read carries its reason.

Hazards: at least once: a reader that dies between applying and `close` leaves the same requests to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from mailerd.store.database import Run, Session

__all__ = ["KEEP_DAYS", "KEEP_REFUSED_DAYS", "Raw", "close", "forget", "put", "take", "unread"]

KEEP_DAYS: Final = 3
KEEP_REFUSED_DAYS: Final = 30
_PATIENCE: Final = 5.0  # seconds of a write: providers wait 10 to 15 for their answer


class Raw(msgspec.Struct, frozen=True):
    """One request. `headers`: a JSON object of text; `id` 0 before it is stored."""

    provider: str
    headers: str
    body: bytes
    id: int = 0


_PUT: Final = """
WITH put AS (
  INSERT INTO mailerd.inbox (provider, headers, body) SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) RETURNING id)
INSERT INTO mailerd.inbox_unread (id) SELECT id FROM put
"""
# The oldest first. A look-up with LIMIT 1: no statistics can turn it into a scan.
_TAKE: Final = """
WITH u AS MATERIALIZED (SELECT id FROM mailerd.inbox_unread ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
SELECT u.id, i.provider, i.headers, i.body FROM u CROSS JOIN LATERAL (
  SELECT provider, headers, body FROM mailerd.inbox x WHERE x.id = u.id LIMIT 1) i
"""
_CLOSE: Final = "DELETE FROM mailerd.inbox_unread WHERE id = ANY ($1::bigint[])"
_REFUSE: Final = """
UPDATE mailerd.inbox i SET reason = w.reason FROM unnest($1::bigint[], $2::text[]) AS w(id, reason) WHERE i.id = w.id
"""
_FORGET: Final = """
WITH page AS MATERIALIZED (SELECT id, at, reason FROM mailerd.inbox WHERE id > $1 ORDER BY id LIMIT $2),
gone AS (
  DELETE FROM mailerd.inbox WHERE id = ANY (ARRAY(SELECT id FROM page
    WHERE at < now() - make_interval(days => CASE WHEN reason IS NULL THEN $3::int ELSE $4::int END)))
  RETURNING id),
never AS (DELETE FROM mailerd.inbox_unread WHERE id IN (SELECT id FROM gone))
SELECT (SELECT max(id) FROM page), (SELECT count(*) FROM gone),
  (SELECT max(at) FROM page) < now() - make_interval(days => $3::int)
"""
_UNREAD: Final = """
SELECT count(*) FROM (SELECT FROM mailerd.inbox_unread LIMIT $1) u
"""


async def put(session: Session, batch: Sequence[Raw]) -> None:
    """Writes them, all or none; durable when it returns. Raises `Unavailable`: then they may have been written."""
    await session.execute(
        _PUT,
        [raw.provider for raw in batch],
        [raw.headers for raw in batch],
        [raw.body for raw in batch],
        timeout=_PATIENCE,
    )


async def take(run: Run, limit: int) -> list[Raw]:
    """The oldest that nobody reads, locked for as long as the transaction lasts."""
    return [Raw(row[1], row[2], row[3], row[0]) for row in await run(_TAKE, limit)]


async def close(run: Run, ids: Sequence[int], refused: Sequence[tuple[int, str]] = ()) -> None:
    """They are read. `refused`: those of them that could not be, and why."""
    if refused:
        await run(_REFUSE, [id_ for id_, _ in refused], [reason for _, reason in refused])
    await run(_CLOSE, list(ids))


async def forget(
    session: Session, days: int = KEEP_DAYS, refused_days: int = KEEP_REFUSED_DAYS, batch: int = 1000
) -> int:
    """Deletes what is older than `days` (refused: `refused_days`); how many."""
    after = forgotten = 0
    while True:
        last, gone, more = (await session.fetch(_FORGET, after, batch, days, refused_days))[0]
        forgotten += int(gone)
        if last is None or not more:
            return forgotten
        after = last


async def unread(session: Session, most: int = 100_000) -> int:
    """How many wait to be read, counted up to `most`."""
    return int(await session.value(_UNREAD, most))
