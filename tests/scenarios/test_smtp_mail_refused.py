"""MAIL gets 4yz or 5yz: the message's outcome, and the session goes on with the next message."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, serve
from tests.smtp.rig import CONTENT, outgoing, rig


@pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
@pytest.mark.parametrize(
    ("reply", "kind"), [("451 4.7.1 try later", "deferred"), ("550 5.7.1 sender refused", "rejected")]
)
async def test_refused_then_next(reply: str, kind: str, offers: tuple[str, ...]) -> None:
    first, second = outgoing("a@x.example", "b@x.example"), outgoing()
    script = {"MAIL": [reply, "250 ok"]}
    async with serve(script, offers=offers) as server, rig(server.port, first, second) as r:
        await r.settled(first, second)
        assert r.source.kinds(first) == [kind, kind]
        outcome = r.source.results[first.job.id][0]
        assert (outcome.phase, outcome.code, outcome.provider) == ("mail", int(reply[:3]), "relay")
        assert outcome.enhanced == reply.split()[1]
        assert r.source.kinds(second) == ["sent"]
        assert len(server.connections) == 1
        assert server.contents() == [CONTENT]
        assert r.pool.state == "closed"
