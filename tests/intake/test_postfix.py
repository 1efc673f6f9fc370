"""Debian's Postfix: it cannot deliver a message, and hands the bounce that it writes over LMTP."""

from __future__ import annotations

import asyncio
import smtplib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.daemon.harness import Server, until
from tests.intake.rig import PATHS, config, intake
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


@pytest.mark.parametrize("way", ["inet", "unix"])
async def test_a_bounce_comes_over_lmtp(
    way: str, database: str, connection: Connection, tmp_path: Path, server: Server
) -> None:
    place = "lmtp:127.0.0.1:0"
    if way == "unix":
        tmp_path = Path(tempfile.mkdtemp(prefix="mailerd-lmtp-"))
        tmp_path.chmod(0o755)
        place = f"lmtp:{tmp_path}/lmtp.sock"
    server.answers["ann"] = ["550 5.1.1 no such user"]
    id_ = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, text_body) VALUES ('ann@nowhere.example', 'x') RETURNING id"
    )
    async with intake(config(database, listen=(place,))) as it:
        where = f"unix:{tmp_path}/lmtp.sock" if way == "unix" else f"inet:127.0.0.1:{it.ports[place]}"
        async with postfix(where, server.port) as relay:

            def send(sender: str) -> Any:
                with smtplib.SMTP("127.0.0.1", relay.port, timeout=10) as client:
                    return client.sendmail(sender, ["ann@nowhere.example"], b"Subject: x\r\n\r\n.dots\r\n..\r\n")

            await asyncio.to_thread(send, PATHS.encode(id_))

            async def read() -> asyncpg.Record | None:
                return await connection.fetchrow("SELECT * FROM mailerd.inbound_mail")

            row = await until(read, "stored")
            assert row["sender"] == ""
            assert row["recipients"] == [PATHS.encode(id_)]
            assert b"5.1.1" in row["raw"]

            async def judged() -> asyncpg.Record | None:
                return await connection.fetchrow(
                    "SELECT message_id, matched_by, report->>'kind' AS kind, report->'results'->0 AS result, error "
                    "FROM mailerd.inbound_mail WHERE attempts > 0"
                )

            judgement = await until(judged, "read")
            assert judgement["error"] is None or "NotImplementedError" in judgement["error"]
            # What Postfix cannot hand over, it keeps trying: an address that is not ours it gives up.
            await asyncio.to_thread(send, "b-000000@bounces.shop.example")
            await until(lambda: "550 5.1.1 no mail is taken" in relay.log(), "refused")
            assert "fatal" not in relay.log()
