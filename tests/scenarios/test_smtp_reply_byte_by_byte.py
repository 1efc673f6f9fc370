"""Every reply comes octet by octet, multiline ones too."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, serve
from tests.smtp.rig import CONTENT, outgoing, rig


@pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
async def test_octets(offers: tuple[str, ...]) -> None:
    messages = [outgoing("gone@x.example", "a@x.example") for _ in range(5)]
    script = {"RCPT:gone": "550-5.1.1 who\n550-5.1.1 is\n550 5.1.1 that", "dot": "250-2.0.0 thank\n250 2.0.0 you"}
    async with serve(script, offers=offers, dribble=True) as server, rig(server.port, *messages) as r:
        await r.settled(*messages)
        for message in messages:
            assert r.source.kinds(message) == ["rejected", "sent"]
            assert r.source.results[message.job.id][0].text == "who\nis\nthat"
        assert server.contents() == [CONTENT] * 5
        assert len(server.connections) == 1
