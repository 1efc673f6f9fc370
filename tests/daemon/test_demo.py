"""`mailerd demo` as a stranger runs it, and what becomes of it when it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from mailerd.bench.demo import SQL, TRY_IT, shares

COMMAND = [sys.executable, "-m", "mailerd", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Its temporary files go where we can count them. Not below pytest's folder: another user must be able to enter."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        with contextlib.suppress(PermissionError):
            if parent.stat().st_mode & 0o077 == 0:
                parent.chmod(0o755)
    return {**os.environ, "TMPDIR": str(tmp_path), "NO_COLOR": "1"}


def left_behind(folder: Path) -> tuple[list[str], list[str]]:
    """Files in the folder, and processes whose command line names it."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes()
            if str(folder).encode() in line:
                processes.append(line.decode(errors="replace"))
    return [path.name for path in folder.iterdir() if path.name.startswith("mailerd-demo")], processes


def test_shares_add_up() -> None:
    assert shares(1000) == {"transactional": 200, "notifications": 300, "marketing": 500}
    assert sum(shares(17).values()) == 17
    assert shares(1000).keys() == SQL.keys()


def test_demo(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--messages", "200"], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "INSERT INTO mailerd.outbox" in done.stdout
    rows = dict(re.findall(r"^\s*(transactional|notifications|marketing)\s+\d+\s+(\d+)", done.stdout, re.MULTILINE))
    assert rows == {"transactional": "40", "notifications": "60", "marketing": "100"}
    assert re.search(r"200 messages in [\d.]+ s", done.stdout)
    assert left_behind(tmp_path) == ([], [])


@contextlib.contextmanager
def kept(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`demo --keep`, once it stays; and what it has printed."""
    command = [*COMMAND, "--keep", "--messages", "30"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if "RETURNING id" in line:
                    break
            else:
                assert process.stderr is not None
                pytest.fail(f"it did not stay up:\n{said}\n{process.stderr.read()}")
            yield process, said
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def test_keep_is_what_it_says(environment: dict[str, str], tmp_path: Path) -> None:
    with kept(environment) as (process, said):
        url = re.search(r"postgresql://\S+", said)
        ops = re.search(r"status page\s+(http://\S+)\n", said)
        assert url
        assert ops
        with urllib.request.urlopen(ops[1], timeout=10) as answer:
            assert b"mailerd" in answer.read()
        assert asyncio.run(_sent(url[0])) == "sent"
        assert process.stdout is not None
        assert any("1 more message sent" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert left_behind(tmp_path) == ([], [])


async def _sent(url: str) -> str:
    """Does what the demo says, and returns what becomes of the message."""
    connection = await asyncpg.connect(url)
    try:
        message_id = await connection.fetchval(TRY_IT)
        async with asyncio.timeout(20):
            while (status := await connection.fetchval("SELECT status FROM mailerd.status($1)", message_id)) != "sent":
                await asyncio.sleep(0.02)
        return str(status)
    finally:
        await connection.close()


@pytest.mark.parametrize("after", [0.8, 2.0])
def test_interrupted_at_any_time(environment: dict[str, str], tmp_path: Path, after: float) -> None:
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        time.sleep(after)  # wherever it is then
        process.send_signal(signal.SIGTERM)
        # Before Python is so far as to listen to signals, there is nothing that could be left behind.
        assert process.wait(30) in (0, 130, -signal.SIGTERM)
    assert left_behind(tmp_path) == ([], [])


def test_signals_do_not_interrupt_the_clean_up(environment: dict[str, str], tmp_path: Path) -> None:
    with kept(environment) as (process, _):
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert process.poll() in (0, 130, -signal.SIGTERM)  # the last: when all was done
    assert left_behind(tmp_path) == ([], [])


def test_a_provider_that_dies_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    with kept(environment) as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("needs Linux")
        for child in children.read_text().split():
            if b"\0sink\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert "the sink ended" in process.stderr.read()
    assert left_behind(tmp_path) == ([], [])
