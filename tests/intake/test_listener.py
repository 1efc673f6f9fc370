"""The listener: stored before it answers, bounded, encrypted where asked, changed by a reload."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
import uvloop

from mailerd.config.inbound import Inbound
from mailerd.intake import listener as module
from mailerd.intake.intake import CannotListen, accepting
from tests.daemon.harness import until
from tests.intake.mails import dsn
from tests.intake.rig import PATHS, Client, config, intake

Connection = asyncpg.Connection
LMTP = "lmtp:127.0.0.1:0"
BOX = "bounces@shop.example"


async def stored(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM mailerd.inbound_mail"))


async def test_a_mail_is_stored_when_it_is_answered(database: str, connection: Connection) -> None:
    async with intake(config(database, listen=(LMTP,))) as it:
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        assert await client.mail(PATHS.encode(77).upper(), dsn("a@b.example"), "x@y.example") == "250 2.0.0 stored"
        row = await connection.fetchrow("SELECT * FROM mailerd.inbound_mail")
        assert row is not None
        assert (row["source"], row["peer"], row["sender"]) == ("listen", "127.0.0.1", "x@y.example")
        assert row["recipients"] == [PATHS.encode(77).upper()]
        assert row["raw"] == dsn("a@b.example").replace(b"\n", b"\r\n")
        assert row["size"] == len(row["raw"])
        # Handed over again, because the answer was lost: one mail. For somebody else: another.
        assert await client.mail(PATHS.encode(77).upper(), dsn("a@b.example")) == "250 2.0.0 stored"
        assert await stored(connection) == 1
        assert await client.mail(BOX, dsn("a@b.example")) == "250 2.0.0 stored"
        assert await stored(connection) == 2
        assert (await client.say("QUIT")).startswith("221")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (BOX, "250"),
        ("BOUNCES@SHOP.EXAMPLE", "250"),
        ("postmaster", "250"),
        ("Postmaster@bounces.shop.example", "250"),
        ("postmaster@shop.example", "250"),
        (PATHS.encode(5), "250"),
        (PATHS.encode(5).replace("@", "0@"), "550"),
        ("somebody@bounces.shop.example", "550"),
        ("somebody@shop.example", "550"),
        ("postmaster@elsewhere.example", "550"),
        ("bounces%shop.example@elsewhere.example", "550"),
    ],
)
def test_who_is_taken(address: str, code: str) -> None:
    assert accepting(config("postgresql:///x"))(address) is (code == "250")


async def test_without_postgres_it_says_later(connection: Connection) -> None:
    async with intake(config("postgresql://nobody@127.0.0.1:1/none", listen=(LMTP,))) as it:
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        assert (await client.mail(BOX, b"Subject: x\n\nx\n")).startswith("451 4.3.0")
        assert (await client.mail(BOX, b"Subject: x\n\nx\n")).startswith("451 4.3.0")


async def test_a_table_that_cannot_be_written_is_for_later(database: str, connection: Connection) -> None:
    async with intake(config(database, listen=(LMTP,))) as it:
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        await connection.execute("ALTER TABLE mailerd.inbound_mail RENAME TO elsewhere")
        assert (await client.mail(BOX, b"Subject: x\n\nx\n")).startswith("451")
        await connection.execute("ALTER TABLE mailerd.elsewhere RENAME TO inbound_mail")
        await connection.execute("ALTER TABLE mailerd.inbound_mail ADD CONSTRAINT no CHECK (size < 50)")
        other = await Client.to(it.ports[LMTP])
        await other.greet()
        large, small = await asyncio.gather(client.mail(BOX, b"x" * 90 + b"\n"), other.mail(BOX, b"small\n"))
        assert (large[:3], small[:3]) == ("554", "250")


async def test_so_many_connections_and_no_more(database: str) -> None:
    async with intake(config(database, listen=(LMTP,), connections=2)) as it:
        clients = [await Client.to(it.ports[LMTP]) for _ in range(2)]
        for client in clients:
            await client.greet()
        late = await Client.to(it.ports[LMTP])
        assert (await late.reply()).startswith("421 4.3.2")
        assert await late.reply() == ""
        clients[0].close()
        await until(lambda: len(it._connections) == 1, "closed")
        await (await Client.to(it.ports[LMTP])).greet()


async def test_who_says_nothing_is_let_go(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE", 0.1)
    monkeypatch.setattr("mailerd.intake.intake.TICK", 0.05)
    async with intake(config(database, listen=(LMTP,))) as it:
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        assert (await client.reply()).startswith("421 4.4.2")
        # A mail that trickles has a time for all of it.
        monkeypatch.setattr(module, "IDLE", 100.0)
        monkeypatch.setattr(module, "WHOLE", 0.2)
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        for line in ("MAIL FROM:<>", f"RCPT TO:<{BOX}>", "DATA"):
            await client.say(line)

        async def trickle() -> None:
            while True:
                client.writer.write(b"x\r\n")
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert (await client.reply()).startswith("421 4.4.2")
        trickling.cancel()


async def test_pipelined_mails_over_one_connection(database: str, connection: Connection) -> None:
    one = f"MAIL FROM:<>\r\nRCPT TO:<{BOX}>\r\nDATA\r\nSubject: {{}}\r\n\r\nx\r\n.\r\n"
    async with intake(config(database, listen=(LMTP,))) as it:
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        client.writer.write("".join(one.format(number) for number in range(20)).encode())
        said = [(await client.reply())[:3] for _ in range(80)]
        assert said == ["250", "250", "354", "250"] * 20
        assert await stored(connection) == 20


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_starttls(run: Callable[[Coroutine[Any, Any, None]], None], database: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(tmp_path / "cert.pem"), append=True)
    files = {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    context = ssl.create_default_context()
    authority.configure_trust(context)
    place = "smtp:127.0.0.1:0"

    def talk(port: int) -> None:
        with smtplib.SMTP("localhost", port, timeout=10) as client:
            client.ehlo()
            client.starttls(context=context)
            assert client.mail("a@b.example")[0] == 503
            client.sendmail("a@b.example", [BOX], "Subject: x\n\nx\n")
            assert not client.has_extn("starttls")

    async def main() -> None:
        async with intake(config(database, listen=(place,), **files)) as it:
            await asyncio.to_thread(talk, it.ports[place])
            # In the clear, but behind STARTTLS: never looked at.
            liar = await Client.to(it.ports[place])
            await liar.greet("EHLO")
            liar.writer.write(b"STARTTLS\r\nMAIL FROM:<>\r\n")
            assert (await liar.reply()).startswith("503")
            assert await liar.reply() == ""

    run(main())


async def test_a_socket_in_the_file_system(database: str, connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    place = f"lmtp:{path}"
    async with intake(config(database, listen=(place,))):
        client = Client(*await asyncio.open_unix_connection(str(path)))
        await client.greet()
        assert (await client.mail(BOX, b"Subject: x\n\nx\n")).startswith("250")
        with pytest.raises(CannotListen, match="somebody listens there already"):
            async with intake(config(database, listen=(place,))):
                pass
    assert not path.exists()
    stale = await asyncio.start_unix_server(lambda r, w: None, str(path))
    stale.close()
    await stale.wait_closed()
    async with intake(config(database, listen=(place,))):
        client = Client(*await asyncio.open_unix_connection(str(path)))
        await client.greet()
    assert await connection.fetchval("SELECT peer FROM mailerd.inbound_mail") == "local"


async def test_a_reload_keeps_what_stays(database: str) -> None:
    first = config(database, listen=(LMTP,))
    async with intake(first) as it:
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        second = config(database, listen=(LMTP, "smtp:127.0.0.1:0"), mailboxes=("other@shop.example",))
        await it.configure(second)
        await client.say("MAIL FROM:<>")
        assert (await client.say(f"RCPT TO:<{BOX}>")).startswith("550")
        assert (await client.say("RCPT TO:<other@shop.example>")).startswith("250")
        taken = f"smtp:127.0.0.1:{it.ports[LMTP]}"
        with pytest.raises(CannotListen, match=taken):
            await it.configure(config(database, listen=("smtp:127.0.0.1:0", taken)))
        assert it.ports.keys() == {LMTP, "smtp:127.0.0.1:0"}
        port = it.ports[LMTP]
        await it.configure(config(database, listen=("smtp:127.0.0.1:0",)))
        with pytest.raises(OSError):
            await Client.to(port)
        assert (await client.say("RSET")).startswith("250")


async def test_the_end_tells_everybody(database: str) -> None:
    async with intake(config(database, listen=(LMTP,))) as it:
        client = await Client.to(it.ports[LMTP])
        await client.greet()
        await it.drain(1.0)
        assert (await client.reply()).startswith("421 4.3.2")
        assert await client.reply() == ""


def test_nothing_is_received_by_default() -> None:
    assert not Inbound().active
