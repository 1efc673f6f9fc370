"""What a leased message must pass in Postgres before it is composed: the suppression list, and the limit on how often one
address is written to.

One look-up a lease, for all recipients of the batch. It decides nothing about retries; a suppressed recipient simply
has its outcome. Addresses come in normal form (`compose.address.normal`), as the table stores them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from mailerd.store.database import Session
from mailerd.store.privacy import pseudonym

__all__ = ["capped", "suppressed"]

# LATERAL … LIMIT 1: one index probe an address, whatever the statistics say about the list's size.
SUPPRESSED: Final = """
SELECT a.address, s.reason FROM unnest($1::text[]) AS a(address)
CROSS JOIN LATERAL (
  SELECT s.reason FROM mailerd.suppression s
  WHERE s.address = a.address AND s.stream IN ('', $2) AND (s.until IS NULL OR s.until > now())
  LIMIT 1) s
"""
# With $3 the pseudonyms of the addresses, in their order: an erased address is suppressed by that.
SUPPRESSED_OR_ERASED: Final = SUPPRESSED.replace(
    "unnest($1::text[]) AS a(address)", "unnest($1::text[], $3::text[]) AS a(address, pseudonym)"
).replace("s.address = a.address", "s.address IN (a.address, a.pseudonym)")


async def suppressed(
    session: Session, stream: str, addresses: Collection[str], key: bytes | None = None
) -> dict[str, str]:
    """Of these addresses, those that must not get mail of this stream, with the reason. `key`: of `store.privacy`."""
    wanted = list(addresses)
    if key is None:
        rows = await session.fetch(SUPPRESSED, wanted, stream)
    else:
        rows = await session.fetch(SUPPRESSED_OR_ERASED, wanted, stream, [pseudonym(key, a) for a in wanted])
    return {row[0]: row[1] for row in rows}


CAPPED: Final = "SELECT id, address, wait FROM mailerd.count_recipients($1, $2, $3, $4, $5)"


async def capped(
    session: Session, stream: str, pairs: Sequence[tuple[int, str]], most: int, window: float
) -> dict[tuple[int, str], float]:
    """Counts these (message id, address) pairs; those that exceed `most` in `window` seconds, with the seconds to wait.

    A message counts once, however often it is leased.
    """
    rows = await session.fetch(CAPPED, stream, [id_ for id_, _ in pairs], [a for _, a in pairs], most, window)
    return {(row[0], row[1]): row[2] for row in rows}
