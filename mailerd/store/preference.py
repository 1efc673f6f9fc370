"""What a recipient may choose on the unsubscribe page, and the way back from an unsubscribe.

`resubscribe` takes away what an unsubscribe from this stream left, and nothing else: an address that bounced or complained
stays suppressed.
"""

from __future__ import annotations

from typing import Final

from mailerd.store.database import Session

__all__ = ["resubscribe", "topics"]

_RESUBSCRIBE: Final = """
WITH gone AS (
  DELETE FROM mailerd.suppression WHERE address = $1 AND stream = $2 AND reason LIKE 'unsubscribe%' RETURNING address),
said AS (
  INSERT INTO mailerd.audit (actor, action, target, detail) SELECT 'recipient', 'resubscribe', address, $2 FROM gone)
SELECT count(*) FROM gone
"""


async def topics(session: Session, address: str, stream: str) -> list[tuple[str, bool]]:
    """The topics that this address can choose, and whether it gets them. None are known yet."""
    return []


async def resubscribe(session: Session, address: str, stream: str, topic: str) -> bool:
    """Undoes an unsubscribe; whether there was one. `address` in normal form."""
    return bool(await session.value(_RESUBSCRIBE, address, stream))
