"""Debian's Postfix: it cannot deliver a message, and hands the bounce that it writes over LMTP."""

from __future__ import annotations

import asyncio
import smtplib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.daemon.harness import Server, until
from tests.intake.rig import PATHS, Applied, config, intake
from tests.smtp.test_debian import ROOT, Postfix, wait_for

pytestmark = pytest.mark.debian
Connection = asyncpg.Connection


@asynccontextmanager
async def postfix(lmtp: str, peer: int) -> AsyncIterator[Postfix]:
    """Mail for the return paths goes to us, mail for nowhere.example to a server that knows nobody."""
    if not ROOT:
        pytest.skip("Postfix starts as root only")
    with tempfile.TemporaryDirectory(prefix="mailerd-postfix-") as folder:
        server = Postfix(Path(folder))
        main, master = Path(folder, "main.cf"), Path(folder, "master.cf")
        more = "soft_bounce = no\ndefault_destination_concurrency_limit = 5\n"
        there = f"nowhere.example=smtp:[127.0.0.1]:{peer}"
        more += f"transport_maps = inline:{{bounces.shop.example=lmtp:{lmtp}, {there}}}\n"
        main.write_text(
            main.read_text().replace("check_recipient_access inline:{gone@example.net=REJECT}, ", "") + more
        )
        master.write_text(master.read_text() + "lmtp unix - - n - - lmtp\nsmtp unix - - n - - smtp\n")
        await asyncio.to_thread(server.command, "start")
        try:
            await asyncio.to_thread(wait_for, server.port)
            yield server
        finally:
            await asyncio.to_thread(server.command, "abort")


async def test_a_bounce_comes_over_lmtp(
    database: str, connection: Connection, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = Applied()
    monkeypatch.setattr("mailerd.store.feedback.apply", applied)
    server.answers["ann"] = ["550 5.1.1 no such user"]
    id_ = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, text_body) VALUES ('ann@nowhere.example', 'x') RETURNING id"
    )

    def send(port: int, sender: str) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.sendmail(sender, ["ann@nowhere.example"], b"Subject: x\r\n\r\n.dots\r\n..\r\n")

    with tempfile.TemporaryDirectory(prefix="mailerd-lmtp-") as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to Postfix
        socket = f"{folder}/lmtp.sock"
        async with (
            intake(config(database, listen=(f"lmtp:{socket}",))),
            postfix(f"unix:{socket}", server.port) as relay,
        ):
            await asyncio.to_thread(send, relay.port, PATHS.encode(id_))
            await until(lambda: applied.told, "applied")
            (told,) = applied.told
            assert (told.type, told.message_id, told.rcpt, told.hard) == ("bounced", id_, 0, True)
            row = await connection.fetchrow("SELECT * FROM mailerd.inbound_mail")
            assert row is not None
            assert (row["sender"], row["recipients"]) == ("", [PATHS.encode(id_)])
            # An address that is not ours it gives up at once.
            await asyncio.to_thread(send, relay.port, "b-000000@bounces.shop.example")
            await until(lambda: "550 5.1.1 no mail is taken" in relay.log(), "refused")
            assert "fatal" not in relay.log()
