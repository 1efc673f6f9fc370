"""What the schedules of a warm-up have seen, day by day. Those who send add to it (`count`), and so does who
adds up reports (`store.rates`); everybody reads it all.

A row is one day of a schedule with one domain group. Days are the store's, in the schedule's zone. There are as many
rows as days and groups, a few thousand at most, so reading all of them costs next to nothing.

Hazards: what an instance had counted and not written when it died is missing: some seconds of its work. A message whose
answer was lost counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Final, NamedTuple

import msgspec

from mailerd.flow.warmup import Counts
from mailerd.store.database import Session

__all__ = ["COUNT", "Counted", "columns", "count", "counted", "forget"]

# In the order of the key, so that no two instances wait for each other. The clock is read once, whatever the lock takes.
COUNT: Final = """
INSERT INTO mailerd.warmup_day AS d (schedule, day, domain, sent, bounced, rejected, complained)
SELECT x.schedule, (clock_timestamp() AT TIME ZONE x.zone)::date, x.domain, x.sent, x.bounced, x.rejected, x.complained
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
  AS x(schedule, domain, zone, sent, bounced, rejected, complained)
ORDER BY x.schedule COLLATE "C", x.domain COLLATE "C"
ON CONFLICT (schedule, day, domain) DO UPDATE SET sent = d.sent + excluded.sent, bounced = d.bounced + excluded.bounced,
  rejected = d.rejected + excluded.rejected, complained = d.complained + excluded.complained
"""

COUNTED: Final = """
SELECT schedule, day, domain, sent, bounced, rejected, complained FROM mailerd.warmup_day WHERE schedule = ANY ($1::text[])
"""

FORGET: Final = "DELETE FROM mailerd.warmup_day WHERE day < now() - interval '500 days'"


class Counted(NamedTuple):
    """One schedule's day with one domain group."""

    schedule: str
    day: date
    domain: str
    counts: Counts


async def count(session: Session, zones: Mapping[str, str], seen: Mapping[tuple[str, str], Counts]) -> None:
    """Adds what was `seen`, by (schedule, domain group), to the present day of each schedule, in its zone."""
    if seen:
        await session.execute(COUNT, *columns(zones, seen))


def columns(zones: Mapping[str, str], seen: Mapping[tuple[str, str], Counts]) -> list[list[object]]:
    """The arguments of `COUNT`; there must be something."""
    rows = [(key, domain, zones[key], *msgspec.structs.astuple(counts)) for (key, domain), counts in seen.items()]
    return [list(column) for column in zip(*rows, strict=True)]


async def counted(session: Session, schedules: Sequence[str]) -> tuple[datetime, list[Counted]]:
    """The store's clock, and all days of these schedules."""
    now: datetime = await session.value("SELECT now()")
    rows: Iterable[Sequence[object]] = await session.fetch(COUNTED, list(schedules))
    return now, [Counted(row[0], row[1], row[2], Counts(*row[3:])) for row in rows]  # type: ignore[arg-type]


async def forget(session: Session) -> None:
    """Days that are older than any schedule."""
    await session.execute(FORGET)
