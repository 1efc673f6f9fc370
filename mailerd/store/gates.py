"""What a leased message must pass in Postgres before it is composed: the suppression list, what its recipients said about
its topic, and the limit on how often one address is written to.

One look-up a lease, for all recipients of the batch, and another one for those of messages with a topic. It decides
nothing about retries; a suppressed recipient simply has its outcome. Addresses come in normal form
(`compose.address.normal`), as the table stores them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, TypeVar

from mailerd.compose.address import base
from mailerd.store.database import Session
from mailerd.store.erased import pseudonyms

__all__ = ["Look", "capped", "suppressed", "unwanted"]

T = TypeVar("T")

# LATERAL … LIMIT 1: one index probe an address, whatever the statistics say about the list's size.
SUPPRESSED: Final = """
SELECT a.address, s.reason FROM unnest($1::text[]) AS a(address)
CROSS JOIN LATERAL (
  SELECT s.reason FROM mailerd.suppression s
  WHERE s.address = a.address AND s.stream IN ('', $2) AND (s.until IS NULL OR s.until > now())
  LIMIT 1) s
"""
# With $3 a pseudonym of each: an erased address is suppressed by that. One that has several comes several times.
SUPPRESSED_OR_ERASED: Final = SUPPRESSED.replace(
    "unnest($1::text[]) AS a(address)", "unnest($1::text[], $3::text[]) AS a(address, pseudonym)"
).replace("s.address = a.address", "s.address IN (a.address, a.pseudonym)")


async def suppressed(
    session: Session, stream: str, addresses: Collection[str], keys: Sequence[bytes] = (), *, plus_tags: bool = False
) -> dict[str, str]:
    """Of these addresses, those that must not get mail of this stream, with the reason. `keys`: of `store.erased`."""
    wanted = list(addresses)
    if plus_tags:
        rows = await session.fetch(
            SUPPRESSED_BY_BASE, _each(keys, wanted), stream, _hidden(keys, wanted), *_bases(keys, wanted)
        )
    elif not keys:
        rows = await session.fetch(SUPPRESSED, wanted, stream)
    else:
        rows = await session.fetch(SUPPRESSED_OR_ERASED, _each(keys, wanted), stream, _hidden(keys, wanted))
    return {row[0]: row[1] for row in rows}


def _each(keys: Sequence[bytes], values: Sequence[T]) -> list[T]:
    """Each of them as often as there are pseudonyms of an address."""
    return [value for value in values for _ in keys or (b"",)]


def _hidden(keys: Sequence[bytes], addresses: Sequence[str]) -> list[str | None]:
    names: list[str | None] = [name for address in addresses for name in pseudonyms(keys, address)]
    return names or [None] * len(addresses)


def _bases(keys: Sequence[bytes], addresses: Sequence[str]) -> tuple[list[str], list[str | None]]:
    bases = [base(address) for address in addresses]
    return _each(keys, bases), _hidden(keys, bases)


# The same with `[suppression] plus_tags`: $4 the addresses without their tags, in their order, $5 the pseudonyms of those.
_BASES: Final = "(a.base, a.pseudonym, a.base_pseudonym)"
SUPPRESSED_BY_BASE: Final = SUPPRESSED.replace(
    "unnest($1::text[]) AS a(address)",
    "unnest($1::text[], $3::text[], $4::text[], $5::text[]) AS a(address, pseudonym, base, base_pseudonym)",
).replace("s.address = a.address", f"mailerd.base_address(s.address) IN {_BASES}")

# The same for messages with a topic, and what they said about it, in one look: $3 pseudonyms (NULL: none), $4 topics, $5
# whether the topic takes a confirmation. Who subscribed to a topic after he left the whole stream gets that topic. What
# an address said itself goes before what an erased one left.
UNWANTED: Final = """
SELECT a.address, a.topic, coalesce(s.reason, CASE
  WHEN w.state = 'unsubscribed' OR e.no THEN 'unsubscribed from ' || a.topic
  WHEN a.confirmed AND w.state = 'pending' THEN 'not confirmed: ' || a.topic
  WHEN a.confirmed AND w.state IS NULL THEN 'not subscribed to ' || a.topic END) AS reason
FROM unnest($1::text[], $3::text[], $4::text[], $5::boolean[]) AS a(address, pseudonym, topic, confirmed)
LEFT JOIN LATERAL (
  SELECT w.state, w.at FROM mailerd.subscription w WHERE w.address = a.address AND w.topic = a.topic LIMIT 1) w ON true
LEFT JOIN LATERAL (
  SELECT true AS no FROM mailerd.subscription e
  WHERE w.state IS NULL AND e.address = a.pseudonym AND e.topic = a.topic AND e.state = 'unsubscribed' LIMIT 1) e ON true
LEFT JOIN LATERAL (
  SELECT s.reason FROM mailerd.suppression s
  WHERE s.address IN (a.address, a.pseudonym) AND s.stream IN ('', $2) AND (s.until IS NULL OR s.until > now())
    AND NOT (s.stream <> '' AND s.reason LIKE 'unsubscribe%' AND coalesce(w.state = 'subscribed' AND w.at > s.at, false))
  LIMIT 1) s ON true
WHERE s.reason IS NOT NULL OR w.state = 'unsubscribed' OR e.no OR (a.confirmed AND w.state IS DISTINCT FROM 'subscribed')
"""
# With plus_tags, $6 and $7 as above. Of others with another tag only a no counts: a yes is that of one address.
UNWANTED_BY_BASE: Final = (
    UNWANTED.replace("$5::boolean[]) AS a(", "$5::boolean[], $6::text[], $7::text[]) AS a(")
    .replace("topic, confirmed)\nLEFT", "topic, confirmed, base, base_pseudonym)\nLEFT")
    .replace("e.address = a.pseudonym", f"mailerd.base_address(e.address) IN {_BASES}")
    .replace("s.address IN (a.address, a.pseudonym)", f"mailerd.base_address(s.address) IN {_BASES}")
)


class Look(NamedTuple):
    """A recipient and the topic of what he would get. `confirmed`: only who confirmed gets anything of that topic."""

    address: str
    topic: str
    confirmed: bool


async def unwanted(
    session: Session, stream: str, looks: Collection[Look], keys: Sequence[bytes] = (), *, plus_tags: bool = False
) -> dict[tuple[str, str], str]:
    """Of these recipients of messages with a topic, those that must not get them, as (address, topic), with the reason."""
    wanted = list(looks)
    addresses = [look.address for look in wanted]
    rows = await session.fetch(
        UNWANTED_BY_BASE if plus_tags else UNWANTED,
        _each(keys, addresses),
        stream,
        _hidden(keys, addresses),
        _each(keys, [look.topic for look in wanted]),
        _each(keys, [look.confirmed for look in wanted]),
        *(_bases(keys, addresses) if plus_tags else ()),
    )
    return {(row[0], row[1]): row[2] for row in rows}


CAPPED: Final = "SELECT id, address, wait FROM mailerd.count_recipients($1, $2, $3, $4, $5)"


async def capped(
    session: Session, stream: str, pairs: Sequence[tuple[int, str]], most: int, window: float
) -> dict[tuple[int, str], float]:
    """Counts these (message id, address) pairs; those that exceed `most` in `window` seconds, with the seconds to wait.

    A message counts once, however often it is leased.
    """
    rows = await session.fetch(CAPPED, stream, [id_ for id_, _ in pairs], [a for _, a in pairs], most, window)
    return {(row[0], row[1]): row[2] for row in rows}
