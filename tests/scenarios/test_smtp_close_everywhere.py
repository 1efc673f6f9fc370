"""The server closes, or resets, the connection at any point."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import CLOSE, OFFERS, RESET, WITHOUT_PIPELINING, Do, serve
from tests.smtp.rig import CONTENT, outgoing, rig

BOTH = pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
HOW = pytest.mark.parametrize("how", [CLOSE, RESET], ids=["close", "reset"])
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 998 + b"\r\n") * 20_000


@BOTH
@HOW
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA"])
async def test_before_the_content(point: str, how: Do, offers: tuple[str, ...]) -> None:
    first, second = outgoing(), outgoing()
    async with serve({point: how}, {}, offers=offers) as server, rig(server.port, first, second, again=True) as r:
        await r.settled(first, second)
        kinds = [str(outcomes[0].kind) for message, outcomes in r.source.log if message is first]
        assert kinds == ["unsent", "sent"]
        assert r.source.kinds(second) == ["sent"]
        assert server.contents() == [CONTENT, CONTENT]


@BOTH
@HOW
async def test_in_the_middle_of_the_content(how: Do, offers: tuple[str, ...]) -> None:
    message = outgoing(content=LARGE)
    async with serve({"content": how}, {}, offers=offers) as server, rig(server.port, message, again=True) as r:
        await r.settled(message)
        assert [str(outcomes[0].kind) for _, outcomes in r.source.log] == ["unsent", "sent"]
        assert server.contents() == [LARGE]


@BOTH
@HOW
async def test_after_the_dot(how: Do, offers: tuple[str, ...]) -> None:
    """Nobody knows: in doubt for who was accepted, and what is behind the dot is unsent."""
    first, second = outgoing("gone@x.example", "a@x.example"), outgoing()
    script = {"RCPT:gone": "550 5.1.1 who", "dot": how}
    async with serve(script, {}, offers=offers) as server, rig(server.port, first, second, again=True) as r:
        await r.settled(first, second)
        outcomes = r.source.results[first.job.id]
        assert [(o.kind, o.phase) for o in outcomes] == [("rejected", "rcpt"), ("in_doubt", "dot")]
        assert r.source.kinds(second) == ["sent"]
        assert server.contents() == [CONTENT]


@BOTH
@HOW
async def test_between_messages(how: Do, offers: tuple[str, ...]) -> None:
    """An idle close costs nothing, not even an unsent."""
    first, second = outgoing(), outgoing()
    async with serve({}, {}, offers=offers) as server, rig(server.port, first) as r:
        await r.settled(first)
        transport = server.connections[0].transport
        if how.then == "close":
            transport.close()
        else:
            transport.abort()
        await r.until(lambda: not r.pool.counts()["idle"])
        r.send(second)
        await r.settled(second)
        assert [str(outcomes[0].kind) for _, outcomes in r.source.log] == ["sent", "sent"]
        assert r.pool.state == "closed"
        assert not r.troubles


@HOW
async def test_close_that_has_arrived_but_was_not_yet_delivered(how: Do) -> None:
    """The socket is looked at before MAIL: the message is not even taken for the dead connection."""
    first, second = outgoing(), outgoing()
    async with serve({}, {}) as server, rig(server.port, first) as r:
        await r.settled(first)
        r.offset += 1.0
        sock = server.connections[0].transport.get_extra_info("socket")
        (connection,) = r.pool._connections
        if how.then == "close":
            server.connections[0].transport.write_eof()
        else:
            sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0: close sends RST
            server.connections[0].transport.abort()
            server.connections[0].transport._sock.shutdown(2)
        assert connection._stirs()
        r.send(second)  # in the same turn of the event loop
        await r.settled(second)
        assert [str(outcomes[0].kind) for _, outcomes in r.source.log] == ["sent", "sent"]
