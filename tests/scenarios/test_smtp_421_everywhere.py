"""421 at any point: the provider's trouble. What it may have swallowed is unsent, and goes over another connection."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, Do, serve
from tests.smtp.rig import CONTENT, outgoing, rig

BYE = "421 4.3.2 going down"
BOTH = pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])


@BOTH
@pytest.mark.parametrize("then", ["close", "", "silent"])
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA", "dot"])
async def test_unsent_then_sent(point: str, then: str, offers: tuple[str, ...]) -> None:
    first, second = outgoing("a@x.example", "b@x.example"), outgoing()
    async with (
        serve({point: Do(BYE, then)}, {}, offers=offers, violations=True) as server,
        rig(server.port, first, second, again=True) as r,
    ):
        await r.settled(first, second)
        unsent = next(outcomes for message, outcomes in r.source.log if message is first)
        assert [(o.kind, o.code, o.text) for o in unsent] == [("unsent", 421, "going down")] * 2
        assert r.source.kinds(first) == ["sent", "sent"]
        assert r.source.kinds(second) == ["sent"]
        assert server.contents() == [CONTENT, CONTENT]
        await r.until(lambda: server.connections[0].closed.is_set())


@BOTH
async def test_between_messages(offers: tuple[str, ...]) -> None:
    first, second = outgoing(), outgoing()
    async with serve({"dot": f"250 ok\n{BYE}"}, {}, offers=offers) as server, rig(server.port, first) as r:
        await r.settled(first)
        assert r.source.kinds(first) == ["sent"]
        r.send(second)
        await r.settled(second)
        assert r.source.log[-1][0] is second
        assert r.source.kinds(second) == ["sent"]
        assert not r.troubles


async def test_behind_the_dot_applies_to_both() -> None:
    """The next envelope is at the server already when 421 comes as the reply to the dot."""
    first, second = outgoing(), outgoing()
    async with serve({"dot": Do(BYE, "close")}) as server, rig(server.port, first, second) as r:
        await r.settled(first, second)
        assert r.source.kinds(first) == r.source.kinds(second) == ["unsent"]


async def test_on_every_connection_opens_the_breaker() -> None:
    """It must not spin: connect, MAIL, 421, connect …"""
    message = outgoing()
    async with serve({"MAIL": Do(BYE, "close")}) as server, rig(server.port, message, again=True) as r:
        await r.trouble()
        assert r.pool.state == "open"
        assert 2 <= len(server.connections) <= 10
        tries = len(server.connections)
        await r.skip(1.1)
        await r.until(lambda: len(r.troubles) == 2)
        assert len(server.connections) == tries + 1  # one probe
        server.scripts = ({},)
        await r.skip(r.pool.open_until - r.clock() + 0.1)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert r.pool.state == "closed"


async def test_content_is_cut_short_by_421() -> None:
    message = outgoing(content=b"x" * 70 + b"\r\n" + b"y" * 998 + b"\r\n" * 1 + (b"z" * 998 + b"\r\n") * 20_000)
    script = {"content": Do(BYE, "close")}
    async with serve(script, {}) as server, rig(server.port, message, again=True) as r:
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert [str(o[0].kind) for _, o in r.source.log] == ["unsent", "sent"]
