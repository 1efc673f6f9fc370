"""The server says nothing more, at any point: each phase has its deadline, and none hangs a message for ever."""

from __future__ import annotations

import time

import pytest

from mailerd.message import Phase
from tests.smtp.faultserver import OFFERS, SILENCE, WITHOUT_PIPELINING, Do, serve
from tests.smtp.rig import CONTENT, outgoing, rig

BOTH = pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 998 + b"\r\n") * 20_000


@pytest.mark.parametrize(("point", "phase"), [("greeting", Phase.GREETING), ("EHLO", Phase.EHLO)])
async def test_before_any_mail(point: str, phase: Phase) -> None:
    message = outgoing()
    async with serve({point: SILENCE}, {}) as server, rig(server.port, message, timeouts={"greeting": 0.2}) as r:
        trouble = await r.trouble()
        assert trouble.phase is phase
        assert list(r.source.queue) == [message]
        await r.skip(1.1)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]


async def test_auth() -> None:
    offers = (*OFFERS, "AUTH PLAIN")
    options = {"username": "u", "password": "p", "timeouts": {"greeting": 0.2}}
    async with serve({"AUTH": SILENCE}, offers=offers) as server, rig(server.port, outgoing(), **options) as r:
        assert (await r.trouble()).phase is Phase.AUTH


@BOTH
@pytest.mark.parametrize("how", [SILENCE, Do("250-I am thinking", "silent")], ids=["silence", "half a reply"])
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA"])
async def test_envelope(point: str, how: Do, offers: tuple[str, ...]) -> None:
    first, second = outgoing(), outgoing()
    options = {"again": True, "timeouts": {"command": 0.2}}
    async with serve({point: how}, {}, offers=offers) as server, rig(server.port, first, second, **options) as r:
        started = time.monotonic()
        await r.settled(first, second)
        assert time.monotonic() - started >= 0.2
        kinds = [str(outcomes[0].kind) for message, outcomes in r.source.log if message is first]
        assert kinds == ["unsent", "sent"]
        assert "0.2 s" in r.source.log[0][1][0].text
        assert r.source.kinds(second) == ["sent"]
        await r.until(lambda: server.connections[0].closed.is_set())


@BOTH
async def test_dot(offers: tuple[str, ...]) -> None:
    first, second = outgoing(), outgoing()
    options = {"again": True, "timeouts": {"dot": 0.2}}
    async with serve({"dot": SILENCE}, {}, offers=offers) as server, rig(server.port, first, second, **options) as r:
        await r.settled(first, second)
        assert r.source.kinds(first) == ["in_doubt"]
        assert r.source.kinds(second) == ["sent"]
        assert server.contents() == [CONTENT]


@BOTH
async def test_peer_stops_reading_the_content(offers: tuple[str, ...]) -> None:
    message = outgoing(content=LARGE)
    options = {"again": True, "timeouts": {"content": 0.3}}
    async with serve({}, {}, offers=offers) as server, rig(server.port, message, **options) as r:
        await r.until(lambda: server.connections and server.connections[0].content is not None)
        server.connections[0].transport.pause_reading()
        await r.settled(message)
        assert [(str(o[0].kind), str(o[0].phase)) for _, o in r.source.log] == [("unsent", "content"), ("sent", "dot")]
        assert server.contents() == [LARGE]


async def test_slow_reader_is_given_its_time() -> None:
    """The deadline is for each piece of the content, not for all of it."""
    message = outgoing(content=LARGE)
    async with serve({}) as server, rig(server.port, message, timeouts={"content": 0.3}) as r:
        await r.until(lambda: server.connections and server.connections[0].content is not None)
        transport = server.connections[0].transport
        for _ in range(4):
            transport.pause_reading()
            paused = time.monotonic()
            await r.until(lambda t=paused: time.monotonic() - t > 0.15)
            size = len(server.connections[0].chunks)
            transport.resume_reading()
            await r.until(lambda n=size: len(server.connections[0].chunks) > n + 5 or server.received)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert server.contents() == [LARGE]
