"""Rates in the store: what the trigger on `event` noted, added up in spans of ten minutes, then over an hour, a day, a week.

Every statement that writes events leaves one row of counts in its own transaction; `add_up` takes these rows away and
adds them to the span in which they were written, in one transaction. So each event counts once, and one that commits
late counts too. A scrape reads `rate_gauge`, a few hundred rows, and counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from mailerd.flow.rates import Alert, Counts
from mailerd.store.database import Run, Session

__all__ = ["HOURS", "Row", "add_up", "alerts_now", "days", "forget", "gauge", "gauged", "put_alerts"]

HOURS: Final = (1, 24, 168)
_KEEP_DAYS: Final = 8

_ALONE: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('mailerd.' || $1, 0))"
_TAKE: Final = """
DELETE FROM mailerd.event_count WHERE ctid = ANY (ARRAY(SELECT ctid FROM mailerd.event_count LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING extract(epoch FROM date_bin('10 minutes', at, 'epoch'))::bigint AS span, kinds, counts
"""
_ADD: Final = """
INSERT INTO mailerd.event_rate AS r (span, stream, provider, domain_group, type, class, events)
SELECT to_timestamp(x.span), x.stream, x.provider, x.domain_group, x.type, x.class, x.events
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
  AS x(span, stream, provider, domain_group, type, class, events)
ON CONFLICT (span, stream, provider, domain_group, type, class) DO UPDATE SET events = r.events + excluded.events
"""
_CLEAR: Final = "DELETE FROM mailerd.rate_gauge"
_GAUGE: Final = """
INSERT INTO mailerd.rate_gauge (hours, stream, provider, domain_group, type, class, events)
SELECT h, r.stream, r.provider, r.domain_group, r.type, r.class, sum(r.events)
FROM unnest($1::int[]) AS h JOIN mailerd.event_rate r ON r.span > now() - make_interval(hours => h)
GROUP BY 1, 2, 3, 4, 5, 6
"""
_GAUGED: Final = "SELECT hours, stream, provider, domain_group, type, class, events FROM mailerd.rate_gauge"
# Since a person has resumed a stream, it is judged by what it did since.
_DAYS: Final = """
SELECT r.stream, r.type, r.class, sum(r.events)::bigint AS events FROM mailerd.event_rate r
LEFT JOIN (SELECT target, max(at) AS at FROM mailerd.audit WHERE action = 'resume' AND target = ANY ($1::text[]) GROUP BY 1) a
  ON a.target = 'stream:' || r.stream
WHERE r.span > now() - interval '1 day' AND (a.at IS NULL OR r.span > a.at) AND r.stream = ANY ($2::text[])
GROUP BY 1, 2, 3
"""
_RAISE: Final = """
WITH now_ AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::bigint[], $6::bigint[])
    AS x(stream, kind, level, share, events, sent)),
over AS (
  DELETE FROM mailerd.alert a WHERE NOT EXISTS (SELECT FROM now_ n WHERE n.stream = a.stream AND n.kind = a.kind)
  RETURNING a.stream, a.kind),
fresh AS MATERIALIZED (
  SELECT n.stream, n.kind, n.level, n.share, n.events, n.sent FROM now_ n
  WHERE NOT EXISTS (SELECT FROM mailerd.alert a WHERE a.stream = n.stream AND a.kind = n.kind AND a.level = n.level)),
put AS (
  INSERT INTO mailerd.alert AS a (stream, kind, level, share, events, sent) SELECT stream, kind, level, share, events, sent FROM now_
  ON CONFLICT (stream, kind) DO UPDATE SET level = excluded.level, share = excluded.share, events = excluded.events,
    sent = excluded.sent, since = CASE WHEN a.level = excluded.level THEN a.since ELSE now() END),
log AS (
  INSERT INTO mailerd.audit (actor, action, target, detail)
  SELECT 'mailerd', 'alert ' || level, 'stream:' || stream,
    format('%s are %s %% of a day''s mail: %s of %s', kind, round((share * 100)::numeric, 2), events, sent) FROM fresh
  UNION ALL SELECT 'mailerd', 'alert over', 'stream:' || stream, kind FROM over)
SELECT stream, kind FROM fresh
"""


class Row(msgspec.Struct, frozen=True):
    """Events of the last `hours`."""

    hours: int
    stream: str
    provider: str
    group: str
    type: str
    category: str
    events: int


async def add_up(
    session: Session, group_of: Callable[[str], str | None], limit: int = 2000
) -> tuple[int, dict[str, int]]:
    """Adds up what has been noted, unless another instance is at it; how many rows, and the reports among the events by type."""
    rows = 0
    reports: dict[str, int] = {}

    async def work(run: Run) -> None:
        nonlocal rows
        if not (await run(_ALONE, "rates"))[0][0]:
            return
        sums: dict[tuple[int, str, str, str, str, str], int] = {}
        taken = await run(_TAKE, limit)
        for span, kinds, counts in taken:
            for kind, events in zip(kinds, counts, strict=True):
                stream, provider, domain, type_, category, report = _parts(kind)
                group = group_of(domain.strip(" <>\t").lower()) or "" if domain else ""
                key = (span, stream, provider, group, type_, category)
                sums[key] = sums.get(key, 0) + events
                if report:
                    reports[type_] = reports.get(type_, 0) + events
        if sums:
            columns: list[Sequence[Any]] = list(zip(*sorted(sums), strict=True))
            await run(_ADD, *map(list, columns), [sums[key] for key in sorted(sums)])
        rows = len(taken)

    await session.together(work)
    return rows, reports


def _parts(kind: str) -> list[str]:
    """The six; an application's stream with the separator in it must not shift the others."""
    parts = kind.split("\x1f")
    return parts if len(parts) == 6 else ["\\x1f".join(parts[:-5]), *parts[-5:]]


async def gauge(session: Session) -> None:
    """Takes the sums over `HOURS` anew, unless another instance is at it."""

    async def work(run: Run) -> None:
        if (await run(_ALONE, "rate_gauge"))[0][0]:
            await run(_CLEAR)
            await run(_GAUGE, list(HOURS))

    await session.together(work)


async def gauged(session: Session) -> list[Row]:
    """The sums as they were last taken. Spans are of ten minutes, so the oldest may be missing in part."""
    return [Row(*row) for row in await session.fetch(_GAUGED)]


async def days(session: Session, streams: Sequence[str]) -> dict[str, Counts]:
    """Counts of the last day by stream; of one that was resumed since, of the time after that."""
    found: dict[str, Counts] = {}
    for row in await session.fetch(_DAYS, [f"stream:{name}" for name in streams], list(streams)):
        found.setdefault(row["stream"], Counts()).add(row["type"], row["class"], row["events"])
    return found


async def put_alerts(session: Session, alerts: Sequence[Alert]) -> list[Alert]:
    """These alerts stand, no others; those that are new or of another level, which are in the audit now."""
    columns = [[getattr(a, name) for a in alerts] for name in ("stream", "kind", "level", "share", "events", "sent")]
    fresh = {(row[0], row[1]) for row in await session.fetch(_RAISE, *columns)}
    return [alert for alert in alerts if (alert.stream, alert.kind) in fresh]


async def alerts_now(session: Session) -> list[Alert]:
    """Those that stand."""
    rows = await session.fetch(
        "SELECT stream, kind, level, share, events, sent FROM mailerd.alert ORDER BY stream, kind"
    )
    return [Alert(*row) for row in rows]


async def forget(session: Session) -> None:
    """Drops spans that no sum needs any more."""
    await session.execute("DELETE FROM mailerd.event_rate WHERE span < now() - make_interval(days => $1)", _KEEP_DAYS)
