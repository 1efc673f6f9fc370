"""`dead`, `doubt` and `suppress` as an operator uses them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import asyncpg

from tests.cli.commands import Commands
from tests.store.rows import STREAM, fill

Connection = asyncpg.Connection


async def dead(
    connection: Connection, count: int = 1, reason: str = "550 5.1.1 no such user", klass: str = "recipient"
) -> list[int]:
    """Messages in the dead-letter queue."""
    ids = await fill(connection, count)
    await connection.execute(
        "WITH g AS (DELETE FROM mailerd.ready WHERE id = ANY ($1) RETURNING *) "
        "INSERT INTO mailerd.dead_letter (message_id, stream, priority, domain, rcpt, attempts, recipient, reason, class, provider, detail) "
        "SELECT g.id, g.stream, g.priority, g.domain, 1, 3, o.recipient, $2, $3, 'relay', $2 FROM g JOIN mailerd.outbox o USING (id)",
        ids,
        reason,
        klass,
    )
    return ids


async def test_list_and_show(commands: Commands, connection: Connection) -> None:
    (message,) = await dead(connection)
    await dead(connection, 3, "554 5.7.1 spam", "spam")
    out = (await commands("dead", "list", "--class", "recipient")).stdout
    assert f"{message}" in out
    assert "550 5.1.1 no such user" in out
    assert "spam" not in out
    listed = await commands.json("dead", "list", "--reason", "SPAM", "--since", "1h", "--stream", STREAM)
    assert [d["class"] for d in listed] == ["spam"] * 3
    result = await commands("dead", "list", "--limit", 2)
    assert result.stderr == "mailerd: 2 of 4 shown: --limit shows more\n"
    shown = (await commands("dead", "show", message)).stdout
    for words in ("u1@d0.example", "550 5.1.1 no such user", "relay", "kept"):
        assert words in shown
    assert (await commands.json("dead", "show", message))["payload"] is True
    assert (await commands("dead", "show", 42, code=1)).stderr == "mailerd: 42: not in the dead-letter queue\n"


async def test_retry_by_id_by_filter_and_what_cannot(commands: Commands, connection: Connection) -> None:
    first, second, gone = await dead(connection, 3)
    await connection.execute("DELETE FROM mailerd.outbox WHERE id = $1", gone)
    assert (await commands("dead", "retry", first)).stdout == "1 queued again\n"
    result = await commands("dead", "retry", gone, 42, code=1)
    assert result.stdout == "0 queued again\n"
    assert result.stderr.splitlines() == [
        f"mailerd: {gone}: its payload is gone: send it anew",
        "mailerd: 42: not in the dead-letter queue",
    ]
    answer = await commands.json("dead", "retry", "--reason", "no such user", code=1)
    assert answer == {"done": 1, "refused": [{"id": gone, "done": False, "words": "its payload is gone: send it anew"}]}
    assert {r[0] for r in await connection.fetch("SELECT id FROM mailerd.ready")} == {first, second}
    told = (await commands("explain", first)).stdout
    assert "dead retry" in told
    assert "550 5.1.1 no such user" in told


async def test_nothing_is_retried_or_dropped_without_being_named(commands: Commands, connection: Connection) -> None:
    await dead(connection, 2)
    assert "say --all" in (await commands("dead", "retry", code=2)).stderr
    assert "say --all" in (await commands("dead", "drop", "--yes", code=2)).stderr
    assert "needs --yes" in (await commands("dead", "drop", "--all", code=2)).stderr
    assert await connection.fetchval("SELECT count(*) FROM mailerd.dead_letter") == 2
    assert (await commands("dead", "drop", "--stream", STREAM, "--limit", 1, "--yes")).stdout == "1 dropped\n"
    assert (await commands("dead", "retry", "--all")).stdout == "1 queued again\n"
    assert (await commands("dead", "retry", "--all")).stdout == "0 queued again\n"


async def test_many_refusals_are_summed_up(commands: Commands, connection: Connection) -> None:
    await dead(connection, 50)
    await connection.execute("DELETE FROM mailerd.outbox")
    lines = (await commands("dead", "retry", "--all", code=1)).stderr.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "mailerd: and 30 more"


async def test_doubt(commands: Commands, connection: Connection) -> None:
    first, second = await fill(connection, 2)
    await connection.execute(
        "WITH g AS (DELETE FROM mailerd.ready RETURNING *) INSERT INTO mailerd.in_doubt "
        "(message_id, stream, priority, domain, rcpt, provider, detail) SELECT id, stream, priority, domain, 1, 'relay', 'lost' FROM g"
    )
    assert {d["message_id"] for d in await commands.json("doubt", "list")} == {first, second}
    assert "u1@d0.example" in (await commands("doubt", "list")).stdout
    assert f"to release  mailerd doubt resend {first}" in (await commands("explain", first)).stdout
    assert (await commands("doubt", "resend", first)).stdout == f"{first}: queued again\n"
    assert (await commands("doubt", "settle", second, "--as", "sent")).stdout == f"{second}: settled as sent\n"
    assert (await commands("doubt", "resend", second, code=1)).stderr == f"mailerd: {second}: not in doubt\n"
    await commands("doubt", "settle", second, code=2)
    assert await connection.fetchval("SELECT id FROM mailerd.ready") == first


async def test_suppress_takes_addresses_as_people_write_them(commands: Commands, connection: Connection) -> None:
    out = (
        await commands("suppress", "add", "Ann <ANN@Example.org>", "jörg@München.example", "--reason", "asked")
    ).stdout
    assert out == "2 added, 0 renewed\n"
    rows = await connection.fetch("SELECT address, stream, reason, source FROM mailerd.suppression ORDER BY address")
    assert [tuple(r) for r in rows] == [
        ("ann@example.org", "", "asked", "command"),
        ("jörg@xn--mnchen-3ya.example", "", "asked", "command"),
    ]
    assert (
        await commands("suppress", "add", "ann@example.org", "--stream", "news", "--until", "30d")
    ).stdout.startswith("1 added")
    assert len(await commands.json("suppress", "list", "--match", "ann@")) == 2
    assert "news" in (await commands("suppress", "list", "--stream", "news")).stdout
    result = await commands("suppress", "remove", "ANN@example.org", "bob@example.org", code=1)
    assert sorted(result.stdout.splitlines()) == [
        "ann@example.org: removed from all streams", "ann@example.org: removed from news"
    ]  # fmt: skip
    assert result.stderr == "mailerd: bob@example.org: is not suppressed\n"
    assert "no @ in the address" in (await commands("suppress", "add", "ann", code=2)).stderr
    actions = [r[0] for r in await connection.fetch("SELECT action FROM mailerd.audit ORDER BY id")]
    assert actions == ["suppress add"] * 3 + ["suppress remove"] * 2


LISTS: list[tuple[str, set[tuple[str, str, str]]]] = [
    ("a@x.example\nB@x.example\n", {("a@x.example", "", "import"), ("b@x.example", "", "import")}),
    ("a@x.example,news,complaint,\n", {("a@x.example", "news", "complaint")}),
    (
        "reason,Address\ncomplaint,a@x.example\n,b@x.example\n",
        {("a@x.example", "", "complaint"), ("b@x.example", "", "import")},
    ),
    ('\ufeffemail\r\n"Ann <a@x.example>"\r\n\r\n', {("a@x.example", "", "import")}),
    ("", set()),
]


async def test_import_reads_the_usual_shapes(commands: Commands, connection: Connection, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    for text, rows in LISTS:
        await connection.execute("TRUNCATE mailerd.suppression")
        file.write_bytes(text.encode())
        answer = await commands.json("suppress", "import", file)
        assert (answer["new"], answer["refused"]) == (len(rows), []), text
        found = await connection.fetch("SELECT address, stream, reason, source FROM mailerd.suppression")
        assert {(r[0], r[1], r[2]) for r in found} == rows
        assert {r[3] for r in found} <= {"import list.csv"}


async def test_import_names_faulty_lines_and_takes_the_rest(commands: Commands, connection: Connection) -> None:
    text = "address,until\na@x.example,\nnot an address,\nb@x.example,tomorrow\nc@x.example,2099-01-01\n\x00\n"
    result = await commands("suppress", "import", "-", code=1, stdin=text)
    assert result.stdout == "2 read, 2 new\n", result.output
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["line 3", "line 4", "line 6"], lines
    assert "until: 'tomorrow' is no time" in lines[1]
    assert (
        await connection.fetchval("SELECT until::date::text FROM mailerd.suppression WHERE address = 'c@x.example'")
        == "2099-01-01"
    )


async def test_a_providers_list_moves_here(commands: Commands, connection: Connection, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("EmailAddress,SuppressionReason,Origin,CreatedAt\nAnn@X.example,SpamComplaint,Recipient,now\n")
    await commands("suppress", "import", file, "--stream", "news")
    rows = await connection.fetch("SELECT address, stream, reason, source FROM mailerd.suppression")
    assert [tuple(row) for row in rows] == [("ann@x.example", "news", "complaint", "import list.csv (postmark)")]
    file.write_text("Name,Why\nann@x.example,spam\n")
    assert "line 1: no column is called address" in (await commands("suppress", "import", file, code=1)).stderr


async def test_a_list_comes_back_as_it_went(commands: Commands, connection: Connection, tmp_path: Path) -> None:
    await connection.execute(
        "INSERT INTO mailerd.suppression (address, stream, reason, until) SELECT 'u' || i || '@x.example', 'news', "
        "'said \"no, never\"', '2099-01-01T00:00:00Z' FROM generate_series(1, 12000) i"
    )
    out = (await commands("suppress", "export")).stdout
    assert out.count("\n") == 12001
    await connection.execute("DELETE FROM mailerd.suppression")
    file = tmp_path / "out.csv"
    file.write_text(out)
    assert (await commands.json("suppress", "import", file))["new"] == 12000
    again = (await commands("suppress", "export")).stdout
    columns = [[row[:4] for row in csv.reader(io.StringIO(text))] for text in (out, again)]
    assert columns[0] == columns[1]
    assert await connection.fetchval("SELECT count(DISTINCT (reason, until, stream)) FROM mailerd.suppression") == 1
