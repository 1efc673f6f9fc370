"""DATA is refused although a recipient was accepted."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, serve
from tests.smtp.rig import CONTENT, outgoing, rig


@pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
@pytest.mark.parametrize(("reply", "kind"), [("452 4.3.1 disk full", "deferred"), ("554 5.7.1 no", "rejected")])
async def test_refused_then_next(reply: str, kind: str, offers: tuple[str, ...]) -> None:
    first, second = outgoing("gone@x.example", "a@x.example"), outgoing()
    script = {"DATA": [reply, "354 go"], "RCPT:gone": "550 5.1.1 who"}
    async with serve(script, offers=offers) as server, rig(server.port, first, second) as r:
        await r.settled(first, second)
        outcomes = r.source.results[first.job.id]
        assert [(o.kind, o.phase) for o in outcomes] == [("rejected", "rcpt"), (kind, "data")]
        assert r.source.kinds(second) == ["sent"]
        assert server.contents() == [CONTENT]
        assert server.verbs().count("RSET") == 1
        assert len(server.connections) == 1
