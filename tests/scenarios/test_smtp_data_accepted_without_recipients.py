"""Every RCPT failed and DATA gets 354 all the same (RFC 2920 §3.1): a lone dot, whose reply means nothing."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import serve
from tests.smtp.rig import CONTENT, outgoing, rig


@pytest.mark.parametrize("after_dot", ["250 2.0.0 Ok: queued as 0", "554 5.5.1 no valid recipients", "451 later"])
async def test_lone_dot(after_dot: str) -> None:
    first, second = outgoing("gone@x.example", "grey@x.example"), outgoing()
    script = {
        "RCPT:gone": "550 5.1.1 who",
        "RCPT:grey": "450 4.2.0 grey",
        "DATA": "354 go on anyway",
        "dot": [after_dot, "250 ok"],
    }
    async with serve(script) as server, rig(server.port, first, second) as r:
        await r.settled(first, second)
        assert r.source.kinds(first) == ["rejected", "deferred"]
        assert r.source.kinds(second) == ["sent"]
        assert [m.content for m in server.received if m.recipients] == [CONTENT]
        assert "RSET" not in server.verbs()  # the dot ended that transaction
        assert len(server.connections) == 1


async def test_after_mail_was_refused() -> None:
    first, second = outgoing(), outgoing()
    script = {"MAIL": ["550 5.7.1 no", "250 ok"], "DATA": "354 go on anyway"}
    async with serve(script) as server, rig(server.port, first, second) as r:
        await r.settled(first, second)
        assert r.source.kinds(first) == ["rejected"]
        assert r.source.kinds(second) == ["sent"]


async def test_421_after_the_lone_dot() -> None:
    first, second = outgoing("gone@x.example"), outgoing()
    script = {"RCPT:gone": "550 5.1.1 who", "DATA": "354 go", "dot": "421 4.3.0 bye"}
    async with serve(script, {}) as server, rig(server.port, first, second) as r:
        await r.settled(first, second)
        assert r.source.kinds(first) == ["rejected"]
        assert r.source.kinds(second) == ["sent"]
        assert len(server.connections) == 2
