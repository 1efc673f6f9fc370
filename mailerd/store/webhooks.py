"""Deliveries of outgoing webhooks: notices made into requests, leased, and what became of them.

`prepare` turns notices into deliveries, each with an id and a list of events that never change: an attempt after a
crash, or by another instance, is the same request with the same id. `lease` hands them out (SKIP LOCKED, fenced by a
token), `delivered` and `failed` end a lease. A lease that runs out is leased again: at least once.

A webhook that fails rests as a whole from its third failure in a row on, and is disabled after days of them. What
waits for a disabled one is kept; the trigger gives it nothing new.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from mailerd.config.outgoing import Webhook
from mailerd.store.database import Run, Session
from mailerd.store.notices import BITMAPS

__all__ = [
    "Delivery",
    "Standing",
    "delivered",
    "disable",
    "enable",
    "failed",
    "lease",
    "prepare",
    "publish",
    "replay",
    "standings",
]

KEEP_SECONDS: Final = 7 * 86400  # what no instance lists for so long is forgotten, and what waits for it
_PER_TURN: Final = 50  # notices made into deliveries at a time

_PUBLISH: Final = """
WITH put AS (
  INSERT INTO mailerd.webhook AS w (name, url, types, streams) VALUES ($1, $2, $3, $4)
  ON CONFLICT (name) DO UPDATE SET url = excluded.url, types = excluded.types, streams = excluded.streams
  RETURNING w.name, w.disabled_at)
INSERT INTO mailerd.subscriber AS s (name, types, streams, until)
SELECT 'webhook:' || p.name, $3, $4, now() + make_interval(secs => $5) FROM put p WHERE p.disabled_at IS NULL
ON CONFLICT (name) DO UPDATE SET types = excluded.types, streams = excluded.streams, until = excluded.until
"""
_PREPARE: Final = """
WITH pick AS MATERIALIZED (
  SELECT n.ctid, n.id, n.first_at, n.last_at, n.events, n.messages FROM mailerd.notice n
  WHERE n.subscriber = 'webhook:' || $1 AND EXISTS (
    SELECT FROM mailerd.webhook w WHERE w.name = $1 AND w.disabled_at IS NULL
      AND (w.failures < 3 OR NOT EXISTS (SELECT FROM mailerd.webhook_delivery d WHERE d.webhook = $1)))
  ORDER BY n.id LIMIT $3 FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM mailerd.notice WHERE ctid = ANY (ARRAY(SELECT ctid FROM pick))),
w AS (
  SELECT x.event, x.message, p.first_at, p.last_at, row_number() OVER (ORDER BY p.id, x.n) - 1 AS place
  FROM pick p CROSS JOIN LATERAL unnest(p.events, p.messages) WITH ORDINALITY AS x(event, message, n)),
put AS (
  INSERT INTO mailerd.webhook_delivery (webhook, id, first_at, last_at, events, messages)
  SELECT $1, gen_random_uuid(), min(w.first_at), max(w.last_at), array_agg(w.event ORDER BY w.place), array_agg(w.message ORDER BY w.place)
  FROM w GROUP BY w.place / $2)
SELECT count(*) FROM pick
"""
_LEASE: Final = """
UPDATE mailerd.webhook_delivery d SET run_at = now() + make_interval(secs => $3), token = $4, attempts = d.attempts + 1
WHERE d.ctid = ANY (ARRAY(
  SELECT x.ctid FROM mailerd.webhook w CROSS JOIN LATERAL (
    SELECT y.ctid FROM mailerd.webhook_delivery y WHERE y.webhook = w.name AND y.run_at <= now()
    ORDER BY y.run_at LIMIT (CASE WHEN w.failures >= 3 THEN 1 ELSE $2 END) FOR UPDATE SKIP LOCKED) x
  WHERE w.name = $1 AND w.disabled_at IS NULL AND w.retry_at <= now()))
RETURNING d.id, d.made_at, d.first_at, d.last_at, d.events, d.messages, d.attempts
"""
_DELIVERED: Final = """
WITH gone AS (DELETE FROM mailerd.webhook_delivery WHERE webhook = $1 AND id = $2 AND token = $3)
UPDATE mailerd.webhook SET failing_since = NULL, failures = 0, retry_at = '-infinity', succeeded_at = now(), last_answer = $4
WHERE name = $1 AND (failures > 0 OR succeeded_at IS NULL OR succeeded_at < now() - interval '10 seconds')
"""
# One delivery that fails while others get through is not worth the whole webhook: it is dropped when its time is up.
_FAILED: Final = """
WITH back AS (
  UPDATE mailerd.webhook_delivery SET run_at = now() + make_interval(secs => $5), token = 0, last_answer = $4
  WHERE webhook = $1 AND id = $2 AND token = $3 RETURNING made_at),
stale AS (
  SELECT FROM back b, mailerd.webhook w WHERE w.name = $1 AND b.made_at < now() - make_interval(secs => $6)
    AND w.succeeded_at > b.made_at),
w AS (
  UPDATE mailerd.webhook SET failures = failures + 1, failing_since = coalesce(failing_since, now()), last_answer = $4,
    retry_at = CASE WHEN failures >= 2 THEN now() + make_interval(secs => least(1800, 2 ^ least(failures, 20)) * (0.75 + random() / 2))
      ELSE retry_at END,
    disabled_at = CASE WHEN $7 OR failing_since < now() - make_interval(secs => $6) THEN now() END,
    reason = CASE WHEN $7 THEN $4 WHEN failing_since < now() - make_interval(secs => $6) THEN 'no success for too long: ' || $4 END
  WHERE name = $1 AND disabled_at IS NULL RETURNING name, disabled_at, reason),
quiet AS (DELETE FROM mailerd.subscriber s USING w WHERE s.name = 'webhook:' || w.name AND w.disabled_at IS NOT NULL),
log AS (
  INSERT INTO mailerd.audit (actor, action, target, detail)
  SELECT 'mailerd', 'webhook disable', 'webhook:' || name, reason FROM w WHERE disabled_at IS NOT NULL)
SELECT EXISTS (SELECT FROM w WHERE disabled_at IS NOT NULL) AS disabled, EXISTS (SELECT FROM stale) AS stale
"""
_FORGET: Final = """
WITH gone AS (DELETE FROM mailerd.webhook_delivery WHERE webhook = $1 AND id = $2 RETURNING id, events, last_answer)
INSERT INTO mailerd.audit (actor, action, target, detail)
SELECT 'mailerd', 'webhook give up', 'webhook:' || $1, format('%s events of msg_%s: %s', cardinality(events), replace(id::text, '-', ''), last_answer)
FROM gone
"""
_ENABLE: Final = """
WITH w AS (
  UPDATE mailerd.webhook SET disabled_at = NULL, reason = NULL, failing_since = NULL, failures = 0, retry_at = '-infinity'
  WHERE name = $1 AND disabled_at IS NOT NULL RETURNING name, types, streams),
put AS (
  INSERT INTO mailerd.subscriber (name, types, streams, until)
  SELECT 'webhook:' || name, types, streams, now() + make_interval(secs => $3) FROM w
  ON CONFLICT (name) DO UPDATE SET until = excluded.until),
due AS (UPDATE mailerd.webhook_delivery d SET run_at = now() FROM w WHERE d.webhook = w.name AND d.token = 0),
log AS (INSERT INTO mailerd.audit (actor, action, target) SELECT $2, 'webhook enable', 'webhook:' || name FROM w)
SELECT name FROM w
"""
_DISABLE: Final = """
WITH w AS (
  UPDATE mailerd.webhook SET disabled_at = now(), reason = $3 WHERE name = $1 AND disabled_at IS NULL RETURNING name, reason),
quiet AS (DELETE FROM mailerd.subscriber s USING w WHERE s.name = 'webhook:' || w.name),
log AS (INSERT INTO mailerd.audit (actor, action, target, detail) SELECT $2, 'webhook disable', 'webhook:' || name, reason FROM w)
SELECT name FROM w
"""
_REPLAY: Final = """
WITH found AS MATERIALIZED (
  SELECT e.id, e.message_id, e.at, row_number() OVER (ORDER BY e.at, e.id) - 1 AS place
  FROM mailerd.webhook w JOIN mailerd.event e ON (w.types IS NULL OR e.type = ANY (w.types)) AND (w.streams IS NULL OR e.stream = ANY (w.streams))
  WHERE w.name = $1 AND e.at >= $2 AND e.at < $3),
put AS (
  INSERT INTO mailerd.notice (subscriber, first_at, last_at, events, messages)
  SELECT 'webhook:' || $1, min(at), max(at), array_agg(id ORDER BY place), array_agg(message_id ORDER BY place) FROM found GROUP BY place / 500),
log AS (
  INSERT INTO mailerd.audit (actor, action, target, detail)
  SELECT $4, 'webhook replay', 'webhook:' || $1, format('%s events from %s to %s', count(*), $2::timestamptz, $3::timestamptz) FROM found)
SELECT count(*) FROM found
"""
_STANDINGS: Final = """
SELECT w.name, w.url, w.types, w.streams, w.disabled_at, w.reason, w.failing_since, w.failures, w.succeeded_at, w.last_answer,
  (coalesce((SELECT sum(cardinality(n.events)) FROM mailerd.notice n WHERE n.subscriber = 'webhook:' || w.name), 0)
  + coalesce((SELECT sum(cardinality(d.events)) FROM mailerd.webhook_delivery d WHERE d.webhook = w.name), 0))::bigint AS waiting
FROM mailerd.webhook w ORDER BY w.name
"""


class Delivery(msgspec.Struct, frozen=True):
    """One request to be made. `attempts` counts this one."""

    id: uuid.UUID
    made_at: datetime
    first_at: datetime
    last_at: datetime
    events: list[int]
    messages: list[int]
    attempts: int


class Standing(msgspec.Struct, frozen=True):
    """How a webhook fares. `waiting`: events that it has yet to take."""

    name: str
    url: str
    types: list[str] | None
    streams: list[str] | None
    disabled_at: datetime | None
    reason: str | None
    failing_since: datetime | None
    failures: int
    succeeded_at: datetime | None
    last_answer: str | None
    waiting: int


async def publish(session: Session, webhooks: Sequence[Webhook]) -> None:
    """Says that an instance lists these. From the first time on, every event that is written for one waits for it."""
    for webhook in webhooks:
        await session.execute(
            _PUBLISH,
            webhook.name,
            webhook.url,
            list(webhook.events) or None,
            list(webhook.streams) or None,
            KEEP_SECONDS,
        )


async def prepare(session: Session, name: str, batch: int) -> int:
    """Makes notices into deliveries of at most `batch` events; how many notices there were. While a webhook fails, only
    its old requests are tried."""
    return int(await session.value(_PREPARE, name, batch, _PER_TURN))


async def lease(session: Session, name: str, limit: int, seconds: float, token: int) -> list[Delivery]:
    """At most `limit` deliveries that are due, for so many seconds; one, if the webhook has been failing."""
    return [Delivery(*row) for row in await session.fetch(_LEASE, name, limit, seconds, token)]


async def delivered(session: Session, name: str, delivery: Delivery, token: int, answer: str) -> None:
    """It was taken."""
    await session.execute(_DELIVERED, name, delivery.id, token, answer)


async def failed(
    session: Session,
    name: str,
    delivery: Delivery,
    token: int,
    answer: str,
    *,
    delay: float,
    give_up: float,
    gone: bool,
) -> bool:
    """It was not, and is tried again in `delay` seconds. True if the webhook is disabled now: it has been failing for
    `give_up` seconds, or says that it is gone."""
    row = (await session.fetch(_FAILED, name, delivery.id, token, answer, delay, give_up, gone))[0]
    if row["stale"] and not row["disabled"]:
        await session.execute(_FORGET, name, delivery.id)
    return bool(row["disabled"])


async def enable(session: Session, name: str, actor: str) -> bool:
    """What waits goes on at once. False if it was not disabled."""
    return bool(await session.fetch(_ENABLE, name, actor, KEEP_SECONDS))


async def disable(session: Session, name: str, actor: str, reason: str | None) -> bool:
    """Nothing is sent to it, and nothing new waits for it. False if it was disabled already."""
    return bool(await session.fetch(_DISABLE, name, actor, reason or f"disabled by {actor}"))


async def replay(session: Session, name: str, since: datetime, until: datetime, actor: str) -> int:
    """Has the events of a span of time sent once more, with their ids, in new requests; how many."""
    events = 0

    async def work(run: Run) -> None:
        nonlocal events
        await run(BITMAPS)
        events = (await run(_REPLAY, name, since, until, actor))[0][0]

    await session.together(work, timeout=600)
    return events


async def standings(session: Session) -> list[Standing]:
    """All webhooks that an instance lists or has listed lately."""
    return [Standing(**dict(row)) for row in await session.fetch(_STANDINGS)]
