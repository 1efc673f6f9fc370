"""What providers really sent, day by day, for warm-up: counted from the events, which nobody keeps counters of.

Read-only. It reads every event of a provider from an instant on, so it costs what that many events cost (about a
second a million): a command may ask for weeks, the daemon should ask for today.

Hazards: an event is of the day it came on, so a bounce counts against the mail of that day, not of the day when its
message was sent. It has no pool: a provider in two pools counts for both. And what is older than the events are kept is
not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

import msgspec

from mailerd.flow.warmup import Counts
from mailerd.store.database import Run, Session

__all__ = ["Actual", "actual", "clock"]

_SECONDS: Final = 600.0

# The bounds on `at` leave out the partitions before and ahead. Settle writes bare addresses; others may write mailboxes.
ACTUAL: Final = """
SELECT (e.at AT TIME ZONE $3)::date AS day, e.provider, rtrim(lower(split_part(coalesce(e.recipient, ''), '@', -1)), '.>') AS domain,
  count(*) FILTER (WHERE e.type = 'sent') AS sent, count(*) FILTER (WHERE e.type = 'bounced') AS bounced,
  count(*) FILTER (WHERE e.type = 'rejected') AS rejected, count(*) FILTER (WHERE e.type = 'complained') AS complained
FROM mailerd.event e
WHERE e.at >= $2 AND e.at < now() + interval '1 minute' AND e.provider = ANY ($1::text[])
  AND e.type IN ('sent', 'bounced', 'rejected', 'complained')
GROUP BY 1, 2, 3
"""

# There is no index for this, and the role's plans would walk through the wrong one rather than read in order. Partitions
# may never have been analysed: taken for a few rows, a million would be sorted on disk (2.1 s instead of 0.9).
PLANNING: Final = ("SET LOCAL enable_seqscan = on", "SET LOCAL enable_sort = off")


class Actual(msgspec.Struct, frozen=True):
    """One provider's day with one recipient domain (lower-cased, as the events have it)."""

    day: date
    provider: str
    domain: str
    counts: Counts


async def actual(session: Session, providers: Sequence[str], begin: datetime, zone: str) -> list[Actual]:
    """What these providers sent from `begin` on, by local day of `zone`, provider and recipient domain, in that order.

    `begin` is best the first instant of a day (`flow.warmup.window`), or that day's figures are of a part of it. Days
    without events are missing. Raises `Unavailable`.
    """
    found: list[Actual] = []

    async def work(run: Run) -> None:
        for setting in PLANNING:
            await run(setting)
        for day, provider, domain, *counts in await run(ACTUAL, list(providers), begin, zone):
            found.append(Actual(day, provider, domain, Counts(*counts)))

    await session.together(work, _SECONDS)
    return sorted(found, key=lambda row: (row.day, row.provider, row.domain))


async def clock(session: Session) -> datetime:
    """The store's time, by which days end."""
    now: datetime = await session.value("SELECT now()")
    return now
