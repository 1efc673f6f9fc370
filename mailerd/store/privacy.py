"""What is held about one address: told in full, or erased so that only a pseudonym is left.

`export` reads, `erase` changes. Erasing cancels what is unsent, empties the rows of what is settled, puts a keyed hash in the
place of the address in events, suppression and audit, and removes what is only about the address. A suppression goes on
holding: the gate looks for the hash as well. What is being sent at that moment, or is in doubt, cannot be erased yet: it is
counted, and the caller repeats the command later. A message to several people is erased as a whole, except for the
addresses of the others.

It never touches the metrics, the applications' own tables, backups or log files. Hazards: it reads whole tables (no index
knows who is in cc), so it takes minutes on a large outbox; and the hash is only as good as its key: whoever has the
secret can test whether a given address was erased.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from mailerd.compose.tokens import derive
from mailerd.store.database import Run, Session

__all__ = ["Erased", "erase", "export", "key", "pseudonym"]

TIMEOUT: Final = 600.0  # seconds a statement: whole tables are read
PURPOSE: Final = "privacy"


def key(secrets: tuple[str, ...]) -> bytes | None:
    """The key of the pseudonyms, from the oldest of `[public] secret`: the one that rotation leaves alone the longest."""
    return derive(secrets[-1], PURPOSE) if secrets else None


def pseudonym(key: bytes, address: str) -> str:
    """What stands for an address (in normal form) that was erased: `erased:` and 128 bits of HMAC-SHA-256 in hexadecimal.
    No address looks like it: it has no `@`."""
    return "erased:" + hmac.digest(key, address.encode("utf-8", "backslashreplace"), sha256).hex()[:32]


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What `erase` did, in rows. `held`: messages that are being sent or in doubt, and were left as they are."""

    pseudonym: str
    cancelled: int
    messages: int
    events: int
    dead_letters: int
    suppression: int
    engagement: int
    soft_bounces: int
    inbound_mail: int
    held: tuple[int, ...] = ()


def spellings(address: str) -> list[str]:
    """The address as applications may have written it: its domain in A-labels, and in U-labels."""
    local, _, domain = address.rpartition("@")
    try:
        unicode = f"{local}@{domain.encode('ascii').decode('idna')}".lower()
    except UnicodeError:
        return [address]
    return list(dict.fromkeys((address, unicode)))


def mention(names: Sequence[str]) -> str:
    """A regular expression of Postgres for text that has one of them: ann@x.example, not joann@x.example nor ann@x.example.org."""
    return f"(?<![a-z0-9.!#$%&*+?^_{{|}}~-])(?:{'|'.join(map(re.escape, names))})(?![a-z0-9_-]|\\.[a-z0-9])"


# The bare address of a mailbox, lower-cased.
_BARE: Final = r"lower(regexp_replace({}, '^.*<([^<>]*)>$', '\1'))"
_TO: Final = _BARE.format("o.recipient") + " = ANY ($1::text[])"
_COPIED: Final = f"EXISTS (SELECT FROM unnest(coalesce(o.cc, '{{}}') || coalesce(o.bcc, '{{}}')) AS x(m) WHERE {_BARE.format('x.m')} = ANY ($1::text[]))"
_OURS: Final = f"({_TO} OR {_COPIED})"
# What mentions the address; $1 is `mention`.
_INBOUND: Final = """(o.message_id = ANY ($2::bigint[]) OR concat_ws(' ', o.sender, array_to_string(o.recipients, ' '), o.report::text) ~* $1::text
  OR encode(o.raw, 'escape') ~* $1::text)"""
_NOTED: Final = "concat_ws(' ', o.target, o.detail) ~* $1::text"

_FIND: Final = f"""
SELECT o.id FROM mailerd.outbox o WHERE {_OURS} UNION SELECT o.id FROM mailerd.outbox_kept o WHERE {_OURS} ORDER BY 1
"""
_EVENT: Final = _BARE.format("o.recipient") + " = ANY ($1::text[])"
_DEAD: Final = f"(o.message_id = ANY ($2::bigint[]) OR {_BARE.format('o.recipient')} = ANY ($1::text[]))"
_HIS: Final = "o.address = ANY ($1::text[])"

# (table, where, what besides $1 it needs); $1 are the spellings, or for the last two `mention`.
_EXPORT: Final = (
    ("events", "event", _EVENT, False),
    ("dead_letters", "dead_letter", _DEAD, True),
    ("suppression", "suppression", _HIS, False),
    ("engagement", "engagement", _HIS, False),
    ("soft_bounces", "soft_bounce", _HIS, False),
    ("recipient_counts", "recipient_count", _HIS, False),
)


async def export(session: Session, address: str, key: bytes | None = None) -> dict[str, list[Any]]:
    """Everything held about an address (in normal form), by table. With the key, what was erased before as well."""
    names = spellings(address)
    ids = [row[0] for row in await session.fetch(_FIND, names, timeout=TIMEOUT)]

    async def rows(table: str, where: str, *arguments: Any) -> list[Any]:
        sql = f"SELECT to_jsonb(o) FROM mailerd.{table} o WHERE {where}"
        return [msgspec.json.decode(row[0]) for row in await session.fetch(sql, *arguments, timeout=TIMEOUT)]

    told = {
        "outbox": [
            row for table in ("outbox", "outbox_kept") for row in await rows(table, "o.id = ANY ($1::bigint[])", ids)
        ]
    }
    if key is not None:
        names.append(pseudonym(key, address))
    for name, table, where, by_id in _EXPORT:
        told[name] = await rows(table, where, names, *([ids] if by_id else []))
    told["inbound_mail"] = await rows("inbound_mail", _INBOUND, mention(names), ids)
    told["webhooks_in"] = await rows("inbox", "encode(o.body, 'escape') ~* $1::text", mention(names))
    told["audit"] = await rows("audit", _NOTED, mention(names))
    return told


_CANCEL: Final = "SELECT count(*) FILTER (WHERE mailerd.cancel(id)) FROM unnest($1::bigint[]) AS id"
_HELD: Final = """
SELECT id FROM mailerd.ready WHERE id = ANY ($1::bigint[]) UNION SELECT id FROM mailerd.scheduled WHERE id = ANY ($1::bigint[])
UNION SELECT message_id FROM mailerd.in_doubt WHERE message_id = ANY ($1::bigint[]) ORDER BY 1
"""
# Still a row that the table's constraints accept: a mailbox that cannot exist (RFC 2606), and an empty text.
_NOBODY: Final = "replace($2::text, ':', '-') || '@erased.invalid'"
_OTHERS: Final = f"(SELECT array_agg(CASE WHEN {_BARE.format('x.m')} = ANY ($1::text[]) THEN {_NOBODY} ELSE x.m END ORDER BY x.n) FROM unnest(o.{{}}) WITH ORDINALITY AS x(m, n))"
_EMPTY: Final = f"""
UPDATE mailerd.{{}} o SET recipient = CASE WHEN {_TO} THEN {_NOBODY} ELSE recipient END,
  cc = {_OTHERS.format("cc")}, bcc = {_OTHERS.format("bcc")}, reply_to = NULL, subject = NULL, text_body = '', html_body = NULL,
  template = NULL, params = NULL, locale = NULL, raw = NULL, headers = NULL, attachments = NULL, thread_key = NULL, dedup_key = NULL,
  tags = NULL, metadata = NULL
WHERE o.id = ANY ($3::bigint[]) RETURNING o.id
"""
_EVENTS: Final = f"""
UPDATE mailerd.event o SET recipient = $2::text, detail = regexp_replace(o.detail, $4::text, $2::text, 'gi'),
  metadata = nullif(jsonb_strip_nulls(jsonb_build_object('bot', metadata -> 'bot')), '{{}}')
WHERE {_EVENT} AND NOT o.message_id = ANY ($3::bigint[]) RETURNING o.id
"""
# Another recipient's event may quote the address: a reply to a transaction of several.
_QUOTED: Final = """
UPDATE mailerd.event o SET detail = regexp_replace(o.detail, $1::text, $2::text, 'gi')
WHERE o.message_id = ANY ($3::bigint[]) AND o.detail ~* $1::text
"""
_READ: Final = (
    "encode(o.body, 'escape') ~* $1::text AND NOT EXISTS (SELECT FROM mailerd.inbox_unread u WHERE u.id = o.id)"
)
_SUPPRESSION: Final = """
WITH gone AS (DELETE FROM mailerd.suppression WHERE address = ANY ($1::text[]) RETURNING stream, reason, source, at, until)
INSERT INTO mailerd.suppression AS s (address, stream, reason, source, at, until)
SELECT DISTINCT ON (stream) $2::text, stream, reason, source, at, until FROM gone ORDER BY stream, until DESC NULLS FIRST
ON CONFLICT (address, stream) DO UPDATE SET until = excluded.until WHERE s.until IS NOT NULL AND (excluded.until IS NULL OR excluded.until > s.until)
RETURNING stream
"""
_AUDITED: Final = f"""
UPDATE mailerd.audit o SET target = regexp_replace(o.target, $1::text, $2::text, 'gi'), detail = regexp_replace(o.detail, $1::text, $2::text, 'gi')
WHERE {_NOTED}
"""


async def erase(session: Session, address: str, key: bytes, actor: str) -> Erased:
    """Erases an address (in normal form), all or nothing. Repeating it is safe. Raises what `Session` raises."""
    names = spellings(address)
    hidden, mentioned = pseudonym(key, address), mention(names)
    done: list[Erased] = []

    async def work(run: Run) -> None:
        ids = [row[0] for row in await run(_FIND, names)]
        cancelled = (await run(_CANCEL, ids))[0][0]
        held = [row[0] for row in await run(_HELD, ids)]
        settled = sorted(set(ids) - set(held))
        messages = {
            row[0]
            for table in ("outbox", "outbox_kept")
            for row in await run(_EMPTY.format(table), names, hidden, settled)
        }

        async def gone(table: str, where: str, *arguments: Any) -> int:
            return len(await run(f"DELETE FROM mailerd.{table} o WHERE {where} RETURNING 1", *arguments))

        for table in ("dedup_0", "dedup_1"):  # a key may be made of the address
            await gone(table, "o.id = ANY ($1::bigint[])", settled)
        await gone("recipient_count", _HIS, names)
        result = Erased(
            pseudonym=hidden,
            cancelled=cancelled,
            messages=len(messages),
            events=len(await run(_EVENTS, names, hidden, held, mentioned)),
            dead_letters=await gone("dead_letter", _DEAD, names, settled),
            suppression=len(await run(_SUPPRESSION, names, hidden)),
            engagement=await gone("engagement", _HIS, names),
            soft_bounces=await gone("soft_bounce", _HIS, names),
            inbound_mail=await gone("inbound_mail", _INBOUND, mentioned, settled),
            held=tuple(held),
        )
        await run(_QUOTED, mentioned, hidden, settled)
        await gone("inbox", _READ, mentioned)
        await run(_AUDITED, mentioned, hidden)
        detail = f"{result.messages} messages, {result.events} events, {len(held)} still held"
        await run(
            "INSERT INTO mailerd.audit (actor, action, target, detail) VALUES ($1, $2, $3, $4)",
            actor, "privacy erase", hidden, detail,
        )  # fmt: skip
        done.append(result)

    await session.together(work, timeout=TIMEOUT)
    return done[0]
