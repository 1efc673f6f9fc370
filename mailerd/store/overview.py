"""The state of everything at a glance: streams, providers, instances, what is paused, partitions, the longest lanes.

`mailerd status` prints it, the daemon hands it to the status page. It reads small tables and the figures that one
instance leaves in `queue_gauge`; only `exact` counts the queue itself, and that costs what a full index scan costs.
The longest lanes are estimated from a sample of bounded size, so that five million waiting rows change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Final

import msgspec

from mailerd.store.database import Session
from mailerd.store.instances import ALIVE_SECONDS

__all__ = ["Instance", "Lane", "Overview", "Partitions", "Pause", "Provider", "Stream", "overview"]

_SAMPLE_PAGES: Final = 3000  # of `ready`, about 100 000 rows and 20 ms


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of one stream by state. `live` says that an instance sends it."""

    name: str
    ready: int = 0
    leased: int = 0
    scheduled: int = 0
    deferred: int = 0
    in_doubt: int = 0
    dead: int = 0
    oldest_ready_seconds: float = 0.0
    live: bool = False
    paused: bool = False


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider over all live instances. `state` is the worst that one of them reports."""

    name: str
    state: str
    connections: int
    until: datetime | None = None
    reason: str | None = None
    paused: bool = False


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A process that has sent or sends mail."""

    id: int
    name: str
    pid: int
    version: str
    state: str
    streams: Sequence[str]
    providers: Sequence[str]
    started_at: datetime
    seen_at: datetime
    live: bool


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator stopped, who, when and why."""

    kind: str
    name: str
    at: datetime
    actor: str
    reason: str | None


class Partitions(msgspec.Struct, frozen=True, kw_only=True):
    """The daily partitions of one table: how many there are, and how many days after today are made."""

    table: str
    count: int
    days_ahead: int
    ok: bool


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """A lane with many rows in `ready`; `messages` is an estimate when the overview says `sampled`."""

    stream: str
    priority: int
    domain: str
    campaign: str
    messages: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, at `at`. `measured_at` is when the queue was counted (None: never)."""

    at: datetime
    measured_at: datetime | None
    streams: list[Stream]
    providers: list[Provider]
    instances: list[Instance]
    paused: list[Pause]
    partitions: list[Partitions]
    lanes: list[Lane] = []
    sampled: bool = False


_INSTANCES = """
SELECT id, name, pid, version, state, streams, providers, started_at, seen_at,
  seen_at > now() - make_interval(secs => $1) AS live
FROM mailerd.instance WHERE seen_at > now() - interval '1 day' ORDER BY live DESC, name, started_at LIMIT 100
"""
_PROVIDERS = """
SELECT p.provider, p.state, p.until, p.reason, p.connections FROM mailerd.provider_state p
WHERE p.instance = ANY ($1::bigint[]) ORDER BY p.provider LIMIT 10000
"""
_PAUSED = "SELECT kind, name, at, actor, reason FROM mailerd.lane_control ORDER BY kind, name LIMIT 1000"
_GAUGE = "SELECT stream, state, messages, oldest_seconds, at FROM mailerd.queue_gauge LIMIT 10000"
_KNOWN = "SELECT name FROM mailerd.stream ORDER BY name LIMIT 10000"
_PARTITIONS = """
SELECT p.relname AS parent, array_agg(to_date(right(c.relname, 8), 'YYYYMMDD')) AS days,
  (now() AT TIME ZONE 'UTC')::date AS today
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
WHERE i.inhparent IN ('mailerd.outbox'::regclass, 'mailerd.event'::regclass) AND c.relname ~ '_[0-9]{8}$'
GROUP BY p.relname ORDER BY p.relname DESC
"""
# What the gauge holds, counted now. Four scans of an index or a small table; no payload is read.
_EXACT = """
SELECT stream, CASE WHEN lease_until > now() THEN 'leased' ELSE 'ready' END AS state, count(*) AS messages,
  greatest(0, extract(epoch FROM now()) - 1577836800 - (min(id) >> 21))::float8 AS oldest_seconds
FROM mailerd.ready GROUP BY 1, 2
UNION ALL
SELECT stream, CASE WHEN deferred THEN 'deferred' ELSE 'scheduled' END, count(*), 0 FROM mailerd.scheduled GROUP BY 1, 2
UNION ALL SELECT stream, 'in_doubt', count(*), 0 FROM mailerd.in_doubt GROUP BY 1
UNION ALL SELECT stream, 'dead', count(*), 0 FROM mailerd.dead_letter GROUP BY 1
"""
_PERCENT = """
SELECT least(100.0, 100.0 * $1::int * 8192 / greatest(pg_relation_size('mailerd.ready'), 8192))::float8
"""
_LANES = """
SELECT stream, priority, domain, campaign, count(*)::bigint AS messages
FROM mailerd.ready TABLESAMPLE SYSTEM ($1) GROUP BY 1, 2, 3, 4 ORDER BY messages DESC LIMIT $2
"""
_WORST: Final = ("open", "half_open", "closed")


async def overview(session: Session, *, exact: bool = False, lanes: int = 0) -> Overview:
    """Everything that one screen shows. `lanes`: how many of the longest ones to name. Raises `Unavailable`."""
    now: datetime = await session.value("SELECT now()")
    instances = [Instance(**dict(row)) for row in await session.fetch(_INSTANCES, ALIVE_SECONDS)]
    live = [instance for instance in instances if instance.live]
    paused = [Pause(**dict(row)) for row in await session.fetch(_PAUSED)]
    stopped = {(pause.kind, pause.name) for pause in paused}
    gauge = await session.fetch(_EXACT, timeout=600) if exact else await session.fetch(_GAUGE)
    measured_at = now if exact else min((row["at"] for row in gauge), default=None)
    served = {name for instance in live for name in instance.streams}
    known = {row["name"] for row in await session.fetch(_KNOWN)} | served
    states = await session.fetch(_PROVIDERS, [instance.id for instance in live])
    percent: float = await session.value(_PERCENT, _SAMPLE_PAGES) if lanes else 100.0
    longest = await session.fetch(_LANES, percent, lanes) if lanes else []
    return Overview(
        at=now,
        measured_at=measured_at,
        streams=_streams([(r[0], r[1], r[2], r[3]) for r in gauge], known, served, stopped),
        providers=_providers(
            [(r[0], r[1], r[2], r[3], r[4]) for r in states], {n for i in live for n in i.providers}, stopped
        ),
        instances=instances,
        paused=paused,
        partitions=[_partitions(row[0], row[1], row[2]) for row in await session.fetch(_PARTITIONS)],
        lanes=[
            Lane(stream=r[0], priority=r[1], domain=r[2], campaign=r[3], messages=round(r[4] * 100 / percent))
            for r in longest
        ],
        sampled=percent < 100,
    )


def _streams(
    gauge: Iterable[tuple[str, str, int, float]], known: set[str], live: set[str], stopped: set[tuple[str, str]]
) -> list[Stream]:
    counts: dict[str, dict[str, int]] = {name: {} for name in known}
    oldest: dict[str, float] = {}
    for name, state, messages, seconds in gauge:
        counts.setdefault(name, {})[state] = messages
        if state == "ready" and messages:
            oldest[name] = seconds
    return [
        Stream(
            name=name,
            oldest_ready_seconds=oldest.get(name, 0.0),
            live=name in live,
            paused=("stream", name) in stopped,
            **{s: n for s, n in states.items() if s in _STATES},
        )
        for name, states in sorted(counts.items())
    ]


_STATES: Final = frozenset({"ready", "leased", "scheduled", "deferred", "in_doubt", "dead"})


def _providers(
    states: Iterable[tuple[str, str, datetime | None, str | None, int]], known: set[str], stopped: set[tuple[str, str]]
) -> list[Provider]:
    found: dict[str, Provider] = {}
    for name, state, until, reason, connections in states:
        before = found.get(name)
        worse = before is None or _rank(state) < _rank(before.state)
        found[name] = Provider(
            name=name,
            state=state if worse or before is None else before.state,
            until=until if worse or before is None else before.until,
            reason=reason if worse or before is None else before.reason,
            connections=connections + (before.connections if before else 0),
            paused=("provider", name) in stopped,
        )
    for name in known - found.keys():
        found[name] = Provider(name=name, state="unused", connections=0, paused=("provider", name) in stopped)
    return [found[name] for name in sorted(found)]


def _rank(state: str) -> int:
    return _WORST.index(state) if state in _WORST else len(_WORST)


def _partitions(table: str, days: Sequence[date], today: date) -> Partitions:
    made = set(days)
    ahead = 0
    while today + timedelta(days=ahead + 1) in made:
        ahead += 1
    return Partitions(table=table, count=len(made), days_ahead=ahead, ok=today in made and ahead >= 1)
