"""What a new user gets when something is wrong at the start: one line that says what to do, and the right exit status."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from mailerd.bench.port import free_port
from tests.conftest import with_database
from tests.daemon.harness import daemon

Connection = asyncpg.Connection


async def fails(url: str, folder: Path, **parts: str) -> tuple[int, list[str]]:
    async with daemon(url, free_port(), folder, ready=False, **parts) as running:
        code = await running.ended()
        return code, running.log.read_text().splitlines()


async def test_schema_missing(postgres: str, tmp_path: Path) -> None:
    code, lines = await fails(postgres, tmp_path)
    assert (code, len(lines)) == (78, 1)
    assert "mailerd migrate" in lines[0]


async def test_schema_too_new_and_too_old(database: str, connection: Connection, tmp_path: Path) -> None:
    await connection.execute("UPDATE mailerd.schema_version SET version = 999, min_daemon = 999")
    code, lines = await fails(database, tmp_path)
    assert (code, len(lines)) == (78, 1)
    assert "999" in lines[0]
    assert "install" in lines[0]
    await connection.execute("UPDATE mailerd.schema_version SET version = 1, min_daemon = 1")
    code, lines = await fails(database, tmp_path)
    assert (code, len(lines)) == (78, 1)
    assert "mailerd migrate" in lines[0]


async def test_a_newer_schema_that_still_takes_this_daemon(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    await connection.execute("UPDATE mailerd.schema_version SET version = version + 1")
    async with daemon(database, free_port(), tmp_path) as running:
        assert await running.stop() == 0


async def test_database_missing(postgres: str, tmp_path: Path) -> None:
    code, lines = await fails(with_database(postgres, "nowhere"), tmp_path)
    assert (code, len(lines)) == (69, 1)
    assert "nowhere" in lines[0]
    assert "database.url" in lines[0]


async def test_unreachable(tmp_path: Path) -> None:
    code, lines = await fails(f"postgresql://postgres@127.0.0.1:{free_port()}/x", tmp_path)
    assert (code, len(lines)) == (69, 1)
    assert "database.url" in lines[0]


async def test_port_taken(database: str, tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with daemon(database, free_port(), tmp_path, ready=False) as running:
        running.process.kill()
        await running.process.wait()
        text = running.config.read_text().replace(f'listen = "127.0.0.1:{running.ops}"', f'listen = "127.0.0.1:{port}"')
    other = tmp_path / "taken.toml"
    other.write_text(text)
    import sys

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mailerd", "--config", str(other), "run", stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 69
    assert str(port) in err.decode()
    assert "ops.listen" in err.decode()
    server.close()


async def test_wrong_password(postgres: str, database: str, connection: Connection, tmp_path: Path) -> None:
    if await connection.fetchval("SELECT auth_method FROM pg_hba_file_rules WHERE type = 'host' LIMIT 1") == "trust":
        hba = Path(await connection.fetchval("SHOW hba_file"))
        text = hba.read_text()
        await connection.execute("CREATE ROLE mailerd_locked LOGIN PASSWORD 'right'")
        hba.write_text("host all mailerd_locked 127.0.0.1/32 scram-sha-256\n" + text)
        try:
            await connection.execute("SELECT pg_reload_conf()")
            await asyncio.sleep(0.1)
            parts = urlsplit(database)
            code, lines = await fails(
                f"postgresql://mailerd_locked:wrong@{parts.hostname}:{parts.port}{parts.path}", tmp_path
            )
        finally:
            hba.write_text(text)
            await connection.execute("SELECT pg_reload_conf()")
            await connection.execute("DROP ROLE mailerd_locked")
    else:
        pytest.skip("this server asks for passwords already")
    assert (code, len(lines)) == (69, 1)
    assert "password" in lines[0]
    assert "database.url" in lines[0]
