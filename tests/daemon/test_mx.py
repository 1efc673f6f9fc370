"""Domain groups by MX, from a real DNS server on loopback."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from mailerd.daemon import mx
from mailerd.daemon.mx import MxRoller
from mailerd.flow.domains import Groups
from tests.daemon.harness import until


class Server(asyncio.DatagramProtocol):
    """Answers from `zone`: a list of MX records, a response code, or nothing at all (None)."""

    def __init__(self) -> None:
        self.zone: dict[str, list[str] | int | None] = {}
        self.asked: Counter[str] = Counter()
        self.ttl = 3600
        self.negative = 0  # what the zone's SOA says, if it comes along
        self.flags = dns.flags.Flag(0)
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)  # not a subclass before Python 3.12
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        self.asked[name] += 1
        found = self.zone.get(name, int(dns.rcode.NXDOMAIN))
        if found is None:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if isinstance(found, int):
            answer.set_rcode(dns.rcode.Rcode(found))
        elif found:
            answer.answer.append(dns.rrset.from_text(query.question[0].name, self.ttl, "IN", "MX", *found))
        if self.negative and not answer.answer:
            answer.authority.append(
                dns.rrset.from_text("example.", 5000, "IN", "SOA", f"a. b. 1 2 3 4 {self.negative}")
            )
        answer.flags |= self.flags
        self.transport.sendto(answer.to_wire(max_size=65_535), addr)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    yield protocol
    transport.close()


class Rig:
    def __init__(self, server: Server, *, timeout: float = 2.0) -> None:
        self.groups = Groups()
        self.news = 0
        self.roller = MxRoller(self.groups, self._learned, nameservers=["127.0.0.1"], port=server.port, timeout=timeout)
        self.task = asyncio.create_task(self.roller.run())

    def _learned(self) -> None:
        self.news += 1

    async def __aenter__(self) -> Rig:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def known(self, domain: str) -> None:
        self.roller.ask(domain)
        await until(lambda: self.roller._until.get(domain, 0.0) < float("inf"), f"{domain} is known")


async def test_a_hosted_domain_joins_the_group_that_runs_its_mx(server: Server) -> None:
    server.zone = {
        "hosted.example": ["20 mx.other.example.", "10 ASPMX.L.GOOGLE.com."],
        "own.example": ["10 mx.own.example."],
        "null.example": ["0 ."],
        "none.example": [],
        "xn--bcher-kva.example": ["5 buecher-example.mail.protection.outlook.com."],
    }
    async with Rig(server) as rig:
        for domain in (
            "hosted.example",
            "own.example",
            "null.example",
            "none.example",
            "gone.example",
            "bücher.example",
        ):
            assert rig.groups.of(domain) is None  # a lease does not wait
            await rig.known(domain)
        assert rig.groups.of("hosted.example") == "gmail"
        assert rig.groups.of("bücher.example") == "office365"
        for domain in ("own.example", "null.example", "none.example", "gone.example"):
            assert rig.groups.of(domain) is None
        assert rig.news == 2
        asked = server.asked.total()
        rig.roller.ask("hosted.example")
        rig.roller.ask("gone.example")
        rig.roller.ask("yahoo.com")  # a pattern names it
        rig.roller.ask("[192.0.2.1]")
        rig.roller.ask("localhost")
        await asyncio.sleep(0.1)
        assert server.asked.total() == asked


@pytest.mark.parametrize("trouble", [int(dns.rcode.SERVFAIL), int(dns.rcode.REFUSED), None])
async def test_a_server_that_fails_changes_nothing_and_is_asked_again(
    server: Server, trouble: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx, "AGAIN", 0.05)
    server.zone["hosted.example"] = trouble
    async with Rig(server, timeout=0.4) as rig:
        rig.groups.learn("hosted.example", "gmail")
        await rig.known("hosted.example")
        assert rig.groups.of("hosted.example") == "gmail"
        server.zone["hosted.example"] = ["10 mx1.mail.icloud.com."]

        async def again() -> bool:
            rig.roller.ask("hosted.example")
            return rig.groups.of("hosted.example") == "icloud"

        await until(again, "asked again")


async def test_many_domains_and_hostile_answers_cost_a_bounded_amount(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx, "REMEMBERED", 50)
    label = "a" * 60
    long = f"{label}.{label}.{label}.example"
    server.zone = {"many.example": [f"{n} mx{n}.example." for n in range(25)], long: ["1 smtp.google.com."]}
    async with Rig(server) as rig:
        for domain in ("many.example", long, f"{'a' * 64}.example", "a..example", "\x00.example", "-.example"):
            await rig.known(domain)
        assert rig.groups.of(long) == "gmail"
        for n in range(300):
            rig.roller.ask(f"d{n}.example")
        await until(lambda: rig.roller._queue.empty(), "all asked")
        assert len(rig.roller._until) <= 50
        assert not rig.task.done()


@pytest.mark.parametrize(
    ("records", "ttl", "negative", "holds"),
    [
        (["10 mx.example."], 7200, 0, 7200),
        (["10 mx.example."], 1, 0, 60),
        (["10 mx.example."], 10**9, 0, 86_400),
        ([], 0, 900, 900),
        ([], 0, 1, 60),
        ([], 0, 0, 300),
        (int(dns.rcode.NXDOMAIN), 0, 900, 900),
        (int(dns.rcode.NXDOMAIN), 0, 0, 300),
    ],
)
async def test_an_answer_holds_for_its_ttl(
    server: Server, records: list[str] | int, ttl: int, negative: int, holds: int
) -> None:
    server.zone["a.example"] = records
    server.ttl, server.negative = ttl, negative
    async with Rig(server) as rig:
        before = time.monotonic()
        await rig.known("a.example")
        assert before + holds <= rig.roller._until["a.example"] <= time.monotonic() + holds


async def test_the_order_of_the_records_decides_nothing(server: Server) -> None:
    records = ["10 smtp.google.com.", "10 mx01.mail.icloud.com.", "20 a.mail.protonmail.ch."]
    server.zone = {"one.example": records, "other.example": records[::-1]}
    async with Rig(server) as rig:
        for domain in server.zone:
            await rig.known(domain)
        assert rig.groups.of("one.example") == rig.groups.of("other.example") == "icloud"


async def test_an_answer_counts_as_far_as_it_fits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = dns.message.from_wire

    def watched(wire: bytes, *args: Any, **more: Any) -> dns.message.Message:
        message = whole(wire, *args, **more)
        if message.flags & dns.flags.QR:
            read.append(sum(len(records) for records in message.answer))
        return message

    monkeypatch.setattr(dns.message, "from_wire", watched)
    server.zone = {
        "thousands.example": ["1 smtp.google.com.", *(f"{n} mx{n}.example." for n in range(2500))],
        "cut.example": ["1 smtp.google.com."],
    }
    async with Rig(server) as rig:
        rig.groups.learn("thousands.example", "icloud")
        await rig.known("thousands.example")
        assert rig.groups.of("thousands.example") is None
        server.flags = dns.flags.TC
        await rig.known("cut.example")  # nobody listens for TCP there
        assert rig.groups.of("cut.example") == "gmail"
    assert read == [0, 1]
    assert server.asked == {"thousands.example": 1, "cut.example": 1}
