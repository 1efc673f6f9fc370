"""Several recipients in one transaction, each with another answer: each its own outcome."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, serve
from tests.smtp.rig import CONTENT, outgoing, rig

BOTH = pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
REPLIES = {
    "RCPT:good": "250 2.1.5 Ok",
    "RCPT:moved": "251 2.1.5 will forward",
    "RCPT:gone": "550 5.1.1 no such user",
    "RCPT:grey": "451 4.7.1 greylisted",
    "RCPT:full": "552 5.2.2 mailbox full",
    "RCPT:many": "452 4.5.3 too many recipients",
}


@BOTH
async def test_each_its_own(offers: tuple[str, ...]) -> None:
    message = outgoing(*(f"{who}@x.example" for who in ("gone", "good", "grey", "moved", "full", "many")))
    after = outgoing("good@x.example")
    async with serve(REPLIES, offers=offers) as server, rig(server.port, message, after) as r:
        await r.settled(message, after)
        assert r.source.kinds(message) == ["rejected", "sent", "deferred", "sent", "rejected", "unsent"]
        assert [o.enhanced for o in r.source.results[message.job.id]] == [
            *("5.1.1", "2.0.0", "4.7.1", "2.0.0", "5.2.2", "4.5.3")
        ]
        assert [m.recipients for m in server.received] == [("good@x.example", "moved@x.example"), ("good@x.example",)]
        assert server.contents() == [CONTENT, CONTENT]
        assert len(server.connections) == 1


@BOTH
async def test_all_refused_then_next(offers: tuple[str, ...]) -> None:
    """The refused transaction is still open at the server: RSET, and only there."""
    message, after, later = outgoing("gone@x.example", "grey@x.example"), outgoing(), outgoing()
    async with serve(REPLIES, offers=offers) as server, rig(server.port, message, after, later) as r:
        await r.settled(message, after, later)
        assert r.source.kinds(message) == ["rejected", "deferred"]
        assert r.source.kinds(after) == r.source.kinds(later) == ["sent"]
        assert server.verbs().count("RSET") == 1
        assert len(server.connections) == 1


@BOTH
async def test_content_refused_concerns_the_accepted_only(offers: tuple[str, ...]) -> None:
    message, after = outgoing("gone@x.example", "good@x.example"), outgoing()
    script = REPLIES | {"dot": ["554 5.7.1 spam", "250 ok"]}
    async with serve(script, offers=offers) as server, rig(server.port, message, after) as r:
        await r.settled(message, after)
        outcomes = r.source.results[message.job.id]
        assert [(o.kind, o.phase, o.code) for o in outcomes] == [("rejected", "rcpt", 550), ("rejected", "dot", 554)]
        assert r.source.kinds(after) == ["sent"]
        assert len(server.connections) == 1


async def test_sixty_three_recipients() -> None:
    message = outgoing(*(f"{'gone' if n % 3 else 'good'}@x{n}.example" for n in range(63)))
    async with serve(REPLIES) as server, rig(server.port, message) as r:
        await r.settled(message)
        assert r.source.kinds(message) == ["rejected" if n % 3 else "sent" for n in range(63)]
        assert len(server.received[0].recipients) == 21
