"""Finding work: the outbox's tail, what has come due, and the sweep over lanes.

Three looks, none of which keeps a cursor that could lose a late commit: `tail` reads what was inserted in the last
seconds (0.2 ms when there is nothing), `due` moves rows of `scheduled` to `ready` when their time has come, the same
share for each stream, urgent first, and `sweep` walks the lanes of one stream that have rows to lease by a loose index
scan, page by page. All return lanes, not messages: leasing decides what is taken. `due` and `sweep` say from which id
on.

Hazards: under a held xmin horizon `sweep` grows to seconds; the caller paces it by its own duration. `tail` may miss
a row whose transaction committed later than its neighbours'; `sweep` finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from mailerd.store.database import Session

__all__ = ["Lane", "due", "sweep", "tail"]

TAIL_LIMIT: Final = 2000


class Lane(NamedTuple):
    """The unit of throttling, pausing and fairness. `first`: the smallest id that is worth looking from, 0 if unknown."""

    stream: str
    priority: int
    domain: str
    campaign: str
    first: int = 0


TAIL: Final = f"""
WITH t AS MATERIALIZED (
  SELECT o.id, o.stream, o.priority, o.domain, o.campaign, o.send_at FROM mailerd.outbox o
  WHERE o.id >= greatest($1::bigint, (floor(extract(epoch FROM now()))::bigint - 5 - 1577836800) << 21)
  ORDER BY o.id LIMIT {TAIL_LIMIT})
SELECT stream, priority, domain, coalesce(campaign, '') AS campaign, max(id) AS last, count(*) AS rows
FROM t GROUP BY 1, 2, 3, 4
"""

# Each stream has its share of the limit, so that what one stream has due delays no other; inside it, urgent ones first.
DUE: Final = """
WITH pick AS MATERIALIZED (
  SELECT p.ctid FROM unnest($1::text[]) AS w(stream) CROSS JOIN LATERAL (
    SELECT q.ctid FROM generate_series(0, 9) AS c(priority) CROSS JOIN LATERAL (
      SELECT s.ctid FROM mailerd.scheduled s
      WHERE s.stream = w.stream AND s.priority = c.priority::smallint AND s.run_at <= now()
      ORDER BY s.run_at, s.id LIMIT $2 FOR UPDATE SKIP LOCKED) q
    LIMIT $2) p),
gone AS MATERIALIZED (
  DELETE FROM mailerd.scheduled WHERE ctid = ANY (ARRAY(SELECT ctid FROM pick))
  RETURNING stream, priority, domain, campaign, id, attempt, rcpt, size, expires_at),
moved AS (
  INSERT INTO mailerd.ready (stream, priority, domain, campaign, id, attempt, rcpt, size, expires_at)
  SELECT stream, priority, domain, campaign, id, attempt, rcpt, size, expires_at FROM gone ON CONFLICT DO NOTHING)
SELECT stream, priority, domain, campaign, min(id) AS first, count(*) AS rows FROM gone GROUP BY 1, 2, 3, 4
"""

# Of each lane the first row that may be leased: where a late commit or a lease that ran out lies.
SWEEP: Final = """
WITH RECURSIVE l AS (
  (SELECT r.priority, r.domain, r.campaign, r.id FROM mailerd.ready r
   WHERE r.stream = $1 AND (r.priority, r.domain, r.campaign) > ($2::smallint, $3::text, $4::text) AND r.lease_until < now()
   ORDER BY r.priority, r.domain, r.campaign, r.id LIMIT 1)
  UNION ALL
  SELECT n.priority, n.domain, n.campaign, n.id FROM l CROSS JOIN LATERAL (
    SELECT r.priority, r.domain, r.campaign, r.id FROM mailerd.ready r
    WHERE r.stream = $1 AND (r.priority, r.domain, r.campaign) > (l.priority, l.domain, l.campaign) AND r.lease_until < now()
    ORDER BY r.priority, r.domain, r.campaign, r.id LIMIT 1) n)
SELECT priority, domain, campaign, id FROM l LIMIT $5
"""


async def tail(session: Session, seen: int) -> tuple[list[Lane], int, bool]:
    """Lanes that got rows lately; the largest id seen; and whether more is waiting behind the limit."""
    rows = await session.fetch(TAIL, seen + 1)
    lanes = [Lane(r[0], r[1], r[2], r[3]) for r in rows if r[0] is not None]
    return lanes, max((r[4] for r in rows), default=seen), sum(r[5] for r in rows) >= TAIL_LIMIT


async def due(session: Session, streams: Sequence[str], limit: int = 2000) -> tuple[list[Lane], list[str]]:
    """Moves what has come due; the lanes that got rows, and the streams of which more may be due.

    At most `limit` messages, the same share for each stream, most urgent priority first.
    """
    share = max(limit // max(len(streams), 1), 1)
    rows = await session.fetch(DUE, list(streams), share)
    moved: Counter[str] = Counter()
    for row in rows:
        moved[row[0]] += row[5]
    return [Lane(r[0], r[1], r[2], r[3], r[4]) for r in rows], [stream for stream, n in moved.items() if n >= share]


async def sweep(session: Session, stream: str, after: Lane | None, limit: int = 1000) -> list[Lane]:
    """The next page of lanes of a stream with rows to lease, most urgent first; shorter than `limit` at the end."""
    start = (after.priority, after.domain, after.campaign) if after else (-1, "", "")
    return [Lane(stream, r[0], r[1], r[2], r[3]) for r in await session.fetch(SWEEP, stream, *start, limit)]
