"""HTTPS: the certificate is verified, whatever was configured, and `mailerd check --connect` says what is wrong."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from mailerd.config.base import Duration
from mailerd.config.provider import Provider, Timeouts
from mailerd.http.probe import probe
from mailerd.message import OutcomeKind, Phase
from tests.http.rig import message, reply, rig

KEY = {"api_key": "re_x"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def https(authority: trustme.CA, name: str) -> AsyncIterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return reply({"id": "x"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def ca(authority: trustme.CA, folder: Path) -> str:
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return str(folder / "ca.pem")


async def test_a_certificate_of_the_authority_that_is_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    sent = message()
    trusted = ca(authority, tmp_path)
    async with https(authority, "localhost") as url, rig("resend", url, sent, tls_ca=trusted, **KEY) as run:
        await run.settled(sent)
        assert run.source.outcome(sent).kind is OutcomeKind.SENT
        assert await probe(run.provider) == (
            True,
            f"localhost port {url.rpartition(':')[2]} answers, TLSv1.3; the key is not tried",
        )


@pytest.mark.parametrize(("name", "trusted"), [("localhost", False), ("other.example", True)])
@pytest.mark.parametrize("tls", ["implicit", "none"])
async def test_any_other_is_not_spoken_to(
    authority: trustme.CA, tmp_path: Path, name: str, trusted: bool, tls: str
) -> None:
    sent = message()
    options = {"tls": tls, "tls_ca": ca(authority, tmp_path) if trusted else None, **KEY}
    async with https(authority, name) as url, rig("resend", url, sent, **options) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.phase) == (OutcomeKind.UNSENT, Phase.CONNECT)
        assert "certificate" in outcome.text.lower()
        reached, words = await probe(run.provider)
        assert not reached
        assert "TLS: " in words


async def test_nobody_there() -> None:
    times = Timeouts(connect=Duration(0.2))
    provider = Provider(name="esp", kind="resend", endpoint="http://127.0.0.1:1", timeouts=times, **KEY)
    reached, words = await probe(provider)
    assert not reached
    assert words.endswith("check endpoint and firewall")
