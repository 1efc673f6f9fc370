"""Rows that cannot be mail are refused at the INSERT, with a message that names the column and what is wrong with it."""

from __future__ import annotations

import json

import asyncpg
import pytest

Connection = asyncpg.Connection
GOOD: dict[str, object] = {"recipient": "ann@example.org", "text_body": "hello"}


async def insert(connection: Connection, **columns: object) -> int:
    row = {name: value for name, value in (GOOD | columns).items() if value is not ...}
    marks = ", ".join(f"${i + 1}" for i in range(len(row)))
    return await connection.fetchval(
        f"INSERT INTO mailerd.outbox ({', '.join(row)}) VALUES ({marks}) RETURNING id", *row.values()
    )


BAD: list[tuple[str, dict[str, object]]] = [
    ("recipient", {"recipient": ""}),
    ("recipient", {"recipient": "ann"}),
    ("recipient", {"recipient": "@example.org"}),
    ("recipient", {"recipient": "ann@"}),
    ("recipient", {"recipient": "ann@@example.org"}),
    ("recipient", {"recipient": "ann@one@two.org"}),
    ("recipient", {"recipient": "ann@example.org, bob@example.org"}),
    ("recipient", {"recipient": "ann bee@example.org"}),
    ("recipient", {"recipient": "Ann <ann@example.org"}),
    ("recipient", {"recipient": "Ann <ann@example.org>\r\nBcc: all@example.org"}),
    ("recipient", {"recipient": "ann@example.org\nRCPT TO:<x@y.z>"}),
    ("recipient", {"recipient": "ann\t@example.org"}),
    ("recipient", {"recipient": "a" * 990 + "@example.org"}),
    ("recipient", {"recipient": "ann@" + "x" * 254}),
    ("cc", {"cc": ["bob@example.org", "bob"]}),
    ("cc", {"cc": ["bob@example.org", None]}),
    ("cc", {"cc": ["bob@example.org\r\nX: y"]}),
    ("bcc", {"bcc": [""]}),
    ("cc, bcc", {"cc": ["b@example.org"] * 40, "bcc": ["b@example.org"] * 23}),
    ("reply_to", {"reply_to": "bob@example.org\nX-Evil: 1"}),
    ("sender", {"sender": "main\r\nX-Evil: 1"}),
    ("subject", {"subject": "hello\r\nBcc: all@example.org"}),
    ("subject", {"subject": "hello\nthere"}),
    ("subject", {"subject": "x" * 4001}),
    ("stream", {"stream": ""}),
    ("stream", {"stream": "no spaces"}),
    ("stream", {"stream": "x" * 64}),
    ("campaign", {"campaign": "a\nb"}),
    ("campaign", {"campaign": "ä" * 101}),
    ("priority", {"priority": 10}),
    ("priority", {"priority": -1}),
    ("dedup_key", {"dedup_key": ""}),
    ("dedup_key", {"dedup_key": "k" * 501}),
    ("thread_key", {"thread_key": "k" * 501}),
    ("template", {"template": "../../etc/passwd", "text_body": ...}),
    ("template", {"template": "a b", "text_body": ...}),
    ("locale", {"locale": "not a locale"}),
    ("params", {"params": json.dumps([1]), "template": "t", "text_body": ...}),
    ("params", {"params": json.dumps("x"), "template": "t", "text_body": ...}),
    ("headers", {"headers": json.dumps([["X-A", "b"]])}),
    ("metadata", {"metadata": json.dumps(1)}),
    ("attachments", {"attachments": json.dumps({"name": "x"})}),
    ("content", {"text_body": ...}),
    ("content", {"raw": b"Subject: x\r\n\r\nhello"}),
    ("content", {"template": "t"}),
    ("size", {"text_body": "x" * 26_214_401}),
]


async def test_a_bad_row_is_refused_in_words(connection: Connection) -> None:
    for column, columns in BAD:
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await insert(connection, **columns)
        name = refused.value.constraint_name
        assert name is not None
        assert name.startswith(f"{column}: "), (columns, name)
        assert len(name.encode()) < 64, "Postgres cuts longer names"
        assert name in str(refused.value)
    assert await connection.fetchval("SELECT count(*) FROM mailerd.ready") == 0


async def test_no_recipient_is_refused_by_name(connection: Connection) -> None:
    with pytest.raises(asyncpg.NotNullViolationError, match="recipient"):
        await insert(connection, recipient=None)


async def test_an_infinite_send_at_is_refused(connection: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="send_at: not between"):
        await connection.execute(
            "INSERT INTO mailerd.outbox (recipient, text_body, send_at) VALUES ('a@b.example', 'x', 'infinity')"
        )


async def test_good_mailboxes_are_taken_and_give_the_domain(connection: Connection) -> None:
    for recipient in (
        "ann@example.org",
        "Ann <ann@example.org>",
        '"Bee, Ann" <ann@example.org>',
        "Jörg Müller <jörg@müller.example>",
        "o'neill+tag@example.org",
        "ann@[192.0.2.1]",
        "ann@[IPv6:2001:db8::1]",
        "<ann@example.org>",
        "ANN@EXAMPLE.ORG.",
    ):
        message = await insert(connection, recipient=recipient)
        domain = await connection.fetchval("SELECT domain FROM mailerd.outbox WHERE id = $1", message)
        assert domain == recipient.rpartition("@")[2].rstrip(">").lower().rstrip(".")
        assert await connection.fetchval("SELECT domain FROM mailerd.ready WHERE id = $1", message) == domain


async def test_63_recipients_are_taken(connection: Connection) -> None:
    await insert(connection, cc=["b@example.org"] * 31, bcc=["c@example.org"] * 31)


async def test_null_means_the_default(connection: Connection) -> None:
    """Object-relational mappers send NULL for what nobody set."""
    columns = (
        "stream",
        "priority",
        "send_at",
        "expires_at",
        "dedup_key",
        "sender",
        "cc",
        "params",
        "campaign",
        "tags",
        "metadata",
    )
    message = await insert(connection, **dict.fromkeys(columns))
    row = await connection.fetchrow("SELECT * FROM mailerd.outbox WHERE id = $1", message)
    assert row["stream"] == "transactional"
    assert row["priority"] == 5
    assert row["send_at"] is not None
    assert await connection.fetchval("SELECT stream || priority || campaign FROM mailerd.ready") == "transactional5"


async def test_ids_are_ordered_by_time_and_fit_javascript(connection: Connection) -> None:
    ids = [await insert(connection) for _ in range(50)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 50
    assert max(ids) < 1 << 53
    age = await connection.fetchval("SELECT extract(epoch FROM now() - mailerd.id_time($1))", ids[0])
    assert -2 < age < 10


async def test_send_at_decides_between_ready_and_scheduled(connection: Connection) -> None:
    past = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, text_body, send_at) VALUES ('a@b.example', 'x', now() - interval '1 day') RETURNING id"
    )
    ahead = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, text_body, send_at) VALUES ('a@b.example', 'x', now() + interval '1 day') RETURNING id"
    )
    assert await connection.fetchval("SELECT id FROM mailerd.ready") == past
    assert await connection.fetchval("SELECT id FROM mailerd.scheduled WHERE NOT deferred") == ahead
