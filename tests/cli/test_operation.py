"""`migrate`, `status`, `pause` and `resume` against a real database."""

from __future__ import annotations

import asyncio
import re
import secrets
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from mailerd.bench.postgres import binaries
from mailerd.store.control import pause
from mailerd.store.database import Session
from mailerd.store.instances import ProviderState, beat
from mailerd.store.migrate import SCHEMA_VERSION
from mailerd.store.upkeep import gauge
from tests.cli.commands import Commands
from tests.store.rows import STREAM, fill, take

Connection = asyncpg.Connection


async def test_migrate_makes_the_schema_once(commands: Commands, connection: Connection) -> None:
    await connection.execute("DROP SCHEMA mailerd CASCADE")
    lines = (await commands("migrate")).stdout.splitlines()
    assert lines[0] == "applied 0001 outbox"
    assert lines[-1] == f"schema mailerd is now at version {SCHEMA_VERSION}"
    assert (await commands("migrate")).stdout == f"schema mailerd is already at version {SCHEMA_VERSION}\n"
    assert (await commands.json("migrate"))["applied"] == []


async def test_migrate_into_a_schema_of_another_name(database: str, tmp_path: Path, connection: Connection) -> None:
    await connection.execute("DROP SCHEMA mailerd CASCADE")
    commands = Commands(database, tmp_path, 'schema = "post"')
    await commands("migrate")
    message = int((await commands("send", "ann@example.org", "--text", "x")).stdout)
    assert "no_instance" in (await commands("explain", message)).stdout
    assert (await commands("cancel", message)).stdout == f"{message}: cancelled\n"
    await commands("pause", "stream:transactional")
    assert (await commands.json("status", "--exact"))["paused"][0]["name"] == "transactional"
    assert await connection.fetchval("SELECT to_regnamespace('mailerd') IS NULL")


async def test_what_migrate_prints_is_the_schema(commands: Commands, database: str, connection: Connection) -> None:
    script = (await commands("migrate", "--print")).stdout
    await connection.execute("DROP SCHEMA mailerd CASCADE")
    psql = binaries() / "psql"
    if psql.exists():
        words = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", database]
        done = await asyncio.to_thread(subprocess.run, words, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        await connection.execute(script)
    assert (await commands("migrate")).stdout == f"schema mailerd is already at version {SCHEMA_VERSION}\n"


async def test_status_of_an_empty_database(commands: Commands) -> None:
    out = (await commands("status")).stdout
    assert "streams, never counted" in out
    assert "none is running: start one with `mailerd run`" in out
    assert re.search(r"partitions made ahead: outbox \d+ days, event \d+ days", out)


async def test_status_shows_what_was_counted_and_what_is(
    commands: Commands, session: Session, connection: Connection
) -> None:
    await fill(connection, 30, domains=3)
    await take(session, 5)
    await connection.execute("INSERT INTO mailerd.stream (name) VALUES ('quiet')")
    await gauge(session)
    states = [ProviderState("relay", "open", 120.0, "421 busy", 2), ProviderState("backup", "closed", None, "", 3)]
    await beat(session, 7, "mail-7", [STREAM], "running", states)
    await beat(session, 8, "mail-8", [STREAM], "running", [ProviderState("relay", "closed", None, "", 4)])
    await beat(session, 9, "mail-9", [STREAM], "running", [])
    await connection.execute("UPDATE mailerd.instance SET seen_at = now() - interval '1 minute' WHERE id = 9")
    await pause(session, "domain", "d1.example", "ann@ops1", "they asked")
    await fill(connection, 10)

    told = await commands.json("status")
    streams = {s["name"]: s for s in told["streams"]}
    assert (streams[STREAM]["ready"], streams[STREAM]["leased"]) == (25, 5), "as counted, before the last ten"
    assert streams[STREAM]["live"] is True
    assert streams["quiet"]["live"] is False
    providers = {p["name"]: (p["state"], p["connections"], p["reason"]) for p in told["providers"]}
    assert providers == {"relay": ("open", 6, "421 busy"), "backup": ("closed", 3, "")}, (
        "the worst state, all connections"
    )
    assert [(i["name"], i["live"]) for i in told["instances"]] == [
        ("mail-7", True),
        ("mail-8", True),
        ("mail-9", False),
    ]
    assert told["paused"][0]["reason"] == "they asked"
    assert [(lane["domain"], lane["messages"]) for lane in told["lanes"]] == [
        ("d0.example", 20), ("d1.example", 10), ("d2.example", 10)
    ]  # fmt: skip
    assert [p["ok"] for p in told["partitions"]] == [True, True]

    exact = {s["name"]: s for s in (await commands.json("status", "--exact"))["streams"]}
    assert (exact[STREAM]["ready"], exact[STREAM]["leased"]) == (35, 5)
    out = (await commands("status")).stdout
    for words in ("mail-9    gone", "domain:d1.example", "421 busy", "no instance"):
        assert words in out, out


async def test_status_counts_every_state(commands: Commands, connection: Connection) -> None:
    tomorrow = await connection.fetchval("SELECT now() + interval '1 day'")
    await fill(connection, 2, send_at=tomorrow)
    await fill(connection, 3)
    await connection.execute("""
        UPDATE mailerd.scheduled SET deferred = true WHERE id = (SELECT min(id) FROM mailerd.scheduled);
        INSERT INTO mailerd.in_doubt (message_id, stream, priority, domain) VALUES (1, 'marketing', 5, 'x');
        INSERT INTO mailerd.dead_letter (message_id, stream, priority, domain, reason) VALUES (1, 'marketing', 5, 'x', 'y')""")
    (stream,) = (await commands.json("status", "--exact"))["streams"]
    counts = {name: stream[name] for name in ("ready", "leased", "scheduled", "deferred", "in_doubt", "dead")}
    assert counts == {"ready": 3, "leased": 0, "scheduled": 1, "deferred": 1, "in_doubt": 1, "dead": 1}


async def test_status_warns_of_missing_partitions(commands: Commands, connection: Connection) -> None:
    tomorrow = await connection.fetchval("SELECT to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD')")
    await connection.execute(f"DROP TABLE mailerd.event_{tomorrow}")
    result = await commands("status")
    assert "warning: event has no partition for tomorrow" in result.stderr
    assert "event 0 days" in result.stdout


async def test_long_lanes_are_estimated_from_a_bounded_sample(session: Session, connection: Connection) -> None:
    from mailerd.store import overview

    await fill(connection, 60_000, domains=2)
    await connection.execute("DELETE FROM mailerd.ready WHERE domain = 'd1.example' AND id % 2 = 0")
    whole = await overview.overview(session, lanes=2)
    assert not whole.sampled
    exact = {lane.domain: lane.messages for lane in whole.lanes}
    assert exact["d0.example"] == 30_000
    pages, overview._SAMPLE_PAGES = overview._SAMPLE_PAGES, 200  # type: ignore[misc]
    try:
        sampled = await overview.overview(session, lanes=2)
    finally:
        overview._SAMPLE_PAGES = pages  # type: ignore[misc]
    assert sampled.sampled
    for lane in sampled.lanes:
        assert lane.messages == pytest.approx(exact[lane.domain], rel=0.5)


async def test_pause_and_resume_say_what_they_did(commands: Commands, connection: Connection) -> None:
    await connection.execute("INSERT INTO mailerd.stream (name) VALUES ('marketing')")
    assert (await commands("pause", "stream:marketing", "--reason", "x")).stdout == "stream:marketing paused\n"
    assert (await commands("pause", "stream:marketing")).stdout == "stream:marketing already paused\n"
    assert (await commands("pause", "domain:Example.ORG.")).stdout == "domain:example.org paused\n"
    assert (await commands.json("pause", "campaign:spring sale"))["changed"] is True
    assert (await commands("resume", "stream:marketing")).stdout == "stream:marketing resumed\n"
    result = await commands("resume", "stream:marketing", code=1)
    assert result.stderr == "mailerd: stream:marketing was not paused: `mailerd status` lists what is\n"
    actor = await connection.fetchval("SELECT actor FROM mailerd.audit LIMIT 1")
    assert "@" in actor, "who it was, not which database user"


async def test_pausing_what_nobody_knows_warns(commands: Commands, session: Session) -> None:
    await beat(session, 7, "mail-7", [STREAM], "running", [ProviderState("relay", "closed", None, "", 0)])
    result = await commands("pause", "provider:rely")
    assert result.stderr == "mailerd: warning: no instance lists provider rely; did you mean relay?\n"
    assert result.stdout == "provider:rely paused\n"
    assert (await commands("pause", "provider:relay")).stderr == ""


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("marketing", "is not KIND:NAME"),
        ("steam:marketing", "did you mean stream:?"),
        ("stream:", "has no name behind the colon"),
        ("domain:ann@example.org", "is no domain"),
        ("campaign:a\nb", "has no name behind the colon"),
    ],
)
async def test_a_target_that_cannot_be_meant(tmp_path: Path, target: str, words: str) -> None:
    commands = Commands("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
    result = await commands("pause", target, code=2)
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


async def test_an_operators_database_user_without_rights_gets_one_line(
    database: str, tmp_path: Path, connection: Connection
) -> None:
    user = f"t_{secrets.token_hex(6)}"
    await connection.execute(f"CREATE ROLE {user} LOGIN")
    parts = urlsplit(database)
    try:
        result = await Commands(f"postgresql://{user}@{parts.hostname}:{parts.port}{parts.path}", tmp_path)(
            "status", code=78
        )
    finally:
        await connection.execute(f"DROP ROLE {user}")
    assert result.stderr.startswith("mailerd: permission denied for schema mailerd")
    assert result.stderr.count("\n") == 1
