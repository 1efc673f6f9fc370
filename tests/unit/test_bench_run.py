"""`mailerd bench` as a whole, small: real daemons, real Postgres, real sink; figures, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest

FIELDS = {
    "messages",
    "seconds",
    "messages_per_second",
    "latency_ms",
    "cpu_us_per_message",
    "peak_rss_mb",
    "lost",
    "duplicates",
    "synchronous_commit",
    "instances",
    "versions",
}


def bench(database: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mailerd", "bench", "--database", database, *arguments],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


async def schemas(database: str) -> list[str]:
    connection = await asyncpg.connect(database)
    rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mailerd_bench%'")
    await connection.close()
    return [row[0] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (("--messages", "400", "--instances", "2", "--streams", "2"), 400),
        (("--messages", "300", "--rate", "600", "--tls", "--dkim", "--size", "20k", "--content", "inline"), 300),
        (("--scenario", "backlog", "--messages", "300", "--backlog", "8k", "--paused", "200"), 300),
        (("--scenario", "latency", "--messages", "20", "--interval", "10"), 20),
        (("--scenario", "latency", "--messages", "20", "--interval", "10", "--wake", "poll"), 20),
        (("--scenario", "isolation", "--messages", "10", "--backlog", "5k"), None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_scenarios(database: str, tmp_path: Path, arguments: tuple[str, ...], messages: int | None) -> None:
    html = tmp_path / "page.html"
    done = bench(database, tmp_path, *arguments, "--json", "--html", str(html))
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told.keys() >= FIELDS
    assert (told["lost"], told["duplicates"]) == (0, 0)
    if messages is not None:
        assert told["messages"] == messages
    if "backlog" in arguments:
        assert told["waiting"] > 4000
        assert told["latency_ms"] is None
    else:
        assert 0 <= told["latency_ms"]["p50"] <= told["latency_ms"]["p99"] <= told["latency_ms"]["max"]
    assert told["cpu_us_per_message"].keys() == {"mailerd", "postgres", "sink"}
    if "--instances" in arguments:
        assert {"compose", "smtp"} & told["stages_us_per_message"].keys()
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert await schemas(database) == []
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


async def test_faults_lose_nothing(database: str, tmp_path: Path) -> None:
    done = bench(database, tmp_path, "--messages", "400", "--faults", "20", "--json", "--seed", "3")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["lost"], told["duplicates"], told["waiting"]) == (0, 0, 0)
    assert told["refused"] > 0
    assert told["messages"] - told["resent_in_doubt"] + told["refused"] == 400
    assert told["resent_in_doubt"] > 0


async def test_deadline_leaves_nothing(database: str, tmp_path: Path) -> None:
    late = bench(database, tmp_path, "--messages", "300", "--latency", "3000", "--connections", "1", "--deadline", "1")
    assert late.returncode == 1
    assert "of 300 messages were accepted within 1 s" in late.stderr
    assert await schemas(database) == []
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing(database: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mailerd", "bench", "--database", database, "--messages", "200000"]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not asyncio.run(schemas(database)):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert asyncio.run(schemas(database)) == []
    assert list(tmp_path.iterdir()) == []


def test_unreachable_database_is_one_line(tmp_path: Path) -> None:
    done = bench("postgresql://nobody@127.0.0.1:1/x", tmp_path)
    assert done.returncode == 69
    assert "cannot reach Postgres" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
