"""From a row to the server's 250, and what else can become of a row."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import asyncpg
import pytest

from tests.daemon.harness import Server, daemon, enqueue, events, settled, until

Connection = asyncpg.Connection


async def test_a_row_becomes_a_message_and_an_event(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path) as running:
        id_ = await enqueue(
            connection,
            "Ann Müller <ann@example.org>",
            subject="Grüße aus Köln",
            text_body=".\n..dots\nlast",
            html_body="<p>Grüße</p>",
            cc=["carl@example.org"],
            bcc=["bob@example.net"],
            headers=json.dumps({"X-Order": "42"}),
        )
        await until(lambda: server.taken, "accepted")
        await settled(connection)
        status = await connection.fetchrow("SELECT * FROM mailerd.status($1)", id_)
        assert status is not None
        assert (status["status"], status["provider"], status["provider_message_id"]) == ("sent", "relay", "Q1")
        assert await events(connection, id_) == ["sent"] * 3
        assert await running.metric("mailerd_messages_total", stream="transactional", outcome="sent") == 3
        assert await running.stop() == 0
    (taken,) = server.taken
    assert taken.sender == "shop@shop.example"
    assert sorted(taken.recipients) == ["ann@example.org", "bob@example.net", "carl@example.org"]
    message = taken.message
    assert message["Subject"] == "Grüße aus Köln"
    assert message["To"] == "Ann Müller <ann@example.org>"
    assert message["Bcc"] is None
    assert message["X-Order"] == "42"
    assert str(message["Message-ID"]).startswith(f"<{id_}.")
    text = message.get_body(("plain",))
    assert text is not None
    assert text.get_content().replace("\r\n", "\n").rstrip("\n") == ".\n..dots\nlast"


async def test_a_template_of_the_folder(database: str, connection: Connection, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "templates" / "welcome"
    folder.mkdir(parents=True)
    (folder / "subject.j2").write_text("Hello {{ name }}")
    (folder / "html.j2").write_text("<p>Dear {{ name }}</p>")
    top = f'[templates]\npath = "{tmp_path / "templates"}"'
    async with daemon(database, server.port, tmp_path, top=top) as _:
        await enqueue(connection, "a@example.org", template="welcome", params=json.dumps({"name": "Ann & Co"}))
        missing = await enqueue(connection, "b@example.org", template="welcome", params=json.dumps({"nam": "x"}))
        unknown = await enqueue(connection, "c@example.org", template="nowhere", params="{}")
        await settled(connection)
        await until(lambda: server.taken, "accepted")
        dead = {r["message_id"]: r for r in await connection.fetch("SELECT * FROM mailerd.dead_letter")}
        assert dead.keys() == {missing, unknown}
        assert "name" in dead[missing]["reason"]
        assert "nowhere" in dead[unknown]["reason"]
    (taken,) = server.taken
    assert taken.message["Subject"] == "Hello Ann & Co"
    html = taken.message.get_body(("html",))
    assert html is not None
    assert "Dear Ann &amp; Co" in html.get_content()


BAD = {
    "unknown sender": ({"sender": "nobody"}, "nobody"),
    "sender without domain": ({"sender": "x@"}, "sender"),
    "header with a line break": ({"headers": json.dumps({"X-A": "a\r\nBcc: victim@example.org"})}, "X-A"),
    "header with a bad name": ({"headers": json.dumps({"X A": "a"})}, "X A"),
    "reply_to": ({"reply_to": "not an address"}, "reply_to"),
    "attachment that is not base64": ({"attachments": json.dumps([{"filename": "a.pdf", "content": "***"}])}, "a.pdf"),
    "subject from params with a line break": (
        {"subject": "Hi {{ n }}", "params": json.dumps({"n": "a\nBcc: x@y.z"})},
        "subject",
    ),
    "template that does not parse": ({"text_body": "{% if %}", "params": "{}"}, "text_body"),
    "template that runs away": ({"text_body": "{% for i in range(99999999) %}x{% endfor %}", "params": "{}"}, "range"),
    "raw line of 10 000 characters": ({"raw": b"Subject: x\r\n\r\n" + b"x" * 10_000}, "998"),
}


async def test_every_bad_row_fails_with_its_reason_and_its_neighbours_go_on(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path) as running:
        ids = {}
        for name, (columns, _) in BAD.items():
            ids[name] = await enqueue(connection, "bad@example.org", **columns)
            await enqueue(connection, "good@example.org")
        await settled(connection)
        for name, (_, word) in BAD.items():
            reason = await connection.fetchval(
                "SELECT reason FROM mailerd.dead_letter WHERE message_id = $1", ids[name]
            )
            assert reason is not None, name
            assert word in reason, f"{name}: {reason}"
            assert await events(connection, ids[name]) == ["failed"], name
        assert await running.stop() == 0
    assert len(server.taken) == len(BAD)
    assert {r for t in server.taken for r in t.recipients} == {"good@example.org"}


async def test_refusals_retries_and_dead_letters(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    server.answers = {
        "later": ["450 4.2.0 not now", "250 ok"],
        "never": ["450 4.2.0 not now"],
        "no": ["550 5.1.1 no such user"],
    }
    stream = 'retry = { first = "50ms", max = "100ms", attempts = 3 }'
    async with daemon(database, server.port, tmp_path, stream=stream) as running:
        later = await enqueue(connection, "later@example.org")
        never = await enqueue(connection, "never@example.org")
        no = await enqueue(connection, "no@example.org")

        async def all_ended() -> bool:
            left = await connection.fetchval(
                "SELECT (SELECT count(*) FROM mailerd.ready) + (SELECT count(*) FROM mailerd.scheduled)"
            )
            return left == 0

        await until(all_ended, "all ended")
        assert await events(connection, later) == ["deferred", "sent"]
        assert await events(connection, never) == ["deferred", "deferred", "failed"]
        assert await events(connection, no) == ["rejected"]
        dead = {r["message_id"]: r for r in await connection.fetch("SELECT * FROM mailerd.dead_letter")}
        assert dead.keys() == {never, no}
        assert dead[never]["attempts"] == 3
        assert dead[no]["class"] == "recipient"
        assert await running.metric("mailerd_retries_total", provider="relay") == 3
    assert server.attempts == {"later": 2, "never": 3, "no": 1}


async def test_later_expired_cancelled_suppressed_and_deduplicated(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    await connection.execute(
        "INSERT INTO mailerd.suppression (address, reason) VALUES ('stop@example.org', 'complaint')"
    )
    expired = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, text_body, expires_at) VALUES ('late@example.org', 'x', now() - interval '1 second') RETURNING id"
    )
    cancelled = await enqueue(connection, "cancelled@example.org")
    assert await connection.fetchval("SELECT mailerd.cancel($1)", cancelled)
    async with daemon(database, server.port, tmp_path) as _:
        suppressed = await enqueue(connection, "Stop <STOP@example.org>", cc=["ok@example.org"])
        scheduled = await connection.fetchval(
            "INSERT INTO mailerd.outbox (recipient, sender, text_body, send_at) VALUES ('soon@example.org', 'shop', 'x', now() + interval '700 ms') RETURNING id"
        )
        assert await connection.fetchval("SELECT status FROM mailerd.status($1)", scheduled) == "scheduled"
        first = await connection.fetchval(
            "SELECT mailerd.enqueue('once@example.org', sender => 'shop', text_body => 'x', dedup_key => 'k')"
        )
        again = await connection.fetchval(
            "SELECT mailerd.enqueue('once@example.org', sender => 'shop', text_body => 'x', dedup_key => 'k')"
        )
        assert first == again
        await until(lambda: len(server.taken) == 3, "three accepted")
        await settled(connection)
        assert await events(connection, expired) == ["expired"]
        assert await events(connection, cancelled) == ["cancelled"]
        assert sorted(await events(connection, suppressed)) == ["sent", "suppressed"]
        assert await connection.fetchval("SELECT status FROM mailerd.status($1)", suppressed) == "suppressed"
        assert not await connection.fetchval("SELECT count(*) FROM mailerd.dead_letter")
    assert sorted(r for t in server.taken for r in t.recipients) == [
        "ok@example.org",
        "once@example.org",
        "soon@example.org",
    ]


@pytest.mark.parametrize("kind", ["stream", "provider", "domain", "campaign"])
async def test_what_is_paused_waits_and_goes_on_when_resumed(
    database: str, connection: Connection, server: Server, tmp_path: Path, kind: str
) -> None:
    name = {"stream": "marketing", "provider": "relay", "domain": "slow.example", "campaign": "spring"}[kind]
    await connection.execute("INSERT INTO mailerd.lane_control (kind, name) VALUES ($1, $2)", kind, name)
    async with daemon(database, server.port, tmp_path) as running:

        async def heard() -> bool:
            return await connection.fetchval("SELECT count(*) FROM mailerd.instance WHERE seen_at > started_at") == 1

        await until(heard, "a second heartbeat")
        paused = await enqueue(connection, "a@slow.example", stream="marketing", campaign="spring")
        if kind != "provider":
            await enqueue(connection, "b@quick.example")
            await until(lambda: len(server.taken) == 1, "the other one is sent")
        assert await connection.fetchval("SELECT status FROM mailerd.status($1)", paused) in ("ready", "leased")
        await connection.execute("DELETE FROM mailerd.lane_control")
        await until(lambda: "a@slow.example" in {r for t in server.taken for r in t.recipients}, "resumed")
        assert await running.stop() == 0


async def test_twenty_megabytes_and_an_oversize_message(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    top = '[limits]\nmessage_size = "20MB"'
    server._controller.SMTP_kwargs["data_size_limit"] = 33_000_000
    async with daemon(database, server.port, tmp_path, top=top) as _:
        line = "x" * 70 + "\n"
        large = await enqueue(connection, "large@example.org", text_body=line * 200_000)
        over = await enqueue(connection, "over@example.org", text_body=line * 350_000)
        small = await enqueue(connection, "small@example.org")
        await settled(connection)
        assert await events(connection, large) == ["sent"]
        assert await events(connection, small) == ["sent"]
        assert await events(connection, over) == ["failed"]
        assert "size" in await connection.fetchval("SELECT class FROM mailerd.dead_letter")


async def test_unicode_local_part_to_a_server_without_smtputf8(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    server = Server()
    server._controller.SMTP_kwargs["enable_SMTPUTF8"] = False
    server.start()
    try:
        async with daemon(database, server.port, tmp_path) as _:
            id_ = await enqueue(connection, "jörg@exämple.org")
            idn = await enqueue(connection, "joerg@exämple.org")
            await settled(connection)
            assert await events(connection, id_) == ["failed"]
            assert "SMTPUTF8" in await connection.fetchval("SELECT reason FROM mailerd.dead_letter")
            assert await events(connection, idn) == ["sent"]
    finally:
        server.stop()


async def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path) as running:
        good = running.config.read_text()
        running.config.write_text(good.replace("The Shop", "The New Shop"))
        running.signal(signal.SIGHUP)
        await until(lambda: "configuration reloaded" in running.log.read_text(), "reloaded")
        running.config.write_text(good.replace('tls = "none"', 'tls = "nonsense"\ncolour = "red"'))
        running.signal(signal.SIGHUP)
        await until(lambda: "reload refused" in running.log.read_text(), "refused")
        assert await running.metric("mailerd_config_reload_success") == 0
        await enqueue(connection, "a@example.org")
        await until(lambda: server.taken, "accepted")
        assert await running.stop() == 0
        assert running.log.read_text().count("reload refused, the old configuration stays") == 2
    assert "The New Shop" in str(server.taken[0].message["From"])
