"""`tls = "starttls"` and the server does not offer it: never plain text. `opportunistic` goes on without."""

from __future__ import annotations

from mailerd.message import Phase
from tests.smtp.faultserver import OFFERS, serve
from tests.smtp.rig import outgoing, rig


async def test_never_plain() -> None:
    message = outgoing()
    async with serve() as server, rig(server.port, message, tls="starttls") as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.STARTTLS
        assert "STARTTLS" in trouble.text
        assert list(r.source.queue) == [message]
        assert server.verbs() == ["EHLO"]


async def test_never_plain_where_ehlo_is_unknown() -> None:
    async with serve({"EHLO": "502 no"}) as server, rig(server.port, outgoing(), tls="starttls") as r:
        assert (await r.trouble()).phase is Phase.EHLO
        assert server.verbs() == ["EHLO"]


async def test_opportunistic_goes_on() -> None:
    message = outgoing()
    async with serve() as server, rig(server.port, message, tls="opportunistic") as r:
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]


async def test_opportunistic_where_ehlo_is_unknown() -> None:
    message = outgoing()
    async with serve({"EHLO": "502 no"}, offers=()) as server, rig(server.port, message, tls="opportunistic") as r:
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]


async def test_opportunistic_never_says_the_password_in_plain() -> None:
    offers = (*OFFERS, "AUTH PLAIN LOGIN")
    options = {"tls": "opportunistic", "username": "user", "password": "secret"}
    async with serve(offers=offers) as server, rig(server.port, outgoing(), **options) as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.AUTH
        assert "AUTH" not in server.verbs()
