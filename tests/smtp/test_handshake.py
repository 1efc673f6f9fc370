"""TLS, AUTH and the hand-over, against aiosmtpd (an implementation that is not ours) and over TLS on both loops."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from mailerd.config.provider import Provider
from mailerd.message import Phase, Trouble
from mailerd.smtp.handshake import Dialer, _hand_over, _Refused
from tests.smtp.faultserver import CLOSE, OFFERS, SILENCE, serve
from tests.smtp.rig import CONTENT, outgoing, rig

Run = Callable[[Coroutine[Any, Any, None]], None]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
PASSWORD = "pässwörd with spaces"


class Certificates:
    """An authority, a server certificate for localhost, and another authority that nobody knows."""

    def __init__(self, folder: Path) -> None:
        authority, other = trustme.CA(), trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.other_ca = str(folder / "other.pem")
        authority.cert_pem.write_to_path(self.ca)
        other.cert_pem.write_to_path(self.other_ca)
        self.server = self._context(authority, "localhost", "127.0.0.1")
        self.elsewhere = self._context(authority, "mail.elsewhere.example")

    @staticmethod
    def _context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


class Handler:
    """What aiosmtpd was given."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self.encrypted: list[bool] = []
        self.users: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.contents.append(bytes(envelope.content or b""))
        self.encrypted.append(session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None)
        return "250 2.0.0 Ok: queued as 1"

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.users.append(f"{mechanism} {data.login.decode()}")
        return AuthResult(success=data.password.decode() == PASSWORD, handled=False)


@contextmanager
def aiosmtpd(*, implicit: ssl.SSLContext | None = None, **options: Any) -> Iterator[tuple[int, Handler]]:
    handler = Handler()
    if "auth" in options:
        options |= {"authenticator": handler.authenticate, "auth_require_tls": options.pop("auth")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(handler, hostname="127.0.0.1", port=port, ssl_context=implicit, **options)
    if implicit is not None:
        # Its readiness check speaks TLS without trusting our authority.
        controller._trigger_server = lambda: socket.create_connection(("127.0.0.1", port), 5).close()  # type: ignore[method-assign]
    controller.start()
    try:
        yield port, handler
    finally:
        controller.stop()


@LOOPS
@pytest.mark.parametrize("tls", ["implicit", "starttls", "opportunistic"])
def test_encrypted(run: Run, tls: str, certificates: Certificates) -> None:
    server: dict[str, Any] = (
        {"implicit": certificates.server} if tls == "implicit" else {"tls_context": certificates.server}
    )

    async def main() -> None:
        messages = [outgoing() for _ in range(5)]
        async with rig(port, *messages, tls=tls, tls_ca=certificates.ca, host="localhost") as r:
            await r.settled(*messages)
            assert {kind for m in messages for kind in r.source.kinds(m)} == {"sent"}
            await r.pool.drain(r.clock() + 5)

    with aiosmtpd(**server) as (port, handler):
        run(main())
    assert handler.contents == [CONTENT] * 5
    assert handler.encrypted == [True] * 5


@LOOPS
def test_pipelining_and_large_messages_over_tls(run: Run, certificates: Certificates) -> None:
    async def main() -> None:
        large = b"Subject: large\r\n\r\n" + (b"." + b"x" * 900 + b"\r\n") * 3000
        messages = [outgoing(content=large if n % 20 == 0 else CONTENT) for n in range(100)]
        options: dict[str, Any] = {"tls": "implicit", "tls_ca": certificates.ca, "concurrency": 3}
        async with serve(tls=certificates.server) as server, rig(server.port, *messages, **options) as r:
            await r.settled(*messages)
            assert {kind for m in messages for kind in r.source.kinds(m)} == {"sent"}
            assert sorted(server.contents()) == sorted(m.content for m in messages)
            await r.pool.drain(r.clock() + 5)
            assert all(c.commands[-1] == "QUIT" for c in server.connections)

    run(main())


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_wrong_certificate_is_refused(tls: str, wrong: str, certificates: Certificates) -> None:
    context = certificates.server if wrong == "authority" else certificates.elsewhere
    ca = certificates.other_ca if wrong == "authority" else certificates.ca
    server: dict[str, Any] = {"implicit": context} if tls == "implicit" else {"tls_context": context}
    message = outgoing()
    with aiosmtpd(**server) as (port, handler):
        async with rig(port, message, tls=tls, tls_ca=ca, host="localhost") as r:
            trouble = await r.trouble()
            assert trouble.phase is Phase.STARTTLS
            assert "certificate verify failed" in trouble.text
            assert list(r.source.queue) == [message]
    assert not handler.contents


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_system_authorities_by_default(tls: str, certificates: Certificates) -> None:
    server: dict[str, Any] = (
        {"implicit": certificates.server} if tls == "implicit" else {"tls_context": certificates.server}
    )
    with aiosmtpd(**server) as (port, _):
        async with rig(port, outgoing(), tls=tls, host="localhost") as r:
            assert "certificate verify failed" in (await r.trouble()).text


@LOOPS
@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_name_other_than_the_host(run: Run, tls: str, certificates: Certificates) -> None:
    context = certificates.elsewhere
    server: dict[str, Any] = {"implicit": context} if tls == "implicit" else {"tls_context": context}

    async def main() -> None:
        message = outgoing()
        options = {"tls": tls, "tls_ca": certificates.ca, "tls_name": "mail.elsewhere.example"}
        async with rig(port, message, **options) as r:
            await r.settled(message)
            assert r.source.kinds(message) == ["sent"]

    with aiosmtpd(**server) as (port, _):
        run(main())


async def test_opportunistic_does_not_verify(certificates: Certificates) -> None:
    message = outgoing()
    with aiosmtpd(tls_context=certificates.elsewhere) as (port, handler):
        async with rig(port, message, tls="opportunistic") as r:
            await r.settled(message)
    assert handler.encrypted == [True]


@pytest.mark.parametrize("missing", ["no such file", "no certificate in it"])
async def test_authorities_that_cannot_be_read(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if missing == "no certificate in it":
        path.write_text("hello")
    async with serve() as server, rig(server.port, outgoing(), tls="starttls", tls_ca=str(path)) as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.STARTTLS
        assert "tls_ca" in trouble.text


@LOOPS
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_auth(run: Run, mechanism: str, certificates: Certificates) -> None:
    other = "LOGIN" if mechanism == "PLAIN" else "PLAIN"

    async def main() -> None:
        message = outgoing()
        options = {"tls": "starttls", "tls_ca": certificates.ca, "username": "üser", "password": PASSWORD}
        async with rig(port, message, host="localhost", **options) as r:
            await r.settled(message)
            assert r.source.kinds(message) == ["sent"]

    options: dict[str, Any] = {"auth": True, "auth_exclude_mechanism": [other], "auth_required": True}
    with aiosmtpd(tls_context=certificates.server, **options) as (port, handler):
        run(main())
    assert handler.users == [f"{mechanism} üser"]
    assert handler.contents == [CONTENT]


async def test_auth_over_plain_text_only_where_it_was_asked_for() -> None:
    message = outgoing()
    with aiosmtpd(auth=False) as (port, handler):
        async with rig(port, message, tls="none", username="user", password=PASSWORD) as r:
            await r.settled(message)
        async with rig(port, message, tls="opportunistic", username="user", password=PASSWORD) as r:
            assert (await r.trouble()).phase is Phase.AUTH
    assert handler.users == ["PLAIN user"]


async def test_wrong_password(certificates: Certificates) -> None:
    message = outgoing()
    options = {"tls": "starttls", "tls_ca": certificates.ca, "username": "user", "password": "wrong"}
    with aiosmtpd(tls_context=certificates.server, auth=True) as (port, handler):
        async with rig(port, message, host="localhost", **options) as r:
            trouble = await r.trouble()
            assert (trouble.phase, trouble.code, trouble.enhanced) == (Phase.AUTH, 535, "5.7.8")
            assert list(r.source.queue) == [message]
    assert handler.users == ["PLAIN user"]


@LOOPS
@pytest.mark.parametrize("tls", ["none", "implicit"])
@pytest.mark.parametrize(
    "script",
    [
        {"greeting": "554 no"},
        {"greeting": SILENCE},
        {"EHLO": "550 no"},
        {"AUTH": "535 no"},
        {"AUTH": SILENCE},
        {"EHLO": CLOSE},
    ],
    ids=["greeting", "no greeting", "EHLO", "AUTH", "no AUTH", "closed"],
)
def test_failed_sessions_leave_no_socket_behind(
    run: Run, tls: str, script: dict[str, Any], certificates: Certificates
) -> None:
    """Neither open, nor closed under the event loop's feet, where its number would come to life again."""

    async def main() -> None:
        context = certificates.server if tls == "implicit" else None
        options: dict[str, Any] = {"tls": tls, "tls_ca": certificates.ca, "username": "u", "password": "p"}
        options["timeouts"] = {"greeting": 0.1}
        message = outgoing()
        offers = (*OFFERS, "AUTH PLAIN")
        good = {"AUTH": "235 2.7.0 ok"}
        async with serve(*[script] * 5, good, offers=offers, tls=context) as server:
            before = len(os.listdir("/proc/self/fd"))
            async with rig(server.port, message, **options) as r:
                for failures in range(1, 6):
                    await r.until(lambda n=failures: len(r.troubles) == n)
                    await r.skip(r.pool.open_until - r.clock() + 0.01)
                await r.settled(message)
                assert r.source.kinds(message) == ["sent"]
            await r.until(lambda: all(c.closed.is_set() for c in server.connections))
            await r.until(lambda: len(os.listdir("/proc/self/fd")) == before, "sockets closed")

    run(main())


async def test_source_address_and_name() -> None:
    message = outgoing()
    async with serve() as server, rig(server.port, message, source=("127.0.0.2",), helo="mx.me.example") as r:
        await r.settled(message)
        assert server.connections[0].transport.get_extra_info("peername")[0] == "127.0.0.2"
        assert server.commands()[0] == "EHLO mx.me.example"


@pytest.mark.parametrize("source", ["192.0.2.1", "::1"])
async def test_source_address_that_is_not_ours(source: str) -> None:
    async with serve() as server, rig(server.port, outgoing(), source=(source,)) as r:
        trouble = await r.trouble()
        assert trouble.phase is Phase.CONNECT
        assert not server.connections


async def test_default_name_is_this_hosts() -> None:
    message = outgoing()
    async with serve() as server, rig(server.port, message, helo=None) as r:
        await r.settled(message)
        name = server.commands()[0].removeprefix("EHLO ")
        assert name
        assert name.isascii()
        assert " " not in name


async def test_name_that_is_none_is_a_value_too() -> None:
    async with serve() as server, rig(server.port, outgoing(), helo="two words") as r:
        assert (await r.trouble()).phase is Phase.CONNECT
        assert not server.commands()


async def test_connect_deadline() -> None:
    """A listener whose queue is full answers no SYN."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        others = [socket.socket() for _ in range(3)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        async with rig(listener.getsockname()[1], outgoing(), timeouts={"connect": 0.2}) as r:
            trouble = await r.trouble()
            assert trouble.phase is Phase.CONNECT
            assert "0.2 s" in trouble.text
        for other in others:
            other.close()


async def test_hand_over_is_refused_with_octets_left_or_a_dying_transport() -> None:
    async with serve() as server:
        provider = Provider(name="relay", host="127.0.0.1", port=server.port, tls="none", helo="me.example")
        import aiosmtplib

        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=server.port, start_tls=False)
        await client.connect()
        assert client.protocol is not None
        client.protocol._buffer.extend(b"2")
        with pytest.raises(_Refused):
            _hand_over(client)
        client.protocol._buffer.clear()
        assert _hand_over(client) is client.transport
        assert client.transport is not None
        client.transport.close()
        with pytest.raises(_Refused):
            _hand_over(client)
        client.close()
        with pytest.raises(_Refused):
            _hand_over(client)
        opened = await Dialer(provider).open()
        assert not isinstance(opened, Trouble)
        opened.abort()


async def test_replies_out_of_step_are_found_by_our_ehlo() -> None:
    message = outgoing()
    script = {"EHLO": "250 a line for nothing\n250 fault.example"}
    async with serve(script, {}) as server, rig(server.port, message) as r:
        assert "unexpected reply" in (await r.trouble()).text
        assert server.verbs() == ["EHLO"]
        assert list(r.source.queue) == [message]
        await r.skip(1.1)
        await r.settled(message)
        assert r.source.kinds(message) == ["sent"]
