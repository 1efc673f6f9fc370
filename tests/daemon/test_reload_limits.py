"""Limits that change while the daemon runs: by HUP, and across restarts and instances."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import asyncpg

from tests.daemon.harness import Server, daemon, until

Connection = asyncpg.Connection
_BULK = (
    "INSERT INTO mailerd.outbox (stream, recipient, sender, text_body) "
    "SELECT 'marketing', 'b' || g || '@bulk.example', 'shop', 'x' FROM generate_series(1, $1::int) g"
)


async def test_a_reload_changes_a_rate(database: str, connection: Connection, server: Server, tmp_path: Path) -> None:
    async with daemon(database, server.port, tmp_path, provider='rate = "2/s"') as running:
        await connection.execute(_BULK, 300)
        await until(lambda: len(server.taken) >= 3, "it flows slowly")
        assert len(server.taken) < 20
        running.config.write_text(running.config.read_text().replace('"2/s"', '"500/s"'))
        running.signal(signal.SIGHUP)
        await until(lambda: len(server.taken) == 300, "and fast after the reload")


async def test_two_instances_keep_one_rate(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with (
        daemon(database, server.port, tmp_path, provider='rate = "50/s"') as one,
        daemon(database, server.port, tmp_path, provider='rate = "50/s"') as two,
    ):
        await connection.execute(_BULK, 400)
        await until(lambda: len(server.taken) >= 50, "it flows")
        begin, before = time.monotonic(), len(server.taken)
        await until(lambda: len(server.taken) >= before + 150, "and goes on")
        passed = time.monotonic() - begin
        assert passed >= 150 / 50 - 1.0  # never more than the rate and one second of it
        assert one.process.returncode is None
        assert two.process.returncode is None
