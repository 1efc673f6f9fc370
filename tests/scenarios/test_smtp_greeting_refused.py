"""The server refuses us before EHLO: no message is touched, the provider is left alone for a while, then it is tried
again by one connection."""

from __future__ import annotations

import pytest

from mailerd.message import Phase
from tests.smtp.faultserver import CLOSE, RESET, Do, serve
from tests.smtp.rig import outgoing, rig


@pytest.mark.parametrize(
    ("greeting", "code"),
    [
        ("554 5.7.1 go away", 554),
        (Do("421 4.7.0 too many connections", "close"), 421),
        ("220-fault.example\n554 5.7.1 changed my mind", 554),
        ("HTTP/1.1 200 OK", 0),
        (CLOSE, 0),
        (RESET, 0),
    ],
)
async def test_refused_then_well(greeting: str | Do, code: int) -> None:
    message = outgoing()
    async with serve({"greeting": greeting}, {}) as server, rig(server.port, message) as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.GREETING
        assert trouble.code == code
        assert trouble.text
        assert r.pool.state == "open"
        assert r.pool.last_trouble == trouble
        assert list(r.source.queue) == [message]
        assert len(server.connections) == 1  # no second try before its time
        await r.skip(1.1)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert r.states == ["open", "half_open", "closed"]


async def test_nobody_listens() -> None:
    async with serve() as server:
        port = server.port
    async with rig(port, outgoing()) as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.CONNECT
        assert "refused" in trouble.text
        assert r.pool.state == "open"


async def test_name_does_not_resolve() -> None:
    async with rig(25, outgoing(), host="no-such-host.invalid") as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.CONNECT
        assert "no-such-host.invalid" in trouble.text


async def test_waits_grow_and_each_ends_in_one_probe() -> None:
    async with serve({"greeting": "554 no"}) as server, rig(server.port, outgoing(), concurrency=20) as r:
        for probes in range(1, 5):
            await r.until(lambda n=probes: len(r.troubles) == n)
            assert len(server.connections) == probes
            await r.skip(r.pool.open_until - r.clock() + 0.01)
        assert not r.source.log
