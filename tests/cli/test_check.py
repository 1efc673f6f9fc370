"""`mailerd check --connect` against real peers: what a new user gets wrong is one line that says what to do."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import trustme
import uvloop
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, AuthResult
from click.testing import CliRunner, Result

from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.cli import main
from mailerd.cli.check import _leave
from mailerd.config.model import Database
from mailerd.store.database import Session
from mailerd.store.migrate import SCHEMA_VERSION, migrate

SINK = '[[provider]]\nname = "drop"\nkind = "sink"\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server of its own, since it has to ask for passwords."""
    with tempfile.TemporaryDirectory(prefix="mailerd-pg-") as folder, Postgres(Path(folder), durable=False) as postgres:
        hba = postgres.data / "pg_hba.conf"
        hba.write_text("host all ann 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        asyncio.run(_prepare(postgres))
        yield postgres


async def _prepare(postgres: Postgres) -> None:
    admin = await asyncpg.connect(postgres.url)
    await admin.execute("CREATE ROLE ann LOGIN PASSWORD 'right'")
    await admin.execute("CREATE DATABASE ready")
    await admin.execute("CREATE DATABASE newer")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    for name in ("ready", "newer"):
        async with Session(Database(url=_url(postgres, name)), "test") as session:
            await migrate(session)
            if name == "newer":
                await session.execute("UPDATE mailerd.schema_version SET version = 999, min_daemon = 999")


def _url(postgres: Postgres, database: str, user: str = "postgres") -> str:
    return f"postgresql://{user}@127.0.0.1:{postgres.port}/{database}"


def check(folder: Path, url: str, *arguments: str, text: str = SINK) -> Result:
    file = folder / "m.toml"
    file.write_text(f'[database]\nurl = "{url}"\nconnect_timeout = "1s"\n{text}')
    for name in [name for name in os.environ if name.startswith("MAILERD_")]:
        assert "__" not in name, f"{name} is set: it would change the outcome"
    return CliRunner().invoke(main, ["--config", str(file), "check", "--connect", *arguments])


def test_all_is_well(server: Postgres, tmp_path: Path) -> None:
    result = check(tmp_path, _url(server, "ready"))
    assert (result.exit_code, result.stderr) == (0, "")
    file, database, provider = result.stdout.splitlines()
    assert file == f"{tmp_path}/m.toml: no errors (2 streams, 1 pool, 1 provider, 0 identities)"
    assert database.startswith("database: PostgreSQL ")
    assert database.endswith(f", schema mailerd at version {SCHEMA_VERSION}")
    assert provider == "provider.drop: accepts and drops everything"


@pytest.mark.parametrize(
    ("database", "user", "words"),
    [
        ("postgres", "postgres", "the database has no schema mailerd: run `mailerd migrate`"),
        ("newer", "postgres", "the schema is version 999, newer than this mailerd's"),
        ("nowhere", "postgres", 'database "nowhere" does not exist: create it'),
        ("ready", "ann:wrong", 'password authentication failed for user "ann": check user and password'),
        ("ready", "bob", 'role "bob" does not exist'),
        ("ready", "ann:right", "permission denied for schema mailerd"),
    ],
)
def test_database_trouble(server: Postgres, tmp_path: Path, database: str, user: str, words: str) -> None:
    result = check(tmp_path, _url(server, database, user))
    assert result.exit_code == 69
    (line,) = result.stderr.splitlines()
    assert line.startswith("mailerd: database: ")
    assert words in line
    assert "wrong" not in line
    assert "provider.drop: accepts" in result.stdout  # the rest is tried all the same


def test_nobody_listens(tmp_path: Path) -> None:
    result = check(tmp_path, f"postgresql://127.0.0.1:{free_port()}/x", "--json")
    assert result.exit_code == 69
    report = msgspec.json.decode(result.stdout)
    assert report["ok"] is False
    assert [found["ok"] for found in report["checks"]] == [False, True]
    assert "cannot reach Postgres" in report["checks"][0]["detail"]


def test_somebody_listens_and_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = check(tmp_path, f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x")
    assert result.exit_code == 69
    assert "no answer from Postgres in time" in result.stderr


def test_the_listener_is_tried_too(server: Postgres, tmp_path: Path) -> None:
    text = f'listen_url = "postgresql://127.0.0.1:{free_port()}/x"\n{SINK}'
    result = check(tmp_path, _url(server, "ready"), text=text)
    assert result.exit_code == 69
    (line,) = result.stderr.splitlines()
    assert line.startswith("mailerd: database.listen_url: cannot reach Postgres")


def test_a_mailbox_is_tried_too(server: Postgres, tmp_path: Path) -> None:
    text = f"""{SINK}
[[inbound.imap]]
name = "box"
host = "127.0.0.1"
port = {free_port()}
username = "ann"
password = "right"
"""
    result = check(tmp_path, _url(server, "ready"), text=text)
    assert result.exit_code == 69
    (line,) = result.stderr.splitlines()
    assert line == "mailerd: inbound.imap.box: Connection refused: check host and port"


class Accounts:
    """Lets `ann` in with the right password."""

    def __call__(self, _server: object, _session: object, _envelope: object, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"ann", b"right"), handled=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A CA's PEM file, and a server context for `localhost` signed by it."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(file)
    return file, context


@contextmanager
def relay(**options: Any) -> Iterator[int]:
    """The port of another implementation's SMTP server, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = asyncio.new_event_loop()
        started = loop.create_server(lambda: SMTP(Sink(), loop=loop, **options), sock=listener)
        server = loop.run_until_complete(started)
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


def provider(server: Postgres, folder: Path, port: int, *lines: str) -> Result:
    text = f'[[provider]]\nname = "relay"\nhost = "localhost"\nport = {port}\n' + "\n".join(lines)
    result = check(folder, _url(server, "ready"), text=f"{text}\n[provider.timeouts]\nconnect = 1\ngreeting = 1\n")
    assert len(result.stderr.splitlines()) <= 1
    return result


LOGIN = ('username = "ann"', 'password = "right"')


def test_a_relay_that_has_us(server: Postgres, tmp_path: Path, authority: tuple[Path, ssl.SSLContext]) -> None:
    file, context = authority
    with relay(tls_context=context, authenticator=Accounts(), auth_required=True) as port:
        result = provider(server, tmp_path, port, f'tls_ca = "{file}"', *LOGIN)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"provider.relay: localhost port {port} answers, TLSv1.3, logged in as ann\n" in result.stdout


def test_a_relay_that_answers_no_farewell(authority: tuple[Path, ssl.SSLContext]) -> None:
    """The event loop ends right behind it, and must have nothing left to close."""
    file, context = authority

    class Deaf(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.pause_reading()  # type: ignore[attr-defined]

    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(loop.create_server(Deaf, "127.0.0.1", 0, ssl=context))
    port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def leave() -> bool:
        trust = ssl.create_default_context(cafile=str(file))
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, "127.0.0.1", port, ssl=trust, server_hostname="localhost"
        )
        await _leave(transport)
        return transport.is_closing()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(leave())
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_a_wrong_password(server: Postgres, tmp_path: Path, authority: tuple[Path, ssl.SSLContext]) -> None:
    file, context = authority
    with relay(tls_context=context, authenticator=Accounts()) as port:
        result = provider(server, tmp_path, port, f'tls_ca = "{file}"', 'username = "ann"', 'password = "wr0ng"')
    assert result.exit_code == 69
    assert result.stderr.startswith("mailerd: provider.relay: auth: 535 5.7.8 ")
    assert result.stderr.endswith(": check username and password\n")
    assert "wr0ng" not in result.output


def test_a_certificate_nobody_knows(server: Postgres, tmp_path: Path, authority: tuple[Path, ssl.SSLContext]) -> None:
    with relay(tls_context=authority[1]) as port:
        result = provider(server, tmp_path, port)
    assert result.exit_code == 69
    assert "certificate verify failed" in result.stderr
    assert result.stderr.endswith("set tls_name to the name in the certificate, or tls_ca to who signed it\n")


def test_no_starttls(server: Postgres, tmp_path: Path) -> None:
    with relay() as port:
        result = provider(server, tmp_path, port)
        assert result.exit_code == 69
        assert 'the server does not offer STARTTLS: try tls = "implicit" on port 465' in result.stderr
        result = provider(server, tmp_path, port, 'tls = "none"')
    assert result.exit_code == 0
    assert f"localhost port {port} answers, not encrypted\n" in result.stdout


def test_the_wrong_kind_of_tls(server: Postgres, tmp_path: Path) -> None:
    with relay() as port:
        result = provider(server, tmp_path, port, 'tls = "implicit"')
    assert result.exit_code == 69
    assert 'check that port and tls go together: "implicit" on 465, "starttls" on 587' in result.stderr


def test_no_relay_at_all(server: Postgres, tmp_path: Path) -> None:
    result = provider(server, tmp_path, free_port())
    assert result.exit_code == 69
    assert result.stderr.endswith(": check host, port and firewall\n")
    assert result.stderr.startswith("mailerd: provider.relay: connect: localhost port ")


def test_a_relay_that_says_nothing(server: Postgres, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = provider(server, tmp_path, silent.getsockname()[1])
    assert result.exit_code == 69
    assert "mailerd: provider.relay: greeting: " in result.stderr


def test_an_api_that_is_there_and_one_that_is_not(server: Postgres, tmp_path: Path) -> None:
    with relay() as port:  # whoever listens: nothing is said to it
        text = f'[[provider]]\nname = "esp"\nkind = "resend"\napi_key = "re_x"\nendpoint = "http://127.0.0.1:{port}"\n'
        result = check(tmp_path, _url(server, "ready"), text=text)
        assert result.exit_code == 0, result.output
        assert f"provider.esp: 127.0.0.1 port {port} answers, not encrypted; the key is not tried\n" in result.stdout
    result = check(tmp_path, _url(server, "ready"), text=text)
    assert result.exit_code == 69
    assert result.stderr.startswith(f"mailerd: provider.esp: 127.0.0.1 port {port}: ")


def test_a_call_whose_template_is_none(server: Postgres, tmp_path: Path) -> None:
    (tmp_path / "body.j2").write_text("{{ }")
    text = (
        '[[provider]]\nname = "esp"\nkind = "http"\nendpoint = "https://a.example"\n[provider.call]\nbody = "body.j2"\n'
    )
    result = check(tmp_path, _url(server, "ready"), "--json", text=text)
    assert result.exit_code == 78
    (problem,) = json.loads(result.stdout)["problems"]
    assert problem["path"] == "provider.esp.call"
    assert problem["message"].startswith("provider.esp.call: ")


IDENTITY = '[[identity]]\nname = "main"\nfrom = "shop@example.org"\n'


def warnings(folder: Path, text: str) -> list[str]:
    file = folder / "m.toml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["--config", str(file), "check"])
    assert result.exit_code == 0, result.output
    return result.stderr.splitlines()


def test_folders_that_are_not_there_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    text = f'[attachments]\ndirectories = ["{tmp_path}/there", "{tmp_path}/away"]\n'
    (away,) = warnings(tmp_path, text + SINK + IDENTITY)
    assert f"attachments.directories: {tmp_path}/away is no folder that can be read" in away
    text = f'[attachments]\ndigests = "{tmp_path}/away"\n'
    (away,) = warnings(tmp_path, text + SINK + IDENTITY)
    assert f"attachments.digests: {tmp_path}/away is no folder" in away
    assert warnings(tmp_path, '[attachments]\ndigests = "https://files.example.org/"\n' + SINK + IDENTITY) == []


def test_bulk_mail_that_shares_with_urgent_mail_is_warned_of(tmp_path: Path) -> None:
    streams = '[[stream]]\nname = "reset"\n[[stream]]\nname = "marketing"\n'
    click, shares = warnings(tmp_path, SINK + IDENTITY + streams)
    assert "stream.marketing: large receivers want `one_click = true`" in click
    assert "stream.marketing: shares pool `default`, identity `main` with stream reset" in shares
    meant = streams + "shared = true\none_click = true\n"
    public = '[public]\nbase_url = "https://example.org"\nsecret = "0123456789abcdef"\n'
    assert warnings(tmp_path, public + SINK + IDENTITY + meant) == []
    topic = '[[topic]]\nname = "offers"\nstream = "{}"\n'
    assert warnings(tmp_path, public + SINK + IDENTITY + meant + topic.format("marketing")) == []
    (alone,) = warnings(tmp_path, public + SINK + IDENTITY + meant + topic.format("reset"))
    assert "topic.offers: nobody can leave it by a link: `one_click` of stream reset is off" in alone
    # Streams that the file does not name are nobody's decision yet.
    assert warnings(tmp_path, SINK + IDENTITY) == []
    path = '[[identity]]\nname = "news"\nfrom = "News <news@example.org>"\nreturn_path = "shop@example.org"\n'
    other = '[[pool]]\nname = "a"\nproviders = ["drop"]\n[[pool]]\nname = "b"\nproviders = ["drop"]\n'
    apart = (
        '[[stream]]\nname = "reset"\npools = ["a"]\n[[stream]]\nname = "marketing"\npools = ["b"]\nidentity = "news"\n'
    )
    _, shares = warnings(tmp_path, SINK + IDENTITY + path + other + apart)
    assert "shares return path `shop@example.org` with stream reset" in shares
