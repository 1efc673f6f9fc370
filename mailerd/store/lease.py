"""Lease, renew, intend and give back: the claim on rows of `ready`, fenced by a random token a batch.

Each statement is one short autocommitted transaction, finished before any network I/O to a provider. Their shape
(unnest, LATERAL … LIMIT, ctid = ANY(ARRAY(…))) keeps its plan with no statistics at all: the obvious joins read whole
lanes on a table that was empty when analysed. Lanes that may not send now are simply not asked for.

It decides nothing: which lanes, how many and when is `flow.lanes`' business. It never runs beside a renew or settle
of the same stream: unserialised, a settle misses rows whose ctid a renewal has just moved.

Hazards: Postgres `now()` judges every lease; our own deadline is monotonic and starts *before* the statement is sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg
import msgspec

from mailerd.message import Job, Lease
from mailerd.store.database import Session

__all__ = [
    "INLINE_LIMIT",
    "MOST_LEASES",
    "Claim",
    "Unreadable",
    "fetch_addresses",
    "fetch_payloads",
    "give_back",
    "intend",
    "lease",
    "margin",
    "renew",
]

MOST_LEASES: Final = 10  # leases without a settle: this row kills whoever takes it, and is not even read any more
INLINE_LIMIT: Final = 65536  # octets of payload above which the lease leaves it out and the sender fetches it


def margin(ttl: float) -> float:
    """Seconds at the end of every lease that are never used: drift of the clocks, and a slow last packet."""
    return min(5.0, ttl / 5)


class Unreadable(Exception):
    """A leased row holds a value that cannot be read. The batch stays leased until its time is over."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """How much to take from one lane: at most `quota` rows, looking from id `low` upwards."""

    priority: int
    domain: str
    campaign: str
    quota: int
    low: int = 0


_PAYLOAD: Final = (
    "o.created_at, o.send_at, o.sender, o.recipient, o.cc, o.bcc, o.reply_to, o.subject, o.text_body, o.html_body, o.template, "
    "o.params, o.locale, o.raw, o.headers, o.attachments, o.thread_key, o.tags, o.metadata, o.topic, o.age"
)
_STORED: Final = _PAYLOAD.replace(
    "o.age", "extract(epoch FROM now() - greatest(o.created_at, o.send_at))::float8 AS age"
)

LEASE: Final = f"""
WITH pick AS MATERIALIZED (
  SELECT p.ctid
  FROM unnest($2::smallint[], $3::text[], $4::text[], $5::int[], $6::bigint[]) AS w(priority, domain, campaign, quota, low)
  CROSS JOIN LATERAL (
    SELECT r.ctid FROM mailerd.ready r
    WHERE r.stream = $1 AND r.priority = w.priority AND r.domain = w.domain AND r.campaign = w.campaign
      AND r.id >= w.low AND r.lease_until < now()
    ORDER BY r.id LIMIT w.quota FOR NO KEY UPDATE SKIP LOCKED) p),
u AS MATERIALIZED (
  UPDATE mailerd.ready r SET lease_until = now() + make_interval(secs => $8), lease_token = $7, leases = r.leases + 1
  WHERE r.ctid = ANY (ARRAY(SELECT ctid FROM pick))
  RETURNING r.priority, r.domain, r.campaign, r.id, r.attempt, r.leases, r.rcpt, r.size, r.intent, r.expires_at)
SELECT u.id, u.priority, u.domain, u.campaign, u.attempt, u.leases, u.rcpt, u.size, u.intent,
  extract(epoch FROM u.expires_at - now())::float8 AS left, o.found, {_PAYLOAD}
FROM u LEFT JOIN LATERAL (
  SELECT true AS found, {_STORED} FROM mailerd.outbox o WHERE o.id = u.id AND u.size <= {INLINE_LIMIT} AND u.leases <= {MOST_LEASES} LIMIT 1) o ON true
"""

# As in settle: whoever else has locked one of the rows must not cost us the others.
_OURS: Final = """
WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', '250ms', true) AS w),
pick AS MATERIALIZED (
  SELECT p.ctid
  FROM patience CROSS JOIN unnest($2::smallint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS w(priority, domain, campaign, id, token)
  CROSS JOIN LATERAL (
    SELECT r.ctid FROM mailerd.ready r
    WHERE r.stream = $1 AND r.priority = w.priority AND r.domain = w.domain AND r.campaign = w.campaign
      AND r.id = w.id AND r.lease_token = w.token AND patience.w <> ''
    LIMIT 1 FOR NO KEY UPDATE) p)
"""

RENEW: Final = f"""{_OURS}
UPDATE mailerd.ready r SET lease_until = greatest(r.lease_until, now() + make_interval(secs => $7))
WHERE r.ctid = ANY (ARRAY(SELECT ctid FROM pick)) RETURNING r.id
"""

INTEND: Final = f"""{_OURS}
UPDATE mailerd.ready r SET intent = true
WHERE r.ctid = ANY (ARRAY(SELECT ctid FROM pick)) RETURNING r.id
"""

GIVE_BACK: Final = f"""{_OURS}
UPDATE mailerd.ready r SET lease_until = '-infinity', lease_token = 0, leases = r.leases - 1, intent = false
WHERE r.ctid = ANY (ARRAY(SELECT ctid FROM pick)) RETURNING r.id
"""

PAYLOADS: Final = f"""
SELECT w.id, o.found, {_PAYLOAD} FROM unnest($1::bigint[]) AS w(id)
LEFT JOIN LATERAL (
  (SELECT true AS found, {_STORED} FROM mailerd.outbox o WHERE o.id = w.id LIMIT 1)
  UNION ALL
  (SELECT true AS found, {_STORED} FROM mailerd.outbox_kept o WHERE o.id = w.id LIMIT 1)
  LIMIT 1) o ON true
"""


ADDRESSES: Final = """
SELECT w.id, o.recipient, o.cc, o.bcc FROM unnest($1::bigint[]) AS w(id)
CROSS JOIN LATERAL (
  (SELECT o.recipient, o.cc, o.bcc FROM mailerd.outbox o WHERE o.id = w.id LIMIT 1)
  UNION ALL
  (SELECT o.recipient, o.cc, o.bcc FROM mailerd.outbox_kept o WHERE o.id = w.id LIMIT 1)
  LIMIT 1) o
"""


async def lease(
    session: Session, stream: str, claims: Sequence[Claim], instance: int, ttl: float
) -> tuple[list[Job], list[Job], list[Job]]:
    """Claims rows: (jobs with their payload, jobs whose payload is still to be fetched, jobs that had passed their dot).

    The last kind belongs to a dead instance whose stream holds what is uncertain: it must go to `in_doubt`, unsent.
    """
    token = instance << 32 | secrets.randbits(32)
    now = time.monotonic()
    claim = Lease(token, now + ttl - margin(ttl))
    arguments = (
        stream,
        [c.priority for c in claims],
        [c.domain for c in claims],
        [c.campaign for c in claims],
        [c.quota for c in claims],
        [c.low for c in claims],
        token,
        ttl,
    )
    try:
        rows = await session.fetch(LEASE, *arguments)
    except (ValueError, OverflowError) as error:  # UnicodeDecodeError is a ValueError
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    light: list[Job] = []
    heavy: list[Job] = []
    doubtful: list[Job] = []
    for row in rows:
        # fmt: off
        (id_, priority, domain, campaign, attempt, leases, rcpt, size, intent, left, found, created_at, send_at, sender, recipient, cc,
         bcc, reply_to, subject, text_body, html_body, template, params, locale, raw, headers, attachments, thread_key, tags,
         metadata, topic, age) = row
        # fmt: on
        job = Job(
            id=id_,
            stream=stream,
            priority=priority,
            domain=domain,
            campaign=campaign,
            lease=claim,
            created_at=created_at,
            send_at=send_at,
            attempt=attempt,
            leases=leases,
            rcpt=rcpt,
            size=size,
            expires=None if left is None else now + left,
            sender=sender,
            recipient=recipient or "",
            cc=cc,
            bcc=bcc,
            reply_to=reply_to,
            subject=subject,
            text_body=text_body,
            html_body=html_body,
            template=template,
            params=params,
            locale=locale,
            raw=raw,
            headers=headers,
            attachments=attachments,
            thread_key=thread_key,
            tags=tags,
            metadata=metadata,
            topic=topic,
            age=age or 0.0,
            leased_at=now,
        )  # fmt: skip
        (doubtful if intent else light if found or leases > MOST_LEASES else heavy).append(job)
    return light, heavy, doubtful


def _keys(jobs: Iterable[Job]) -> tuple[list[int], list[str], list[str], list[int], list[int]]:
    jobs = list(jobs)
    return (
        [j.priority for j in jobs],
        [j.domain for j in jobs],
        [j.campaign for j in jobs],
        [j.id for j in jobs],
        [j.lease.token for j in jobs],
    )


async def _change(session: Session, sql: str, stream: str, jobs: Sequence[Job], *more: float) -> set[int]:
    """The ids of those that were ours. A row that somebody else keeps locked counts as lost, and the others do not.

    SKIP LOCKED is no first choice: a lease of another instance that comes too late for a row has it locked for a moment.
    """
    keys = _keys(jobs)
    try:
        rows = await session.fetch(sql, stream, *keys, *more)
    except asyncpg.LockNotAvailableError:
        rows = await session.fetch(
            sql.replace("FOR NO KEY UPDATE)", "FOR NO KEY UPDATE SKIP LOCKED)"), stream, *keys, *more
        )
    return {row[0] for row in rows}


async def renew(session: Session, stream: str, jobs: Sequence[Job], ttl: float) -> set[int]:
    """Extends the leases of jobs still held; returns the ids that are no longer ours (fenced: send nothing of them).

    All jobs of one `Lease` must be passed together, since the deadline that moves is the lease's.
    """
    started = time.monotonic()
    kept = await _change(session, RENEW, stream, jobs, ttl)
    for claim in {id(j.lease): j.lease for j in jobs}.values():
        claim.deadline = started + ttl - margin(ttl)
    return {j.id for j in jobs if j.id not in kept}


async def intend(session: Session, stream: str, jobs: Sequence[Job]) -> set[int]:
    """Commits that these jobs are about to be sent; returns the ids that are no longer ours (send nothing of them).

    Should we die, whoever leases such a row next moves it to `in_doubt` unsent. For streams that hold what is uncertain.
    """
    kept = await _change(session, INTEND, stream, jobs)
    return {j.id for j in jobs if j.id not in kept}


async def give_back(session: Session, stream: str, jobs: Sequence[Job]) -> int:
    """Returns jobs that were not started, so that any instance may lease them at once; how many were still ours."""
    return len(await _change(session, GIVE_BACK, stream, jobs))


async def fetch_payloads(session: Session, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """(jobs with their payload, jobs whose payload is in no table any more)."""
    found: list[Job] = []
    missing: list[Job] = []
    by_id = {j.id: j for j in jobs}
    for row in await session.fetch(PAYLOADS, list(by_id)):
        job = by_id[row["id"]]
        if not row["found"]:
            missing.append(job)
            continue
        changes = {name: value for name, value in row.items() if name not in ("id", "found")}
        found.append(msgspec.structs.replace(job, **changes))
    return found, missing


async def fetch_addresses(session: Session, jobs: Iterable[Job]) -> None:
    """Gives jobs that were leased without their payload their recipients, where the payload is still there: they are
    to end, and each recipient's end is to be recorded."""
    by_id = {j.id: j for j in jobs}
    for id_, recipient, cc, bcc in await session.fetch(ADDRESSES, list(by_id)):
        job = by_id[id_]
        job.recipient, job.cc, job.bcc = recipient, cc, bcc
