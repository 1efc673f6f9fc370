"""What a recipient may choose on our pages: topics, the way back from an unsubscribe, the yes to a subscription.

`resubscribe` takes away what an unsubscribe left, and nothing else: an address that bounced or complained stays suppressed.
Whoever holds the link of a message holds the mailbox, as far as anybody can tell, so a topic that is ticked there needs no
other confirmation.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from mailerd.config.topic import Topic
from mailerd.store.database import Session

__all__ = ["PENDING_DAYS", "confirm", "forget", "resubscribe", "topics"]

PENDING_DAYS: Final = 30  # a subscription that was not confirmed by then is not confirmed any more, and forgotten

# As `gates.UNWANTED` sees it: leaving the stream counts for its topics, but for those that were subscribed to later.
_TOPICS: Final = """
SELECT t.name, CASE WHEN w.state = 'subscribed' THEN g.at IS NULL OR w.at > g.at
  ELSE g.at IS NULL AND NOT t.confirmed AND w.state IS DISTINCT FROM 'unsubscribed' END
FROM unnest($3::text[], $4::boolean[]) WITH ORDINALITY AS t(name, confirmed, n)
LEFT JOIN LATERAL (
  SELECT w.state, w.at FROM mailerd.subscription w
  WHERE w.address = $1 AND w.topic = t.name ORDER BY w.address <> $1 LIMIT 1) w ON true
LEFT JOIN LATERAL (
  SELECT g.at FROM mailerd.suppression g
  WHERE g.address = $1 AND g.stream = $2 AND g.reason LIKE 'unsubscribe%' ORDER BY g.at DESC LIMIT 1) g ON true
ORDER BY t.n
"""
_TOPICS_BY_BASE: Final = _TOPICS.replace(
    "w.address = $1 AND",
    "mailerd.base_address(w.address) = mailerd.base_address($1) AND (w.address = $1 OR w.state = 'unsubscribed') AND",
).replace("g.address = $1 AND", "mailerd.base_address(g.address) = mailerd.base_address($1) AND")
_RESUBSCRIBE: Final = """
WITH gone AS (
  DELETE FROM mailerd.suppression WHERE address = $1 AND stream = $2 AND reason LIKE 'unsubscribe%' RETURNING address),
said AS (
  INSERT INTO mailerd.audit (actor, action, target, detail) SELECT 'recipient', 'resubscribe', address, $2 FROM gone)
SELECT count(*) FROM gone
"""
_RESUBSCRIBE_BY_BASE: Final = _RESUBSCRIBE.replace(
    "address = $1 AND", "mailerd.base_address(address) = mailerd.base_address($1) AND"
)
_SUBSCRIBE: Final = """
INSERT INTO mailerd.subscription AS s (address, topic, state, source, proof) VALUES ($1, $2, 'subscribed', 'page', $3::text::jsonb)
ON CONFLICT (address, topic) DO UPDATE SET state = excluded.state, source = excluded.source, at = now(), proof = excluded.proof
RETURNING 1
"""
_CONFIRM: Final = """
WITH was AS (SELECT * FROM mailerd.subscription WHERE address = $1 AND topic = $2 FOR UPDATE),
done AS (
  UPDATE mailerd.subscription s SET state = 'subscribed', source = 'confirmation', at = now(), proof = coalesce(was.proof, '{}')
    || jsonb_build_object('requested', jsonb_build_object('source', was.source, 'at', was.at), 'confirmed', $3::text::jsonb)
  FROM was WHERE s.address = was.address AND s.topic = was.topic
    AND was.state = 'pending' AND was.at > now() - make_interval(days => $4::int) RETURNING 1)
SELECT EXISTS (SELECT FROM done) OR EXISTS (SELECT FROM was WHERE was.state = 'subscribed' AND NOT EXISTS (
  SELECT FROM mailerd.suppression g WHERE g.address = $1 AND g.stream = $5 AND g.reason LIKE 'unsubscribe%' AND g.at >= was.at))
"""

_FORGET: Final = """
WITH old AS (
  DELETE FROM mailerd.subscription WHERE ctid = ANY (ARRAY(
    SELECT s.ctid FROM mailerd.subscription s JOIN mailerd.topic t ON t.name = s.topic
    WHERE s.state = 'pending' AND t.double_opt_in AND s.at < now() - make_interval(days => $1::int) LIMIT $2 FOR UPDATE OF s SKIP LOCKED))
  RETURNING 1)
SELECT count(*) FROM old
"""


async def topics(
    session: Session, address: str, stream: str, offered: Sequence[Topic], plus_tags: bool = False
) -> list[tuple[Topic, bool]]:
    """Each of these topics of a stream, and whether this address (in normal form) gets it."""
    if not offered:
        return []
    names, confirmed = [t.name for t in offered], [t.double_opt_in for t in offered]
    rows = await session.fetch(_TOPICS_BY_BASE if plus_tags else _TOPICS, address, stream, names, confirmed)
    return [(topic, row[1]) for topic, row in zip(offered, rows, strict=True)]


async def resubscribe(
    session: Session, address: str, stream: str, topic: str, message: int = 0, *, plus_tags: bool = False
) -> bool:
    """Undoes an unsubscribe from a topic, or ('') from the stream; whether anything had to be undone. `message`: whose
    link it was."""
    if not topic:
        return bool(await session.value(_RESUBSCRIBE_BY_BASE if plus_tags else _RESUBSCRIBE, address, stream))
    proof = msgspec.json.encode({"message": message}).decode() if message else None
    return bool(await session.value(_SUBSCRIBE, address, topic, proof))


async def confirm(
    session: Session, address: str, stream: str, topic: str, *, message: int, token: str, visitor: str
) -> bool:
    """Says yes to a subscription; whether the address is subscribed now. False: nobody asked for it, or too long ago, or it
    was ended since, by itself or with its stream. The proof holds the time, the message, the `token`'s name and the `visitor`'s network."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    proof = {"at": at, "message": message, "token": token, "visitor": visitor}
    said = msgspec.json.encode(proof).decode()
    return bool(await session.value(_CONFIRM, address, topic, said, PENDING_DAYS, stream))


async def forget(session: Session, batch: int = 1000) -> int:
    """Deletes subscriptions that nobody has confirmed in time; how many."""
    forgotten, gone = 0, batch
    while gone == batch:
        gone = int(await session.value(_FORGET, PENDING_DAYS, batch))
        forgotten += gone
    return forgotten
