"""Tokens for the limits that all instances share: one statement grants a block of every bucket, and takes back what was
not needed. And the rates that hold at this moment instead of the configured ones.

A rate is a GCRA: `tat` is the instant up to which slots were given away; who asks gets the next free ones, no more than
HORIZON ahead. A quota counts the messages of its window, a calendar day or month in its own zone. Postgres's clock
judges; an instance learns its slots as seconds from now.

Rows are locked in the order of their keys, so that no two instances wait for each other; the lock is held for one short
statement. Hazard: `clock_timestamp()`, not `now()`: it is read after the lock, or a slot could be given twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from mailerd.config.resolved import Resolved
from mailerd.config.values import show_rate
from mailerd.flow.aimd import Aimd
from mailerd.flow.bucket import HORIZON, Ask
from mailerd.flow.limits import Held, Limits
from mailerd.store.database import Run, Session
from mailerd.store.warmup import counted

__all__ = [
    "Grant",
    "Listed",
    "Override",
    "alert",
    "clear_rate",
    "grant",
    "learn",
    "listing",
    "make_buckets",
    "overrides",
    "present",
    "set_rate",
]

MAKE: Final = "INSERT INTO mailerd.throttle (key) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"

GRANT: Final = f"""
WITH w AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::float8[], $3::float8[], $4::bigint[], $5::text[], $6::text[], $7::int[], $8::int[])
  AS w(key, rate, burst, quota, period, zone, want, back)),
h AS MATERIALIZED (
  SELECT w.*, t.tat, t.used, t.ends, extract(epoch FROM clock_timestamp())::float8 AS at
  FROM w CROSS JOIN LATERAL (
    SELECT t.tat, t.used, t.ends FROM mailerd.throttle t WHERE t.key = w.key LIMIT 1 FOR NO KEY UPDATE) t),
-- Rates. `base` is the first free slot; it may be used (burst - 1) slots before, so that a rest is worth a burst.
-- Slots that a slower rate gave away further ahead than this rate ever would are void: it was raised.
t AS MATERIALIZED (
  SELECT h.*, CASE WHEN h.tat - h.at > {HORIZON} + (h.burst + 1) / h.rate THEN h.at ELSE h.tat - h.back / h.rate END AS taken
  FROM h WHERE h.quota = 0),
r AS MATERIALIZED (
  SELECT t.*, greatest(t.taken, t.at) AS base, greatest(t.taken, t.at) - (t.burst - 1) / t.rate - t.at AS first FROM t),
rn AS MATERIALIZED (
  SELECT r.*, CASE WHEN r.first <= {HORIZON} THEN least(r.want, floor(({HORIZON} - r.first) * r.rate)::bigint + 1) ELSE 0 END AS n FROM r),
-- Quotas. What goes back counts only for the window it came from.
q AS MATERIALIZED (
  SELECT h.*, CASE WHEN h.ends <= to_timestamp(h.at) THEN 0 ELSE greatest(h.used - h.back, 0) END AS spent,
    (date_trunc(h.period, to_timestamp(h.at) AT TIME ZONE h.zone) + ('1 ' || h.period)::interval) AT TIME ZONE h.zone AS window_ends
  FROM h WHERE h.quota > 0),
qn AS MATERIALIZED (SELECT q.*, greatest(least(q.want, q.quota - q.spent), 0) AS n FROM q),
ru AS (
  UPDATE mailerd.throttle t SET tat = CASE WHEN c.n > 0 THEN c.base + c.n / c.rate ELSE c.taken END
  FROM rn c WHERE t.key = c.key AND (c.n > 0 OR c.back > 0)),
qu AS (
  UPDATE mailerd.throttle t SET used = c.spent + c.n, ends = c.window_ends FROM qn c WHERE t.key = c.key)
SELECT key, n, first, 1 / rate AS step, NULL::float8 AS ends, greatest(first + n / rate - {HORIZON}, 0) AS wait FROM rn
UNION ALL
SELECT key, n, 0, 0, extract(epoch FROM window_ends)::float8 - at,
  CASE WHEN spent + n < quota THEN 0 ELSE extract(epoch FROM window_ends)::float8 - at END FROM qn
"""


class Grant(NamedTuple):
    """An answer; instants are this process's monotonic clock. `quiet_until`: nothing more is there before then."""

    tokens: int
    first: float
    step: float
    ends: float
    quiet_until: float


async def make_buckets(session: Session, keys: Sequence[str]) -> None:
    """Their rows exist from now on."""
    await session.execute(MAKE, sorted(keys))


async def grant(session: Session, asks: Sequence[Ask]) -> dict[str, Grant]:
    """What the store gives for each ask, by key. A key without a row is missing in the answer: `make_buckets`."""
    asks = sorted(asks, key=lambda ask: ask.limit.key.encode())
    limits = [ask.limit for ask in asks]
    started = time.monotonic()
    rows = await session.fetch(
        GRANT,
        [x.key for x in limits],
        [x.rate or 1.0 for x in limits],
        [x.burst for x in limits],
        [x.quota for x in limits],
        [x.period for x in limits],
        [x.zone for x in limits],
        [ask.want for ask in asks],
        [ask.back for ask in asks],
    )
    # Between the two instants: slots never come early by more than the statement took, and waiting a little is safe.
    now = time.monotonic()
    return {
        key: Grant(
            count,
            now + first,
            step,
            float("inf") if ends is None else started + ends,
            now + wait if wait > 0 else 0.0,
        )
        for key, count, first, step, ends, wait in rows
    }


# -- rates that hold for now -------------------------------------------------------------------------------------------


class Override(NamedTuple):
    """A rate (messages a second; 0: none) that holds instead of the configured one, or below it."""

    key: str
    source: str
    rate: float
    left: float | None  # seconds until it ends


OVERRIDES: Final = """
SELECT key, source, rate, extract(epoch FROM until - now())::float8 AS left FROM mailerd.throttle_rate
WHERE rate <= 1e6 AND (until IS NULL OR until > now())  -- and no NaN, which is more than anything
"""

LISTING: Final = """
SELECT key, source, rate, until, reason, 0::bigint AS used FROM mailerd.throttle_rate
WHERE rate <= 1e6 AND (until IS NULL OR until > now())
UNION ALL
SELECT key, '', NULL, NULL, NULL, CASE WHEN ends > now() THEN used ELSE 0 END FROM mailerd.throttle
ORDER BY 1, 2
"""

SET: Final = """
WITH old AS (SELECT rate FROM mailerd.throttle_rate WHERE key = $1 AND source = $2),
put AS (
  INSERT INTO mailerd.throttle_rate (key, source, rate, until, reason, actor)
  VALUES ($1, $2, $3, now() + make_interval(secs => $4), $5, $6)
  ON CONFLICT (key, source) DO UPDATE SET rate = excluded.rate, until = excluded.until, reason = excluded.reason,
    actor = excluded.actor, at = now()),
log AS (INSERT INTO mailerd.audit (actor, action, target, detail) VALUES ($6, 'throttle', $1, $7))
SELECT rate FROM old
"""

CLEAR: Final = """
WITH gone AS (DELETE FROM mailerd.throttle_rate WHERE key = $1 AND ($2 = '' OR source = $2) RETURNING source),
log AS (INSERT INTO mailerd.audit (actor, action, target, detail)
  SELECT $3, 'throttle', $1, 'back to the configuration (was: ' || string_agg(source, ', ') || ')' FROM gone HAVING count(*) > 0)
SELECT source FROM gone
"""


LEARNT: Final = """
SELECT key, state::text AS state FROM mailerd.throttle_rate WHERE source = 'learned' AND key = ANY ($1::text[]) ORDER BY key FOR UPDATE
"""
STORE: Final = """
INSERT INTO mailerd.throttle_rate AS r (key, source, rate, until, reason, state, actor)
SELECT x.key, 'learned', x.rate, now() + interval '1 day', x.reason, x.state::jsonb, 'mailerd'
FROM unnest($1::text[], $2::float8[], $3::text[], $4::text[]) AS x(key, rate, reason, state) ORDER BY x.key
ON CONFLICT (key, source) DO UPDATE SET rate = excluded.rate, until = excluded.until, reason = excluded.reason, state = excluded.state, at = now()
"""


async def learn(session: Session, changes: Mapping[str, Callable[[Aimd, float], Aimd]]) -> None:
    """Reads what is known of these lanes, changes it, and writes it back, under a lock. A change is given the state and
    the store's clock (epoch seconds)."""

    async def work(run: Run) -> None:
        rows = await run(LEARNT, sorted(changes))
        now = float((await run("SELECT extract(epoch FROM clock_timestamp())::float8"))[0][0])
        known = {row[0]: _state(row[1]) for row in rows}
        put: list[tuple[str, float | None, str, str]] = []
        gone: list[str] = []
        for key, change in changes.items():
            before = known.get(key)
            after = change(before or Aimd(), now)
            if after == (before or Aimd()):
                continue
            if after == Aimd():
                gone.append(key)
            else:
                put.append((key, after.rate, _learnt(after), msgspec.json.encode(after).decode()))
        if put:
            await run(STORE, *(list(column) for column in zip(*put, strict=True)))
        if gone:
            await run(
                "DELETE FROM mailerd.throttle_rate WHERE source = 'learned' AND key = ANY ($1::text[]) RETURNING 1",
                gone,
            )

    await session.together(work)


def _state(text: str | None) -> Aimd:
    """What was stored; what cannot be read (an operator's hand, another version) is forgotten."""
    try:
        return msgspec.json.decode(text or "{}", type=Aimd)
    except (msgspec.DecodeError, UnicodeError):
        return Aimd()


def _learnt(state: Aimd) -> str:
    limit = f", refused at {show_rate(round(state.ceiling, 2))}" if state.ceiling else ""
    return f"learnt from refusals{limit}"


async def alert(session: Session, actor: str, target: str, detail: str) -> None:
    """Writes an alert into the audit: a provider has stopped us, and somebody should know."""
    await session.execute(
        "INSERT INTO mailerd.audit (actor, action, target, detail) VALUES ($1, 'alert', $2, $3)", actor, target, detail
    )


async def overrides(session: Session) -> list[Override]:
    """Those that hold now."""
    return [Override(*row) for row in await session.fetch(OVERRIDES)]


async def present(session: Session, resolved: Resolved) -> Limits:
    """The limits as they hold at this moment, for looking at."""
    limits = Limits(resolved)
    limits.hold([Held(x.key, x.source, x.rate) for x in await overrides(session)])
    if limits.warming:
        now, rows = await counted(session, list(limits.warming.schedules))
        limits.warming.tell(rows, now)
    return limits


class Listed(NamedTuple):
    """A rate that holds for now, by its source; or, without a source, the state of a bucket."""

    key: str
    source: str
    rate: float | None
    until: datetime | None
    reason: str | None
    used: int  # of a quota, in this window


async def listing(session: Session) -> list[Listed]:
    """Everything there is to see."""
    return [Listed(*row) for row in await session.fetch(LISTING)]


async def set_rate(
    session: Session,
    key: str,
    source: str,
    rate: float,
    seconds: float | None,
    reason: str | None,
    actor: str,
    words: str,
) -> float | None:
    """Sets a rate for `seconds` (None: until it is cleared), audited as `words`; the rate it replaces, if there was one."""
    rows = await session.fetch(SET, key, source, rate, seconds, reason, actor, words)
    return rows[0][0] if rows else None


async def clear_rate(session: Session, key: str, actor: str, source: str = "") -> list[str]:
    """Takes away what was set for `key`; the sources that were there."""
    return [row[0] for row in await session.fetch(CLEAR, key, source, actor)]
