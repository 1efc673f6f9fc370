"""What the DNS says of the keys that sign, for `mailerd check --connect`: one finding a key.

It asks the name servers of `[groups] nameservers`, else the system's, by UDP and where need be by TCP, and waits five
seconds at most. An answer is compared by `compose.dkimrecord`; here is only the asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver

from mailerd.cli.check import Finding
from mailerd.compose.dkim import Key, keys_of
from mailerd.compose.dkimrecord import compare, name
from mailerd.config.model import Config
from mailerd.message import Failure

__all__ = ["NO_ANSWER", "findings", "keys", "look_up", "no_answer"]

NO_ANSWER: Final = (dns.exception.DNSException, OSError, TimeoutError, ValueError)
PORT: Final = 53
TIMEOUT: Final = 5.0
DATAGRAM: Final = 1232  # octets of an answer by UDP; what DNS flag day 2020 settled on


def keys(config: Config) -> Iterator[tuple[str, Key | Failure]]:
    """(key path, key) of every key; a `Failure` for one that went bad since the configuration was read."""
    for identity in config.identity:
        try:
            for key in keys_of(identity):
                yield f"identity.{identity.name}.dkim.{key.selector}", key
        except Failure as failure:
            yield f"identity.{identity.name}.dkim", failure


async def findings(config: Config) -> list[Finding]:
    """Whether each key has its record."""
    return list(
        await asyncio.gather(
            *(_finding(subject, key, config.groups.nameservers) for subject, key in keys(config)),
        )
    )


async def _finding(subject: str, key: Key | Failure, nameservers: Sequence[str]) -> Finding:
    if isinstance(key, Failure):
        return Finding(subject, False, key.reason)
    try:
        published = await look_up(name(key), nameservers)
    except NO_ANSWER as trouble:
        return Finding(subject, False, no_answer(name(key), trouble))
    verdict = compare(key, published)
    if verdict.faults:
        return Finding(subject, False, "; ".join(verdict.faults))
    return Finding(subject, True, "; ".join((f"{name(key)} is this key's", *verdict.remarks)))


def no_answer(name: str, trouble: BaseException) -> str:
    """That the name servers did not say what is at `name`, and what to do."""
    late = isinstance(trouble, dns.exception.Timeout | TimeoutError)
    words = f"nothing within {TIMEOUT:g} s" if late else str(trouble) or type(trouble).__name__
    return f"no answer for {name}: {words}: check the name servers and try again"


async def look_up(name: str, nameservers: Sequence[str], kind: str = "TXT") -> list[str]:
    """The records of one kind at `name`, as text; the strings of a TXT joined. None where there is no such name, or none of
    the kind at it. Raises one of `NO_ANSWER`."""
    resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    if nameservers:
        resolver.nameservers = list(nameservers)
    resolver.port = PORT
    resolver.lifetime = TIMEOUT
    resolver.timeout = TIMEOUT / 2
    resolver.use_edns(0, 0, DATAGRAM)
    try:
        async with asyncio.timeout(TIMEOUT + 1.0):
            answer = await resolver.resolve(dns.name.from_text(name), kind, search=False, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return []
    if kind != "TXT":
        return [record.to_text() for record in answer.rrset or ()]
    return [b"".join(record.strings).decode("utf-8", "replace") for record in answer.rrset or ()]
