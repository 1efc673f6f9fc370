"""`privacy export` and `privacy erase`: all that is held about an address, and nothing of anybody else."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest

from mailerd.store import privacy
from mailerd.store.database import Session
from mailerd.store.gates import suppressed
from tests.cli.commands import Commands

Connection = asyncpg.Connection

SECRET = "a secret for tests only"
ANN, JOANN = "ann@x.example", "joann@x.example"
KEY = privacy.key(("new secret, not used", SECRET))
assert KEY is not None
HIDDEN = privacy.pseudonym(KEY, ANN)


@pytest.fixture
def commands(database: str, tmp_path: Path) -> Commands:
    return Commands(database, tmp_path, f'[public]\nsecret = ["another secret to sign", "{SECRET}"]\n')


async def message(connection: Connection, recipient: str, *, settled: bool = True, **columns: object) -> int:
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", ${i + 2}" for i in range(len(columns)))
    id_ = await connection.fetchval(
        f"INSERT INTO mailerd.outbox (recipient, subject, html_body, dedup_key{names}) VALUES ($1, 'Hello Ann', '<p>', 'k' || clock_timestamp(){values}) RETURNING id",
        recipient,
        *columns.values(),
    )
    if settled:
        await connection.execute("DELETE FROM mailerd.ready WHERE id = $1", id_)
        await connection.execute(
            "INSERT INTO mailerd.event (message_id, type, recipient, stream, detail, metadata) "
            "VALUES ($1, 'sent', $2, 'transactional', $3, '{\"ip\": \"192.0.2.1\", \"bot\": true}')",
            id_,
            recipient,
            f"250 <{JOANN if recipient == JOANN else 'Ann@X.example'}> ok",
        )
    return int(id_)


async def hold(connection: Connection, address: str) -> None:
    """A row about the address in each other table."""
    for sql in (
        "INSERT INTO mailerd.suppression (address, reason) VALUES ($1, 'complaint')",
        "INSERT INTO mailerd.engagement (address, opens) VALUES ($1, 1)",
        "INSERT INTO mailerd.soft_bounce (address, day, times) VALUES ($1, current_date, 1)",
        "INSERT INTO mailerd.audit (action, target, detail) VALUES ('suppress add', $1, 'x')",
        "INSERT INTO mailerd.inbox (provider, headers, body) VALUES ('p', '{}', convert_to('{\"to\":\"' || $1 || '\"}', 'UTF8'))",
        (
            "INSERT INTO mailerd.inbound_mail (source, digest, size, raw) "
            "VALUES ('listen', sha256($1::text::bytea), 9, convert_to('Subject: \u00e9' || E'\\r\\n\\r\\nto <' || $1 || '>', 'UTF8'))"
        ),
        (
            "INSERT INTO mailerd.dead_letter (message_id, stream, priority, domain, recipient, reason) "
            "VALUES (length($1), 'transactional', 5, 'x.example', $1, '550')"
        ),
    ):
        await connection.execute(sql, address)


TABLES = ("outbox", "event", "dead_letter", "suppression", "engagement", "soft_bounce", "inbound_mail", "inbox", "audit", "dedup_0", "dedup_1")  # fmt: skip


async def everything(connection: Connection) -> dict[str, str]:
    return {
        table: str(await connection.fetchval(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM mailerd.{table} t"))
        for table in TABLES
    }


async def test_export_tells_what_is_held_and_nothing_of_others(commands: Commands, connection: Connection) -> None:
    first = await message(connection, "Ann <Ann@X.example>")
    copied = await message(connection, "bob@y.example", cc=["A <ann@x.example>"], settled=False)
    await message(connection, JOANN)
    await hold(connection, ANN)
    await hold(connection, JOANN)
    told = (await commands("privacy", "export", "ANN@x.example")).stdout
    found = json.loads(told)
    assert found.pop("address") == ANN
    assert {row["id"] for row in found.pop("outbox")} == {first, copied}
    assert {name: len(rows) for name, rows in found.items() if rows} == dict.fromkeys(
        ("events", "dead_letters", "suppression", "engagement", "soft_bounces", "inbound_mail", "webhooks_in", "audit"),
        1,
    )
    assert JOANN not in told


async def test_erase_leaves_a_pseudonym_and_everybody_else(
    commands: Commands, connection: Connection, session: Session
) -> None:
    await message(connection, JOANN)
    await hold(connection, JOANN)
    before = await everything(connection)
    await message(connection, "Ann <Ann@X.example>")
    copied = await message(connection, "bob@y.example", cc=["A <ann@x.example>", "c@z.example"])
    unsent = await message(connection, ANN, settled=False)
    await hold(connection, ANN)
    erased = await commands.json("privacy", "erase", ANN, "--yes")
    assert erased == {
        "pseudonym": HIDDEN, "cancelled": 1, "messages": 3, "events": 2, "dead_letters": 1, "suppression": 1, "engagement": 1,
        "soft_bounces": 1, "inbound_mail": 1, "held": []
    }  # fmt: skip
    after = await everything(connection)
    for table in TABLES:
        assert ANN not in after[table].lower().replace(JOANN, ""), table
        assert JOANN in after[table] or JOANN not in before[table], table
    assert await connection.fetchval("SELECT array_agg(convert_from(body, 'UTF8')) FROM mailerd.inbox") == [
        f'{{"to":"{JOANN}"}}'
    ]
    kept = await connection.fetch(
        "SELECT detail, metadata FROM mailerd.event WHERE recipient = $1 AND type = 'sent'", HIDDEN
    )
    assert [tuple(row) for row in kept] == [(f"250 <{HIDDEN}> ok", '{"bot": true}')]
    assert await connection.fetchval("SELECT type FROM mailerd.event WHERE message_id = $1", unsent) == "cancelled"
    row = await connection.fetchrow("SELECT * FROM mailerd.outbox WHERE id = $1", copied)
    assert row is not None
    assert (row["recipient"], row["cc"][1]) == ("bob@y.example", "c@z.example")
    assert (row["subject"], row["text_body"], row["html_body"]) == (None, "", None)
    assert await suppressed(session, "any", [ANN, "free@x.example"], KEY) == {ANN: "complaint"}
    assert await suppressed(session, "any", [ANN]) == {}
    again = await commands.json("privacy", "erase", ANN, "--yes")
    assert again["messages"] == again["events"] == again["suppression"] == 0
    assert '"reason": "complaint"' in (await commands("privacy", "export", ANN)).stdout


async def test_what_is_being_sent_is_left_and_said(commands: Commands, connection: Connection) -> None:
    id_ = await message(connection, ANN, settled=False)
    await connection.execute("UPDATE mailerd.ready SET leases = 1, lease_until = now() + interval '1 minute'")
    result = await commands("privacy", "erase", ANN, "--yes", code=1)
    assert result.stderr == f"mailerd: still being sent or in doubt, repeat this later: {id_}\n"
    assert await connection.fetchval("SELECT recipient FROM mailerd.outbox") == ANN


async def test_it_needs_a_secret_an_address_and_a_yes(database: str, tmp_path: Path, commands: Commands) -> None:
    assert "address" in (await commands("privacy", "erase", "nobody", "--yes", code=2)).stderr
    await commands("privacy", "erase", ANN, code=130, stdin="n\n")
    bare = Commands(database, tmp_path)
    assert "needs [public] secret" in (await bare("privacy", "erase", ANN, "--yes", code=78)).stderr
