"""IMAP, against Debian's Dovecot in a folder of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme

from mailerd.bench.port import free_port
from mailerd.config.inbound import Imap
from mailerd.intake.imap import ImapPoll, _Trouble
from mailerd.store.database import Session, Unavailable
from tests.intake.mails import AWAY
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
    port = 0
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

pytestmark = pytest.mark.debian


class Dovecot:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        folder.chmod(0o755)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        for part in certificate.cert_chain_pems:
            part.write_to_path(str(folder / "cert.pem"), append=True)
        (folder / "users").write_text(f"bounces:{PASSWORD}\n")
        (folder / "dovecot.conf").write_text(CONFIGURATION.format(folder=folder, port=self.port, user="dovecot"))
        for name in ("", "cur", "new", "tmp"):
            (folder / "mail" / name).mkdir()
            owner = pwd.getpwnam("dovecot")
            os.chown(folder / "mail" / name, owner.pw_uid, owner.pw_gid)

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / "mail" / "new" / name
        path.write_bytes(content)
        owner = pwd.getpwnam("dovecot")
        os.chown(path, owner.pw_uid, owner.pw_gid)

    def files(self, folder: str = "") -> list[str]:
        place = self.folder / "mail" / folder
        return sorted(path.name for part in ("new", "cur") for path in (place / part).glob("*"))

    def settings(self, **more: Any) -> Imap:
        given = {"username": "bounces", "password": PASSWORD, "tls_ca": str(self.folder / "ca.pem"), **more}
        return Imap(name="box", host="localhost", port=self.port, **given)


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
    for name in ("new", "cur", ".Done/new", ".Done/cur"):
        for path in (server.folder / "mail" / name).glob("*"):
            path.unlink()


async def look(poll: ImapPoll) -> None:
    """Once; while the server starts, again."""
    for attempt in range(100):
        try:
            await poll.look()
            return
        except _Trouble as error:
            if attempt == 99 or "refused" not in str(error).lower():
                raise
            await asyncio.sleep(0.05)


async def sizes(connection: Connection) -> list[int]:
    return [row[0] for row in await connection.fetch("SELECT size FROM mailerd.inbound_mail ORDER BY id")]


async def test_each_mail_once_marked_and_unseen(dovecot: Dovecot, session: Session, connection: Connection) -> None:
    desk = Desk(session)
    refused: list[str] = []
    poll = ImapPoll(dovecot.settings(), desk, refused.append)
    content = AWAY + b"({1}) * 5 FETCH (\n)\n"  # what a reader of the protocol could take for its own
    dovecot.put("1.a", content)
    dovecot.put("2.b", AWAY + b"x" * 1_200_000 + b"\n")
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
    dovecot.put("3.c", AWAY)
    await look(ImapPoll(dovecot.settings(), desk, refused.append))  # another instance
    assert len(await sizes(connection)) == 3
    assert not refused


async def test_moved_to_another_folder(dovecot: Dovecot, session: Session, connection: Connection) -> None:
    poll = ImapPoll(dovecot.settings(move_to="Done"), Desk(session), [].append)
    dovecot.put("1.a", AWAY)
    with pytest.raises(_Trouble, match=r"move: .*[Mm]ailbox"):
        await look(poll)
    assert len(dovecot.files()) == 1
    done = dovecot.folder / "mail" / ".Done"
    owner = pwd.getpwnam("dovecot")
    for name in ("", "cur", "new", "tmp"):
        (done / name).mkdir()
        os.chown(done / name, owner.pw_uid, owner.pw_gid)
    await look(poll)
    assert (dovecot.files(), len(dovecot.files(".Done")), len(await sizes(connection))) == ([], 1, 1)


async def test_trouble_is_told_without_the_password(
    dovecot: Dovecot, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(session)
    with pytest.raises(_Trouble, match=r"login: .*uthentication") as refused:
        await look(ImapPoll(dovecot.settings(password="s3cret-wrong"), desk, [].append))
    with pytest.raises(_Trouble, match="TLS: ") as untrusted:
        await look(ImapPoll(dovecot.settings(tls_ca=None), desk, [].append))
    with pytest.raises(_Trouble, match="select: "):
        await look(ImapPoll(dovecot.settings(folder="No such"), desk, [].append))
    assert "s3cret" not in f"{refused.value}{untrusted.value}{caplog.text}"
    assert logging.getLogger("aioimaplib").getEffectiveLevel() > logging.DEBUG


async def test_a_server_that_says_nothing_is_left(session: Session) -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda r, w: writers.append(w), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    settings = Imap(name="box", host="127.0.0.1", port=port, tls="none", username="u", password="s3cret", timeout=0.1)  # type: ignore[arg-type]
    with pytest.raises(_Trouble, match="no answer in time"):
        await ImapPoll(settings, Desk(session), [].append).look()
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    silent.close()
    await silent.wait_closed()
