"""Signed mail, from a row to a real server: what arrives is verified by another implementation."""

from __future__ import annotations

import signal
from pathlib import Path

import asyncpg

from mailerd.compose.dkim import Key
from tests.compose.signing import Published, ed25519_key, key_file, rsa_key, verified
from tests.daemon.harness import Server, daemon, enqueue, events, settled, until

Connection = asyncpg.Connection


def keys(folder: Path) -> str:
    """Both keys of `shop.example`, as tables below the identity."""
    rsa, ed25519 = key_file(folder, rsa_key(), "rsa.pem"), key_file(folder, ed25519_key(), "ed25519.pem")
    return "".join(
        f'[[identity.dkim]]\nselector = "{selector}"\nkey = "{file}"\n'
        for selector, file in (("r1", rsa), ("e1", ed25519))
    )


DNS = Published(Key("shop.example", "r1", rsa_key()), Key("shop.example", "e1", ed25519_key()))


async def test_what_arrives_is_verified_and_what_cannot_be_signed_is_not_sent(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    raw = (
        b"From: shop@shop.example\r\nSubject: raw\r\nTo: raw@example.org\r\n\r\n.dots  and \t spaces \r\n..\r\n\r\n\r\n"
    )
    parts = {"extra": keys(tmp_path), "stream": 'on_uncertain = "hold"\nrequire_dkim = true'}
    async with daemon(database, server.port, tmp_path, **parts) as running:
        other = await enqueue(connection, "other@example.org", sender="somebody@other.example")
        await enqueue(
            connection, "Zoë <zoe@example.org>", subject="Grüße " * 20, html_body="<p>\n.\n  Grüße </p>\n" * 99
        )
        await enqueue(connection, "copies@example.org", cc=["c@example.net"], bcc=["b@example.net"], stream="marketing")
        await enqueue(connection, "large@example.org", text_body="wide  load \n" * 40_000)
        await enqueue(connection, "raw@example.org", raw=raw)
        await enqueue(connection, "sales@example.org", sender="Sales <sales@eu.shop.example>")
        await connection.execute(
            "INSERT INTO mailerd.outbox (stream, recipient, text_body) "
            "SELECT 'marketing', 'many' || g || '@example.org', 'hello' FROM generate_series(1, 50) g"
        )
        await until(lambda: len(server.taken) == 55, "all accepted")
        await settled(connection)
        assert await events(connection, other) == ["failed"]
        reason = await connection.fetchval("SELECT reason FROM mailerd.dead_letter WHERE message_id = $1", other)
        assert reason == (
            "sender: stream transactional requires a DKIM signature, "
            "and no key of the sender is for mail From other.example"
        )
        assert await running.stop() == 0
    for taken in server.taken:
        assert verified(taken.content, DNS) == [True, True], taken.content[:2000]
    (one,) = [taken for taken in server.taken if "raw@example.org" in taken.recipients]
    assert one.content.endswith(raw)


async def test_a_reload_reads_the_keys_again_or_keeps_the_old_ones(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path, extra=keys(tmp_path)) as running:
        await enqueue(connection, "other@example.org", sender="somebody@other.example")
        await until(lambda: len(server.taken) == 1, "not signed")
        await enqueue(connection, "first@example.org")
        await until(lambda: len(server.taken) == 2, "signed by the first keys")
        (tmp_path / "rsa.pem").rename(tmp_path / "kept.pem")
        running.signal(signal.SIGHUP)
        await until(lambda: "reload refused" in running.log.read_text(), "refused: there is no such file")
        assert "identity.shop.dkim[0].key: " in running.log.read_text()
        await enqueue(connection, "second@example.org")
        await until(lambda: len(server.taken) == 3, "still signed by the first keys")
        (tmp_path / "kept.pem").rename(tmp_path / "rsa.pem")
        running.config.write_text(running.config.read_text().replace('"r1"', '"r2"'))
        running.signal(signal.SIGHUP)
        await until(lambda: "configuration reloaded" in running.log.read_text(), "reloaded")
        await enqueue(connection, "third@example.org")
        await until(lambda: len(server.taken) == 4, "signed by the new ones")
    assert verified(server.taken.pop(0).content, DNS) == []
    assert [b"s=r2;" in taken.content for taken in server.taken] == [False, False, True]
    assert [verified(taken.content, DNS)[0] for taken in server.taken] == [True, True, False]
