"""The warm-ups of a configuration at work: which tokens a message needs of them, and how many they give today. Pure.

A schedule (`flow.warmup`) of a pool or a provider makes an `Allowance` for each domain group: today's limit as a quota,
and a pace that spreads what is left of it over the rest of the day. Their tokens are taken when a connection starts a
message, since only then it is known which provider sends it; a `Gate` keeps lanes from being leased ahead of them. Where
a pool has an overflow no gate is needed: what finds no token goes to the other pools (`spills`).

All instances count what they send (`note`) into one table, and learn from it what the days before were like (`tell`).
Until they have, nothing is sent that a schedule covers.

Hazard: allowances are made as domains come up. Domains without a group share one, so there are few of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Final

from mailerd.config.resolved import Resolved
from mailerd.flow.bucket import Bucket, Limit
from mailerd.flow.domains import Groups
from mailerd.flow.warmup import Counts, Schedule, limit, schedule, spread, standing, stood, today, window

__all__ = ["OTHERS", "Allowance", "Gate", "Warming", "group_of"]

OTHERS: Final = "*"  # all domains that belong to no group
SOON: Final = 1.0  # seconds that a message waits for a token that may be on its way, before it goes to an overflow
_MANY: Final = 1 << 30
_FINE: Final = 0.01  # the part by which a pace must have changed to be worth telling

Days = dict[date, Counts]


def group_of(schedule: Schedule, groups: Groups, domain: str) -> str:
    """Whose limit a message to this domain counts against: a group's, that of all other domains, or that of all mail."""
    return (groups.of(domain) or OTHERS) if schedule.domains else ""


class Allowance:
    """What one schedule gives one domain group. `buckets` is empty when the schedule is over."""

    __slots__ = ("_day", "_pace", "_quota", "_schedule", "_stood", "buckets", "days")

    def __init__(self, key: str, group: str, schedule: Schedule) -> None:
        name = f"{key}/domain:{group}" if group else key
        self._schedule = schedule
        self._quota = Bucket(Limit(key=f"warmup:{name}", period="day", zone=schedule.zone))
        self._pace = Bucket(Limit(key=f"pace:{name}"))
        self._day: date | None = None  # that `_stood` is about
        self._stood = 0
        self.days: Days = {}
        self.buckets: tuple[Bucket, ...] = (self._quota, self._pace)

    def tell(self, days: Days) -> None:
        """What is known of its days."""
        self.days = days
        self._day = None

    def turn(self, now: datetime) -> None:
        """Today's limit, and the pace that is right for the rest of it."""
        its, day = self._schedule, today(self._schedule, now)
        if day != self._day:
            self._day, self._stood = day, stood(its, self.days, day)
        counts = self.days.get(day, Counts())
        most = limit(its, now, self._stood)
        if most is None:
            self.buckets = ()
            return
        self.buckets = (self._quota, self._pace)
        start, end = window(its, now)
        reason = standing(its, counts) if most else f"it begins on {its.begin}"
        if reason is not None:
            for bucket in self.buckets:
                bucket.stop(reason, end)
            return
        self._quota.allow(most)
        pace = spread(most, start, end, now, min(counts.sent, most - 1))
        if abs(pace - self._pace.limit.rate) > _FINE * pace:
            self._pace.change(pace)

    def room(self, now: float) -> int:
        return min([bucket.room(now) for bucket in self.buckets], default=_MANY)

    def ripe(self, now: float) -> bool:
        """May a message be sent this very moment?"""
        return all(bucket.ripe(now) > 0 for bucket in self.buckets)

    def opens(self, now: float) -> float:
        return max((bucket.opens(now) for bucket in self.buckets), default=0.0)


class Gate:
    """How many messages of a lane may be leased: no more than its pool's allowance, or those of all its providers, can
    take. A permit that has no tokens: they are taken when the message is sent."""

    __slots__ = ("_pool", "each", "held", "name")

    def __init__(self, name: str, pool: Allowance | None, each: Sequence[Allowance]) -> None:
        self.name = name
        self._pool = pool
        self.each = each  # of the pool's providers; empty when one of them has none
        self.held = 0  # leased, and not ended

    def __repr__(self) -> str:
        return f"<Gate {self.name} held {self.held}>"

    def room(self, now: float, *, urgent: bool = True) -> int:
        room = self._pool.room(now) if self._pool is not None else _MANY
        if self.each:
            room = min(room, sum([allowance.room(now) for allowance in self.each]))
        return room - self.held

    def opens(self, now: float, *, urgent: bool = True) -> float:
        opens = self._pool.opens(now) if self._pool is not None else 0.0
        return max(opens, min((allowance.opens(now) for allowance in self.each), default=0.0))

    def take(self, count: int, now: float) -> list[float]:
        self.held += count
        return [now] * count

    def owe(self, count: int) -> None:
        self.held += count

    def refund(self, count: int) -> None:
        self.held -= count

    def spent(self, count: int) -> None:
        self.held -= count


class Warming:
    """All warm-ups of one engine; false when there are none."""

    def __init__(self, resolved: Resolved, groups: Groups) -> None:
        self._groups = groups
        self._pools = resolved.pools
        self._spilling = {pool: bool(resolved.overflow_of(pool)) for pool in resolved.pools}
        tables = [("pool", pool.name, pool.warmup) for pool in resolved.config.pool]
        tables += [("provider", provider.name, provider.warmup) for provider in resolved.config.provider]
        self.schedules: dict[str, Schedule] = {
            f"{kind}:{name}": found for kind, name, table in tables if (found := schedule(table)) is not None
        }
        self._allowances: dict[tuple[str, str], Allowance] = {}
        self._gates: dict[tuple[str, str], Gate] = {}
        self._days: dict[tuple[str, str], Days] = {}
        self._seen: dict[tuple[str, str], Counts] = {}
        self._now: datetime | None = None  # the store's, when it was last asked

    def __bool__(self) -> bool:
        return bool(self.schedules)

    @property
    def zones(self) -> dict[str, str]:
        """The zone of each schedule."""
        return {key: its.zone for key, its in self.schedules.items()}

    def buckets(self) -> Iterator[Bucket]:
        """Those that want tokens of the store."""
        for allowance in self._allowances.values():
            yield from allowance.buckets

    # -- what a message needs ------------------------------------------------------------------------------------------

    def concerns(self, pool: str) -> bool:
        """Is there a schedule for any part of this pool?"""
        return pool in self._pools and any(self.covers(pool, name) for name in self._pools[pool].providers)

    def covers(self, pool: str, provider: str) -> bool:
        """Is there a schedule for what this provider sends for this pool?"""
        return f"pool:{pool}" in self.schedules or f"provider:{provider}" in self.schedules

    def of(self, pool: str, provider: str, domain: str) -> tuple[Bucket, ...]:
        """What a message to this domain needs, if this provider sends it for this pool."""
        return tuple(b for key in (f"pool:{pool}", f"provider:{provider}") for b in self._buckets(key, domain))

    def wants(self, pool: str, provider: str, domain: str, now: float, waited: float = 0.0) -> bool:
        """Are there tokens for it at this moment?"""
        return all(bucket.ripe(now) > 0 for bucket in self.of(pool, provider, domain))

    def spills(self, pool: str, providers: Iterable[str], domain: str, now: float, waited: float) -> bool:
        """May an overflow of the pool take it, after so many seconds: does none of these providers have a token for it, or
        get one soon?"""
        if self._now is None:
            return False
        for provider in providers:
            buckets = self.of(pool, provider, domain)
            if all(bucket.ripe(now) > 0 for bucket in buckets):
                return False
            if waited < SOON and not any(bucket.dry(now, SOON) for bucket in buckets):
                return False
        return True

    def gate(self, pool: str, domain: str) -> Gate | None:
        """What keeps a lane of the pool from being leased ahead of its tokens."""
        if pool not in self._pools or self._spilling[pool]:
            return None
        common = self._allowance(f"pool:{pool}", domain)
        each = [self._allowance(f"provider:{name}", domain) for name in self._pools[pool].providers]
        single = [allowance for allowance in each if allowance is not None]
        if len(single) < len(each):
            single = []
        if common is None and not single:
            return None
        name = self._groups.of(domain) or OTHERS
        gate = self._gates.get((pool, name))
        if gate is None:
            gate = self._gates[pool, name] = Gate(f"{pool}/{name}", common, single)
        return gate

    def limits(self, pool: str, domain: str) -> list[Limit]:
        """Every limit that may hold a lane of the pool up, as it is today."""
        if (gate := self.gate(pool, domain)) is None:
            return []
        keys = [f"pool:{pool}"]
        if gate.each:
            keys += [f"provider:{name}" for name in self._pools[pool].providers]
        return [bucket.limit for key in keys for bucket in self._buckets(key, domain)]

    def _buckets(self, key: str, domain: str) -> Sequence[Bucket]:
        allowance = self._allowance(key, domain)
        return allowance.buckets if allowance is not None else ()

    def _allowance(self, key: str, domain: str) -> Allowance | None:
        its = self.schedules.get(key)
        if its is None:
            return None
        group = group_of(its, self._groups, domain)
        allowance = self._allowances.get((key, group))
        if allowance is None:
            allowance = self._allowances[key, group] = Allowance(key, group, its)
            if self._now is not None:
                allowance.tell(self._days.get((key, group), {}))
                allowance.turn(self._now)
        return allowance

    # -- what happened -------------------------------------------------------------------------------------------------

    def note(self, pool: str, provider: str, domain: str, sent: int, rejected: int) -> None:
        """So many recipients were accepted, so many refused for good."""
        counts = Counts(sent=sent, rejected=rejected)
        for key in (f"pool:{pool}", f"provider:{provider}"):
            its = self.schedules.get(key)
            if its is not None:
                place = (key, group_of(its, self._groups, domain))
                self._seen[place] = self._seen.get(place, Counts()) + counts

    def seen(self) -> dict[tuple[str, str], Counts]:
        """What was noted since this was last asked; whoever cannot store it gives it back (`unseen`)."""
        seen, self._seen = self._seen, {}
        return seen

    def unseen(self, seen: dict[tuple[str, str], Counts]) -> None:
        for place, counts in seen.items():
            self._seen[place] = self._seen.get(place, Counts()) + counts

    def tell(self, rows: Iterable[tuple[str, date, str, Counts]], now: datetime) -> bool:
        """All days of all schedules, as (schedule, day, domain group, counts), and the store's clock. True when that
        changes what lanes fall under."""
        days: dict[tuple[str, str], Days] = {}
        for key, day, group, counts in rows:
            days.setdefault((key, group), {})[day] = counts
        self._days, first, self._now = days, self._now is None, now
        before = [bool(allowance.buckets) for allowance in self._allowances.values()]
        for place, allowance in self._allowances.items():
            allowance.tell(days.get(place, {}))
            allowance.turn(now)
        return first or before != [bool(allowance.buckets) for allowance in self._allowances.values()]
