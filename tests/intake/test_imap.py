"""IMAP, against Debian's Dovecot in a folder of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme

from mailerd.bench.port import free_port
from mailerd.cli.check import _mailbox
from mailerd.config.inbound import Imap
from mailerd.intake import imap
from mailerd.intake.desk import Refused
from mailerd.intake.imap import ImapWatch
from mailerd.intake.mailbox import Trouble
from mailerd.store.database import Session, Unavailable
from tests.daemon.harness import daemon, enqueue, events, until
from tests.intake.mails import AWAY, dsn
from tests.intake.rig import PATHS, SECRET, config, intake
from tests.intake.test_maildir import Desk

Connection = asyncpg.Connection
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
PASSWORD = 'pass "word" \\ é'
CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
ssl_dh =
mail_location = maildir:{folder}/mail
mail_uid = {user}
mail_gid = {user}
first_valid_uid = 1
default_internal_user = {user}
default_login_user = {user}
default_internal_group = {user}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {plain}
  }}
  inet_listener imaps {{
    port = {port}
  }}
}}
auth_failure_delay = 0
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {folder}/users
}}
userdb {{
  driver = static
  args = uid={user} gid={user} home={folder}
}}
"""

_serial = itertools.count(1)
pytestmark = pytest.mark.debian


class Dovecot:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.plain = free_port(), free_port()
        folder.chmod(0o755)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        for part in certificate.cert_chain_pems:
            part.write_to_path(str(folder / "cert.pem"), append=True)
        (folder / "users").write_text(f"bounces:{PASSWORD}\n")
        (folder / "dovecot.conf").write_text(
            CONFIGURATION.format(folder=folder, port=self.port, plain=self.plain, user="dovecot")
        )
        for name in ("", "cur", "new", "tmp"):
            (folder / "mail" / name).mkdir()
            owner = pwd.getpwnam("dovecot")
            os.chown(folder / "mail" / name, owner.pw_uid, owner.pw_gid)

    def put(self, content: bytes, place: str = "") -> None:
        """Under a name of its own: it remembers what it saw."""
        folder, name, owner = self.folder / "mail" / place, f"{next(_serial)}.mail", pwd.getpwnam("dovecot")
        (folder / "tmp" / name).write_bytes(content)
        os.chown(folder / "tmp" / name, owner.pw_uid, owner.pw_gid)
        os.rename(folder / "tmp" / name, folder / "new" / name)

    def make(self, name: str) -> Path:
        """A folder; its path."""
        place, owner = self.folder / "mail" / f".{name}", pwd.getpwnam("dovecot")
        for part in ("", "cur", "new", "tmp"):
            (place / part).mkdir()
            os.chown(place / part, owner.pw_uid, owner.pw_gid)
        return place

    def files(self, folder: str = "") -> list[str]:
        place = self.folder / "mail" / folder
        return sorted(path.name for part in ("new", "cur") for path in (place / part).glob("*"))

    def settings(self, **more: Any) -> Imap:
        given = {"username": "bounces", "password": PASSWORD, "tls_ca": str(self.folder / "ca.pem"), **more}
        return Imap(name="box", host="localhost", **{"port": self.port, **given})


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    program = shutil.which("dovecot", path=PATH)
    if os.geteuid() != 0 or program is None:
        pytest.skip("Dovecot starts as root only")
    with tempfile.TemporaryDirectory(prefix="mailerd-dovecot-") as folder:
        dovecot = Dovecot(Path(folder))
        process = subprocess.Popen([program, "-F", "-c", f"{folder}/dovecot.conf"], stderr=subprocess.PIPE)
        try:
            yield dovecot
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def dovecot(server: Dovecot) -> Iterator[Dovecot]:
    yield server
    for name in ("new", "cur"):
        for path in (server.folder / "mail" / name).glob("*"):
            path.unlink()
    for place in (server.folder / "mail").glob(".[A-Z]*"):
        shutil.rmtree(place)


def watch(settings: Imap, desk: Desk, refused: list[str] | None = None, looked: list[str] | None = None) -> ImapWatch:
    return ImapWatch(
        settings, desk, ([] if refused is None else refused).append, ([] if looked is None else looked).append
    )  # type: ignore[arg-type]


async def look(watch: ImapWatch) -> None:
    """Once; while the server starts, again."""
    for attempt in range(100):
        try:
            await watch.visit()
            return
        except Trouble as error:
            if attempt == 99 or "refused" not in str(error).lower():
                raise
            await asyncio.sleep(0.05)


async def sizes(connection: Connection) -> list[int]:
    return [row[0] for row in await connection.fetch("SELECT size FROM mailerd.inbound_mail ORDER BY id")]


async def test_each_mail_once_marked_and_unseen(dovecot: Dovecot, session: Session, connection: Connection) -> None:
    desk = Desk(session)
    refused: list[str] = []
    poll = watch(dovecot.settings(), desk, refused)
    content = AWAY + b"({1}) * 5 FETCH (\n)\n"  # what a reader of the protocol could take for its own
    dovecot.put(content)
    dovecot.put(AWAY + b"x" * 1_200_000 + b"\n")
    desk.after = Unavailable("died")
    with pytest.raises(Unavailable):
        await look(poll)
    desk.after = None
    await look(poll)
    await look(poll)
    stored = await connection.fetch("SELECT size, raw, source FROM mailerd.inbound_mail ORDER BY id")
    assert [row["source"] for row in stored] == ["imap:box"] * 2
    assert bytes(stored[0]["raw"]) == content.replace(b"\n", b"\r\n")
    assert (stored[1]["size"] > 1_200_000, len(stored[1]["raw"])) == (True, (1 << 20) + 1)
    assert all("S" not in name.rpartition(",")[2] for name in dovecot.files())
    dovecot.put(AWAY)
    await look(watch(dovecot.settings(), desk, refused))  # another instance
    assert len(await sizes(connection)) == 3
    assert not refused


async def test_moved_to_another_folder(dovecot: Dovecot, session: Session, connection: Connection) -> None:
    poll = watch(dovecot.settings(move_to="Done"), Desk(session))
    dovecot.put(AWAY)
    with pytest.raises(Trouble, match=r"move failed: .*[Mm]ailbox"):
        await look(poll)
    assert len(dovecot.files()) == 1
    dovecot.make("Done")
    await look(poll)
    assert (dovecot.files(), len(dovecot.files(".Done")), len(await sizes(connection))) == ([], 1, 1)


async def test_trouble_is_told_without_the_password(
    dovecot: Dovecot, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(session)
    with pytest.raises(Trouble, match=r"login: .*uthentication") as refused:
        await look(watch(dovecot.settings(password="s3cret-wrong"), desk))
    with pytest.raises(Trouble, match="TLS: ") as untrusted:
        await look(watch(dovecot.settings(tls_ca=None), desk))
    with pytest.raises(Trouble, match="folder: select failed: Mailbox doesn't exist"):
        await look(watch(dovecot.settings(folder="No such"), desk))
    assert "s3cret" not in f"{refused.value}{untrusted.value}{caplog.text}"
    assert logging.getLogger("imapclient").getEffectiveLevel() > logging.DEBUG


class Between:
    """Stands between the two, and can cut the line: `cut_after` so many octets of the server's."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self.cut_after: int | None = None
        self.sessions = 0
        self.passed = b""  # either way
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Between:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        while self._writers:
            self._writers.pop().transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to = await asyncio.open_connection("127.0.0.1", self._behind)
        self.sessions += 1
        self._writers += [writer, to]
        await asyncio.gather(self._pass(reader, to, None), self._pass(behind, writer, self.cut_after))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        try:
            while octets := await reader.read(4096):
                writer.write(octets)
                self.passed += octets
                if limit is not None and (limit := limit - len(octets)) <= 0:
                    self.cut()
        except ConnectionError:
            pass
        writer.close()


@asynccontextmanager
async def running(watch: ImapWatch) -> AsyncIterator[None]:
    """Cancelled at the end, and then no thread is left."""
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not [t for t in threading.enumerate() if t.name == "imap"], "no thread left", within=5)


async def test_starttls(dovecot: Dovecot, session: Session, connection: Connection) -> None:
    settings = {"tls": "starttls", "port": dovecot.plain}
    dovecot.put(AWAY)
    with pytest.raises(Trouble, match="TLS: ") as refused:
        await look(watch(dovecot.settings(**settings, tls_ca=None), Desk(session)))
    assert refused.value.kind == "tls"
    await look(watch(dovecot.settings(**settings), Desk(session)))
    assert len(await sizes(connection)) == 1


async def test_new_mail_is_heard_of_and_a_lost_connection_is_made_again(
    dovecot: Dovecot, session: Session, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    desk, looked = Desk(session), list[str]()
    async with Between(dovecot.plain) as between:
        settings = dovecot.settings(port=between.port, tls="none", poll=20)  # longer than any wait below
        await look(watch(settings, desk))
        async with running(watch(settings, desk, looked=looked)):
            for number in (1, 2):
                await until(lambda number=number: between.passed.count(b"+ idling") == number, "waiting")
                dovecot.put(AWAY + b"%d\n" % number)

                async def taken(number: int = number) -> bool:
                    return len(await sizes(connection)) == number

                await until(taken, "taken", within=8)
            await until(lambda: all("S" not in n and ":2,a" in n for n in dovecot.files()), "marked")
            assert between.sessions == 2, "in one session"
            between.cut()
            await until(lambda: looked[-1] == "lost", "told", within=5)
    assert [r.getMessage() for r in caplog.records if r.levelno > logging.INFO] == [
        "imap:box: the connection was lost; trying again"
    ]


async def test_a_session_does_not_last_for_ever(
    dovecot: Dovecot, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap, "_LONGEST_SESSION", 0.2)
    async with (
        Between(dovecot.port) as between,
        running(watch(dovecot.settings(port=between.port, poll=0.1), Desk(session))),
    ):
        await until(lambda: between.sessions >= 3, "a third session")


async def test_a_connection_lost_in_the_middle_of_a_mail(
    dovecot: Dovecot, session: Session, connection: Connection
) -> None:
    desk = Desk(session)
    dovecot.put(AWAY + b"x" * 500_000 + b"\n")
    async with Between(dovecot.port) as between:
        between.cut_after = 100_000
        with pytest.raises(Trouble) as lost:
            await look(watch(dovecot.settings(port=between.port), desk))
        assert lost.value.kind == "lost"
        assert (await sizes(connection), len(dovecot.files())) == ([], 1)
        between.cut_after = None
        await look(watch(dovecot.settings(port=between.port), desk))
    assert len(await sizes(connection)) == 1
    assert ":2,a" in dovecot.files()[0]


async def test_a_folder_that_is_missing_and_then_made_anew(
    dovecot: Dovecot, session: Session, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mailerd")
    looked, refused = list[str](), list[str]()
    desk = Desk(session)
    async with running(watch(dovecot.settings(folder="Bad", poll=0.02), desk, refused, looked)):
        await until(lambda: looked.count("folder") >= 3, "told")
        desk.before = Refused("no")
        place = dovecot.make("Bad")
        dovecot.put(AWAY, ".Bad")
        await until(lambda: refused == ["unstorable"] and looked[-1] == "ok", "refused")
        desk.before = None
        list_ = place / "dovecot-uidlist"
        version, validity, *rest = list_.read_text().split(" ")
        assert validity.startswith("V")
        await asyncio.sleep(0.1)
        assert not await sizes(connection), "never asked for again"
        for path in place.glob("dovecot*"):
            path.unlink()
        list_.write_text(" ".join((version, f"V{int(validity[1:]) + 7}", *rest)))
        await until(lambda: connection.fetchval("SELECT count(*) FROM mailerd.inbound_mail"), "read after all")
        assert "renumbered" in looked
    words = [record.getMessage() for record in caplog.records]
    assert sum("folder: select failed: Mailbox doesn't exist: Bad" in line for line in words) == 1
    assert "imap:box: works again" in words
    assert any("the folder Bad was made anew" in line for line in words)


async def scripted(lines: dict[str, str], said: list[str]) -> asyncio.Server:
    """A server that answers a command by its verb."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK ready\r\n")
        while line := (await reader.readline()).decode():
            said.append(line)
            tag, verb, *_ = line.split()
            writer.write(lines.get(verb, "{tag} BAD what?\r\n").format(tag=tag).encode())
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        ({"CAPABILITY": "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n{tag} OK done\r\n"}, "connect", "STARTTLS"),
        (
            {"CAPABILITY": "* CAPABILITY IMAP4rev1 STARTTLS\r\n{tag} OK done\r\n", "STARTTLS": "{tag} NO not now\r\n"},
            "connect",
            "TLS session",
        ),
    ],
)
async def test_without_tls_no_password_is_said(lines: dict[str, str], kind: str, words: str, session: Session) -> None:
    said: list[str] = []
    server = await scripted(lines, said)
    port = server.sockets[0].getsockname()[1]
    settings = Imap(name="box", host="127.0.0.1", port=port, tls="starttls", username="u", password="s3cret")
    with pytest.raises(Trouble, match=words) as refused:
        await watch(settings, Desk(session)).visit()
    assert refused.value.kind == kind
    assert not [line for line in said if "LOGIN" in line or "AUTHENTICATE" in line]
    server.close()


async def test_a_server_that_takes_no_password_is_told_none(session: Session) -> None:
    said: list[str] = []
    server = await scripted({"CAPABILITY": "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n{tag} OK done\r\n"}, said)
    port = server.sockets[0].getsockname()[1]
    settings = Imap(name="box", host="127.0.0.1", port=port, tls="none", username="u", password="s3cret")
    with pytest.raises(Trouble, match="takes no password"):
        await watch(settings, Desk(session)).visit()
    assert "s3cret" not in "".join(said)
    server.close()


async def test_the_daemon_hears_of_a_bounce_and_stops_at_once(
    dovecot: Dovecot, session: Session, database: str, connection: Connection, tmp_path: Path
) -> None:
    top = f"""
[public]
secret = "{SECRET}"
[inbound]
return_path_domain = "bounces.shop.example"
[[inbound.imap]]
name = "box"
host = "localhost"
port = {dovecot.plain}
tls = "starttls"
tls_ca = "{dovecot.folder}/ca.pem"
username = "bounces"
password = {json.dumps(PASSWORD)}
"""
    await look(watch(dovecot.settings(), Desk(session)))
    async with daemon(database, free_port(), tmp_path, top=top) as process:
        id_ = await enqueue(connection, "ann@gone.example", send_at=datetime.now(UTC) + timedelta(days=1))

        async def looked() -> bool:
            return await process.metric("mailerd_imap_looks_total", mailbox="box", result="ok") > 0

        await until(looked, "looked")
        dovecot.put(dsn("ann@gone.example", to=PATHS.encode(id_)))

        async def bounced() -> bool:
            return await events(connection, id_) == ["bounced"]

        await until(bounced, "heard of")
        begin = time.monotonic()
        assert await process.stop() == 0
        assert time.monotonic() - begin < 5, "nobody waits for the thread that waits for mail"


async def test_the_command_that_checks(dovecot: Dovecot, session: Session) -> None:
    await look(watch(dovecot.settings(), Desk(session)))
    found = await _mailbox(dovecot.settings())
    assert (found.subject, found.ok) == ("inbound.imap.box", True)
    assert found.detail == f"localhost port {dovecot.port} answers, logged in as bounces, tells of new mail"
    for wrong, advice in (
        ({"password": "s3cret-wrong"}, "check username and password"),
        ({"folder": "No such"}, "check folder"),
        ({"tls_ca": None}, '"implicit" on 993'),
        ({"port": dovecot.plain}, '"implicit" on 993'),
    ):
        found = await _mailbox(dovecot.settings(**wrong))
        assert not found.ok
        assert advice in found.detail
        assert "s3cret" not in found.detail


async def test_looks_are_counted(database: str) -> None:
    box = Imap(name="box", host="127.0.0.1", port=free_port(), username="u", password="s3cret")
    async with intake(config(database, imap=(box,))) as it:
        line = b'mailerd_imap_looks_total{mailbox="box",result="connect"} 1.0'
        await until(lambda: line in it._metrics.render()[0], "counted")


async def test_a_server_that_says_nothing_is_left(session: Session) -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda r, w: writers.append(w), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    settings = Imap(name="box", host="127.0.0.1", port=port, tls="none", username="u", password="s3cret", timeout=0.1)  # type: ignore[arg-type]
    with pytest.raises(Trouble, match="no answer in time"):
        await watch(settings, Desk(session)).visit()
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    silent.close()
    await silent.wait_closed()
