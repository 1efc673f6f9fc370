"""What an operator stops and lets go: streams, providers, domains, campaigns. A row in `lane_control` means paused.

Instances read the table with each heartbeat, so a pause holds everywhere within about a second and survives restarts;
what is in flight is finished. Every change is written to `audit` in the statement that makes it.

Lanes keep a recipient's domain as it was written (lower-cased), so one internationalised domain may have two lanes:
`spellings` names both, and both are paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import idna

from mailerd.store.database import Session
from mailerd.store.instances import ALIVE_SECONDS

__all__ = ["KINDS", "cancel", "known", "pause", "resume", "spellings"]

KINDS: Final = ("stream", "provider", "domain", "campaign")

_PAUSE: Final = """
WITH put AS (
  INSERT INTO mailerd.lane_control AS c (kind, name, actor, reason) SELECT $1, x.name, $3, $4 FROM unnest($2::text[]) AS x(name)
  ON CONFLICT (kind, name) DO UPDATE SET reason = excluded.reason, actor = excluded.actor
    WHERE c.reason IS DISTINCT FROM excluded.reason AND excluded.reason IS NOT NULL
  RETURNING c.kind, c.name, c.reason),
log AS (INSERT INTO mailerd.audit (actor, action, target, detail) SELECT $3, 'pause', kind || ':' || name, reason FROM put)
SELECT name FROM put
"""
_RESUME: Final = """
WITH gone AS (DELETE FROM mailerd.lane_control WHERE kind = $1 AND name = ANY ($2::text[]) RETURNING kind, name),
log AS (INSERT INTO mailerd.audit (actor, action, target, detail) SELECT $3, 'resume', kind || ':' || name, $4 FROM gone)
SELECT name FROM gone
"""
_KNOWN_STREAMS: Final = """
SELECT name FROM mailerd.stream
UNION SELECT unnest(streams) FROM mailerd.instance WHERE seen_at > now() - make_interval(secs => $1)
"""
_KNOWN_PROVIDERS: Final = """
SELECT unnest(providers) FROM mailerd.instance WHERE seen_at > now() - make_interval(secs => $1)
"""
_CANCEL: Final = """
WITH c AS MATERIALIZED (SELECT x.id, mailerd.cancel(x.id) AS done FROM unnest($1::bigint[]) WITH ORDINALITY AS x(id, n) ORDER BY x.n),
log AS (INSERT INTO mailerd.audit (actor, action, target) SELECT $2, 'cancel', 'message:' || id FROM c WHERE done)
SELECT id, done FROM c
"""


async def pause(session: Session, kind: str, name: str, actor: str, reason: str | None = None) -> bool:
    """Pauses until `resume`; False when it was paused already (a new reason replaces the old one)."""
    return bool(await session.fetch(_PAUSE, kind, spellings(kind, name), actor, reason))


async def resume(session: Session, kind: str, name: str, actor: str, reason: str | None = None) -> bool:
    """Undoes `pause`; False when it was not paused."""
    return bool(await session.fetch(_RESUME, kind, spellings(kind, name), actor, reason))


async def known(session: Session, kind: str) -> set[str]:
    """The streams or providers that any live instance, or the stream table, names."""
    sql = {"stream": _KNOWN_STREAMS, "provider": _KNOWN_PROVIDERS}[kind]
    return {row[0] for row in await session.fetch(sql, ALIVE_SECONDS)}


async def cancel(session: Session, ids: Sequence[int], actor: str) -> dict[int, bool]:
    """`mailerd.cancel` for each id, audited: True when the message will never be sent."""
    return {row[0]: row[1] for row in await session.fetch(_CANCEL, list(ids), actor)}


def spellings(kind: str, name: str) -> list[str]:
    """What rows may call it: for a domain its lower-cased form, and its other form if it is internationalised."""
    if kind != "domain":
        return [name]
    name = name.lower().rstrip(".")
    found = {name}
    try:
        if not name.isascii():
            found.add(idna.encode(name, uts46=True).decode("ascii"))
        elif "xn--" in name:
            found.add(idna.decode(name))
    except idna.IDNAError:
        pass  # not a name that DNS can hold: then rows with it have this spelling only
    return sorted(found)
