"""Messages that start with dots, hold lone dots, or lines of 10 000 characters arrive as they were."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, serve
from tests.smtp.rig import outgoing, rig

CONTENTS = {
    "starts with a dot": b".dot\r\n",
    "starts with dots": b"...\r\n",
    "is a lone dot": b".\r\n",
    "lone dots inside": b"a\r\n.\r\n.\r\n..\r\n.b\r\n\r\n.\r\n",
    "smuggled end": b"a\r\n.\r\nMAIL FROM:<evil@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n\r\nevil\r\n.\r\nQUIT\r\n",
    "long lines": b"x" * 10_000 + b"\r\n." + b"y" * 10_000 + b"\r\n",
    "megabytes of dots": b"a\r\n" + b"." * 70_000 + b"\r\n" + b".\r\n" * 700_000,
    "empty lines": b"\r\n" * 50,
}


@pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
async def test_arrive_as_they_were(offers: tuple[str, ...]) -> None:
    messages = [outgoing(content=content) for content in CONTENTS.values()]
    async with serve(offers=offers) as server, rig(server.port, *messages) as r:
        await r.settled(*messages)
        assert [r.source.kinds(m) for m in messages] == [["sent"]] * len(messages)
        for name, content in zip(CONTENTS, server.contents(), strict=True):
            assert content == CONTENTS[name], name
        assert len(server.connections) == 1


async def test_content_without_a_final_line_end_gets_one() -> None:
    message, after = outgoing(content=b"no end"), outgoing()
    async with serve() as server, rig(server.port, message, after) as r:
        await r.settled(message, after)
        assert server.contents()[0] == b"no end\r\n"
