"""Mail that came back: stored before it is answered for, taken for reading, and what was made of it.

A mail is known by its digest, so one that is handed over again (an answer that was lost, a crash between storing and
moving a file) is stored once. Whoever reads takes rows for a minute (`take`); those of a reader that died come again,
and reading twice does no harm, since what a report sets off counts once by its `source_id`. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import msgspec

from mailerd.store.database import Session

__all__ = [
    "ATTEMPTS",
    "Arrived",
    "Reading",
    "Row",
    "Sent",
    "finish",
    "forget",
    "give_up",
    "keep",
    "listed",
    "replay",
    "row",
    "sent",
    "take",
]

ATTEMPTS: Final = 8  # times that a mail is taken before it counts as unreadable; the waits between add up to a day
_HELD: Final = 60.0  # seconds that a taken mail is its reader's


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """A mail as it came. `raw`: the start of it; `size`: octets of all; `hashed`: sha256 of all. `sender` None: no envelope."""

    source: str
    raw: bytes
    size: int
    hashed: bytes
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    peer: str | None = None

    @property
    def digest(self) -> bytes:
        """What it is known by. The recipients belong to it: two return paths may get the same octets."""
        return sha256(
            "\0".join((self.hashed.hex(), *sorted(self.recipients))).encode("utf-8", "surrogateescape")
        ).digest()


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A mail that was taken for reading."""

    id: int
    at: datetime
    source: str
    recipients: list[str]
    digest: bytes
    raw: bytes
    attempts: int


class Sent(msgspec.Struct, frozen=True):
    """A message of ours: when it was made, and its recipients by their bits, as the row has them."""

    id: int
    created_at: datetime
    recipients: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list, or (with `raw`) all there is."""

    id: int
    at: datetime
    source: str
    peer: str | None
    sender: str | None
    recipients: list[str]
    size: int
    kind: str | None
    message_id: int | None
    matched_by: str | None
    applied: int | None
    attempts: int
    read_at: datetime | None
    next_at: datetime | None
    error: str | None
    recipient: str | None  # of the first result
    status: str | None
    hardness: str | None
    reason: str | None
    report: str | None = None
    raw: bytes | None = None


_COLUMNS: Final = """id, at, source, peer, sender, recipients, size, kind, message_id, matched_by, applied, attempts, read_at,
  next_at, error, report #>> '{results,0,recipient}' AS recipient, report #>> '{results,0,status}' AS status,
  report #>> '{results,0,hardness}' AS hardness, report #>> '{results,0,reason}' AS reason"""
_KEEP: Final = """
INSERT INTO mailerd.inbound_mail (source, peer, sender, recipients, digest, size, raw)
SELECT source, peer, sender, ARRAY(SELECT jsonb_array_elements_text(recipients::jsonb)), digest, size, raw
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::bytea[])
  AS g(source, peer, sender, recipients, digest, size, raw)
ON CONFLICT (digest) DO NOTHING RETURNING digest
"""
_TAKE: Final = """
UPDATE mailerd.inbound_mail m SET attempts = attempts + 1, next_at = now() + make_interval(secs => $2)
FROM (SELECT id FROM mailerd.inbound_mail WHERE next_at <= now() ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due
WHERE m.id = due.id RETURNING m.id, m.at, m.source, m.recipients, m.digest, m.raw, m.attempts
"""
_FINISH: Final = """
UPDATE mailerd.inbound_mail SET next_at = NULL, read_at = now(), kind = $2, report = $3::text::jsonb, message_id = $4,
  matched_by = $5, applied = coalesce(applied, 0) + $6, error = NULL WHERE id = $1
"""
_GIVE_UP: Final = """
UPDATE mailerd.inbound_mail SET error = $2, kind = CASE WHEN $3 THEN 'unreadable' ELSE kind END,
  next_at = CASE WHEN $3 THEN NULL ELSE now() + make_interval(secs => 10 * 4 ^ least(attempts, 7)) END WHERE id = $1
"""
_SENT: Final = "SELECT id, created_at, recipient, cc, bcc FROM mailerd.outbox WHERE id = ANY ($1::bigint[])"
_LISTED: Final = f"""
SELECT {_COLUMNS} FROM mailerd.inbound_mail
WHERE ($1::text IS NULL OR kind = $1) AND ($2::bigint IS NULL OR message_id = $2) AND (NOT $3 OR message_id IS NULL)
ORDER BY at DESC, id DESC LIMIT $4
"""
_ROW: Final = f"SELECT {_COLUMNS}, report::text AS report, raw FROM mailerd.inbound_mail WHERE id = $1"
_REPLAY: Final = "UPDATE mailerd.inbound_mail SET next_at = now(), attempts = 0, error = NULL WHERE id = ANY ($1::bigint[]) RETURNING id"
_FORGET: Final = """
WITH old AS (SELECT id FROM mailerd.inbound_mail WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2),
gone AS (DELETE FROM mailerd.inbound_mail m USING old WHERE m.id = old.id RETURNING 1)
SELECT count(*) FROM gone
"""


async def keep(session: Session, mails: Sequence[Arrived]) -> set[bytes]:
    """Stores them, all or none; the digests of those that were new. Once it returns, they are durable."""
    rows = await session.fetch(
        _KEEP,
        [m.source for m in mails],
        [m.peer for m in mails],
        [m.sender for m in mails],
        [msgspec.json.encode(m.recipients).decode() for m in mails],
        [m.digest for m in mails],
        [m.size for m in mails],
        [m.raw for m in mails],
    )
    return {row[0] for row in rows}


async def take(session: Session, limit: int) -> list[Reading]:
    """Mails that are to be read, the oldest first; they are the caller's for a minute."""
    return [Reading(**dict(row)) for row in await session.fetch(_TAKE, limit, _HELD)]


async def finish(
    session: Session, mail: int, kind: str, report: bytes, message: int | None, matched_by: str, applied: int
) -> None:
    """What became of a mail. `report`: JSON."""
    await session.execute(_FINISH, mail, kind, report.decode(), message, matched_by or None, applied)


async def give_up(session: Session, mail: int, why: str, *, final: bool) -> None:
    """It could not be dealt with: later again, or (`final`) never."""
    await session.execute(_GIVE_UP, mail, why, final)


async def sent(session: Session, ids: Sequence[int]) -> dict[int, Sent]:
    """Those of the messages that the outbox still has."""
    if not ids:
        return {}
    rows = await session.fetch(_SENT, list(ids))
    return {row[0]: Sent(row[0], row[1], (row[2], *(row[3] or ()), *(row[4] or ()))) for row in rows}


async def listed(
    session: Session, limit: int, *, kind: str | None = None, message: int | None = None, unmatched: bool = False
) -> list[Row]:
    """The newest first."""
    return [Row(**dict(row)) for row in await session.fetch(_LISTED, kind, message, unmatched, limit)]


async def row(session: Session, mail: int) -> Row | None:
    """All there is of one mail."""
    found: list[Any] = await session.fetch(_ROW, mail)
    return Row(**dict(found[0])) if found else None


async def replay(session: Session, ids: Sequence[int]) -> list[int]:
    """They are read again by the next daemon that looks; which there were."""
    return [row[0] for row in await session.fetch(_REPLAY, list(ids))]


async def forget(session: Session, seconds: float, batch: int = 500) -> int:
    """Deletes those that came longer ago; how many."""
    forgotten, gone = 0, batch
    while gone == batch:
        gone = int(await session.value(_FORGET, seconds, batch))
        forgotten += gone
    return forgotten
