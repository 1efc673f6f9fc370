"""Every trouble with the database is one line that says what to do, whichever command meets it."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.store.migrate import SCHEMA_VERSION
from tests.cli.commands import Commands

COMMANDS = [
    ("status",), ("status", "--json"), ("explain", "42"), ("send", "ann@example.org", "--text", "x"), ("cancel", "42"),
    ("pause", "stream:x"), ("resume", "stream:x"), ("dead", "list"), ("dead", "retry", "--all"), ("doubt", "list"),
    ("suppress", "list"), ("suppress", "add", "a@x.example"),
]  # fmt: skip


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    """A server that asks for a password."""
    with tempfile.TemporaryDirectory(prefix="mailerd-pg-") as folder, Postgres(Path(folder), durable=False) as postgres:
        hba = postgres.data / "pg_hba.conf"
        hba.write_text("host all ann 127.0.0.1/32 scram-sha-256\n" + hba.read_text())

        async def prepare() -> None:
            admin = await asyncpg.connect(postgres.url)
            await admin.execute("CREATE ROLE ann LOGIN PASSWORD 'right'")
            await admin.execute("SELECT pg_reload_conf()")
            await admin.close()

        asyncio.run(prepare())
        yield postgres


async def trouble(url: str, folder: Path, *arguments: str, code: int) -> str:
    """The one line that the command says."""
    result = await Commands(url, folder)(*arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("mailerd: ")
    return result.stderr.removeprefix("mailerd: ").rstrip("\n")


async def test_wrong_password(guarded: Postgres, tmp_path: Path) -> None:
    url = f"postgresql://ann:tops3cret@127.0.0.1:{guarded.port}/postgres"
    for arguments in [*COMMANDS, ("migrate",)]:
        line = await trouble(url, tmp_path, *arguments, code=69)
        assert line.startswith('password authentication failed for user "ann": check user and password in database.url')
        assert "tops3cret" not in line


async def test_no_such_database(guarded: Postgres, tmp_path: Path) -> None:
    line = await trouble(f"postgresql://postgres@127.0.0.1:{guarded.port}/nope", tmp_path, "status", code=69)
    assert line == 'database "nope" does not exist: create it with CREATE DATABASE, or correct database.url'


@pytest.mark.parametrize("arguments", COMMANDS)
async def test_no_schema(guarded: Postgres, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    line = await trouble(guarded.url, tmp_path, *arguments, code=78)
    assert line == "the database has no schema mailerd: run `mailerd migrate`"


async def test_a_newer_schema(database: str, tmp_path: Path, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE mailerd.schema_version SET version = 999, min_daemon = 999")
    await connection.execute(
        "INSERT INTO mailerd.schema_migration (version, name, checksum) VALUES (999, 'future', 'x')"
    )
    for arguments in (("status",), ("migrate",)):
        line = await trouble(database, tmp_path, *arguments, code=78)
        assert (
            line == f"the schema is version 999, newer than this mailerd's {SCHEMA_VERSION}: install the newer mailerd"
        )


async def test_an_older_schema(database: str, tmp_path: Path, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE mailerd.schema_version SET version = 1")
    line = await trouble(database, tmp_path, "status", code=78)
    assert line == f"the schema is version 1, this mailerd needs {SCHEMA_VERSION}: run `mailerd migrate`"


async def test_nobody_listens(tmp_path: Path) -> None:
    line = await trouble(f"postgresql://x@127.0.0.1:{free_port()}/x", tmp_path, "status", code=69)
    assert line.startswith("cannot reach Postgres: ")
    assert line.endswith("check host and port in database.url")


async def test_somebody_listens_and_says_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        line = await trouble(f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x", tmp_path, "status", code=69)
    assert line == "no answer from Postgres in time: check host, port and firewall in database.url"


async def test_a_url_that_is_none(tmp_path: Path) -> None:
    result = await Commands("mysql://x@127.0.0.1/x", tmp_path)("status", code=78)
    assert "database.url" in result.stderr
