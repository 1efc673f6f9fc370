"""A whole daemon whose rows name their attachments: what arrives, what waits for whom, and what ends without a provider."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg

from mailerd.fetch.files import AT_ONCE
from tests.compose.test_calendar import INVITATION
from tests.daemon.harness import Server, daemon, enqueue, events, settled, until
from tests.fetch.rig import ACCESS, REGION, SECRET, Shop, s3, shop, slow, status

Connection = asyncpg.Connection


def section(*origins: str, folder: Path | None = None, **keys: str) -> str:
    lines = [f"origins = {json.dumps(origins)}", *(f"{key} = {value}" for key, value in keys.items())]
    if folder is not None:
        lines.append(f'directories = ["{folder}"]')
    return "[attachments]\n" + "\n".join(lines) + "\n"


def signed(store: Shop) -> str:
    keys = {"name": "s3", "url": f"{store.origin}/bucket", "region": REGION, "access_key": ACCESS, "secret_key": SECRET}
    return "[[attachments.store]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()) + "\n"


async def send(connection: Connection, to: str, *items: dict[str, Any], **columns: Any) -> int:
    return await enqueue(connection, to, attachments=json.dumps(items), **columns)


async def test_a_slow_store_delays_nobody_else(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    async with shop() as stuck, shop() as quick:
        for i in range(60):
            stuck.answers[f"/{i}"] = slow(gate, b"late %d" % i)
        quick.answers["/x"] = b"there"
        waiting = [
            await send(connection, f"slow{i}@example.org", {"url": f"{stuck.origin}/{i}"}, campaign="c")
            for i in range(60)
        ]
        async with daemon(database, server.port, tmp_path, extra=section(stuck.origin, quick.origin)) as running:
            await until(lambda: stuck.at_once, "asked")
            for i in range(5):
                await enqueue(connection, f"plain{i}@example.org", campaign="c")
                await send(connection, f"quick{i}@example.org", {"url": f"{quick.origin}/x"}, campaign="c")
            await until(lambda: len(server.taken) == 10, "the others arrive")
            assert not any(to.startswith("slow") for taken in server.taken for to in taken.recipients)
            assert quick.asked == {"/x": 1}
            gate.set()
            await until(lambda: len(server.taken) == 70, "those arrive, too")
            await settled(connection)
            assert stuck.asked.total() == 60
            bodies = [
                part.get_payload(decode=True) for taken in server.taken for part in taken.message.iter_attachments()
            ]
            assert sorted(bodies) == sorted([b"late %d" % i for i in range(60)] + [b"there"] * 5)
            query = "SELECT count(*) FROM mailerd.event WHERE type = 'sent' AND attempt = 1 AND message_id = ANY($1)"
            assert await connection.fetchval(query, waiting) == 60
            assert await running.stop() == 0


async def test_what_waits_keeps_no_tokens_and_is_given_back_at_the_end(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with shop() as stuck:
        ids = []
        for i in range(30):
            stuck.answers[f"/{i}"] = slow(asyncio.Event())
            ids.append(await send(connection, f"slow{i}@example.org", {"url": f"{stuck.origin}/{i}"}))
        # An instance holds the tokens of 0.75 s, which are fewer than messages wait.
        pool = '[[pool]]\nname = "default"\nproviders = ["relay"]\nrate = "20/s"\n'
        async with daemon(database, server.port, tmp_path, extra=section(stuck.origin) + pool) as running:
            await until(lambda: stuck.at_once == AT_ONCE, "as many as may are asked for")
            for i in range(5):
                await enqueue(connection, f"plain{i}@example.org")
            await until(lambda: len(server.taken) == 5, "the others arrive")
            begin = time.monotonic()
            assert await running.stop() == 0
            assert time.monotonic() - begin < 5
        query = "SELECT count(*) FROM mailerd.ready WHERE id = ANY($1) AND attempt = 0 AND lease_until < now()"
        assert await connection.fetchval(query, ids) == 30
    assert server.attempts == {f"plain{i}": 1 for i in range(5)}


async def test_what_arrives_and_what_is_dead_with_a_reason(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    files, digests = tmp_path / "files", tmp_path / "digests"
    files.mkdir()
    digests.mkdir()
    large = bytes(range(256)) * 2000
    (digests / sha256(large).hexdigest()).write_bytes(large)
    (files / "logo.png").write_bytes(b"PNG\r\n\0")
    (files / "invite.ics").write_text(INVITATION)
    (files / "no.ics").write_text("no calendar")
    (files / "a.pdf").write_bytes(b"octets")
    (files / "half.bin").write_bytes(b"x" * 400_000)
    (files / "large.bin").write_bytes(b"x" * 600_001)
    (files / "out").symlink_to("/etc")
    half = [{"path": "half.bin", "filename": f"{i}.bin"} for i in range(3)]
    pdf = {"content_type": "application/pdf"}
    async with shop() as store:
        at = store.origin
        store.answers |= {
            "/files/bill.pdf": b"%PDF-\r\n.\r\n",
            "/bucket/a%20b.pdf": s3(b"object"),
            "/files/secret": status(403),
            "/files/page": status(200, b"<html>", Content_Type="text/html"),
        }
        rows: list[tuple[list[dict[str, Any]], str]] = [
            ([{"url": f"{at}/files/no.pdf"}], f"attachments[0] ('no.pdf'): {at} answers 404"),
            ([{"content": ""}, {"url": f"{at}/files/secret"}], f"attachments[1] ('secret'): {at} answers 403"),
            ([{"url": f"{at}/files-private/a"}], "attachments[0] ('a'): url is not allowed: attachments.origins have"),
            ([{"path": "b.pdf"}], "attachments[0] ('b.pdf'): there is no such file"),
            ([{"path": "../a.pdf"}], "attachments[0] ('a.pdf'): path must have no `.`"),
            (
                [{"path": "out/hostname"}],
                "attachments[0] ('hostname'): path leads out of its folder by a symbolic link",
            ),
            ([{"path": "large.bin"}], "attachments[0] ('large.bin'): is larger than 600000 octets (attachments.size)"),
            (half, "attachments[2] ('2.bin'): too large, with the others (limits.message_size)"),
            ([{"path": "a.pdf", "sha256": "0" * 64}], "attachments[0] ('a.pdf'): has the sha256 "),
            ([{"path": "a.pdf", "content_type": "text/html"}], "text/html is not among attachments.types"),
            ([{"url": f"{at}/files/page"} | pdf], "attachments[0] ('page'): text/html is not among attachments.types"),
            ([{"sha256": "0" * 64} | pdf], "attachments[0]: there is no such file"),
            ([{"path": "a.pdf", "url": "x"}], "attachments[0] ('a.pdf'): has more than one of content, path and url"),
            ([{"path": "no.ics", "disposition": "alternative"}], "attachments[0] ('no.ics'): not a calendar"),
        ]
        types = '["application/*", "image/png", "text/calendar"]'
        extra = section(f"{at}/files/", folder=files, digests=json.dumps(str(digests)), size="600_000", types=types)
        extra += signed(store) + "[limits]\nmessage_size = 1_000_000\n"
        async with daemon(database, server.port, tmp_path, extra=extra) as running:
            good = await send(
                connection,
                "good@example.org",
                {"path": "logo.png", "cid": "logo"},
                {"content": base64.b64encode(b"inline").decode(), "filename": "inline.bin"},
                {"url": f"{at}/files/bill.pdf", "sha256": sha256(b"%PDF-\r\n.\r\n").hexdigest()},
                {"url": f"{at}/bucket/a%20b.pdf"},
                {"sha256": sha256(large).hexdigest(), "filename": "large.bin"},
                {"path": str(files / "invite.ics"), "disposition": "alternative"},
                text_body="text",
                html_body='<img src="cid:logo">',
            )
            ids = [await send(connection, f"u{i}@example.org", *items) for i, (items, _) in enumerate(rows)]
            await until(lambda: server.taken, "the good one")
            await settled(connection)
            for id_, (_, words) in zip(ids, rows, strict=True):
                event = await connection.fetchrow(
                    "SELECT type, class, detail FROM mailerd.event WHERE message_id = $1", id_
                )
                assert event is not None
                assert tuple(event)[:2] == ("failed", "attachment")
                assert words in event["detail"]
                reason = await connection.fetchval("SELECT reason FROM mailerd.dead_letter WHERE message_id = $1", id_)
                assert reason == event["detail"]
            assert await events(connection, good) == ["sent"]
            assert await running.stop() == 0
    assert server.attempts == {"good": 1}
    (taken,) = server.taken
    found = {part.get_filename(): part.get_payload(decode=True) for part in taken.message.iter_attachments()}
    assert found == {"inline.bin": b"inline", "bill.pdf": b"%PDF-\r\n.\r\n", "a b.pdf": b"object", "large.bin": large}
    assert [part.get_content_type() for part in taken.message.walk()][1:6] == [
        "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
    ]  # fmt: skip
    assert any(part.get_param("method") == "REQUEST" for part in taken.message.walk())
