"""STARTTLS is offered and does not work: refused, or no TLS behind it."""

from __future__ import annotations

import pytest

from mailerd.message import Phase
from tests.smtp.faultserver import CLOSE, OFFERS, Do, serve
from tests.smtp.rig import outgoing, rig

STARTTLS = (*OFFERS, "STARTTLS")
SHORT = {"greeting": 0.5}
FAILURES = {
    "refused": "454 4.7.0 TLS not available",
    "closed": CLOSE,
    "no TLS behind it": Do("220 go ahead\n250 this is no handshake"),
    "closed in the handshake": Do("220 go ahead", "close"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_never_plain(failure: str) -> None:
    message = outgoing()
    script = {"STARTTLS": FAILURES[failure]}
    async with serve(script, offers=STARTTLS) as server, rig(server.port, message, tls="starttls", timeouts=SHORT) as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.STARTTLS
        assert trouble.text
        assert list(r.source.queue) == [message]
        assert "MAIL" not in server.verbs()


async def test_silence_in_the_handshake() -> None:
    script = {"STARTTLS": Do("220 go ahead", "silent")}
    options = {"tls": "starttls", "timeouts": {"greeting": 0.2}}
    async with serve(script, offers=STARTTLS) as server, rig(server.port, outgoing(), **options) as r:
        assert (await r.trouble()).phase is Phase.STARTTLS


@pytest.mark.parametrize("failure", FAILURES)
async def test_opportunistic_goes_on_without(failure: str) -> None:
    message = outgoing()
    script = {"STARTTLS": FAILURES[failure]}
    async with (
        serve(script, offers=STARTTLS) as server,
        rig(server.port, message, tls="opportunistic", timeouts=SHORT) as r,
    ):
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
        assert not r.troubles


async def test_server_that_speaks_no_tls_at_all() -> None:
    async with serve() as server, rig(server.port, outgoing(), tls="implicit") as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.STARTTLS
        assert trouble.text
