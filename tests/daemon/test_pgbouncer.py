"""The daemon behind PgBouncer in transaction mode, without prepared statements (PgBouncer 1.18 knows none)."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from mailerd.bench.port import free_port
from tests.daemon.harness import Server, daemon, enqueue, settled, until

Connection = asyncpg.Connection
pytestmark = pytest.mark.debian


@pytest.fixture
async def bouncer(database: str) -> AsyncIterator[str]:
    """The database's URL through PgBouncer with two server connections in all."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    parts = urlsplit(database)
    port = free_port()
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="mailerd-pgb-") as folder:
        config = Path(folder) / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = user=postgres host={parts.hostname} port={parts.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = transaction\n"
            "auth_type = any\ndefault_pool_size = 2\nmax_client_conn = 200\n"
        )
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        process = await asyncio.create_subprocess_exec(
            program, str(config), user=user, stderr=asyncio.subprocess.DEVNULL
        )

        async def accepts() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await until(accepts, "PgBouncer listens")
        yield urlunsplit(parts._replace(netloc=f"postgres@127.0.0.1:{port}"))
        process.terminate()
        await process.wait()


async def test_the_whole_path(bouncer: str, connection: Connection, server: Server, tmp_path: Path) -> None:
    async with daemon(bouncer + '"\nprepare = "off', server.port, tmp_path) as running:
        pids = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert 1 <= len(pids) <= 2
        for i in range(50):
            await enqueue(connection, f"u{i}@d{i % 7}.example", stream="marketing" if i % 2 else "transactional")
        later = await connection.fetchval(
            "INSERT INTO mailerd.outbox (recipient, sender, text_body, send_at) VALUES ('l@example.org', 'shop', 'x', now() + interval '300 ms') RETURNING id"
        )
        await until(lambda: len(server.taken) == 51, "all accepted")
        await settled(connection)
        assert await connection.fetchval("SELECT status FROM mailerd.status($1)", later) == "sent"
        assert await running.stop() == 0
