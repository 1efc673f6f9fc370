"""Messages that may have been accepted, held for an operator because their stream says `on_uncertain = "hold"`.

`resend` puts one back to `ready` (its recipients may get it twice), `settle` writes down what the operator found out
and ends it. Both change one row once, with its audit, in one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from mailerd.store.database import Session

__all__ = ["Doubtful", "doubtful", "resend", "settle"]


class Doubtful(msgspec.Struct, frozen=True, kw_only=True):
    """One held message."""

    message_id: int
    at: datetime
    stream: str
    domain: str
    recipient: str | None
    provider: str | None
    detail: str | None
    attempts: int


_LIST: Final = """
SELECT d.message_id, d.at, d.stream, d.domain, o.recipient, d.provider, d.detail, d.attempts::int
FROM (SELECT * FROM mailerd.in_doubt d WHERE $1::text IS NULL OR d.stream = $1 ORDER BY d.at DESC LIMIT $2) d
LEFT JOIN LATERAL (
  (SELECT o.recipient FROM mailerd.outbox o WHERE o.id = d.message_id LIMIT 1)
  UNION ALL (SELECT o.recipient FROM mailerd.outbox_kept o WHERE o.id = d.message_id LIMIT 1) LIMIT 1) o ON true
ORDER BY d.at DESC
"""
_RESEND: Final = """
WITH gone AS (DELETE FROM mailerd.in_doubt WHERE message_id = ANY ($1::bigint[]) RETURNING *),
put AS (
  INSERT INTO mailerd.ready (stream, priority, domain, campaign, id, attempt, rcpt, size, expires_at)
  SELECT g.stream, g.priority, g.domain, g.campaign, g.message_id, g.attempts, g.rcpt, g.size,
    coalesce(g.expires_at, now() + coalesce((SELECT t.expires FROM mailerd.stream t WHERE t.name = g.stream), interval '3 days'))
  FROM gone g ON CONFLICT DO NOTHING),
log AS (INSERT INTO mailerd.audit (actor, action, target, detail) SELECT $2, 'doubt resend', 'message:' || message_id, detail FROM gone)
SELECT message_id FROM gone
"""
# The recipients still in question are the bits of `rcpt`: recipient, then cc, then bcc.
_SETTLE: Final = """
WITH gone AS (DELETE FROM mailerd.in_doubt WHERE message_id = ANY ($1::bigint[]) RETURNING *),
ended AS (
  INSERT INTO mailerd.event (message_id, type, rcpt, recipient, stream, provider, attempt, detail)
  SELECT g.message_id, $3, b.bit, b.mailbox, g.stream, g.provider, g.attempts, 'settled by ' || $2
  FROM gone g CROSS JOIN LATERAL (
    SELECT (m.n - 1)::smallint AS bit, m.mailbox FROM (
      (SELECT o.recipient, o.cc, o.bcc FROM mailerd.outbox o WHERE o.id = g.message_id LIMIT 1)
      UNION ALL (SELECT o.recipient, o.cc, o.bcc FROM mailerd.outbox_kept o WHERE o.id = g.message_id LIMIT 1)
      UNION ALL SELECT NULL, NULL, NULL LIMIT 1) o
    CROSS JOIN LATERAL unnest(ARRAY[o.recipient] || coalesce(o.cc, '{}') || coalesce(o.bcc, '{}')) WITH ORDINALITY AS m(mailbox, n)
    WHERE g.rcpt >> (m.n - 1)::int & 1 = 1) b),
log AS (INSERT INTO mailerd.audit (actor, action, target, detail) SELECT $2, 'doubt settle', 'message:' || message_id, $3 FROM gone)
SELECT message_id FROM gone
"""


async def doubtful(session: Session, stream: str | None, limit: int) -> list[Doubtful]:
    """The newest first."""
    return [Doubtful(**dict(row)) for row in await session.fetch(_LIST, stream, limit)]


async def resend(session: Session, ids: Sequence[int], actor: str) -> set[int]:
    """Queues them again; the ids that were in doubt."""
    return {row[0] for row in await session.fetch(_RESEND, list(ids), actor)}


async def settle(session: Session, ids: Sequence[int], outcome: str, actor: str) -> set[int]:
    """Ends them with an event of type `outcome` (`sent` or `failed`); the ids that were in doubt."""
    return {row[0] for row in await session.fetch(_SETTLE, list(ids), actor, outcome)}
