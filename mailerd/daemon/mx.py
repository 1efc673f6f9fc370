"""Domain groups by MX: which receiver runs a domain that no pattern names (`[groups] mx = true`).

A lane that comes up asks (`ask`); the answer comes later, and a lease never waits for it: until then the domain stands
for itself. Answers are kept for their TTL; no MX, a null MX (RFC 7505) and a name that does not exist mean no group. A
server that fails or keeps silent is asked again after a minute, and what was known before stays.

Hazards: the names are recipients' and the answers anybody's. Only so many look-ups run and wait at a time, and what is
remembered has a bound; a domain that was dropped asks again when its lane comes up. Reading 2 500 MX records holds up
the event loop for a quarter of a second, so an answer counts as far as it fits into one datagram, and there is no TCP:
a receiver that we know needs a handful of hosts.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from mailerd.flow.domains import Groups, a_label

__all__ = ["MxRoller"]

log = logging.getLogger("mailerd.mx")

LEAST_TTL: Final = 60.0
MOST_TTL: Final = 86400.0
NEGATIVE_TTL: Final = 300.0
AGAIN: Final = 60.0  # seconds after a failure
REVIEW: Final = 3600.0  # seconds between reviews of all lanes
QUEUE: Final = 10_000
REMEMBERED: Final = 100_000
DATAGRAM: Final = 1232  # octets of an answer that are read; what DNS flag day 2020 settled on


class MxRoller:
    """`on_learned` is called when the group of a domain is another now. `nameservers`: none means the system's."""

    def __init__(
        self,
        groups: Groups,
        on_learned: Callable[[], None],
        *,
        nameservers: Sequence[str] = (),
        port: int = 53,
        timeout: float = 5.0,
        concurrency: int = 8,
    ) -> None:
        self._groups = groups
        self._on_learned = on_learned
        self._nameservers = list(nameservers)
        self._port = port
        self._timeout = timeout
        self._concurrency = concurrency
        self._queue: asyncio.Queue[str] = asyncio.Queue(QUEUE)
        self._until: dict[str, float] = {}  # when what is known of a domain ends; inf: it is being asked

    def ask(self, domain: str) -> None:
        """This domain has mail. Never waits; what is known, or asked already, is not asked again."""
        until = self._until.get(domain)
        if until is not None and time.monotonic() < until:
            return
        if self._queue.full() or not _a_name(domain) or self._groups.matched(domain):
            return
        self._until.pop(domain, None)  # it goes to the end: the oldest are forgotten first
        if len(self._until) >= REMEMBERED:
            for oldest in list(islice(self._until, max(1, REMEMBERED // 10))):
                del self._until[oldest]
        self._until[domain] = float("inf")
        self._queue.put_nowait(domain)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            resolver = dns.asyncresolver.Resolver(configure=not self._nameservers)
        except dns.exception.DNSException as wrong:
            log.warning("domains are not grouped by their MX: %s", wrong)
            return
        addresses = self._nameservers or [address for address in resolver.nameservers if isinstance(address, str)]
        resolver.nameservers = [_Datagrams(address, self._port) for address in addresses]
        resolver.use_edns(0, 0, DATAGRAM)
        resolver.timeout = self._timeout / 2
        resolver.lifetime = self._timeout
        resolver.cache = None
        tasks = [asyncio.create_task(self._work(resolver)) for _ in range(self._concurrency)]
        tasks.append(asyncio.create_task(self._look_again()))
        try:
            await asyncio.gather(*tasks)
        finally:
            # More than once: before Python 3.12, `wait_for`, which the resolver uses, may swallow a cancellation.
            while unfinished := [task for task in tasks if not task.done()]:
                for task in unfinished:
                    task.cancel()
                await asyncio.wait(unfinished, timeout=0.1)

    async def _look_again(self) -> None:
        """Lanes that stay up ask again when their answer may have run out."""
        while True:
            await asyncio.sleep(REVIEW)
            self._on_learned()

    async def _work(self, resolver: dns.asyncresolver.Resolver) -> None:
        while True:
            domain = await self._queue.get()
            ttl = AGAIN
            try:
                hosts, ttl = await self._look_up(resolver, domain)
                if self._groups.learn(domain, self._groups.of_mx(hosts)):
                    self._on_learned()
            except (dns.exception.DNSException, OSError, TimeoutError, ValueError) as trouble:
                log.debug("MX of %s: %s", domain, trouble)
            if domain in self._until:  # else it was forgotten meanwhile
                self._until[domain] = time.monotonic() + ttl

    async def _look_up(self, resolver: dns.asyncresolver.Resolver, domain: str) -> tuple[list[str], float]:
        """(MX hosts, the most preferred first, seconds that this holds). Raises on what is temporary."""
        name = dns.name.from_text(a_label(domain))
        try:
            async with asyncio.timeout(self._timeout + 1.0):
                answer = await resolver.resolve(name, dns.rdatatype.MX, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as missing:
            untyped: Any = missing
            return [], _negative_ttl(untyped.response(name))
        if answer.rrset is None:
            return [], _negative_ttl(answer.response)
        # By name among equals: servers turn them round, and all instances are to find the same.
        hosts = sorted((record.preference, record.exchange.to_text(omit_final_dot=True).lower()) for record in answer)
        return [host for _, host in hosts], _bounded(answer.chaining_result.minimum_ttl)


def _bounded(ttl: float) -> float:
    return min(max(float(ttl), LEAST_TTL), MOST_TTL)


def _negative_ttl(response: dns.message.QueryMessage) -> float:
    """How long nothing holds: as the zone's SOA says, if it came along (RFC 2308 §5)."""
    known = any(records.rdtype == dns.rdatatype.SOA for records in response.authority)
    return _bounded(response.resolve_chaining().minimum_ttl if known else NEGATIVE_TTL)


class _Datagrams(dns.nameserver.Do53Nameserver):
    """A name server that is asked by UDP only."""

    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,
        source_port: int,
        max_size: bool,
        backend: Any,  # it and its sockets are not exported
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        family = dns.inet.af_for_address(self.address)
        async with await backend.make_socket(family, socket.SOCK_DGRAM) as plain:
            short: Any = _Short(plain)
            return await dns.asyncquery.udp(
                request,
                self.address,
                timeout,
                self.port,
                sock=short,
                ignore_unexpected=True,
                ignore_errors=True,
                ignore_trailing=True,
            )


class _Short:
    """Cuts answers that are too long down to their question: as if nothing had fitted."""

    def __init__(self, plain: Any) -> None:
        self.family = plain.family
        self._plain = plain

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> Any:
        return await self._plain.sendto(what, destination, timeout)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        wire, address = await self._plain.recvfrom(size, timeout)
        if len(wire) > DATAGRAM:
            # RFC 1035 §4.1.1: octets 6 to 11 count the records behind the question. Without them the rest is trailing.
            wire = wire[:6] + bytes(6) + wire[12:DATAGRAM]
        return wire, address


def _a_name(domain: str) -> bool:
    """Could DNS know it? Address literals and single labels are nobody's domain."""
    return "." in domain and not domain.startswith("[") and len(domain) <= 253
