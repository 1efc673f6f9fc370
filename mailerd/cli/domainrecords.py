"""What the DNS says of the domains that mail is sent under, for `mailerd check --connect`: SPF (RFC 7208), DMARC
(RFC 7489), MX of the return path, and the reverse names of our own addresses.

What is missing is a warning, since a relay may stand for it; what receivers cannot use at all (two SPF records, two DMARC
records, one that lets everybody send) is a fault. It does not evaluate SPF: whether a relay's addresses are included is
the relay's to say. Judging is pure; `published.look_up` asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence

import dns.reversename

from mailerd.cli.check import Finding
from mailerd.cli.published import NO_ANSWER, look_up, no_answer
from mailerd.config.model import Config
from mailerd.config.values import mailbox

__all__ = ["dmarc", "findings", "spf"]


async def findings(config: Config) -> list[Finding]:
    """One for each identity and record, and one for each source address of a relay."""
    servers = config.groups.nameservers
    asked: list[Awaitable[Finding]] = []
    for identity in config.identity:
        domain = mailbox(identity.sender).rpartition("@")[2]
        path = (identity.return_path or mailbox(identity.sender)).rpartition("@")[2]
        subject = f"identity.{identity.name}"
        asked.append(_texts(f"{subject}.spf", path, servers))
        asked.append(_dmarc(f"{subject}.dmarc", domain, servers))
        asked.append(_mx(f"{subject}.mx", path, servers))
    for provider in config.provider:
        asked += (_ptr(f"provider.{provider.name}.ptr", address, servers) for address in provider.source)
    return list(await asyncio.gather(*asked))


def spf(domain: str, records: Sequence[str]) -> tuple[bool, str, bool]:
    """(may it stay, what to say, is that a warning) of the TXT records at the return path's domain."""
    found = [text for text in records if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]
    if not found:
        return True, f"no SPF record at {domain}: receivers cannot tell who may send under it (RFC 7208)", True
    if len(found) > 1:
        return (
            False,
            f"{len(found)} SPF records at {domain}, which is a permanent error (RFC 7208 §4.5): join them",
            False,
        )
    terms = found[0].lower().split()
    if "all" in terms or "+all" in terms:
        return False, f"the SPF record at {domain} lets everybody send (`+all`)", False
    return True, f"{domain} has one: {found[0]}", False


def dmarc(domain: str, records: Sequence[str]) -> tuple[bool, str, bool] | None:
    """The same of the TXT records at `_dmarc.DOMAIN`; None where there is none and a domain above may have one."""
    found = [text for text in records if text.lower().replace(" ", "").startswith("v=dmarc1")]
    if not found:
        return None
    if len(found) > 1:  # RFC 7489 §6.6.3: then none counts
        return False, f"{len(found)} DMARC records at _dmarc.{domain}: with more than one, none counts", False
    tags = dict(_tags(found[0]))
    policy = tags.get("p", "").lower()
    if policy not in ("none", "quarantine", "reject"):
        return False, f"the DMARC record at _dmarc.{domain} has no valid p= (none, quarantine or reject)", False
    return True, f"_dmarc.{domain} has p={policy}", False


def _tags(record: str) -> Iterator[tuple[str, str]]:
    for tag in record.split(";"):
        name, _, value = tag.partition("=")
        yield name.strip().lower(), value.strip()


async def _texts(subject: str, domain: str, servers: Sequence[str]) -> Finding:
    try:
        return Finding(subject, *spf(domain, await look_up(domain, servers)))
    except NO_ANSWER as trouble:
        return Finding(subject, True, no_answer(domain, trouble), True)


async def _dmarc(subject: str, domain: str, servers: Sequence[str]) -> Finding:
    # RFC 7489 §6.6.3: its own record, else the organisation's. Which domain that is takes a list of public suffixes;
    # every domain above with two labels or more finds the same record.
    labels = domain.split(".")
    for start in range(max(len(labels) - 1, 1)):
        at = ".".join(labels[start:])
        try:
            verdict = dmarc(at, await look_up(f"_dmarc.{at}", servers))
        except NO_ANSWER as trouble:
            return Finding(subject, True, no_answer(f"_dmarc.{at}", trouble), True)
        if verdict is not None:
            return Finding(subject, *verdict)
    words = (
        f"no DMARC record at _dmarc.{domain}: large receivers want one of bulk senders (start with `v=DMARC1; p=none`)"
    )
    return Finding(subject, True, words, True)


async def _mx(subject: str, domain: str, servers: Sequence[str]) -> Finding:
    try:
        hosts = await look_up(domain, servers, "MX")
        if not hosts:  # RFC 5321 §5.1: then the address serves
            hosts = await look_up(domain, servers, "A") or await look_up(domain, servers, "AAAA")
    except NO_ANSWER as trouble:
        return Finding(subject, True, no_answer(domain, trouble), True)
    if not hosts:
        return Finding(subject, True, f"{domain} takes no mail (no MX, no address): bounces are lost", True)
    if any(host.split()[-1] == "." for host in hosts):  # RFC 7505
        return Finding(subject, True, f"{domain} says that it takes no mail (MX `.`): bounces are lost", True)
    return Finding(subject, True, f"{domain} takes mail at {', '.join(host.split()[-1].rstrip('.') for host in hosts)}")


async def _ptr(subject: str, address: str, servers: Sequence[str]) -> Finding:
    try:
        names = await look_up(dns.reversename.from_address(address).to_text(), servers, "PTR")
        if not names:
            return Finding(subject, True, f"{address} has no reverse name: large receivers refuse it", True)
        kind = "AAAA" if ":" in address else "A"
        for name in names:
            if address in await look_up(name, servers, kind):
                return Finding(subject, True, f"{address} is {name.rstrip('.')}")
    except NO_ANSWER as trouble:
        return Finding(subject, True, no_answer(address, trouble), True)
    return Finding(
        subject, True, f"{address} has the reverse name {names[0].rstrip('.')}, which does not lead back", True
    )
