"""Mail that comes back, by the real daemon: over LMTP to an event and a suppression; drain, reload, what cannot be had."""

from __future__ import annotations

import asyncio
import signal
import smtplib
from pathlib import Path

import asyncpg

from mailerd.bench.port import free_port
from mailerd.compose.tokens import derive
from mailerd.compose.verp import ReturnPaths
from tests.daemon.harness import Server, daemon, enqueue, settled, until
from tests.intake.mails import dsn

Connection = asyncpg.Connection
SECRET = "a long text that nobody guesses"
PATHS = ReturnPaths("bounces.shop.example", [derive(SECRET, "verp")])


def top(listen: str, more: str = "") -> str:
    return f"""
[public]
secret = "{SECRET}"
[inbound]
listen = "{listen}"
return_path_domain = "bounces.shop.example"
{more}
"""


def hand_over(port: int, to: str, content: bytes) -> tuple[int, bytes]:
    with smtplib.LMTP("127.0.0.1", port, timeout=10) as client:
        client.connect("127.0.0.1", port)
        client.ehlo()
        client.mail("")
        code, words = client.rcpt(to)
        return client.data(content) if code == 250 else (code, words)


async def test_a_message_bounces(database: str, connection: Connection, server: Server, tmp_path: Path) -> None:
    port = free_port()
    async with daemon(database, server.port, tmp_path, top=top(f"lmtp:127.0.0.1:{port}")) as running:
        id_ = await enqueue(connection, "ann@gone.example", text_body="hello")
        await settled(connection)
        to = PATHS.encode(id_)
        mail = dsn("ann@gone.example", status="5.1.1", diagnostic="550 5.1.1 <ann@gone.example>: user unknown")
        code, words = await asyncio.to_thread(hand_over, port, to, mail)
        assert (code, words) == (250, b"2.0.0 stored")
        code, _ = await asyncio.to_thread(hand_over, port, "b-" + "0" * 20 + "@bounces.shop.example", mail)
        assert code == 550

        async def read() -> asyncpg.Record | None:
            return await connection.fetchrow("SELECT * FROM mailerd.inbound_mail WHERE read_at IS NOT NULL")

        row = await until(read, "read")
        assert (row["kind"], row["message_id"], row["matched_by"]) == ("bounce", id_, "return_path")
        event = await connection.fetchrow("SELECT * FROM mailerd.event WHERE message_id = $1 AND type = 'bounced'", id_)
        assert event is not None
        assert (event["recipient"], event["code"], event["enhanced_code"]) == ("ann@gone.example", 550, "5.1.1")
        assert await connection.fetchval("SELECT reason FROM mailerd.suppression WHERE address = 'ann@gone.example'")
        assert await running.metric("mailerd_inbound_read_total", source="listen", kind="bounce") == 1
        assert await running.metric("mailerd_inbound_refused_total", reason="recipient") == 1
        assert "inbound" in (await running.get("/readyz?verbose"))[1]
        assert await running.stop() == 0


async def test_what_is_received_is_read_and_a_reload_changes_it(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    away = b"From: ann@there.example\nSubject: Out of office: x\nAuto-Submitted: auto-replied\n\nAway.\n"
    async with daemon(database, server.port, tmp_path, top=top(f"lmtp:127.0.0.1:{port}")) as running:
        assert await asyncio.to_thread(hand_over, port, PATHS.encode(1), away) == (250, b"2.0.0 stored")
        text = running.config.read_text()
        running.config.write_text(text.replace(f":{port}", f":{other}"))
        running.signal(signal.SIGHUP)

        async def moved() -> bool:
            return str(other) in (await running.get("/readyz?verbose"))[1]

        await until(moved, "moved")
        assert await asyncio.to_thread(hand_over, other, PATHS.encode(2), away) == (250, b"2.0.0 stored")

        async def read() -> bool:
            return await running.metric("mailerd_inbound_read_total", kind="auto_reply") == 2

        await until(read, "read")
        running.config.write_text(text.replace(f":{port}", f":{server.port}"))
        running.signal(signal.SIGHUP)
        await until(lambda: "reload refused" in running.log.read_text(), "refused")
        assert await asyncio.to_thread(hand_over, other, PATHS.encode(3), away) == (250, b"2.0.0 stored")
        assert await running.stop() == 0
    kinds = await connection.fetch("SELECT kind, message_id, matched_by, applied FROM mailerd.inbound_mail ORDER BY id")
    assert [tuple(row) for row in kinds[:2]] == [
        ("auto_reply", 1, "return_path", 0),
        ("auto_reply", 2, "return_path", 0),
    ]


async def test_a_port_that_is_taken_ends_the_start(database: str, server: Server, tmp_path: Path) -> None:
    async with daemon(
        database, server.port, tmp_path, ready=False, top=top(f"lmtp:127.0.0.1:{server.port}")
    ) as running:
        assert await running.ended() == 69
        assert f"inbound.listen: lmtp:127.0.0.1:{server.port}:" in running.log.read_text()
