"""`send`, `explain` and `cancel` against a real database."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from mailerd.store.database import Session
from mailerd.store.instances import ProviderState, beat
from mailerd.store.settle import settle
from tests.cli.commands import Commands
from tests.store.rows import STREAM, done, fill, take

Connection = asyncpg.Connection


async def test_send_prints_the_id_of_a_row_with_what_was_given(commands: Commands, connection: Connection) -> None:
    result = await commands(
        "send", "Ann <ann@example.org>", "--subject", "Hällo", "--text", "hi", "--html", "<p>hi</p>", "--cc", "b@x.example",
        "--cc", "c@x.example", "--bcc", "d@x.example", "--reply-to", "r@x.example", "--from", "main", "--stream", "news",
        "--priority", 2, "--campaign", "spring sale", "--tag", "a", "--tag", "b", "--header", "X-A=1=2", "--metadata", '{"m": 1}',
        "--dedup-key", "k", "--thread-key", "t", "--locale", "pt-BR", "--expires-at", "2d",
    )  # fmt: skip
    message = int(result.stdout)
    row = await connection.fetchrow("SELECT * FROM mailerd.outbox WHERE id = $1", message)
    expected = {
        "recipient": "Ann <ann@example.org>", "subject": "Hällo", "text_body": "hi", "html_body": "<p>hi</p>",
        "cc": ["b@x.example", "c@x.example"], "bcc": ["d@x.example"], "reply_to": "r@x.example", "sender": "main",
        "stream": "news", "priority": 2, "campaign": "spring sale", "tags": ["a", "b"], "dedup_key": "k", "thread_key": "t",
        "locale": "pt-BR",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert json.loads(row["headers"]) == {"X-A": "1=2"}
    assert json.loads(row["metadata"]) == {"m": 1}
    assert 172700 < (row["expires_at"] - row["created_at"]).total_seconds() < 172900
    again = await commands("send", "ann@example.org", "--text", "hi", "--dedup-key", "k", "--stream", "news")
    assert int(again.stdout) == message, "the id that already has this key"


async def test_send_a_template_later(commands: Commands, connection: Connection) -> None:
    sent = await commands.json(
        "send", "ann@example.org", "--template", "welcome", "--params", '{"name": "Ann"}', "--send-at", "1h"
    )
    row = await connection.fetchrow("SELECT template, params, send_at - now() AS wait FROM mailerd.outbox")
    assert row["template"] == "welcome"
    assert json.loads(row["params"]) == {"name": "Ann"}
    assert 3500 < row["wait"].total_seconds() <= 3600
    assert await connection.fetchval("SELECT id FROM mailerd.scheduled") == sent["id"]


REFUSED = [
    (("ann", "--text", "x"), "mailerd: recipient: not a mailbox such as ann@example.org\n"),
    (("ann@example.org",), "mailerd: content: none of template, raw, text_body, html_body\n"),
    (
        ("ann@example.org", "--text", "x", "--cc", "b"),
        "mailerd: cc: an element is not a mailbox such as ann@example.org\n",
    ),
    (
        ("ann@example.org", "--text", "x", "--stream", "a b"),
        "mailerd: stream: empty, too long, or not a plain name\n",
    ),
    (
        ("ann@example.org", "--text", "x", "--subject", "a\nb"),
        "mailerd: subject: has a line break, or longer than 4000\n",
    ),
]


async def test_what_the_outbox_refuses_is_one_line(commands: Commands) -> None:
    for arguments, line in REFUSED:
        assert (await commands("send", *arguments, code=1)).stderr == line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--params", "{"), "--params: no JSON"),
        (("--params", "[1]"), "--params: must be a JSON object"),
        (("--header", "X-A"), "'X-A' is not NAME=VALUE"),
        (("--send-at", "someday"), "'someday' is no time"),
        (("--priority", "11"), "11 is not in the range"),
    ],
)
async def test_what_cannot_be_meant_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    commands = Commands("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)
    result = await commands("send", "ann@example.org", "--text", "x", *arguments, code=2)
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


async def test_wait_follows_a_message_to_its_end(commands: Commands, session: Session, connection: Connection) -> None:
    sending = asyncio.create_task(commands("send", "u1@d0.example", "--text", "x", "--stream", STREAM, "--wait", 20))
    while not (jobs := await take(session)):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.15)
    await settle(session, STREAM, [done(jobs[0])])
    lines = (await sending).stdout.splitlines()
    assert lines[0] == str(jobs[0].id)
    assert "leased" in lines
    assert lines[-1] == "sent  by relay  250 2.0.0 ok"


async def test_wait_says_by_its_exit_status_how_it_ended(commands: Commands, connection: Connection) -> None:
    result = await commands("send", "ann@example.org", "--text", "x", "--wait", "0.1", code=75)
    message = int(result.stdout.splitlines()[0])
    assert result.stderr == f"mailerd: {message}: ready after 0.1 s: `mailerd explain {message}`\n"

    async def refuse() -> None:
        while not await connection.fetchval("SELECT id FROM mailerd.ready WHERE stream = 'refused'"):
            await asyncio.sleep(0.02)
        await connection.execute(
            "WITH g AS (DELETE FROM mailerd.ready WHERE stream = 'refused' RETURNING id) INSERT INTO mailerd.event "
            "(message_id, type, code, detail) SELECT id, 'rejected', 550, 'no such user' FROM g"
        )

    refusing = asyncio.create_task(refuse())
    answer = await commands.json(
        "send", "ann@example.org", "--text", "x", "--stream", "refused", "--wait", "20", code=1
    )
    await refusing
    assert (answer["status"], answer["last_reply"]) == ("rejected", "550 no such user")


async def test_explain_tells_the_gate_until_when_and_what_releases_it(
    commands: Commands, session: Session, connection: Connection
) -> None:
    await beat(session, 7, "mail-7", [STREAM], "running", [ProviderState("relay", "closed", None, "", 1)])
    (message,) = await fill(connection, 1, subject="Hello", campaign="spring sale")
    assert "waits at    queue: next in its lane" in (await commands("explain", message)).stdout
    await commands("pause", "campaign:spring sale", "--reason", "they asked")
    lines = (await commands("explain", message)).stdout.splitlines()
    assert lines[0] == f"message     {message}  ready"
    assert "subject     Hello" in lines
    gate = next(line for line in lines if line.startswith("waits at"))
    assert gate.startswith("waits at    campaign_paused: campaign spring sale was paused by ")
    assert gate.endswith(": they asked")
    assert "to release  mailerd resume 'campaign:spring sale'" in lines
    told = await commands.json("explain", message)
    assert told["gates"][0]["name"] == "campaign_paused"
    assert told["message"]["subject"] == "Hello"


async def test_explain_prints_events_without_their_control_characters(
    commands: Commands, session: Session, connection: Connection
) -> None:
    (message,) = await fill(connection, 1, subject="\x1b]0;owned\x07")
    (job,) = await take(session)
    await settle(session, STREAM, [done(job)])
    await connection.execute("UPDATE mailerd.event SET detail = E'ok\\x1b[2J\\nmailerd: fine'")
    result = await commands("explain", message)
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "250 2.0.0 ok\\x1b[2J\\nmailerd: fine" in result.stdout


async def test_explain_knows_the_streams_providers_from_the_configuration(
    database: str, tmp_path: Path, session: Session, connection: Connection
) -> None:
    """The instance has a second provider, but this stream does not use it."""
    text = "\n".join(
        [
            '[[provider]]\nname = "relay"', '[[provider]]\nname = "other"',
            '[[pool]]\nname = "p"\nproviders = ["relay"]', '[[pool]]\nname = "q"\nproviders = ["other"]',
            f'[[stream]]\nname = "{STREAM}"\npools = ["p"]', '[[identity]]\nname = "main"\nfrom = "a@x.example"',
        ]
    )  # fmt: skip
    commands = Commands(database, tmp_path, text)
    states = [ProviderState("relay", "open", 60, "421 busy", 0), ProviderState("other", "closed", None, "", 0)]
    await beat(session, 7, "mail-7", [STREAM], "running", states)
    (message,) = await fill(connection, 1)
    assert [g["name"] for g in (await commands.json("explain", message))["gates"]] == ["provider_down"]


async def test_explain_of_nothing(commands: Commands) -> None:
    result = await commands("explain", 42, code=1)
    assert result.stderr.startswith("mailerd: 42: there is no such message")
    await commands("explain", "abc", code=2)
    await commands("explain", 1 << 53, code=2)


async def test_cancel_says_of_each_other_one_why_not(
    commands: Commands, session: Session, connection: Connection
) -> None:
    sent, leased, waiting = await fill(connection, 3)
    (job,) = await take(session, 1)
    await settle(session, STREAM, [done(job)])
    await take(session, 1)
    result = await commands("cancel", sent, leased, waiting, waiting, 42, code=1)
    assert result.stdout == f"{waiting}: cancelled\n"
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"mailerd: {sent}: already sent at ")
    assert lines[1:] == [
        f"mailerd: {leased}: an instance is sending it at this moment",
        "mailerd: 42: there is no such message",
    ]
    assert (await commands.json("cancel", waiting, code=1))[0]["cancelled"] is False
    told = await commands("explain", waiting)
    assert "cancelled" in told.stdout
