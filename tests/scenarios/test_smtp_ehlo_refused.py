"""The greeting is friendly, EHLO is not."""

from __future__ import annotations

import pytest

from mailerd.message import Phase
from tests.smtp.faultserver import CLOSE, Do, serve
from tests.smtp.rig import outgoing, rig


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"EHLO": "550 5.7.1 who are you"}, 550),
        ({"EHLO": Do("421 4.3.2 busy", "close")}, 421),
        ({"EHLO": CLOSE}, 0),
        ({"EHLO": "354 go on"}, 354),
        ({"EHLO": "502 no", "HELO": "550 5.7.1 no"}, 550),
    ],
)
async def test_refused_then_well(script: dict[str, str | Do], code: int) -> None:
    message = outgoing()
    async with serve(script, {}) as server, rig(server.port, message) as r:
        trouble = await r.trouble()
        assert (trouble.phase, trouble.code) == (Phase.EHLO, code)
        assert r.pool.state == "open"
        assert list(r.source.queue) == [message]
        await r.skip(1.1)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]


async def test_ehlo_unknown_helo_accepted() -> None:
    message = outgoing()
    async with serve({"EHLO": "502 5.5.1 not implemented"}, offers=()) as server, rig(server.port, message) as r:
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert server.verbs() == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]
