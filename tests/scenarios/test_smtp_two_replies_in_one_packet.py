"""Replies that share a packet: those that were asked for count one by one; one too many ends the session."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, serve
from tests.smtp.rig import CONTENT, outgoing, rig

BOTH = pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])


async def test_whole_groups_in_one_packet() -> None:
    """The reply to the dot comes with those to the next envelope."""
    messages = [outgoing("gone@x.example", "a@x.example") for _ in range(5)]
    script = {"RCPT:gone": "550 5.1.1 who", "dot": ["250 ok", "451 4.3.0 later", "250 ok"]}
    async with serve(script, batch=True) as server, rig(server.port, *messages) as r:
        await r.settled(*messages)
        kinds = [r.source.kinds(m) for m in messages]
        assert kinds == [["rejected", kind] for kind in ("sent", "deferred", "sent", "sent", "sent")]
        assert server.contents() == [CONTENT] * 4
        assert len(server.connections) == 1


@BOTH
async def test_reply_too_many_after_the_dot(offers: tuple[str, ...]) -> None:
    first = outgoing()
    second = outgoing()
    script = {"dot": "250 2.0.0 Ok\n250 2.0.0 Ok again"}
    async with serve(script, {}, offers=offers) as server, rig(server.port, first) as r:
        await r.settled(first)
        assert r.source.kinds(first) == ["sent"]
        await r.until(lambda: server.connections[0].closed.is_set())
        r.send(second)
        await r.settled(second)
        assert r.source.kinds(second) == ["sent"]
        assert len(server.connections) == 2
        assert server.contents() == [CONTENT, CONTENT]


@BOTH
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA"])
async def test_reply_too_many_before(point: str, offers: tuple[str, ...]) -> None:
    """Replies out of step with the commands: nothing may be taken for the reply to the dot that was not."""
    message = outgoing()
    script = {point: f"{'354' if point == 'DATA' else '250'} ok\n250 and one more"}
    async with serve(script, {}, offers=offers, violations=True) as server, rig(server.port, message) as r:
        await r.settled(message)
        if r.source.kinds(message) == ["sent"]:
            assert server.contents() == [CONTENT]
        else:
            assert r.source.kinds(message) in (["unsent"], ["in_doubt"])
        await r.until(lambda: server.connections[0].closed.is_set())
