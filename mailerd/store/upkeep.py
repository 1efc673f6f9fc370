"""Upkeep: partitions made ahead and dropped, queue gauges, old payloads, dedup keys and audit, unknown streams, gone
instances.

There is no leader. Each task tries an advisory lock (`only_one`), and whoever gets it works. Every statement has a
short `lock_timeout` or takes no lock that producers conflict with: when a table is busy the task is skipped and tried
again at the next tick. Nothing here is on the path of a message.

Hazards: DETACH CONCURRENTLY waits for every older transaction on the parent, and cannot run in a transaction block;
it waits alone (producers go on), has a statement timeout, and an interrupted one is finished by FINALIZE later.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

import asyncpg

from mailerd.store.database import Session, Unavailable

__all__ = [
    "AHEAD_DAYS",
    "drop_partitions",
    "fail_unknown_streams",
    "forget_audit",
    "forget_counts",
    "forget_kept",
    "forget_rates",
    "gauge",
    "make_partitions",
    "partitions_ok",
    "stray_streams",
    "sweep_up",
    "turn_dedup",
]

AHEAD_DAYS: Final = 35
OUTBOX_DAYS: Final = 30
EVENT_DAYS: Final = 90
AUDIT_DAYS: Final = 365
UNKNOWN_STREAM_SECONDS: Final = 3600

TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('mailerd.' || $1, 0))"

GAUGE: Final = """
WITH g AS (
  SELECT stream, CASE WHEN lease_until > now() THEN 'leased' ELSE 'ready' END AS state, count(*) AS n, min(id) AS first
  FROM mailerd.ready GROUP BY 1, 2
  UNION ALL
  SELECT stream, CASE WHEN deferred THEN 'deferred' ELSE 'scheduled' END, count(*), NULL FROM mailerd.scheduled GROUP BY 1, 2
  UNION ALL
  SELECT stream, 'dead', count(*), NULL FROM mailerd.dead_letter GROUP BY 1
  UNION ALL
  SELECT stream, 'in_doubt', count(*), NULL FROM mailerd.in_doubt GROUP BY 1),
put AS (
  INSERT INTO mailerd.queue_gauge AS q (stream, state, messages, oldest_seconds, at)
  SELECT stream, state, n, coalesce(greatest(extract(epoch FROM now() - to_timestamp((first >> 21) + 1577836800)), 0), 0), now() FROM g
  ON CONFLICT (stream, state) DO UPDATE SET messages = excluded.messages, oldest_seconds = excluded.oldest_seconds, at = excluded.at)
UPDATE mailerd.queue_gauge q SET messages = 0, oldest_seconds = 0, at = now()
WHERE (q.stream, q.state) NOT IN (SELECT stream, state FROM g)
"""

GAUGES: Final = "SELECT stream, state, messages, oldest_seconds, extract(epoch FROM now() - at)::float8 AS age FROM mailerd.queue_gauge"

# Streams that no live instance lists, and since when. What is written down here, tick by tick, is the only memory: that
# nobody lists a stream now says nothing about the hour before. With no instance at all there is nobody to know a
# stream, so an outage of mailerd counts for nothing, nor does any time in which nobody looked. A heartbeat takes the
# streams of its instance out again (`store.instances`).
UNLISTED: Final = """
WITH RECURSIVE s AS (
  (SELECT stream FROM mailerd.ready ORDER BY stream LIMIT 1)
  UNION ALL
  SELECT n.stream FROM s CROSS JOIN LATERAL (SELECT r.stream FROM mailerd.ready r WHERE r.stream > s.stream ORDER BY r.stream LIMIT 1) n),
live AS MATERIALIZED (
  SELECT unnest(i.streams) AS stream FROM mailerd.instance i WHERE i.seen_at > now() - interval '15 seconds'),
past AS (
  DELETE FROM mailerd.unlisted u WHERE EXISTS (SELECT FROM live l WHERE l.stream = u.stream)
    OR (u.seen < now() - interval '1 hour' AND NOT EXISTS (SELECT FROM s WHERE s.stream = u.stream)))
INSERT INTO mailerd.unlisted AS u (stream)
SELECT s.stream FROM s WHERE EXISTS (SELECT FROM live) AND NOT EXISTS (SELECT FROM live l WHERE l.stream = s.stream)
ON CONFLICT (stream) DO UPDATE SET seen = now(), since = CASE WHEN u.seen > now() - interval '5 minutes' THEN u.since ELSE now() END
"""

UNKNOWN: Final = """
WITH pick AS MATERIALIZED (
  SELECT p.ctid FROM mailerd.unlisted u CROSS JOIN LATERAL (
    SELECT r.ctid FROM mailerd.ready r
    WHERE r.stream = u.stream AND r.lease_until < now() AND r.id < mailerd.id_at(now() - make_interval(secs => $1))
    ORDER BY r.priority, r.domain, r.campaign, r.id LIMIT 1000 FOR UPDATE SKIP LOCKED) p
  WHERE u.since < now() - make_interval(secs => $1) AND u.seen > now() - interval '5 minutes'
    AND NOT EXISTS (SELECT FROM mailerd.instance i WHERE i.seen_at > now() - interval '15 seconds' AND u.stream = ANY (i.streams))),
gone AS (
  DELETE FROM mailerd.ready WHERE ctid = ANY (ARRAY(SELECT ctid FROM pick))
  RETURNING stream, priority, domain, campaign, id, attempt, rcpt, size, intent, expires_at),
w AS MATERIALIZED (
  SELECT g.*, o.recipient, o.cc, o.bcc, 'no instance lists the stream ' || g.stream AS reason FROM gone g CROSS JOIN LATERAL (
    (SELECT o.recipient, o.cc, o.bcc FROM mailerd.outbox o WHERE o.id = g.id LIMIT 1)
    UNION ALL (SELECT o.recipient, o.cc, o.bcc FROM mailerd.outbox_kept o WHERE o.id = g.id LIMIT 1)
    UNION ALL SELECT NULL, NULL, NULL LIMIT 1) o),
e AS (
  INSERT INTO mailerd.event (message_id, type, rcpt, recipient, stream, attempt, class, detail)
  SELECT w.id, CASE WHEN w.intent THEN 'in_doubt' ELSE 'failed' END, (m.n - 1)::smallint, m.mailbox, w.stream, w.attempt, 'configuration', w.reason
  FROM w CROSS JOIN LATERAL unnest(ARRAY[w.recipient] || coalesce(w.cc, '{}') || coalesce(w.bcc, '{}')) WITH ORDINALITY AS m(mailbox, n)
  WHERE w.rcpt >> (m.n - 1)::int & 1 = 1 OR w.recipient IS NULL),
-- Its intent is committed: an instance that is gone may have sent it.
h AS (
  INSERT INTO mailerd.in_doubt (message_id, stream, priority, domain, campaign, rcpt, size, attempts, expires_at, detail)
  SELECT w.id, w.stream, w.priority, w.domain, w.campaign, w.rcpt, w.size, w.attempt, w.expires_at, w.reason FROM w WHERE w.intent
  ON CONFLICT (message_id) DO UPDATE SET at = now(), rcpt = excluded.rcpt, detail = excluded.detail),
d AS (
  INSERT INTO mailerd.dead_letter AS l (message_id, stream, priority, domain, campaign, rcpt, size, attempts, recipient, reason, class)
  SELECT w.id, w.stream, w.priority, w.domain, w.campaign, w.rcpt, w.size, w.attempt, w.recipient, w.reason, 'configuration'
  FROM w WHERE NOT w.intent
  ON CONFLICT (message_id) DO UPDATE SET at = now(), rcpt = l.rcpt | excluded.rcpt, attempts = excluded.attempts,
    reason = excluded.reason, class = excluded.class, provider = NULL, detail = NULL)
SELECT count(*) FROM gone
"""

STRAY_STREAMS: Final = """
WITH RECURSIVE s AS (
  (SELECT stream FROM mailerd.scheduled ORDER BY stream LIMIT 1)
  UNION ALL
  SELECT n.stream FROM s CROSS JOIN LATERAL (
    SELECT r.stream FROM mailerd.scheduled r WHERE r.stream > s.stream ORDER BY r.stream LIMIT 1) n)
SELECT stream FROM s
WHERE NOT EXISTS (SELECT FROM mailerd.instance i WHERE i.seen_at > now() - interval '15 seconds' AND s.stream = ANY (i.streams))
"""

# What of a partition is needed is asked of the tables that need it: they are small where the partition is large.
NEEDED: Final = """
SELECT r.id FROM mailerd.ready r WHERE r.id BETWEEN $1 AND $2
UNION SELECT s.id FROM mailerd.scheduled s WHERE s.id BETWEEN $1 AND $2
UNION SELECT d.message_id FROM mailerd.dead_letter d WHERE d.message_id BETWEEN $1 AND $2
UNION SELECT d.message_id FROM mailerd.in_doubt d WHERE d.message_id BETWEEN $1 AND $2
"""

KEEP: Final = """
INSERT INTO mailerd.outbox_kept (id, created_at, stream, priority, send_at, expires_at, dedup_key, sender, recipient, cc, bcc, reply_to,
  subject, text_body, html_body, template, params, locale, raw, headers, attachments, thread_key, campaign, tags, metadata, topic)
SELECT o.* FROM unnest($1::bigint[]) AS w(id) CROSS JOIN LATERAL (
  SELECT o.id, created_at, stream, priority, send_at, expires_at, dedup_key, sender, recipient, cc, bcc, reply_to,
    subject, text_body, html_body, template, params, locale, raw, headers, attachments, thread_key, campaign, tags, metadata, topic
  FROM mailerd.{child} o WHERE o.id = w.id LIMIT 1) o
ON CONFLICT (id) DO NOTHING
"""

# Look-ups with LIMIT 1 in the list of columns: no statistics can turn them into a scan of all that is queued.
FORGET: Final = """
WITH page AS MATERIALIZED (
  SELECT k.id,
    (SELECT true FROM mailerd.ready r WHERE r.stream = k.stream AND r.priority = k.priority AND r.domain = k.domain
      AND r.campaign = coalesce(k.campaign, '') AND r.id = k.id LIMIT 1) IS NULL
    AND (SELECT true FROM mailerd.scheduled s WHERE s.id = k.id LIMIT 1) IS NULL
    AND (SELECT true FROM mailerd.dead_letter d WHERE d.message_id = k.id LIMIT 1) IS NULL
    AND (SELECT true FROM mailerd.in_doubt d WHERE d.message_id = k.id LIMIT 1) IS NULL AS ended
  FROM mailerd.outbox_kept k WHERE k.id > $1 ORDER BY k.id LIMIT $2),
gone AS (DELETE FROM mailerd.outbox_kept WHERE id = ANY (ARRAY(SELECT id FROM page WHERE ended)) RETURNING id)
SELECT (SELECT max(id) FROM page), (SELECT count(*) FROM page), (SELECT count(*) FROM gone)
"""

# The oldest rows have the smallest ids.
FORGET_COUNTS: Final = """
WITH gone AS (
  DELETE FROM mailerd.recipient_count WHERE ctid = ANY (ARRAY(
    SELECT c.ctid FROM mailerd.recipient_count c WHERE c.last < now() - interval '25 hours' ORDER BY c.last LIMIT $1
    FOR UPDATE SKIP LOCKED))
  RETURNING 1)
SELECT count(*) FROM gone
"""

FORGET_RATES: Final = "DELETE FROM mailerd.throttle_rate WHERE until < now() - interval '1 day'"
# An instance that wants one again makes its row anew.
FORGET_BUCKETS: Final = (
    "DELETE FROM mailerd.throttle WHERE position('/domain:' IN key) > 0 AND tat < extract(epoch FROM now()) - 86400"
)

FORGET_AUDIT: Final = """
WITH page AS MATERIALIZED (SELECT a.id, a.at FROM mailerd.audit a ORDER BY a.id LIMIT $2),
gone AS (
  DELETE FROM mailerd.audit WHERE id = ANY (ARRAY(SELECT id FROM page WHERE at < now() - make_interval(days => $1))) RETURNING id)
SELECT count(*) FROM gone
"""

# The day is read from the name only where it has the form of one, and only our own spelling of it counts: Postgres
# refuses to read a date from somebody's `outbox_12345678`, and 31 February would be a day in March.
_DAY: Final = """CASE WHEN c.relname ~ '_2[0-9]{3}(0[1-9]|1[0-2])[0-3][0-9]$'
    THEN to_date(left(right(c.relname, 8), 6) || '01', 'YYYYMMDD') + right(c.relname, 2)::int - 1 END AS day"""

CHILDREN: Final = f"""
SELECT x.name, x.pending, x.day FROM (
  SELECT c.relname AS name, i.inhdetachpending AS pending, {_DAY}
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
  WHERE i.inhparent = to_regclass('mailerd.' || $1) AND c.relnamespace = p.relnamespace) x
WHERE x.name = mailerd.partition_name($1, x.day) ORDER BY 1
"""

# Only what we have marked before we detached it: a table may look like a partition of ours and be somebody's archive.
MARK: Final = "mailerd: a partition past its time, to be dropped"

ORPHANS: Final = f"""
SELECT c.relname AS name FROM pg_class c JOIN pg_class p ON p.oid = to_regclass('mailerd.' || $1)
WHERE c.relnamespace = p.relnamespace AND c.relkind = 'r' AND c.relname ~ ('^' || $1 || '_[0-9]{{8}}$') AND NOT c.relispartition
  AND obj_description(c.oid, 'pg_class') = '{MARK}' ORDER BY 1
"""

# A person's table of that name, attached to nothing, is no partition.
TOMORROW: Final = """
SELECT count(*) = 2
FROM (SELECT ((now() AT TIME ZONE 'UTC') + interval '1 day')::date AS day) d CROSS JOIN unnest('{outbox,event}'::text[]) AS w(parent)
JOIN pg_inherits i ON i.inhparent = to_regclass('mailerd.' || w.parent)
  AND i.inhrelid = to_regclass('mailerd.' || mailerd.partition_name(w.parent, d.day))
"""


def today() -> date:
    return datetime.now(UTC).date()


async def only_one(session: Session, task: str) -> bool:
    """True when this tick of `task` is ours. The lock ends with the statement's transaction: it only spreads ticks,
    so every task below is safe to run twice at once."""
    return bool(await session.value(TRY_LOCK, task))


async def make_partitions(session: Session, days: int = AHEAD_DAYS) -> int:
    """Creates what is missing from yesterday to `days` ahead; how many were made. Busy tables are left for later.

    Raises the first refusal of Postgres, after all other days were tried.
    """
    made = 0
    refused: asyncpg.PostgresError | None = None
    first = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    for offset in range(-1, days + 1):
        day = first + timedelta(days=offset)
        for parent in ("outbox", "event"):
            try:
                if await session.value("SELECT mailerd.create_partition($1, $2)", parent, day):
                    made += 1
                    await session.execute(f"ANALYZE mailerd.{parent}_{day:%Y%m%d}")
            except asyncpg.LockNotAvailableError:
                continue
            except asyncpg.PostgresError as error:  # somebody's table has that name, say
                refused = refused or error
    if refused is not None:
        raise refused
    return made


async def partitions_ok(session: Session) -> bool:
    """Are the partitions of tomorrow there? Without them settle would fail: stop leasing before that."""
    return bool(await session.value(TOMORROW))


async def drop_partitions(
    session: Session, *, outbox_days: int = OUTBOX_DAYS, event_days: int = EVENT_DAYS, patience: float = 20.0
) -> list[str]:
    """Drops partitions past their time, each in steps that survive a crash; the names of those that are gone.

    Payloads that are still needed (unsettled, dead, in doubt) are copied to `outbox_kept` first. Raises the first
    refusal of Postgres, after all other partitions were tried.
    """
    dropped: list[str] = []
    refused: asyncpg.PostgresError | None = None
    now = await session.value("SELECT (now() AT TIME ZONE 'UTC')::date")
    for parent, keep in (("outbox", outbox_days), ("event", event_days)):
        children = await session.fetch(CHILDREN, parent)
        # One that is half detached comes first: until it is finished, Postgres detaches no other.
        for name, pending, day in sorted(children, key=lambda child: not child["pending"]):
            if not pending and day >= now - timedelta(days=keep):
                continue
            try:
                await _detach(session, parent, name, pending, patience)
            except (asyncpg.LockNotAvailableError, asyncpg.ObjectNotInPrerequisiteStateError):
                continue  # busy, or another instance is at it: the next tick does it
            except Unavailable:
                break  # an old transaction stands in the way, and would in the way of the others
            except asyncpg.PostgresError as error:
                refused = refused or error
        for (name,) in await session.fetch(ORPHANS, parent):
            try:
                await session.script(
                    [("SET LOCAL lock_timeout = '50ms'", ()), (f"DROP TABLE IF EXISTS mailerd.{name}", ())]
                )
                dropped.append(name)
            except asyncpg.LockNotAvailableError:
                continue
            except asyncpg.PostgresError as error:  # somebody's view stands on it
                refused = refused or error
    if refused is not None:
        raise refused
    return dropped


async def _detach(session: Session, parent: str, name: str, pending: bool, patience: float) -> None:
    """Takes a partition out of its table, its needed payloads saved and itself marked for the drop."""
    alter = f"ALTER TABLE mailerd.{parent} DETACH PARTITION mailerd.{name}"
    if pending:
        await session.execute(f"{alter} FINALIZE", timeout=patience)
        return
    if parent == "outbox":
        await _keep(session, name)
    await session.script(
        [("SET LOCAL lock_timeout = '50ms'", ()), (f"COMMENT ON TABLE mailerd.{name} IS '{MARK}'", ())]
    )
    await session.execute(f"{alter} CONCURRENTLY", timeout=patience)


async def _keep(session: Session, name: str, batch: int = 200) -> None:
    """Copies the payloads that are still needed. Rows of a partition that old only ever leave what needs them."""
    first, last = (await session.fetch(f"SELECT min(id), max(id) FROM mailerd.{name}"))[0]
    if first is None:
        return
    ids = [row[0] for row in await session.fetch(NEEDED, first, last)]
    for start in range(0, len(ids), batch):  # a payload has up to 25 MB: all in one statement would never end in time
        await session.execute(KEEP.format(child=name), ids[start : start + batch])


async def forget_kept(session: Session, batch: int = 500) -> int:
    """Deletes kept payloads whose message has ended since; how many."""
    forgotten, after, found = 0, 0, batch
    while found == batch:
        last, found, gone = (await session.fetch(FORGET, after, batch))[0]
        forgotten += gone
        after = last if found else after
    return forgotten


async def forget_counts(session: Session, batch: int = 1000) -> int:
    """Deletes the counts of addresses that nobody has written to for as long as a limit may look back; how many."""
    forgotten, gone = 0, batch
    while gone == batch:
        gone = int(await session.value(FORGET_COUNTS, batch))
        forgotten += gone
    return forgotten


async def forget_rates(session: Session) -> None:
    """Deletes rates that ended more than a day ago, and buckets of single domain groups that nobody asked for a day."""
    await session.execute(FORGET_RATES)
    await session.execute(FORGET_BUCKETS)


async def forget_audit(session: Session, days: int = AUDIT_DAYS, batch: int = 1000) -> int:
    """Deletes what operators did longer ago; how many."""
    forgotten, gone = 0, batch
    while gone == batch:
        gone = int(await session.value(FORGET_AUDIT, days, batch))
        forgotten += gone
    return forgotten


async def gauge(session: Session) -> None:
    """Counts the queues into `queue_gauge`.

    It reads all of `ready`: in the order of the table, not of the index as the role's settings would have it.
    """
    await session.script([("SET LOCAL enable_seqscan = on", ()), (GAUGE, ())])


async def fail_unknown_streams(session: Session, seconds: float = UNKNOWN_STREAM_SECONDS) -> int:
    """Fails messages older than `seconds` of streams that no live instance has listed for as long; how many.

    To be called every minute: after five without a call the time begins anew.
    """
    await session.execute(UNLISTED)
    return int(await session.value(UNKNOWN, seconds))


async def stray_streams(session: Session) -> list[str]:
    """Every stream that has something scheduled and that no live instance lists, by a loose index scan."""
    return [row[0] for row in await session.fetch(STRAY_STREAMS)]


async def turn_dedup(session: Session) -> bool:
    """Empties the older generation of dedup keys and writes there from now on, once a longest window has passed."""
    try:
        return bool(await session.value("SELECT mailerd.turn_dedup()"))
    except asyncpg.LockNotAvailableError:
        return False


async def sweep_up(session: Session) -> None:
    """Forgets instances that have not been seen for ten minutes."""
    await session.execute(
        "DELETE FROM mailerd.provider_state p WHERE NOT EXISTS (SELECT FROM mailerd.instance i WHERE i.id = p.instance "
        "AND i.seen_at > now() - interval '10 minutes')"
    )
    await session.execute("DELETE FROM mailerd.instance WHERE seen_at < now() - interval '10 minutes'")
