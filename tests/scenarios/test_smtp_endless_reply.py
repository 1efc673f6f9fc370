"""A reply without end, in every form: it is cut off, and costs neither memory nor other messages."""

from __future__ import annotations

import pytest

from tests.smtp.faultserver import OFFERS, WITHOUT_PIPELINING, serve
from tests.smtp.rig import CONTENT, outgoing, rig

BOTH = pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
FORMS = {
    "one line": "250 " + "x" * 1_000_000,
    "many lines": "250-and\n" * 100_000 + "250 done",
    "no code": "x" * 1_000_000,
    "empty lines": "\n" * 100_000,
}


@BOTH
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("point", "kind"), [("MAIL", "unsent"), ("dot", "in_doubt")])
async def test_cut_off(form: str, point: str, kind: str, offers: tuple[str, ...]) -> None:
    first, second = outgoing(), outgoing()
    async with (
        serve({point: FORMS[form]}, {}, offers=offers, violations=True) as server,
        rig(server.port, first, second, again=True) as r,
    ):
        await r.settled(first, second)
        outcome = next(outcomes[0] for message, outcomes in r.source.log if message is first)
        assert outcome.kind == kind
        assert len(outcome.text) <= 1024
        assert r.source.kinds(second) == ["sent"]
        assert CONTENT in server.contents()
        await r.until(lambda: server.connections[0].closed.is_set())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("point", ["greeting", "EHLO"])
async def test_before_any_mail(form: str, point: str) -> None:
    message = outgoing()
    options = {"timeouts": {"greeting": 1.0}}
    async with serve({point: FORMS[form]}, {}) as server, rig(server.port, message, **options) as r:
        assert str((await r.trouble()).phase) == point.lower()
        await r.skip(1.1)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]


async def test_long_but_finite_ehlo_reply_is_fine() -> None:
    message = outgoing()
    offers = (*OFFERS, *(f"X-EXTENSION-{n} with some parameters" for n in range(300)))
    async with serve(offers=offers) as server, rig(server.port, message) as r:
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert "SIZE=" in server.commands()[1]
