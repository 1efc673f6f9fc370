"""`mailerd events tail`, `mailerd webhook` and `mailerd status --rates` as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import asyncpg

from mailerd.config.outgoing import Webhook
from mailerd.store import rates, webhooks
from mailerd.store.database import Session
from tests.cli.commands import Commands
from tests.daemon.harness import until

WRITE = (
    "INSERT INTO mailerd.event (message_id, type, recipient, stream, provider, code, enhanced_code, class, detail) "
    "VALUES (7, $1, 'a@b.example', 'marketing', 'relay', 550, '5.1.1', 'recipient', E'no such\\nuser')"
)


async def test_the_last_events(commands: Commands, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await connection.execute(WRITE, "sent")
    await connection.execute(WRITE, "bounced")
    lines = (await commands("events", "tail")).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["sent", "bounced"]
    assert lines[1].endswith("7  a@b.example  marketing/relay  recipient  550 5.1.1 no such\\nuser")
    found = await commands("events", "tail", "--filter", "type=bounced,complained", "--json")
    (event,) = map(json.loads, found.stdout.splitlines())
    assert (event["type"], event["class"], event["message_id"], "campaign" in event) == (
        "bounced",
        "recipient",
        7,
        False,
    )
    wrong = await commands("events", "tail", "--filter", "type=bunced", code=2)
    assert "there is no event type 'bunced'" in wrong.stderr


async def test_following_shows_what_happens_and_leaves_nothing_behind(
    database: str, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    config = tmp_path / "mailerd.toml"
    config.write_text(f'[database]\nurl = "{database}"\n')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mailerd", "--config", str(config), "events", "tail", "-f", "--json", "--filter", "type=sent",
        stdout=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    try:
        await until(lambda: connection.fetchval("SELECT count(*) FROM mailerd.subscriber"), "subscribed")
        await connection.execute(WRITE, "bounced")
        await connection.execute(WRITE, "sent")
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 10)
        assert json.loads(line)["type"] == "sent"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert not await connection.fetchval(
        "SELECT (SELECT count(*) FROM mailerd.subscriber) + (SELECT count(*) FROM mailerd.notice)"
    )


async def test_webhooks_are_listed_disabled_enabled_and_replayed(
    database: str, connection: asyncpg.Connection[asyncpg.Record], session: Session, tmp_path: Path
) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    text = f'[[webhook]]\nname = "shop"\nurl = "http://127.0.0.1:1/"\nsecret = "{secret}"\nallow_private = true\n'
    commands = Commands(database, tmp_path, text)
    await webhooks.publish(session, [Webhook(name="shop", url="http://127.0.0.1:1/", secret=(secret,))])
    await connection.execute(WRITE, "sent")
    (listed,) = await commands.json("webhook", "list")
    assert (listed["name"], listed["waiting"]) == ("shop", 1)
    assert "shop  ok" in (await commands("webhook", "list")).stdout
    await commands("webhook", "disable", "shop", "--reason", "moving")
    assert "moving" in (await commands("webhook", "list")).stdout
    assert "was disabled already" in (await commands("webhook", "disable", "shop", code=1)).stderr
    await commands("webhook", "enable", "shop")
    assert "1 events" in (await commands("webhook", "replay", "shop", "--since", "1h")).stdout
    assert "did you mean shop?" in (await commands("webhook", "enable", "shp", code=1)).stderr
    assert "no connection" in (await commands("webhook", "test", "shop", code=1)).stderr
    actions = await connection.fetch("SELECT action FROM mailerd.audit ORDER BY id")
    assert [row[0] for row in actions] == ["webhook disable", "webhook enable", "webhook replay"]


async def test_rates_are_shown(
    commands: Commands, connection: asyncpg.Connection[asyncpg.Record], session: Session
) -> None:
    for type_ in ("sent", "sent", "sent", "bounced"):
        await connection.execute(WRITE, type_)
    await rates.add_up(session, lambda _: "gmail")
    await rates.gauge(session)
    found = await commands.json("status", "--rates")
    day = next(row for row in found["rates"] if (row["hours"], row["by"]) == (24, "group"))
    assert (day["name"], day["bounced"], day["bounces"]) == ("gmail", 1 / 3, {"recipient": 1})
    text = (await commands("status", "--rates")).stdout
    assert "the last 24 hours" in text
    assert "marketing     3  100.0%   0.0%   33.3%   0.0%  0.0%   0.0%   0.0%" in text
    assert "no such mailbox or domain" in text
    assert "the last 7 days" in (await commands("status", "--rates", "7d")).stdout
    await connection.execute(
        "INSERT INTO mailerd.alert VALUES ('marketing', 'complaints', 'pause', now(), 0.004, 8, 2000)"
    )
    assert (
        "stream marketing: complaints are 0.40% of a day's mail: 8 of 2000, so it was paused"
        in (await commands("status")).stdout
    )
