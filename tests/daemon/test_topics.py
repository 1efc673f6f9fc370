"""Double opt-in from end to end: asked for in SQL, confirmed by the link of a message, stopped by one click."""

from __future__ import annotations

import re
import urllib.request
from asyncio import to_thread
from pathlib import Path

import asyncpg

from mailerd.bench.port import free_port
from tests.daemon.harness import Server, daemon, enqueue, events, settled, until

ANN = "ann@x.example"
TOP = """
[public]
listen = "127.0.0.1:{port}"
base_url = "http://127.0.0.1:{port}"
secret = "a secret of sixteen octets and more"
[[topic]]
name = "news"
title = "Our news"
stream = "marketing"
double_opt_in = true
"""


def post(url: str, form: str) -> str:
    with urllib.request.urlopen(url, form.encode(), timeout=5) as answer:
        return str(answer.read().decode())


async def test_double_opt_in(
    database: str, connection: asyncpg.Connection[asyncpg.Record], server: Server, tmp_path: Path
) -> None:
    port = free_port()
    async with daemon(database, server.port, tmp_path, top=TOP.format(port=port), stream="one_click = true"):
        news = {"stream": "marketing", "topic": "news", "text_body": "news"}

        async def ends(**columns: object) -> list[str]:
            id_ = await enqueue(connection, ANN, **columns)
            await settled(connection)
            return await events(connection, id_)

        assert await ends(**news) == ["suppressed"], "nobody asked for it"
        assert await connection.fetchval("SELECT mailerd.subscribe($1, 'news', 'form')", ANN) == "pending"
        assert await ends(**news) == ["suppressed"], "he did not confirm"
        assert await ends(text_body="Yes: {{ confirm_url.news }}", params="{}") == ["sent"]
        (link,) = re.findall(r"http://\S+/s/\S+", server.taken[0].message.get_content())
        assert "Our news" in await to_thread(post, link, "")
        assert await ends(**news) == ["suppressed"], "looking is no yes"
        assert "You are subscribed" in await to_thread(post, link, "action=confirm")
        assert await ends(**news) == ["sent"]
        leave = server.taken[-1].message["List-Unsubscribe"].strip("<>")
        assert await to_thread(post, leave, "List-Unsubscribe=One-Click") == "unsubscribed\n"
        assert await ends(**news) == ["suppressed"], "at once"
        assert await ends(stream="marketing", text_body="no topic") == ["sent"]
        said = await connection.fetch("SELECT actor, action FROM mailerd.audit WHERE target = $1 ORDER BY id", ANN)
        assert [row["action"] for row in said] == [
            f"subscription {s}" for s in ("pending", "subscribed", "unsubscribed")
        ]
        assert [row["actor"] for row in said][1:] == ["recipient"] * 2
        await until(
            lambda: connection.fetchval("SELECT count(*) FROM mailerd.event WHERE type = 'unsubscribed'"), "told"
        )
