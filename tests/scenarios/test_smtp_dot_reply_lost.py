"""The server takes the message, and its reply to the dot never reaches us: in doubt, never sent again by the engine."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, Do, serve
from tests.smtp.rig import outgoing, rig

BOTH = pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])


@BOTH
@pytest.mark.parametrize(
    "reply", [Do("250-2.0.0 half of", "close"), Do("250-2.0.0 half of", "silent"), Do("garbage"), Do("354 more?")]
)
async def test_in_doubt(reply: Do, offers: tuple[str, ...]) -> None:
    first, second, third = outgoing(), outgoing(), outgoing()
    options = {"again": True, "timeouts": {"dot": 0.2}}
    async with (
        serve({"dot": ["250 2.0.0 ok", reply]}, {}, offers=offers) as server,
        rig(server.port, first, second, third, **options) as r,
    ):
        await r.settled(first, second, third)
        assert r.source.kinds(first) == ["sent"]
        assert r.source.kinds(second) == ["in_doubt"]
        assert r.source.outcome(second).text
        assert r.source.kinds(third) == ["sent"]
        assert len(server.connections) == 2


async def test_abort_after_the_dot() -> None:
    """Our own end, with several messages in flight: what is past its dot is in doubt, the rest unsent."""
    messages = [outgoing() for _ in range(6)]
    script = {"dot": Do("", "silent")}
    async with serve(script) as server, rig(server.port, *messages, concurrency=1) as r:
        await r.until(lambda: "DATA" in server.verbs() and server.connections[0].over)
        r.pool.abort()
        assert [r.source.kinds(m) for m in messages[:2]] == [["in_doubt"], ["unsent"]]
        assert list(r.source.queue) == messages[2:]
