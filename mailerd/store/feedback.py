"""Feedback into the log: finds the message that a report is about, writes its event, and draws the consequences.

Two statements a batch: one finds the messages, one writes everything or nothing. In between `decide` says what follows,
purely: a dead address is suppressed for all streams, a complaint for those of marketing, an unsubscribe for its stream,
soft bounces add up; opens and clicks by people are counted for the address. A report that was seen before
(`source_id`, for five days at least) counts once, whichever instance hears it again.

Only a report whose message is found by an id may suppress anybody, or change what is known of an address: anybody may send us
a mail that looks like a bounce, and knows whom we write to. What is not found is written all the same if it names a recipient, with message id 0.
`unknown` is not an event and is left to whoever keeps the raw report.

Hazard: a batch locks rows by address; they are taken in order of the address, so that two instances cannot deadlock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import msgspec

from mailerd.compose.address import normal
from mailerd.feedback import TYPES, Feedback
from mailerd.message import Failure, clean
from mailerd.store.database import Session

__all__ = ["POLICY", "Message", "Policy", "apply", "decide", "forget"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ID_LIMIT: Final = 1 << 63
_METADATA_LIMIT: Final = 4096  # octets of JSON
_ours = re.compile(r"(\d{1,19})\.([0-9a-f]{1,16})@").match  # a Message-ID of `compose.composer`


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When soft bounces write an address off for a while: so many within so many days, for so many days."""

    soft_bounces: int = 5
    within_days: int = 7
    suppress_days: int = 30


POLICY: Final = Policy()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a reported message. `recipients`: mailboxes by bit. `guessed`: only recipient and time point to it."""

    id: int
    stream: str
    recipients: Sequence[str]
    guessed: bool = False


class Consequence(msgspec.Struct, frozen=True, kw_only=True):
    """What a report does, as the statement below reads it."""

    key: str | None
    message_id: int
    rcpt: int
    recipient: str
    stream: str | None
    type: str
    provider: str
    provider_message_id: str
    code: int
    enhanced: str
    category: str
    detail: str
    metadata: Mapping[str, Any] | None
    suppress: Sequence[tuple[str, str]] = ()  # (stream, reason)
    source: str = ""
    soft: bool = False
    open: bool = False
    click: bool = False


# A message by its id, else by what its provider called it, else by its recipient and time. LIMIT 1 and no join: each
# look-up is an index probe, whatever the statistics say. `stamp`: microseconds of created_at, as our Message-ID has them.
FIND: Final = """
WITH g AS MATERIALIZED (
  SELECT g.*, coalesce(nullif(g.message_id, 0),
    CASE WHEN g.provider_message_id <> '' THEN (
      SELECT e.message_id FROM mailerd.event e
      WHERE e.provider_message_id = g.provider_message_id AND e.provider_message_id <> ''
        AND (g.provider = '' OR e.provider = g.provider) AND e.message_id > 0 AND e.type = 'sent'
        AND e.at > now() - interval '90 days' AND e.at < now() + interval '1 hour'
      ORDER BY e.at DESC LIMIT 1) END) AS proven
  FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
    AS g(n, message_id, stamp, provider, provider_message_id, recipient, at)),
f AS MATERIALIZED (
  SELECT g.n, g.stamp, g.proven IS NULL AS guessed, coalesce(g.proven,
    CASE WHEN g.recipient <> '' THEN (
      SELECT max(o.id) FROM (SELECT o.id FROM mailerd.outbox o WHERE lower(o.recipient) = g.recipient
        AND o.id BETWEEN mailerd.id_at(g.at - interval '5 days') AND mailerd.id_at(g.at + interval '1 minute') LIMIT 1000) o) END) AS found
  FROM g)
SELECT g.n, m.id, m.stream, m.recipients, g.guessed
FROM f AS g CROSS JOIN LATERAL (
  (SELECT o.id, o.stream, o.recipient || coalesce(o.cc, '{}') || coalesce(o.bcc, '{}') AS recipients FROM mailerd.outbox o
   WHERE o.id = g.found AND (g.stamp = 0 OR g.stamp = (extract(epoch FROM o.created_at) * 1000000)::bigint) LIMIT 1)
  UNION ALL
  (SELECT o.id, o.stream, o.recipient || coalesce(o.cc, '{}') || coalesce(o.bcc, '{}') FROM mailerd.outbox_kept o
   WHERE o.id = g.found AND (g.stamp = 0 OR g.stamp = (extract(epoch FROM o.created_at) * 1000000)::bigint) LIMIT 1)
  UNION ALL
  (SELECT e.message_id, e.stream, ARRAY[e.recipient] FROM mailerd.event e
   WHERE e.message_id = g.found AND g.stamp = 0 AND e.rcpt = 0 AND e.recipient IS NOT NULL AND e.stream IS NOT NULL
     AND e.at >= mailerd.id_time(g.found) - interval '1 minute' AND e.at < now() + interval '1 hour' LIMIT 1)
  LIMIT 1) m
"""

MARKETING: Final = "SELECT name FROM mailerd.stream WHERE marketing ORDER BY name LIMIT 1000"

APPLY: Final = """
WITH g AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS g(key uuid, message_id bigint, rcpt smallint, recipient text, stream text,
    type text, provider text, provider_message_id text, code int, enhanced text, category text, detail text, metadata jsonb,
    suppress jsonb, source text, soft boolean, open boolean, click boolean)),
turn AS MATERIALIZED (SELECT (floor(extract(epoch FROM now()) / 432000)::bigint % 3)::int AS now),
fresh AS MATERIALIZED (
  SELECT g.key FROM g CROSS JOIN turn WHERE g.key IS NOT NULL
    AND NOT EXISTS (SELECT FROM mailerd.feedback_seen_0 s WHERE s.key = g.key AND turn.now <> 2)
    AND NOT EXISTS (SELECT FROM mailerd.feedback_seen_1 s WHERE s.key = g.key AND turn.now <> 0)
    AND NOT EXISTS (SELECT FROM mailerd.feedback_seen_2 s WHERE s.key = g.key AND turn.now <> 1)
  ORDER BY g.key),
seen_0 AS (INSERT INTO mailerd.feedback_seen_0 SELECT key FROM fresh, turn WHERE turn.now = 0 ON CONFLICT DO NOTHING RETURNING key),
seen_1 AS (INSERT INTO mailerd.feedback_seen_1 SELECT key FROM fresh, turn WHERE turn.now = 1 ON CONFLICT DO NOTHING RETURNING key),
seen_2 AS (INSERT INTO mailerd.feedback_seen_2 SELECT key FROM fresh, turn WHERE turn.now = 2 ON CONFLICT DO NOTHING RETURNING key),
new AS MATERIALIZED (SELECT key FROM seen_0 UNION ALL SELECT key FROM seen_1 UNION ALL SELECT key FROM seen_2),
ok AS MATERIALIZED (SELECT * FROM g WHERE key IS NULL OR key IN (SELECT key FROM new)),
events AS (
  INSERT INTO mailerd.event (message_id, type, rcpt, recipient, stream, provider, provider_message_id, code, enhanced_code, class, detail, metadata)
  SELECT message_id, type, rcpt, nullif(recipient, ''), stream, provider, provider_message_id, code, enhanced, category, detail, metadata FROM ok),
soft AS MATERIALIZED (SELECT recipient AS address, count(*)::int AS times FROM ok WHERE soft GROUP BY 1),
counted AS (
  INSERT INTO mailerd.soft_bounce AS s (address, day, times) SELECT address, current_date, times FROM soft ORDER BY 1
  ON CONFLICT (address, day) DO UPDATE SET times = s.times + excluded.times),
worn AS (
  SELECT s.address FROM soft s WHERE s.times + coalesce((
    SELECT sum(b.times) FROM mailerd.soft_bounce b WHERE b.address = s.address AND b.day > current_date - $3::int), 0) >= $2::int),
wanted AS (
  SELECT ok.recipient AS address, x.v ->> 0 AS stream, x.v ->> 1 AS reason, ok.source, NULL::timestamptz AS until, 0 AS rank
  FROM ok CROSS JOIN LATERAL jsonb_array_elements(ok.suppress) AS x(v)
  UNION ALL
  SELECT address, '', 'soft bounces', 'feedback', now() + make_interval(days => $4::int), 1 FROM worn),
suppressed AS (
  INSERT INTO mailerd.suppression AS s (address, stream, reason, source, until)
  SELECT DISTINCT ON (address, stream) address, stream, reason, source, until FROM wanted ORDER BY address, stream, rank
  -- What holds for ever keeps its first reason.
  ON CONFLICT (address, stream) DO UPDATE SET reason = excluded.reason, source = excluded.source, until = excluded.until, at = now()
  WHERE s.until IS NOT NULL),
engaged AS (
  INSERT INTO mailerd.engagement AS e (address, opens, clicks, last_open, last_click)
  SELECT recipient, count(*) FILTER (WHERE open), count(*) FILTER (WHERE click), max(now()) FILTER (WHERE open), max(now()) FILTER (WHERE click)
  FROM ok WHERE open OR click GROUP BY 1 ORDER BY 1
  ON CONFLICT (address) DO UPDATE SET opens = e.opens + excluded.opens, clicks = e.clicks + excluded.clicks,
    last_open = coalesce(excluded.last_open, e.last_open), last_click = coalesce(excluded.last_click, e.last_click))
SELECT count(*) FROM ok
"""


async def apply(session: Session, reports: Sequence[Feedback], policy: Policy = POLICY) -> int:
    """Applies them, all or none; how many were new. Raises what `Session` raises, and then the caller may repeat it, except
    for a data error, which is one report's fault: the caller halves the batch."""
    now = datetime.now(UTC)
    wanted = [report for report in reports if report.type in TYPES and report.type != "unknown"]
    if not wanted:
        return 0
    columns: list[list[Any]] = [[], [], [], [], [], [], []]
    for number, report in enumerate(wanted):
        id_, stamp = _named(report)
        at = report.at if report.at is not None and report.at.tzinfo is not None and report.at < now else now
        at = max(at, now - timedelta(days=90))
        called = clean(report.provider_message_id)
        row = (number, id_, stamp, clean(report.provider), called, _address(report.recipient), at)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    rows = await session.fetch(FIND, *columns)
    messages = {row[0]: Message(id=row[1], stream=row[2], recipients=row[3], guessed=row[4]) for row in rows}
    complained = any(report.type == "complained" for report in wanted)
    marketing = [row[0] for row in await session.fetch(MARKETING)] if complained else []
    made: dict[str | int, Consequence] = {}
    for number, report in enumerate(wanted):
        if (consequence := decide(report, messages.get(number), marketing, now)) is not None:
            made.setdefault(consequence.key or number, consequence)
    if not made:
        return 0
    return int(
        await session.value(
            APPLY,
            msgspec.json.encode(list(made.values())).decode(),
            policy.soft_bounces,
            policy.within_days,
            policy.suppress_days,
        )
    )


def decide(report: Feedback, message: Message | None, marketing: Sequence[str], now: datetime) -> Consequence | None:
    """What follows from a report about `message` (None: not found). None: it names neither message nor recipient.

    `marketing`: the streams that a complaint stops; it never stops transactional ones.
    """
    bit, recipient = _whom(report, message)
    if message is None and not recipient:
        return None
    stream = message.stream if message is not None else report.stream or None
    soft = report.type == "bounced" and not report.hard
    suppress: list[tuple[str, str]] = []
    if message is not None and not message.guessed and recipient:
        if report.hard and report.type in ("bounced", "rejected"):
            suppress.append(("", "bounce"))
        elif report.type == "complained":
            suppress += [(name, "complaint") for name in marketing]
        elif report.type == "unsubscribed" and not report.topic:
            suppress.append((report.stream or message.stream, "unsubscribe"))
    elif report.type == "unsubscribed" and recipient and report.stream and not report.topic:
        suppress.append((report.stream, "unsubscribe"))  # its token says who and from what, years later
    proven = message is not None and not message.guessed and bool(recipient) and not report.bot
    return Consequence(
        key=_key(report),
        message_id=message.id if message is not None else 0,
        rcpt=bit,
        recipient=recipient,
        stream=stream,
        type=report.type,
        provider=clean(report.provider),
        provider_message_id=clean(report.provider_message_id),
        code=report.code if 0 <= report.code < 1000 else 0,
        enhanced=clean(report.enhanced, 20),
        category=clean(report.category, 60),
        detail=clean(report.detail),
        metadata=_metadata(report, now),
        suppress=suppress,
        source=clean(report.source, 200),
        soft=soft and proven,
        open=report.type == "opened" and proven,
        click=report.type == "clicked" and proven,
    )


def _named(report: Feedback) -> tuple[int, int]:
    """(id, stamp to prove it by) that the report itself names: our id, else a Message-ID of ours; zeros for none."""
    if report.message_id is not None:
        return (report.message_id if 0 < report.message_id < _ID_LIMIT else 0), 0
    for header in report.header_ids:
        if found := _ours(header):
            id_, stamp = int(found[1]), int(found[2], 16)
            if 0 < id_ < _ID_LIMIT and 0 < stamp < _ID_LIMIT:
                return id_, stamp
    return 0, 0


def _whom(report: Feedback, message: Message | None) -> tuple[int, str]:
    """(bit, normal address) of the recipient that a report is about; '' if nobody can say."""
    named = _address(report.recipient)
    if message is None:
        return 0, named
    ours = [_address(mailbox) for mailbox in message.recipients]
    if report.rcpt is not None and 0 <= report.rcpt < len(ours):
        return report.rcpt, ours[report.rcpt]
    if named in ours:
        return ours.index(named), named
    # Passed on to an address that we never wrote to: it is about the one that we did write to.
    return (0, ours[0]) if len(ours) == 1 else (0, "")


def _address(text: str) -> str:
    try:
        return normal(text) if text else ""
    except Failure:
        return ""


def _key(report: Feedback) -> str | None:
    """The name of the report, over all sources; None: it has none."""
    if not report.source_id:
        return None
    named = f"{report.source}\0{report.provider}\0{report.source_id}".encode("utf-8", "backslashreplace")
    return str(UUID(bytes=blake2b(named, digest_size=16).digest()))


def _metadata(report: Feedback, now: datetime) -> dict[str, Any] | None:
    said: dict[str, Any] = _clean(report.metadata)
    if report.source:
        said["source"] = clean(report.source, 200)
    if report.bot:
        said["bot"] = True
    if report.topic:
        said["topic"] = clean(report.topic, 200)
    if report.at is not None and report.at.tzinfo is not None and abs(report.at - now) > timedelta(seconds=5):
        said["reported_at"] = report.at.isoformat()
    if len(msgspec.json.encode(said)) > _METADATA_LIMIT:
        said = {key: value for key, value in said.items() if key in ("source", "bot", "topic", "reported_at")}
    return said or None


def _clean(value: Any) -> Any:
    """A stranger's value made safe for jsonb, which takes neither NUL nor an unpaired surrogate."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key), 200): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value if isinstance(value, int | float | bool) or value is None else clean(str(value))


# The generation that comes next holds keys of ten to fifteen days ago. Not at a turn, when some may write to it already.
_NEXT: Final = """
SELECT CASE WHEN extract(epoch FROM now())::bigint % 432000 BETWEEN 3600 AND 428400
  THEN ((floor(extract(epoch FROM now()) / 432000)::bigint + 1) % 3)::int END
"""
_EMPTY: Final = {n: f"SELECT NOT EXISTS (SELECT FROM mailerd.feedback_seen_{n})" for n in range(3)}
_TRUNCATE: Final = {n: f"TRUNCATE mailerd.feedback_seen_{n}" for n in range(3)}
_FORGET_SOFT: Final = "DELETE FROM mailerd.soft_bounce WHERE day < current_date - 90"


async def forget(session: Session) -> None:
    """Drops names of reports that are too old to come again, and soft bounces that are too old to count."""
    generation = await session.value(_NEXT)
    if generation is not None and not await session.value(_EMPTY[generation]):
        await session.execute(_TRUNCATE[generation])
    await session.execute(_FORGET_SOFT)
