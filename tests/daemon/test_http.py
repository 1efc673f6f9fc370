"""A whole daemon in front of a provider's HTTP API."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from aiohttp import web

from tests.daemon.harness import daemon, enqueue, events, settled, until
from tests.http.rig import Seen, api, reply

Connection = asyncpg.Connection


def provider(url: str, kind: str, more: str = "") -> str:
    return f'[[pool]]\nname = "default"\nproviders = ["esp"]\n[[provider]]\nname = "esp"\nkind = "{kind}"\nendpoint = "{url}"\n{more}\n'


async def test_a_row_goes_through_an_api(database: str, connection: Connection, tmp_path: Path) -> None:
    def answer(seen: Seen) -> web.Response:
        if isinstance(seen.json, list):
            return reply({"data": [{"id": one["tags"][0]["value"]} for one in seen.json]})
        if seen.json["to"] == ["dead@example.org"]:
            return reply({"name": "validation_error", "message": "Invalid `to` field: no such user"}, 422)
        return reply({"id": "re-1"})

    async with (
        api(answer) as server,
        daemon(database, 1, tmp_path, extra=provider(server.url, "resend", 'api_key = "re_x"')) as running,
    ):
        id_ = await enqueue(connection, "Ann <ann@example.org>", subject="Hello", cc=["carl@example.org"])
        await until(lambda: server.seen, "called")
        await settled(connection)
        status = await connection.fetchrow("SELECT * FROM mailerd.status($1)", id_)
        assert status is not None
        assert (status["status"], status["provider"], status["provider_message_id"]) == ("sent", "esp", "re-1")
        assert await events(connection, id_) == ["sent"] * 2
        dead = await enqueue(connection, "dead@example.org")
        await settled(connection)
        assert await events(connection, dead) == ["rejected"]
        assert await connection.fetchval("SELECT class FROM mailerd.event WHERE message_id = $1", dead) == "recipient"

        async def measured() -> bool:
            return await running.metric("mailerd_send_duration_seconds_count", provider="esp", phase="response") == 2

        await until(measured, "measured")
        assert await running.stop() == 0
    assert server.seen[0].json["to"] == ["Ann <ann@example.org>"]
    assert server.seen[0].json["cc"] == ["carl@example.org"]
