"""The addresses that must not get mail, of one stream or ('' ) of all.

Addresses come in normal form (`compose.address.normal`): lower-cased, A-label domain; this file changes none. Adding
one that is there already takes over the new reason and end. Lists of any length are read and written page by page.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

import msgspec

from mailerd.store.database import Session

__all__ = ["Suppression", "add", "audit", "export", "listed", "remove"]

PAGE: Final = 5000


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `stream` '' is every stream; `until` None is for ever; `at` is None before it is stored."""

    address: str
    stream: str = ""
    reason: str = "manual"
    source: str | None = None
    until: datetime | None = None
    at: datetime | None = None


# DISTINCT ON: one statement may not touch a row twice, and a list from elsewhere may hold an address twice.
_ADD: Final = """
WITH given AS (
  SELECT DISTINCT ON (address, stream) * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
    WITH ORDINALITY AS g(address, stream, reason, source, until, n) ORDER BY address, stream, n DESC),
put AS (
  INSERT INTO mailerd.suppression AS s (address, stream, reason, source, until)
  SELECT address, stream, reason, source, until FROM given
  ON CONFLICT (address, stream) DO UPDATE SET reason = excluded.reason, source = excluded.source, until = excluded.until, at = now()
  RETURNING xmax = 0 AS new)
SELECT count(*) FILTER (WHERE new) FROM put
"""
_REMOVE: Final = """
DELETE FROM mailerd.suppression WHERE address = ANY ($1::text[]) AND ($2::text IS NULL OR stream = $2) RETURNING address, stream
"""
_LIST: Final = """
SELECT address, stream, reason, source, until, at FROM mailerd.suppression
WHERE ($1::text IS NULL OR stream = $1) AND ($2::text IS NULL OR reason = $2)
  AND ($3::text IS NULL OR position(lower($3) IN address) > 0)
ORDER BY at DESC, address LIMIT $4
"""
_PAGE: Final = """
SELECT address, stream, reason, source, until, at FROM mailerd.suppression
WHERE (address, stream) > ($1, $2) AND ($3::text IS NULL OR stream = $3) ORDER BY address, stream LIMIT $4
"""
_AUDIT: Final = "INSERT INTO mailerd.audit (actor, action, target, detail) VALUES ($1, $2, $3, $4)"


async def add(session: Session, entries: Sequence[Suppression]) -> int:
    """Adds or renews them; how many were new. The caller bounds the number, to about `PAGE`."""
    return int(
        await session.value(
            _ADD,
            [e.address for e in entries],
            [e.stream for e in entries],
            [e.reason for e in entries],
            [e.source for e in entries],
            [e.until for e in entries],
        )
    )


async def remove(session: Session, addresses: Sequence[str], stream: str | None = None) -> list[tuple[str, str]]:
    """Removes them, from `stream` or (None) from every list; what was removed, as (address, stream)."""
    return [(row[0], row[1]) for row in await session.fetch(_REMOVE, list(addresses), stream)]


async def listed(
    session: Session, limit: int, *, stream: str | None = None, reason: str | None = None, part: str | None = None
) -> list[Suppression]:
    """The newest first; `part` is a part of the address."""
    return [Suppression(**dict(row)) for row in await session.fetch(_LIST, stream, reason, part, limit)]


async def export(session: Session, stream: str | None = None) -> AsyncIterator[list[Suppression]]:
    """All of them in order of address, a page at a time."""
    address, of = "", ""
    while True:
        rows = await session.fetch(_PAGE, address, of, stream, PAGE)
        if rows:
            yield [Suppression(**dict(row)) for row in rows]
            address, of = rows[-1]["address"], rows[-1]["stream"]
        if len(rows) < PAGE:
            return


async def audit(session: Session, actor: str, action: str, target: str, detail: str | None = None) -> None:
    """Writes down who changed the list."""
    await session.execute(_AUDIT, actor, action, target, detail)
