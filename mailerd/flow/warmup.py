"""Warm-up: a new sending address may send a little more every day, until receivers know it. Pure.

A `Schedule` says how many messages each local day may see, from `begin` on; after its last day there is no limit. A day
on which too much bounced or was complained about (`standing`) does not count: sending pauses until midnight, and the next
day has the same limit again. `course` walks over the days and says what each one's limit was; `limit` is its answer for
now, `spread` the rate at which the rest of it should flow, and `window` the day's instants.

Which messages are counted together (a domain group, or all) is the caller's: every function takes the counts of one.

Hazards: days are those of the schedule's zone, 23 to 25 hours long. Bad days are known from the events alone, so what
`stood` says of a schedule that is older than these is too little. A day on which nothing was sent counts like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from mailerd.config.provider import Warmup

__all__ = [
    "ENOUGH",
    "LEAST",
    "QUICKEST",
    "STANDARD",
    "Counts",
    "Schedule",
    "Step",
    "course",
    "limit",
    "midnight",
    "place",
    "schedule",
    "spread",
    "standing",
    "stood",
    "today",
    "window",
]

# What senders are told to do with a new address in about two and a half weeks, in messages a day. Providers publish much
# the same tables; this one is the fastest of Braze's three (braze.com/docs, "IP warming"), whose slower ones take three
# weeks and more. Theirs count all mail of the address, whatever its receiver.
STANDARD: Final = (
    *(50, 100, 500, 1_000, 5_000, 10_000, 20_000, 40_000, 70_000, 100_000, 150_000, 250_000, 400_000, 600_000),
    *(1_000_000, 2_000_000, 4_000_000),
)
_CURVES: Final = {"standard": STANDARD}

ENOUGH: Final = 100  # messages of a day from which on its shares mean something
LEAST: Final = 1 / 60  # messages a second: small limits flow one a minute instead of one in half an hour
QUICKEST: Final = 3600.0  # seconds in which a whole day's limit may be used up, when the mail comes late in the day

_DAY: Final = timedelta(days=1)


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """`days`: the most messages of each day, the first of which is `begin` in `zone`. `domains`: each domain group has
    these limits for itself. `overflow`: pools that take what exceeds them. `bounces`, `complaints`: the shares (0 to 1)
    above which a day does not count."""

    begin: date
    days: tuple[int, ...]
    zone: str = "UTC"
    domains: bool = True
    overflow: tuple[str, ...] = ()
    bounces: float = 0.05  # where Amazon SES puts an account under review ("Reputation metrics")
    complaints: float = 0.001  # likewise; Gmail's sender guidelines want a spam rate below the same 0.1 %


class Counts(msgspec.Struct, frozen=True):
    """What happened in a day: messages accepted, bounced later, refused for good, and complained about."""

    sent: int = 0
    bounced: int = 0
    rejected: int = 0
    complained: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.sent + other.sent,
            self.bounced + other.bounced,
            self.rejected + other.rejected,
            self.complained + other.complained,
        )

    def __mul__(self, times: int) -> Counts:
        return Counts(self.sent * times, self.bounced * times, self.rejected * times, self.complained * times)

    @property
    def tried(self) -> int:
        """Those that a receiver decided about."""
        return self.sent + self.rejected


_NOTHING: Final = Counts()


class Step(msgspec.Struct, frozen=True):
    """One day of the way: its limit (None: none any more), and why it did not count, if so."""

    day: date
    limit: int | None
    counts: Counts
    standing: str | None


def schedule(table: Warmup | None) -> Schedule | None:
    """The schedule of a table of the configuration, which has been checked; None without one."""
    if table is None:
        return None
    return Schedule(
        begin=date.fromisoformat(table.begin),
        days=table.days or _CURVES[table.curve],
        zone=table.zone,
        domains=table.domains,
        overflow=table.overflow,
        bounces=table.bounces,
        complaints=table.complaints,
    )


# -- days --------------------------------------------------------------------------------------------------------------


def window(schedule: Schedule, now: datetime) -> tuple[datetime, datetime]:
    """Begin and end (UTC) of the local day that `now`, an aware instant, is in."""
    day = today(schedule, now)
    return midnight(schedule, day), midnight(schedule, day + _DAY)


def today(schedule: Schedule, now: datetime) -> date:
    """The local day of `now`, an aware instant."""
    zone = ZoneInfo(schedule.zone)
    day = now.astimezone(zone).date()
    # Where clocks are put back over midnight, local dates are not in order: the second 23:30 belongs to the day that
    # has begun. Where they are put forward over it, a day begins at the first instant that it has.
    while now < midnight(schedule, day):
        day -= _DAY
    while now >= midnight(schedule, day + _DAY):
        day += _DAY
    return day


def midnight(schedule: Schedule, day: date) -> datetime:
    """The first instant (UTC) of a local day."""
    return datetime.combine(day, time_of_day(), ZoneInfo(schedule.zone)).astimezone(UTC)


def place(schedule: Schedule, day: date, stood: int = 0) -> int:
    """Where the schedule is on `day`: 0 on its first one, negative before, `len(days)` or more when it is over. `stood`
    days did not count."""
    passed = (day - schedule.begin).days
    return passed - stood if passed >= 0 else passed


# -- limits ------------------------------------------------------------------------------------------------------------


def limit(schedule: Schedule, now: datetime, stood: int = 0) -> int | None:
    """Messages that the local day of `now` may see: 0 before the first one, None after the last. `stood`: days that did
    not count."""
    return _limit(schedule, place(schedule, today(schedule, now), stood))


def _limit(schedule: Schedule, number: int) -> int | None:
    if number < 0:
        return 0
    return schedule.days[number] if number < len(schedule.days) else None


def standing(schedule: Schedule, counts: Counts) -> str | None:
    """Why a day of the schedule with these counts does not count, in words; None when it does."""
    if counts.tried < ENOUGH:
        return None
    lost = counts.bounced + counts.rejected
    if lost / counts.tried > schedule.bounces:
        return _words(lost, counts.tried, "bounced or were refused", schedule.bounces)
    if counts.sent and counts.complained / counts.sent > schedule.complaints:
        return _words(counts.complained, counts.sent, "were complained about", schedule.complaints)
    return None


def _words(count: int, of: int, what: str, most: float) -> str:
    return f"{count:,} of {of:,} messages {what}: {_percent(count / of)}, more than {_percent(most)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share < 1 else f"{100 * share:,.0f} %"


def course(schedule: Schedule, counted: Mapping[date, Counts], until: date) -> list[Step]:
    """Every day from the first one to `until`, with what `counted` says of it; empty before the schedule begins."""
    steps: list[Step] = []
    number = 0
    day = schedule.begin
    while day <= until:
        counts = counted.get(day, _NOTHING)
        limit = _limit(schedule, number)
        reason = None if limit is None else standing(schedule, counts)
        steps.append(Step(day, limit, counts, reason))
        number += reason is None
        day += _DAY
    return steps


def stood(schedule: Schedule, counted: Mapping[date, Counts], day: date) -> int:
    """How many days before `day` did not count."""
    return sum(step.standing is not None for step in course(schedule, counted, day - _DAY))


def spread(limit: int, start: datetime, end: datetime, now: datetime, used: int) -> float:
    """Messages a second at which the rest of a day's `limit` should flow, `used` of it being sent; 0.0 when it is used up.

    Even over what is left of the day. But no slower than LEAST, and never so fast that the whole limit would last less
    than QUICKEST: what comes late in the day waits rather than goes out as a burst before midnight.
    """
    left = limit - used
    if left <= 0:
        return 0.0
    even = left / max((end - max(start, now)).total_seconds(), 1.0)
    return max(min(even, limit / QUICKEST), LEAST)
