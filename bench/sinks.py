"""How fast the sink is by itself, beside Postfix's smtp-sink: it must never be what limits a load test.

Drives each with Debian's smtp-source (no PIPELINING: four round trips a message) and with blast.py (one), and prints
messages a second and the sink's own CPU time a message. Needs Debian's `postfix` package.

    python bench/sinks.py [--messages 100000]
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from mailerd.bench.child import Child, mailerd  # noqa: E402
from mailerd.bench.meter import Meter  # noqa: E402
from mailerd.bench.port import free_port  # noqa: E402


@contextlib.contextmanager
def ours(folder: Path, *arguments: str) -> Iterator[tuple[int, int]]:
    """`mailerd sink`: port and process."""
    log = folder / "ours.log"
    log.unlink(missing_ok=True)
    sink = Child("sink", mailerd("sink", "--listen", "127.0.0.1:0", *arguments), log)
    try:
        sink.wait_until(lambda: "listening on" in sink.words())
        yield int(sink.words().split(";")[0].rpartition(":")[2]), sink.pid
    finally:
        sink.stop()


@contextlib.contextmanager
def postfixs(folder: Path) -> Iterator[tuple[int, int]]:
    """`smtp-sink`: port and process."""
    port = free_port()
    sink = Child("smtp-sink", ["smtp-sink", "-u", "nobody", f"127.0.0.1:{port}", "2000"], folder / "smtp-sink.log")
    try:
        time.sleep(0.3)
        sink.check()
        yield port, sink.pid
    finally:
        sink.stop()


def drive(port: int, pid: int, command: list[str], messages: int) -> tuple[float, float]:
    """Messages a second, and microseconds of the sink's CPU time each."""
    meter = Meter()
    meter.watch("sink", pid)
    before = meter.sample(0)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
    after = meter.sample(messages)
    return messages / (after.at - before.at), (after.cpu["sink"] - before.cpu["sink"]) * 1e6 / messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=4096)
    options = parser.parse_args()
    if shutil.which("smtp-source") is None:
        raise SystemExit("smtp-source is missing: apt-get install postfix")
    count, size = options.messages, options.size

    def smtp_source(sessions: int, port: int) -> list[str]:
        return [
            *("smtp-source", "-d", "-s", str(sessions), "-m", str(count), "-l", str(size)),
            *("-f", "a@example.org", "-t", "b@example.net", f"127.0.0.1:{port}"),
        ]

    def blast(port: int) -> list[str]:
        command = [sys.executable, str(HERE / "blast.py"), f"127.0.0.1:{port}", "--connections", "20"]
        return [*command, "--messages", str(count), "--size", str(size)]

    print("| sink | smtp-source -s 20 | smtp-source -s 100 | pipelining, 20 connections |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sinks = {
            "mailerd sink, 1 process": lambda: ours(folder),
            "the same, with ledger": lambda: ours(folder, "--record", str(folder / "ledgers")),
            "mailerd sink, 2 processes": lambda: ours(folder, "--processes", "2"),
            "smtp-sink": lambda: postfixs(folder),
        }
        for words, start in sinks.items():
            cells = []
            with start() as (port, pid):
                for command in (smtp_source(20, port), smtp_source(100, port), blast(port)):
                    rate, cpu = drive(port, pid, command, count)
                    cells.append(f"{rate:,.0f}/s, {cpu:.1f} µs")
            print(f"| {words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
