"""A server that offers no extension: one command at a time, plain MAIL, and what needs an extension fails with a clear
reason while its neighbours go on."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import serve
from tests.smtp.rig import CONTENT, outgoing, rig


@pytest.mark.parametrize("script", [{}, {"EHLO": "500 what?"}], ids=["EHLO", "HELO"])
async def test_one_command_at_a_time(script: dict[str, str]) -> None:
    messages = [outgoing("a@x.example", "b@x.example"), outgoing(), outgoing()]
    async with serve(script, offers=()) as server, rig(server.port, *messages) as r:
        await r.settled(*messages)
        assert [r.source.kinds(m) for m in messages] == [["sent", "sent"], ["sent"], ["sent"]]
        assert server.contents() == [CONTENT] * 3
        assert {m.parameters for m in server.received} == {""}
        assert len(server.connections) == 1


async def test_what_needs_an_extension_fails_by_itself() -> None:
    utf8 = outgoing("ünï@x.example", utf8=True)
    eight = outgoing(eight_bit=True, content="é\r\n".encode())
    plain = outgoing()
    async with serve(offers=()) as server, rig(server.port, utf8, plain, eight) as r:
        await r.settled(utf8, eight, plain)
        assert (r.source.outcome(utf8).kind, r.source.outcome(utf8).category) == ("failed", "address")
        assert "SMTPUTF8" in r.source.outcome(utf8).text
        assert (r.source.outcome(eight).kind, r.source.outcome(eight).category) == ("failed", "content")
        assert "8BITMIME" in r.source.outcome(eight).text
        assert r.source.kinds(plain) == ["sent"]
        assert server.verbs().count("MAIL") == 1


async def test_over_the_announced_size() -> None:
    large, small = outgoing(content=b"x\r\n" * 1000), outgoing()
    async with serve(offers=("PIPELINING", "SIZE 2999")) as server, rig(server.port, large, small) as r:
        await r.settled(large, small)
        assert (r.source.outcome(large).kind, r.source.outcome(large).category) == ("failed", "size")
        assert "2999" in r.source.outcome(large).text
        assert r.source.kinds(small) == ["sent"]
        assert server.contents() == [CONTENT]
