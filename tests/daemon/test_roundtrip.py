"""One message there and back, in a real daemon: its links lead to the public listener, and what they do is in the log."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import asyncpg

from mailerd.bench.port import free_port
from tests.daemon.harness import Server, daemon, until

Connection = asyncpg.Connection
PHONE = {"User-Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15"}
HTML = (
    '<p>Hello, <a href="https://shop.example/offer?a=1&amp;b=2#top">look</a>, '
    '<a href="{{ unsubscribe_url }}">leave</a></p>'
)


async def test_what_a_recipient_does_comes_back(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    extra = f'[public]\nlisten = "127.0.0.1:{port}"\nbase_url = "{base}"\nsecret = "{"s" * 32}"\n'
    stream = "one_click = true\n[stream.tracking]\nopens = true\nclicks = true\nutm = true\n"
    sql = (
        "INSERT INTO mailerd.outbox (stream, recipient, subject, html_body, params, campaign) "
        "VALUES ('marketing', $1, 'Offers', $2, '{\"a\": 1}', $3) RETURNING id"
    )
    async with daemon(database, server.port, tmp_path, extra=extra, stream=stream):
        id_ = await connection.fetchval(sql, "Ann <Ann@example.org>", HTML, "spring")
        await until(lambda: len(server.taken) == 1, "it was sent")
        message = server.taken[0].message
        html = message.get_body(("html",)).get_content()  # type: ignore[union-attr]
        link = re.search(rf'href="({base}/c/[^"]+)"', html)[1]  # type: ignore[index]
        pixel = re.search(rf'src="({base}/o/[^"]+)"', html)[1]  # type: ignore[index]
        leave = re.search(rf'href="({base}/u/[^"]+)"', html)[1]  # type: ignore[index]
        assert message["List-Unsubscribe"] == f"<{leave}>"
        assert "ann@example.org" not in html.lower()
        async with aiohttp.ClientSession(headers=PHONE) as browser:
            async with browser.get(pixel) as answer:
                assert (answer.status, answer.content_type) == (200, "image/gif")
            async with browser.get(link, allow_redirects=False) as answer:
                assert answer.status == 302
                target = answer.headers["Location"]
            async with browser.get(leave) as answer:
                assert answer.status == 200
                assert "<form" in await answer.text()
            assert await connection.fetchval("SELECT count(*) FROM mailerd.suppression") == 0  # looking changes nothing
            async with browser.post(leave, data={"List-Unsubscribe": "One-Click"}) as answer:
                assert answer.status == 200
        assert target.startswith("https://shop.example/offer?a=1&b=2&")
        assert "utm_campaign=spring" in target
        assert target.endswith("#top")
        assert tuple(await connection.fetchrow("SELECT address, stream, reason FROM mailerd.suppression")) == (
            "ann@example.org",
            "marketing",
            "unsubscribe",
        )

        async def types() -> bool:
            rows = await connection.fetch("SELECT DISTINCT type FROM mailerd.event WHERE message_id = $1", id_)
            return {row[0] for row in rows} >= {"sent", "opened", "clicked", "unsubscribed"}

        await until(types, "events of all that happened")
        again = await connection.fetchval(sql, "ann@example.org", HTML, "spring")

        async def suppressed() -> bool:
            return await connection.fetchval("SELECT status FROM mailerd.status($1)", again) == "suppressed"

        await until(suppressed, "the next one is suppressed")
        # Another stream still writes to her.
        await connection.execute(
            "INSERT INTO mailerd.outbox (recipient, subject, text_body) VALUES ('ann@example.org', 'Code', '1')"
        )
        await until(lambda: len(server.taken) == 2, "urgent mail goes on")
        assert server.taken[1].message["Subject"] == "Code"
