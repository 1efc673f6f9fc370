"""`inbound` as an operator uses it."""

from __future__ import annotations

import asyncpg

from mailerd.intake.worker import Worker
from mailerd.store import inbound as store
from mailerd.store.database import Session
from tests.cli.commands import Commands
from tests.intake.mails import AWAY, dsn
from tests.intake.rig import PATHS, Applied, config

Connection = asyncpg.Connection


async def test_list_show_and_replay(
    commands: Commands, connection: Connection, session: Session, database: str
) -> None:
    message = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, text_body) VALUES ('ann@there.example', 'x') RETURNING id"
    )
    bounce = dsn("ann@there.example", diagnostic="550 5.1.1 no such\x1b[31m user")
    for number, raw in enumerate((bounce, AWAY)):
        to = (PATHS.encode(message),) if number == 0 else ()
        mail = store.Arrived(
            source="listen", raw=raw, size=len(raw), hashed=bytes([number]), sender="", recipients=to, peer="192.0.2.1"
        )
        await store.keep(session, [mail])
    assert "waits" in (await commands("inbound", "list")).stdout
    await Worker(config(database), lambda source, kind: None, Applied()).work()
    out = (await commands("inbound", "list")).stdout
    assert "auto_reply" in out
    assert "ann@there.example" in out
    assert "\x1b" not in out
    (listed,) = await commands.json("inbound", "list", "--message", message)
    assert (listed["kind"], listed["matched_by"], listed["hardness"]) == ("bounce", "return_path", "hard")
    assert [row["kind"] for row in await commands.json("inbound", "list", "--unmatched")] == ["auto_reply"]
    shown = (await commands("inbound", "show", listed["id"])).stdout
    for words in (str(message), "192.0.2.1", "return path", "no such", "mx.relay.example", "ann@there.example"):
        assert words in shown
    assert (await commands.json("inbound", "show", listed["id"]))["report"]["results"][0]["status"] == "5.1.1"
    assert (await commands("inbound", "show", listed["id"], "--raw")).stdout.startswith("From: Mail Delivery System")
    assert "no such mail" in (await commands("inbound", "show", 999, code=1)).stderr
    result = await commands("inbound", "replay", listed["id"], 999, code=1)
    assert result.stdout == "1 will be read again\n"
    assert result.stderr == "mailerd: 999: no such mail\n"
    assert await connection.fetchval("SELECT count(*) FROM mailerd.inbound_mail WHERE next_at IS NOT NULL") == 1
    assert await connection.fetchval("SELECT action FROM mailerd.audit") == "inbound.replay"
