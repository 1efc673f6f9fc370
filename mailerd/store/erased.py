"""Addresses that were erased: what stands for one, and how it is known again.

The pseudonym is a keyed hash, so nobody reads an address from it, and whoever has the key can say of a given address
whether it was erased. There may be several keys: the first makes pseudonyms, all are believed, so a key is rotated by
putting a new one before it. `mailerd privacy erase` leaves a mark for each in the audit (`since`), which says of a report
that comes later that its message is of the time before: then its recipient is written as the pseudonym.

Hazards: a key that is taken away takes with it what it hid: those addresses are new to us. The marks go with the audit, after
a year; what they are for, reports about messages, is long over then.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

import msgspec

from mailerd.compose.tokens import derive
from mailerd.store.database import Session

__all__ = ["ACTION", "Mark", "keys", "mailbox", "pseudonym", "pseudonyms", "scrubbed", "since", "unveiled"]

ACTION: Final = "privacy erase"  # in the audit
_PURPOSE: Final = "privacy"
_hidden = re.compile(r"erased:([0-9a-f]{32})|erased-([0-9a-f]{32})@erased\.invalid").fullmatch
_ADDRESS: Final = re.compile(r"""[^\s<>"'(),;:@\[\]]+(?:@|%40)[^\s<>"'(),;:@\[\]]+""", re.IGNORECASE)


class Mark(msgspec.Struct, frozen=True):
    """An address was erased, the last time at `at`."""

    pseudonym: str
    at: datetime


def keys(privacy: Sequence[str], public: Sequence[str]) -> tuple[bytes, ...]:
    """The keys of the pseudonyms: of `[privacy] key`, without one of `[public] secret`. The first makes them."""
    return tuple(derive(secret, _PURPOSE) for secret in privacy or public)


def pseudonym(key: bytes, address: str) -> str:
    """What stands for an address (in normal form) that was erased: `erased:` and 128 bits of HMAC-SHA-256 in hexadecimal.
    No address looks like it: it has no `@`."""
    return "erased:" + hmac.digest(key, address.encode("utf-8", "backslashreplace"), sha256).hex()[:32]


def pseudonyms(keys: Sequence[bytes], address: str) -> list[str]:
    """What any of the keys would make of it."""
    return [pseudonym(key, address) for key in keys]


def mailbox(pseudonym: str) -> str:
    """The pseudonym as a mailbox of a row that was emptied: one that cannot exist (RFC 2606)."""
    return pseudonym.replace(":", "-") + "@erased.invalid"


def unveiled(address: str) -> str | None:
    """The pseudonym that is written there, or that an emptied row's mailbox stands for; None for any other address."""
    found = _hidden(address)
    return f"erased:{found[1] or found[2]}" if found else None


def scrubbed(text: str, pseudonym: str) -> str:
    """The text without anything that looks like an address."""
    return _ADDRESS.sub(pseudonym, text)


# One index probe a pseudonym, whatever the statistics say about the audit's size.
SINCE: Final = """
SELECT g.n, m.target, m.at FROM unnest($1::int[], $2::text[]) AS g(n, name) CROSS JOIN LATERAL (
  SELECT a.target, a.at FROM mailerd.audit a WHERE a.target = g.name AND a.action = $3 ORDER BY a.at DESC LIMIT 1) m
"""


async def since(session: Session, keys: Sequence[bytes], addresses: Collection[str]) -> dict[str, Mark]:
    """Of these addresses (in normal form) those that were erased. Raises what `Session` raises."""
    wanted = list(addresses) if keys else []
    if not wanted:
        return {}
    numbers = [n for n in range(len(wanted)) for _ in keys]
    names = [name for address in wanted for name in pseudonyms(keys, address)]
    found: dict[str, Mark] = {}
    for n, target, at in await session.fetch(SINCE, numbers, names, ACTION):
        if (known := found.get(wanted[n])) is None or known.at < at:
            found[wanted[n]] = Mark(target, at)
    return found
