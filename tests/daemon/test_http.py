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
        assert await running.stop() == 0
    assert server.seen[0].json["to"] == ["Ann <ann@example.org>"]
    assert server.seen[0].json["cc"] == ["carl@example.org"]


async def test_a_batch_has_an_answer_for_each(database: str, connection: Connection, tmp_path: Path) -> None:
    def answer(seen: Seen) -> web.Response:
        good = {"ErrorCode": 0, "Message": "OK"}
        bad = {"ErrorCode": 406, "Message": "You tried to send to a recipient that has been marked as inactive."}
        return reply(
            [bad if "dead" in one["To"] else good | {"MessageID": one["Metadata"]["mailerd_id"]} for one in seen.json]
        )

    ids = [await enqueue(connection, f"user{n}@example.org") for n in range(60)]
    dead = await enqueue(connection, "dead@example.org")
    async with (
        api(answer) as server,
        daemon(database, 1, tmp_path, extra=provider(server.url, "postmark", 'api_key = "pm"')) as running,
    ):
        await until(lambda: server.seen, "called")
        await settled(connection)
        assert await running.stop() == 0
    rows = await connection.fetch("SELECT message_id, type, detail FROM mailerd.event")
    assert {row["message_id"]: row["type"] for row in rows} == dict.fromkeys(ids, "sent") | {dead: "rejected"}
    assert await connection.fetchval("SELECT class FROM mailerd.event WHERE message_id = $1", dead) == "inactive"
    assert sum(len(seen.json) for seen in server.seen) == 61
    assert len(server.seen) < 20


async def test_a_wrong_key_costs_no_message_an_attempt_and_somebody_is_told(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    def answer(seen: Seen) -> web.Response:
        return reply({"name": "missing_api_key", "message": "Missing API key"}, 401)

    id_ = await enqueue(connection, "ann@example.org")
    async with (
        api(answer) as server,
        daemon(database, 1, tmp_path, extra=provider(server.url, "resend", 'api_key = "re_secret"')) as running,
    ):
        alert = "SELECT detail FROM mailerd.audit WHERE action = 'alert' AND target = 'provider:esp'"
        detail = await until(lambda: connection.fetchval(alert), "alert")
        assert detail == "401 missing_api_key Missing API key"
        assert await running.stop() == 0
        assert "re_secret" not in running.log.read_text()
    assert len(server.seen) <= 2
    status = await connection.fetchrow("SELECT * FROM mailerd.status($1)", id_)
    assert status is not None
    assert (status["status"], status["attempts"]) in (("ready", 0), ("deferred", 0), ("scheduled", 0))
