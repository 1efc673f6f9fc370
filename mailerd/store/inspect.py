"""The whole story of one message: what was queued, where it is, what happened, and why it is not sent yet.

Read-only. What can change while we read (place, dead letter, events) comes from one statement, so from one snapshot:
a row on its way from one table to another is never seen in neither. Every look-up is an index probe with a LIMIT,
whatever the statistics say; bodies are measured, never read.

Hazard: the words in it come from strangers (replies, subjects, addresses); whoever prints them escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import asyncpg
import msgspec

from mailerd.config.resolved import base_of
from mailerd.config.values import show_rate
from mailerd.flow.bucket import Limit
from mailerd.flow.explain import AHEAD_LIMIT, WARMUP, Breaker, Dead, Doubt, Facts, Gate, Pause, Place, Throttle, gates
from mailerd.store.database import Session
from mailerd.store.instances import ALIVE_SECONDS

__all__ = ["Event", "Flow", "Message", "Operation", "Recipient", "Story", "story", "throttles"]

_EVENT_LIMIT: Final = 1000
_AUDIT_LIMIT: Final = 20_000  # newest audit rows searched: the table has no index on what they concern


class Flow(NamedTuple):
    """What the configuration says of a message's way: `limits` of (stream, domain), the `group` of a domain."""

    limits: Callable[[str, str], list[Limit]]
    group: Callable[[str], str | None]


class Recipient(msgspec.Struct, frozen=True):
    """One envelope recipient: `field` is to, cc or bcc; `pending` says that it is still to be sent."""

    field: str
    mailbox: str
    pending: bool


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The outbox row without its bodies. `content` names what there is; `size` is its octets."""

    stream: str
    priority: int
    domain: str
    campaign: str
    created_at: datetime
    send_at: datetime
    expires_at: datetime | None
    dedup_key: str | None
    sender: str | None
    subject: str | None
    template: str | None
    thread_key: str | None
    tags: Sequence[str] | None
    content: str
    size: int


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to one recipient (`rcpt`: 0 the row's recipient, then cc, then bcc)."""

    at: datetime
    type: str
    rcpt: int = 0
    recipient: str | None = None
    provider: str | None = None
    provider_message_id: str | None = None
    attempt: int | None = None
    code: int | None = None
    enhanced_code: str | None = None
    category: str | None = msgspec.field(default=None, name="class")
    detail: str | None = None

    @property
    def reply(self) -> str:
        """Code, enhanced code and text as the peer said them; our own words when it said nothing."""
        parts = (str(self.code) if self.code else "", self.enhanced_code or "", self.detail or "")
        return " ".join(filter(None, parts))


class Operation(msgspec.Struct, frozen=True):
    """What an operator did with it."""

    at: datetime
    actor: str
    action: str
    detail: str | None


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known. `message` is None when its partition is gone (30 days) and only events are left.

    `ends_at` is when it is given up if it is still waiting then: its own `expires_at`, or its stream's age limit.
    """

    id: int
    status: str
    place: Place
    attempts: int
    message: Message | None
    recipients: list[Recipient]
    gates: list[Gate]
    next_attempt_at: datetime | None
    ends_at: datetime | None
    lease_until: datetime | None
    instance: str | None
    dead: Dead | None
    doubt: Doubt | None
    events: list[Event]
    operations: list[Operation]


_BUSY: Final = 0.15  # seconds that the slots of a limit are given away ahead, when somebody waits for them

_COLUMNS: Final = """
    o.stream, o.priority, o.domain, coalesce(o.campaign, '') AS campaign, o.recipient, o.cc, o.bcc, o.created_at, o.send_at,
    o.expires_at, o.dedup_key, o.sender, o.subject, o.template, o.thread_key, o.tags,
    concat_ws(', ', CASE WHEN o.template IS NOT NULL THEN 'template' END, CASE WHEN o.text_body IS NOT NULL THEN 'text' END,
      CASE WHEN o.html_body IS NOT NULL THEN 'html' END, CASE WHEN o.raw IS NOT NULL THEN 'raw' END,
      CASE WHEN o.attachments IS NOT NULL THEN 'attachments' END) AS content,
    coalesce(octet_length(o.text_body), 0) + coalesce(octet_length(o.html_body), 0) + coalesce(octet_length(o.raw), 0)
      + coalesce(pg_column_size(o.params), 0) + coalesce(pg_column_size(o.attachments), 0) AS size"""
_ROW: Final = f"""
SELECT now() AS now, o.*,
  r.attempt AS r_attempt, r.rcpt AS r_rcpt, r.leases,
  nullif(r.lease_until, '-infinity') AS lease_until, r.lease_until > now() AS leased, r.lease_token >> 32 AS holder,
  s.attempt AS s_attempt, s.rcpt AS s_rcpt, s.run_at, s.deferred,
  d.at AS d_at, d.rcpt AS d_rcpt, d.attempts AS d_attempts, d.provider AS d_provider, d.detail AS d_detail,
  l.at AS l_at, l.rcpt AS l_rcpt, l.attempts AS l_attempts, l.reason AS l_reason, l.class AS l_class,
  coalesce(r.expires_at, s.expires_at, d.expires_at, greatest(o.created_at, o.send_at) + t.expires) AS ends_at,
  e.events::text AS events
FROM (SELECT $1::bigint AS id) x
LEFT JOIN LATERAL (
  (SELECT {_COLUMNS} FROM mailerd.outbox o WHERE o.id = x.id LIMIT 1)
  UNION ALL (SELECT {_COLUMNS} FROM mailerd.outbox_kept o WHERE o.id = x.id LIMIT 1) LIMIT 1) o ON true
LEFT JOIN LATERAL (SELECT t.expires FROM mailerd.stream t WHERE t.name = o.stream LIMIT 1) t ON true
LEFT JOIN LATERAL (SELECT r.* FROM mailerd.ready r WHERE r.stream = o.stream AND r.priority = o.priority
  AND r.domain = o.domain AND r.campaign = o.campaign AND r.id = x.id LIMIT 1) r ON true
LEFT JOIN LATERAL (SELECT s.* FROM mailerd.scheduled s WHERE s.id = x.id LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT d.* FROM mailerd.in_doubt d WHERE d.message_id = x.id LIMIT 1) d ON true
LEFT JOIN LATERAL (SELECT l.* FROM mailerd.dead_letter l WHERE l.message_id = x.id LIMIT 1) l ON true
CROSS JOIN LATERAL (SELECT coalesce(jsonb_agg(to_jsonb(v) ORDER BY v.at, v.id), '[]') AS events FROM (
  SELECT e.id, e.at, e.type, e.rcpt, e.recipient, e.provider, e.provider_message_id, e.attempt, e.code, e.enhanced_code, e.class, e.detail
  FROM mailerd.event e WHERE e.message_id = x.id
    AND e.at >= to_timestamp((x.id >> 21) + 1577836800) - interval '1 minute' AND e.at < now() + interval '1 hour'
  ORDER BY e.at, e.id LIMIT {_EVENT_LIMIT}) v) e
"""
_INSTANCES: Final = """
SELECT id, name, state, streams, providers FROM mailerd.instance
WHERE seen_at > now() - make_interval(secs => $1) ORDER BY id LIMIT 1000
"""
_PAUSES: Final = """
SELECT c.kind, c.name, c.at, c.actor, c.reason FROM mailerd.lane_control c
WHERE (c.kind, c.name) IN (('stream', $1), ('campaign', $3)) OR (c.kind = 'domain' AND c.name = ANY ($2::text[]))
  OR (c.kind = 'provider' AND c.name = ANY ($4::text[]))
ORDER BY array_position(ARRAY['stream', 'provider', 'campaign', 'domain'], c.kind), c.name
"""
_BREAKERS: Final = """
SELECT provider, state, until, reason FROM mailerd.provider_state
WHERE instance = ANY ($1::bigint[]) AND provider = ANY ($2::text[]) ORDER BY provider, instance LIMIT 1000
"""
_AHEAD: Final = f"""
SELECT
  (SELECT count(*) FROM (SELECT FROM mailerd.ready r WHERE r.stream = $1 AND r.priority = $2 AND r.domain = $3
    AND r.campaign = $4 AND r.id < $5 AND r.lease_until < now() LIMIT {AHEAD_LIMIT}) a),
  (SELECT count(*) FROM (SELECT FROM mailerd.ready r WHERE r.stream = $1 AND r.priority < $2
    AND r.lease_until < now() LIMIT {AHEAD_LIMIT}) u)
"""
_BESIDE: Final = f"""
SELECT count(*) FROM (SELECT FROM mailerd.ready r WHERE r.stream = $1 AND r.priority = $2 AND r.domain = $3
  AND r.campaign <> $4 AND r.lease_until < now() LIMIT {AHEAD_LIMIT}) a
"""
# `ahead`: seconds until the first slot that is not given away.
_THROTTLES: Final = """
SELECT k.key, t.tat - extract(epoch FROM now())::float8 AS ahead, t.used, t.ends, r.source, r.rate, r.until, r.reason
FROM unnest($1::text[]) AS k(key)
LEFT JOIN LATERAL (SELECT t.* FROM mailerd.throttle t WHERE t.key = k.key LIMIT 1) t ON true
LEFT JOIN LATERAL (SELECT r.* FROM mailerd.throttle_rate r WHERE r.key = k.key AND (r.until IS NULL OR r.until > now())
  ORDER BY r.rate LIMIT 1) r ON true
"""
_OPERATIONS: Final = f"""
SELECT a.at, a.actor, a.action, a.detail FROM
  (SELECT * FROM mailerd.audit ORDER BY id DESC LIMIT {_AUDIT_LIMIT}) a
WHERE a.target = $1 ORDER BY a.id LIMIT 100
"""


async def story(
    session: Session,
    id: int,  # noqa: A002
    providers: Sequence[str] | None = None,
    flow: Flow | None = None,
) -> Story | None:
    """The story of message `id`, or None when nothing is known of it.

    `providers` are those that the configuration gives its stream; None takes what the live instances report. `flow`
    knows the limits and the groups of domains.
    Raises `Unavailable`.
    """
    row = (await session.fetch(_ROW, id))[0]
    events = msgspec.json.decode(row["events"], type=list[Event])
    if row["stream"] is None and not events and row["l_at"] is None and row["d_at"] is None:
        return None
    place = _place(row)
    dead = (
        Dead(at=row["l_at"], reason=row["l_reason"], attempts=row["l_attempts"], category=row["l_class"])
        if row["l_at"]
        else None
    )
    doubt = Doubt(at=row["d_at"], provider=row["d_provider"], detail=row["d_detail"]) if row["d_at"] else None
    found, holder = await _gates(session, id, row, place, dead, doubt, events, providers, flow)
    return Story(
        id=id,
        status=_status(place, events),
        place=place,
        attempts=_attempts(row, events),
        message=_message(row),
        recipients=_recipients(row),
        gates=found,
        next_attempt_at=row["run_at"],
        ends_at=row["ends_at"] if place is not Place.SETTLED else None,
        lease_until=row["lease_until"] if place is Place.LEASED else None,
        instance=holder or None,
        dead=dead,
        doubt=doubt,
        events=events,
        operations=[Operation(*r) for r in await session.fetch(_OPERATIONS, f"message:{id}")],
    )


async def _gates(
    session: Session,
    id: int,  # noqa: A002
    row: asyncpg.Record,
    place: Place,
    dead: Dead | None,
    doubt: Doubt | None,
    events: Sequence[Event],
    providers: Sequence[str] | None,
    flow: Flow | None,
) -> tuple[list[Gate], str | None]:
    """The gates, and the name of the instance that holds the lease ('' when it is gone, None when nobody does)."""
    live = await session.fetch(_INSTANCES, ALIVE_SECONDS)
    # One that drains finishes what it has leased and takes nothing new.
    leasing = [instance for instance in live if instance["state"] == "running"]
    serving = [instance for instance in leasing if row["stream"] in instance["streams"]]
    if providers is None:
        providers = sorted({name for instance in serving for name in instance["providers"]})
    lane = (row["stream"] or "", row["domain"] or "", row["campaign"] or "")
    ahead, urgent, beside = 0, 0, 0
    limited: list[Throttle] = []
    if place is Place.READY:
        ahead, urgent = (await session.fetch(_AHEAD, lane[0], row["priority"], lane[1], lane[2], id))[0]
        limited = await throttles(session, row["now"], flow.limits(lane[0], lane[1])) if flow else []
        if any(throttle.opens for throttle in limited):
            beside = int(await session.value(_BESIDE, lane[0], row["priority"], lane[1], lane[2]))
    holder = None
    if place is Place.LEASED:
        holder = next((i["name"] for i in live if i["id"] == row["holder"]), "")
    group = flow.group(lane[1]) if flow else None
    names = [name for provider in providers for name in {provider, base_of(provider)}]
    pauses = await session.fetch(_PAUSES, lane[0], [lane[1], *([group] if group else [])], lane[2], names)
    facts = Facts(
        now=row["now"],
        id=id,
        created_at=row["created_at"] or row["now"],
        stream=lane[0],
        domain=lane[1],
        campaign=lane[2],
        place=place,
        run_at=row["run_at"],
        last_reply=next((e.reply for e in reversed(events) if e.reply), None),
        expires_at=row["ends_at"],
        lease_until=row["lease_until"],
        holder=holder,
        leases=row["leases"] or 0,
        live=len(leasing),
        serving=len(serving),
        group=group or "",
        pauses=[Pause(**dict(p)) for p in pauses],
        providers=providers,
        breakers=[Breaker(**dict(b)) for b in await session.fetch(_BREAKERS, [i["id"] for i in serving], providers)],
        dead=dead,
        doubt=doubt,
        ahead=ahead,
        beside=beside,
        throttles=limited,
        urgent_ahead=urgent,
    )
    return gates(facts), holder


async def throttles(session: Session, now: datetime, limits: Sequence[Limit]) -> list[Throttle]:
    """These limits as they stand: which of them has no token now, and until when."""
    by_key = {limit.key: limit for limit in limits}
    found = []
    for key, ahead, used, ends, source, rate, until, reason in await session.fetch(_THROTTLES, list(by_key)):
        limit = by_key[key]
        opens: datetime | None = None
        if limit.quota:
            words = f"{limit.quota}/{'month' if limit.period == 'month' else 'd'}"
            if used is not None and used >= limit.quota and ends > now:
                opens = ends
            found.append(Throttle(key=key, words=words, rate=0.0, opens=opens))
            continue
        if limit.stopped and not source:
            found.append(
                Throttle(
                    key=key,
                    words="nothing",
                    rate=0.0,
                    opens=limit.until,
                    stopped=True,
                    source=WARMUP,
                    reason=limit.words,
                )
            )
            continue
        if source and not rate:
            found.append(
                Throttle(key=key, words="nothing", rate=0.0, opens=until, stopped=True, source=source, reason=reason)
            )
            continue
        if ahead is not None:
            free = ahead - (limit.burst - 1) / limit.rate
            if free > _BUSY:
                opens = now + timedelta(seconds=min(free, 10 * 365 * 86400.0))
        words = show_rate(limit.rate)
        found.append(Throttle(key=key, words=words, rate=limit.rate, opens=opens, source=source or "", reason=reason))
    return found


def _place(row: asyncpg.Record) -> Place:
    if row["r_attempt"] is not None:
        return Place.LEASED if row["leased"] else Place.READY
    if row["run_at"] is not None:
        return Place.DEFERRED if row["deferred"] else Place.SCHEDULED
    return Place.IN_DOUBT if row["d_at"] is not None else Place.SETTLED


# Events that are a recipient's status; what came later (opened, clicked, complained) does not undo it.
_STATUS: Final = frozenset(
    ("sent", "deferred", "delivered", "bounced", "rejected", "failed", "suppressed", "expired", "cancelled", "in_doubt")
)


def _status(place: Place, events: Sequence[Event]) -> str:
    """What `mailerd.status(id)` says."""
    if place is not Place.SETTLED:
        return place.value
    return next((e.type for e in reversed(events) if e.rcpt == 0 and e.type in _STATUS), "ready")


def _attempts(row: asyncpg.Record, events: Sequence[Event]) -> int:
    for name in ("r_attempt", "s_attempt", "d_attempts", "l_attempts"):
        if row[name] is not None:
            return int(row[name])
    return max((e.attempt or 0 for e in events), default=0)


def _message(row: asyncpg.Record) -> Message | None:
    if row["stream"] is None:
        return None
    return Message(**{name: row[name] for name in Message.__struct_fields__})


def _recipients(row: asyncpg.Record) -> list[Recipient]:
    if row["stream"] is None:
        return []
    bits = next((row[n] for n in ("r_rcpt", "s_rcpt", "d_rcpt") if row[n] is not None), 0)
    boxes = [("to", row["recipient"]), *(("cc", m) for m in row["cc"] or ()), *(("bcc", m) for m in row["bcc"] or ())]
    return [Recipient(field, mailbox, bool(bits >> bit & 1)) for bit, (field, mailbox) in enumerate(boxes)]
