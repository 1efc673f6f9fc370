"""Settle: one statement a batch ends leases and writes what happened, or nothing of it.

For each settlement whose row still carries our token: the row leaves `ready`, its events are inserted, and it goes to
`scheduled` (retry), `in_doubt` (doubt) or nowhere (done); bits that can never be sent are recorded in `dead_letter`.
What the statement misses was fenced by another instance's lease, or already applied if the connection was lost in
between: both are harmless, so the caller may repeat a batch after any trouble.

Hazards: a value that Postgres refuses (SQLSTATE class 22, 23) fails a whole batch; `settle` then halves it until the
culprit stands alone, and writes that one without its peer's words, so that one hostile reply cannot hold back its
neighbours. Replies are cleaned before they become an `Outcome`, so this is the second wall, not the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from mailerd.message import Action, Settlement
from mailerd.store.database import DataError, Session, Unavailable

__all__ = ["settle"]

SETTLE: Final = """
WITH d AS MATERIALIZED (
  SELECT * FROM unnest($2::text::smallint[], string_to_array($3, E'\\x1f'), string_to_array($4, E'\\x1f'), $5::text::bigint[],
    $6::text::bigint[], string_to_array($7, E'\\x1f'), $8::text::float8[], $9::text::smallint[], $10::text::bigint[],
    $11::text::bigint[], string_to_array($12, E'\\x1f'), string_to_array($13, E'\\x1f'), $14::text::smallint[],
    string_to_array($15, E'\\x1f'), string_to_array($16, E'\\x1f'), string_to_array($17, E'\\x1f'), $18::text::smallint[],
    string_to_array($19, E'\\x1f'), string_to_array($20, E'\\x1f'), string_to_array($21, E'\\x1f'), string_to_array($22, E'\\x1f'))
  AS d(priority, domain, campaign, id, token, action, delay, attempt, left_bits, dead_bits, reason, type, rcpt, recipient,
    provider, provider_message_id, code, enhanced, class, detail, extra)),
-- Whoever else has locked one of our rows must not hold up the others: the LATERAL asks for `w`, so that it is in force.
patience AS MATERIALIZED (SELECT set_config('lock_timeout', '250ms', true) AS w),
hit AS MATERIALIZED (
  SELECT h.ctid AS at_row, h.size, h.expires_at, d.*
  FROM patience CROSS JOIN d CROSS JOIN LATERAL (
    SELECT r.ctid, r.size, r.expires_at FROM mailerd.ready r
    WHERE r.stream = $1 AND r.priority = d.priority AND r.domain = d.domain AND r.campaign = d.campaign
      AND r.id = d.id AND r.lease_token = d.token AND patience.w <> ''
    LIMIT 1 FOR UPDATE) h),
gone AS (DELETE FROM mailerd.ready WHERE ctid = ANY (ARRAY(SELECT at_row FROM hit))),
-- The first event of each row comes from the arrays; only rows with more carry them as JSON: no join. One INSERT, so
-- that ids follow the order of events.
events AS (
  INSERT INTO mailerd.event (message_id, type, rcpt, recipient, stream, provider, provider_message_id, attempt, code, enhanced_code, class, detail)
  SELECT id, type, rcpt, recipient, $1, provider, provider_message_id, attempt, code, enhanced, class, detail FROM hit
  UNION ALL
  SELECT h.id, x.type, x.rcpt, x.recipient, $1, x.provider, x.provider_message_id, h.attempt, x.code, x.enhanced, x.class, x.detail
  FROM hit h CROSS JOIN LATERAL jsonb_to_recordset(h.extra::jsonb) AS x(type text, rcpt smallint, recipient text, provider text,
    provider_message_id text, code smallint, enhanced text, class text, detail text)
  WHERE h.extra <> ''),
again AS (
  INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain, campaign, attempt, rcpt, size, expires_at, deferred)
  SELECT $1, priority, now() + make_interval(secs => delay), id, domain, campaign, attempt, left_bits, size, expires_at, true
  FROM hit WHERE action = 'retry' ON CONFLICT DO NOTHING),
doubt AS (
  INSERT INTO mailerd.in_doubt (message_id, stream, priority, domain, campaign, rcpt, size, attempts, expires_at, provider, detail)
  SELECT id, $1, priority, domain, campaign, left_bits, size, attempt, expires_at, provider, detail
  FROM hit WHERE action = 'doubt' ON CONFLICT (message_id) DO UPDATE SET at = now(), rcpt = excluded.rcpt, detail = excluded.detail),
dead AS (
  INSERT INTO mailerd.dead_letter AS l (message_id, stream, priority, domain, campaign, rcpt, size, attempts, recipient, reason, class, provider, detail)
  SELECT id, $1, priority, domain, campaign, dead_bits, size, attempt, recipient, reason, class, provider, detail
  FROM hit WHERE dead_bits <> 0
  ON CONFLICT (message_id) DO UPDATE SET at = now(), rcpt = l.rcpt | excluded.rcpt, attempts = excluded.attempts,
    reason = excluded.reason, class = excluded.class, provider = excluded.provider, detail = excluded.detail)
SELECT id FROM hit
"""


def _extra(settlement: Settlement) -> str:
    if len(settlement.events) < 2:
        return ""
    return msgspec.json.encode(
        [
            {
                "type": kind,
                "rcpt": to.bit,
                "recipient": to.address,
                "provider": o.provider,
                "provider_message_id": o.provider_message_id,
                "code": o.code,
                "enhanced": o.enhanced,
                "class": o.category,
                "detail": _detail(settlement.job.variant, o.text),
            }
            for kind, to, o in settlement.events[1:]
        ]
    ).decode()


def _detail(variant: str, text: str) -> str:
    """A stored template's version and variant stand before the peer's words."""
    return f"[template {variant}] {text}".rstrip() if variant else text


def _numbers(values: list[Any]) -> str:
    """An array of numbers as Postgres writes one. asyncpg's own encoding of 21 arrays costs four times as much."""
    return "{" + ",".join(map(str, values)) + "}"


def _texts(values: list[str]) -> str:
    """An array of texts, each ended by the unit separator, which no text of ours contains.

    So the array has one element more than there are rows, and unnest one row more, without a key: it finds nothing.
    (Joined by separators, one empty text would be an array of none.)
    """
    joined = "\x1f".join([*values, ""])
    if joined.count("\x1f") != len(values):
        joined = "\x1f".join([*(v.replace("\x1f", "\\x1f") for v in values), ""])
    return joined


async def settle(
    session: Session, stream: str, settlements: Sequence[Settlement], locked: list[Settlement] | None = None
) -> set[int]:
    """Writes a batch; returns the ids that were settled by it. Raises `Unavailable` with nothing or all applied.

    Those whose row somebody else keeps locked are added to `locked`, for the caller to bring again.
    """
    try:
        rows = await session.fetch(SETTLE, stream, *_columns(settlements))
    except asyncpg.LockNotAvailableError as error:
        if len(settlements) == 1 and locked is not None:
            locked.append(settlements[0])
            return set()
        if len(settlements) == 1 or locked is None:
            raise Unavailable(f"a row of {stream} is locked by somebody else: {error}") from error
        # One locked row of a thousand is found in ten waits; a locked table would be found a thousand times.
        half, before = len(settlements) // 2, len(locked)
        first = await settle(session, stream, settlements[:half], locked)
        if len(locked) - before == half:
            locked += settlements[half:]
            return set()
        return first | await settle(session, stream, settlements[half:], locked)
    except DataError as error:
        if len(settlements) == 1:
            bare = _without_words(settlements[0])
            if bare.events == settlements[0].events:  # not a peer's doing: a partition is missing, say
                raise Unavailable(f"message {bare.job.id} cannot be settled: {error}") from error
            return await settle(session, stream, [bare], locked)
        half = len(settlements) // 2
        first = await settle(session, stream, settlements[:half], locked)
        return first | await settle(session, stream, settlements[half:], locked)
    return {row[0] for row in rows}


def _without_words(settlement: Settlement) -> Settlement:
    """The same end without anything a peer said."""
    bare = [
        (
            kind,
            to,
            msgspec.structs.replace(o, text="(reply could not be stored)", enhanced="", provider_message_id="", code=0),
        )
        for kind, to, o in settlement.events
    ]
    return msgspec.structs.replace(settlement, events=bare, reason="(reply could not be stored)")


def _columns(batch: Sequence[Settlement]) -> tuple[str, ...]:
    jobs = [s.job for s in batch]
    firsts = [s.events[0] for s in batch]
    outcomes = [f[2] for f in firsts]
    recipients = [f[1] for f in firsts]
    return (
        _numbers([j.priority for j in jobs]),
        _texts([j.domain for j in jobs]),
        _texts([j.campaign for j in jobs]),
        _numbers([j.id for j in jobs]),
        _numbers([j.lease.token for j in jobs]),
        _texts([s.action.value for s in batch]),
        _numbers([s.delay for s in batch]),
        _numbers([j.attempt + s.charged for s, j in zip(batch, jobs, strict=True)]),
        _numbers([s.left for s in batch]),
        _numbers([s.dead for s in batch]),
        _texts([s.reason for s in batch]),
        _texts([f[0] for f in firsts]),
        _numbers([r.bit for r in recipients]),
        _texts([r.address for r in recipients]),
        _texts([o.provider for o in outcomes]),
        _texts([o.provider_message_id for o in outcomes]),
        _numbers([o.code for o in outcomes]),
        _texts([o.enhanced for o in outcomes]),
        _texts([o.category for o in outcomes]),
        _texts([_detail(j.variant, o.text) if j.variant else o.text for j, o in zip(jobs, outcomes, strict=True)]),
        _texts([_extra(s) for s in batch]),
    )


assert {a.value for a in Action} == {"done", "retry", "doubt"}, "SETTLE names every action"
