"""The password is wrong, or AUTH is missing: the provider's trouble, never the message's; one try a connection."""

from __future__ import annotations

import pytest

from mailerd.message import Phase
from tests.smtp.faultserver import CLOSE, OFFERS, Do, serve
from tests.smtp.rig import outgoing, rig

AUTH = (*OFFERS, "AUTH PLAIN LOGIN")
USER = {"username": "user", "password": "secret"}


@pytest.mark.parametrize(
    ("reply", "code"),
    [("535 5.7.8 wrong", 535), ("454 4.7.0 later", 454), (Do("421 4.7.0 bye", "close"), 421), (CLOSE, 0)],
)
async def test_refused_then_well(reply: str | Do, code: int) -> None:
    message = outgoing()
    good = {"AUTH": "235 2.7.0 welcome"}
    async with serve({"AUTH": reply}, good, offers=AUTH) as server, rig(server.port, message, **USER) as r:
        trouble = await r.trouble()
        assert (trouble.phase, trouble.code) == (Phase.AUTH, code)
        assert "secret" not in str(trouble)
        assert list(r.source.queue) == [message]
        assert server.verbs().count("AUTH") == 1
        await r.skip(1.1)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]


async def test_method_that_is_offered_and_unknown() -> None:
    message = outgoing()
    replies = ["504 5.5.4 PLAIN? no", "334 UGFzc3dvcmQ6"]
    async with (
        serve({"AUTH": replies, "other": "235 2.7.0 welcome"}, offers=AUTH) as server,
        rig(server.port, message, **USER) as r,
    ):
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert server.commands()[1].startswith("AUTH PLAIN ")
        assert server.commands()[2].startswith("AUTH LOGIN ")


@pytest.mark.parametrize("offers", [OFFERS, (*OFFERS, "AUTH XOAUTH2")])
async def test_not_offered(offers: tuple[str, ...]) -> None:
    async with serve(offers=offers) as server, rig(server.port, outgoing(), **USER) as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.AUTH
        assert "AUTH" in trouble.text
        assert server.verbs() == ["EHLO"]


async def test_required_and_not_configured() -> None:
    """530 in reply to MAIL is no fault of the message; after some sessions like that the provider is left alone."""
    message = outgoing()
    async with serve({"MAIL": "530 5.7.0 authenticate"}) as server, rig(server.port, message, again=True) as r:
        trouble = await r.trouble()
        assert (trouble.phase, trouble.code) == (Phase.MAIL, 530)
        assert r.pool.state == "open"
        assert {str(outcome.kind) for _, outcomes in r.source.log for outcome in outcomes} == {"unsent"}
