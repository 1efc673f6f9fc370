"""Against what runs out there: Debian's Postfix in a folder of its own, and its smtp-sink."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from mailerd.bench.port import free_port
from tests.smtp.rig import CONTENT, outgoing, rig

pytestmark = pytest.mark.debian

Run = Callable[[Coroutine[Any, Any, None]], None]
ROOT = os.geteuid() == 0
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.example
mydestination =
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = example.net
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_mailbox_limit = 0
local_header_rewrite_clients =
# As strict as it can be made about how a client talks.
smtpd_recipient_restrictions = check_recipient_access inline:{{gone@example.net=REJECT}}, permit_mynetworks, reject
smtpd_data_restrictions = reject_unauth_pipelining
smtpd_forbid_bare_newline = yes
smtpd_helo_required = yes
strict_rfc821_envelopes = yes
smtpd_hard_error_limit = 1000
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
smtpd_tls_security_level = may
smtpd_tls_loglevel = 1
"""
MASTER = """
{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
"""


def wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


class Postfix:
    """A running Postfix. `mails` reads what it has delivered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.ca = str(folder / "ca.pem")
        owner = pwd.getpwnam("postfix")
        folder.chmod(0o755)
        (folder / "queue").mkdir()
        for name in ("data", "mail"):
            (folder / name).mkdir()
            os.chown(folder / name, owner.pw_uid, owner.pw_gid)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        for part in certificate.cert_chain_pems:
            part.write_to_path(str(folder / "cert.pem"), append=True)
        values = {"folder": folder, "uid": owner.pw_uid, "gid": owner.pw_gid, "port": f"127.0.0.1:{self.port}"}
        (folder / "main.cf").write_text(MAIN.format(**values))
        (folder / "master.cf").write_text(MASTER.format(**values))

    def command(self, what: str) -> None:
        subprocess.run(
            ["postfix", "-c", str(self.folder), what], check=True, capture_output=True, env={"PATH": PATH}, timeout=30
        )

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def mails(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.folder / "mail" / "box" / "new").glob("*")]


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    if not ROOT:
        pytest.skip("Postfix starts as root only")
    with tempfile.TemporaryDirectory(prefix="mailerd-postfix-") as folder:
        server = Postfix(Path(folder))
        server.command("start")
        try:
            wait_for(server.port)
            yield server
        finally:
            server.command("abort")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", ["none", "starttls"])
@pytest.mark.parametrize("pipeline", [True, False])
def test_postfix_takes_everything_once(run: Run, tls: str, pipeline: bool, postfix: Postfix) -> None:
    """Mixed recipients, dots, long lines, large and small, over several connections: each message arrives unchanged."""
    before = len(postfix.mails())
    bodies = [
        b".lead\r\n.\r\n..\r\nend\r\n",
        b"x" * 900 + b"\r\n",
        b"small\r\n",
        (b"." + b"y" * 70 + b"\r\n") * 5000,
        "é\r\n".encode(),
    ]
    messages = []
    for number in range(60):
        mark = f"{tls}-{pipeline}-{number}-{time.monotonic_ns()}".encode()
        content = (
            b"Subject: " + mark + b"\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n" + bodies[number % len(bodies)]
        )
        to = ["a@example.net"] if number % 11 else []
        if not to or number % 7 == 0:
            to.append("gone@example.net")
        messages.append(outgoing(*to, content=content, eight_bit=not content.isascii()))

    async def main() -> None:
        options: dict[str, Any] = {"tls": tls, "tls_ca": postfix.ca, "pipeline": pipeline, "concurrency": 4}
        async with rig(postfix.port, *messages, host="localhost", **options) as r:
            await r.settled(*messages)
            for message in messages:
                expected = ["rejected" if to.address.startswith("gone") else "sent" for to in message.recipients]
                assert r.source.kinds(message) == expected, r.source.results[message.job.id]
                for outcome in r.source.results[message.job.id]:
                    assert outcome.provider_message_id or outcome.kind == "rejected"
            assert not r.troubles
            await r.pool.drain(r.clock() + 5)

    run(main())
    expected = sorted(
        m.content.replace(b"\r\n", b"\n") for m in messages if any(t.address[0] == "a" for t in m.recipients)
    )
    end = time.monotonic() + 20
    while len(postfix.mails()) < before + len(expected) and time.monotonic() < end:
        time.sleep(0.05)
    found = postfix.mails()
    assert len(found) == before + len(expected)
    for content in expected:
        assert sum(mail.endswith(content) for mail in found) == 1
    assert "improper command pipelining" not in postfix.log()
    assert "fatal" not in postfix.log()


@contextlib.contextmanager
def smtp_sink(*flags: str) -> Iterator[int]:
    port = free_port()
    user = ["-u", "nobody"] if ROOT else []
    program = shutil.which("smtp-sink", path=PATH)
    assert program is not None
    process = subprocess.Popen([program, *user, *flags, f"127.0.0.1:{port}", "100"], stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("offer", [[], ["-p"]], ids=["pipelining", "step by step"])
@pytest.mark.parametrize(
    ("flags", "kind", "phase"),
    [
        ([], "sent", "dot"),
        (["-f", "mail"], "rejected", "mail"),
        (["-r", "mail"], "deferred", "mail"),
        (["-f", "rcpt"], "rejected", "rcpt"),
        (["-r", "rcpt"], "deferred", "rcpt"),
        (["-f", "data"], "rejected", "data"),
        (["-r", "data"], "deferred", "data"),
        (["-f", "."], "rejected", "dot"),
        (["-r", "."], "deferred", "dot"),
        (["-q", "mail"], "unsent", "mail"),
        (["-q", "."], "in_doubt", "dot"),
        (["-Q", "rcpt"], "unsent", "rcpt"),
        (["-Q", "data"], "unsent", "data"),
    ],
)
async def test_smtp_sink(flags: list[str], kind: str, phase: str, offer: list[str]) -> None:
    messages = [outgoing(content=CONTENT * 200) for _ in range(3)]
    with smtp_sink(*flags, *offer) as port:
        async with rig(port, *messages) as r:
            await r.settled(*messages)
            first = r.source.outcome(messages[0])
            assert (first.kind, first.phase) == (kind, phase), first
            later = {k for m in messages[1:] for k in r.source.kinds(m)}
            assert later <= {kind, "unsent"}
