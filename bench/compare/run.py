"""mailerd beside its peers: the same work on the same machine, alternating, several rounds, the median.

The work: a row (or job) per message is waiting in a Postgres with synchronous_commit on; each becomes 4 kB of HTML and
a text part from the same template and goes to the same SMTP sink, 200 domains, all on loopback. What is counted is
what the sink accepted, from the first message to the last. Postfix and smtp-source do less: they are handed finished
messages of the same size, and have no database.

    python bench/compare/run.py                        all, 3 rounds
    python bench/compare/run.py --rounds 5 --only mailerd,pgboss --postgres 15 --json out.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

from postfix import Postfix, missing  # noqa: E402

from mailerd.bench.child import Child, mailerd  # noqa: E402
from mailerd.bench.ledger import accepted, read  # noqa: E402
from mailerd.bench.meter import Meter  # noqa: E402
from mailerd.bench.port import free_port  # noqa: E402
from mailerd.bench.postgres import Postgres  # noqa: E402
from mailerd.bench.result import machine  # noqa: E402
from mailerd.bench.template import write_template  # noqa: E402

MESSAGE_SIZE = 5300  # octets of one composed message, for those that are handed finished ones
CONTENDERS = {
    # name: (messages a round, what it is)
    "mailerd": (60_000, "mailerd, one instance, 20 connections"),
    "mailerd2": (60_000, "mailerd, two instances, 20 connections in all"),
    "pgboss": (12_000, "pg-boss 10 + nodemailer, batches of 500 in two loops, 10 pooled connections"),
    "pgboss2": (12_000, "pg-boss 10 + nodemailer, two worker processes"),
    "usual": (4_000, "usual Python worker: row at a time, EmailMessage, 10 aiosmtplib connections, uvloop"),
    "usual2": (4_000, "usual Python worker, two processes"),
    "postfix": (4_000, "Postfix 3.7 as relay, fed by smtp-source, 50 connections out, messages finished"),
    "source": (60_000, "smtp-source straight into the sink, 20 sessions: no queue, no template"),
}


@dataclass
class Figure:
    """One contender's one round."""

    rate: float
    sender_us: float
    postgres_us: float
    sink_us: float


class Place:
    """The folder, the database and the template that all share."""

    def __init__(self, folder: Path, server: Postgres) -> None:
        self.folder = folder
        self.server = server
        self.templates = folder / "receipt"
        write_template(self.templates, 4096)
        self.rounds = 0

    @contextlib.contextmanager
    def sink(self) -> Iterator[tuple[int, Path, Child]]:
        """A fresh sink: port, ledgers, process."""
        self.rounds += 1
        ledgers = self.folder / f"ledgers{self.rounds}"
        command = mailerd("sink", "--listen", "127.0.0.1:0", "--record", str(ledgers))
        sink = Child("sink", command, self.folder / f"sink{self.rounds}.log")
        try:
            sink.wait_until(lambda: "listening on" in sink.words())
            yield int(sink.words().split(";")[0].rpartition(":")[2]), ledgers, sink
        finally:
            sink.stop()
            shutil.rmtree(ledgers, ignore_errors=True)

    def measure(self, count: int, start: Callable[[int], list[int]]) -> Figure:
        """Runs what `start(port)` starts (it returns process ids) until the sink has `count` messages."""
        with self.sink() as (port, ledgers, sink):
            meter = Meter()
            meter.watch("sink", sink.pid)
            if self.server.pid:
                meter.watch("postgres", self.server.pid)
            pids = start(port)
            meter.watch("sender", *pids)
            deadline = time.monotonic() + max(60, count / 50)
            while meter.sample(accepted(ledgers)).accepted < count:
                if time.monotonic() > deadline:
                    raise SystemExit(f"only {accepted(ledgers)} of {count} messages came")
                time.sleep(0.1)
            time.sleep(0.2)  # what is left to write is written
            meter.sample(count)
            times = sorted(entry.at for entry in read(ledgers))[:count]
        begin, end = times[0], times[-1]
        used = {g: (meter.cpu_at(g, end) - meter.cpu_at(g, begin)) * 1e6 / count for g in meter.samples[-1].cpu}
        return Figure(count / (end - begin), used["sender"], used.get("postgres", 0.0), used["sink"])


def run_mailerd(place: Place, count: int, instances: int) -> Figure:
    done = subprocess.run(
        mailerd(
            *("bench", "--json", "--messages", str(count), "--database", place.server.url),
            *("--instances", str(instances)),
        ),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"mailerd bench failed: {done.stderr}")
    told = json.loads(done.stdout)
    cpu = told["cpu_us_per_message"]
    return Figure(told["messages_per_second"], cpu["mailerd"], cpu["postgres"] or 0.0, cpu["sink"])


def checked(command: list[str], **more: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed: {done.stderr[-1000:]}")


def run_worker(place: Place, count: int, processes: int, fill: list[str], work: Callable[[int], list[str]]) -> Figure:
    """Worker processes that take their messages from the database."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
    checked(fill, env=environment)
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> list[int]:
        log = (place.folder / "worker.log").open("ab")
        started.extend(subprocess.Popen(work(port), stdout=log, stderr=log, env=environment) for _ in range(processes))
        return [process.pid for process in started]

    try:
        return place.measure(count, start)
    finally:
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()


def run_usual(place: Place, count: int, processes: int) -> Figure:
    command = [sys.executable, str(HERE / "usual.py")]
    common = ["--database", place.server.url, "--templates", str(place.templates)]
    return run_worker(
        place,
        count,
        processes,
        [*command, "fill", *common, "--messages", str(count)],
        lambda port: [*command, "work", *common, "--port", str(port)],
    )


def run_pgboss(place: Place, count: int, processes: int) -> Figure:
    command = ["node", str(HERE / "pgboss" / "worker.mjs")]
    return run_worker(
        place,
        count,
        processes,
        [*command, "fill", place.server.url, str(count)],
        lambda port: [*command, "work", place.server.url, str(port), str(place.templates)],
    )


def source(port: int, count: int, sessions: int) -> list[str]:
    """smtp-source over kept connections; it speaks no PIPELINING."""
    return [
        *("smtp-source", "-d", "-s", str(sessions), "-m", str(count), "-l", str(MESSAGE_SIZE)),
        *("-f", "bounces@shop.example", "-t", "user@d1.example", f"127.0.0.1:{port}"),
    ]


def run_source(place: Place, count: int) -> Figure:
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> list[int]:
        started.append(subprocess.Popen(source(port, count, 20)))
        return [started[0].pid]

    try:
        return place.measure(count, start)
    finally:
        for process in started:
            process.kill()
            process.wait()


def run_postfix(place: Place, count: int) -> Figure:
    relays: list[Postfix] = []
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> list[int]:
        relay = Postfix(place.folder / f"postfix{place.rounds}", free_port(), port)
        relays.append(relay)
        master = relay.start()
        started.append(subprocess.Popen(source(relay.port, count, 20)))
        return [master, started[0].pid]

    try:
        return place.measure(count, start)
    finally:
        for process in started:
            process.kill()
            process.wait()
        for relay in relays:
            relay.stop()
            shutil.rmtree(relay.folder, ignore_errors=True)


RUN: dict[str, Callable[[Place, int], Figure]] = {
    "mailerd": lambda place, count: run_mailerd(place, count, 1),
    "mailerd2": lambda place, count: run_mailerd(place, count, 2),
    "pgboss": lambda place, count: run_pgboss(place, count, 1),
    "pgboss2": lambda place, count: run_pgboss(place, count, 2),
    "usual": lambda place, count: run_usual(place, count, 1),
    "usual2": lambda place, count: run_usual(place, count, 2),
    "postfix": run_postfix,
    "source": run_source,
}


def prepare(names: list[str]) -> list[str]:
    """Installs what is missing; returns who can take part."""
    if "pgboss" in names and not (HERE / "pgboss" / "node_modules").exists():
        if shutil.which("npm") is None:
            print("pgboss: left out (npm is not installed)", file=sys.stderr)
            names = [name for name in names if name != "pgboss"]
        else:
            checked(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=HERE / "pgboss")
    reason = missing()
    if "postfix" in names and reason:
        print(f"postfix: left out ({reason})", file=sys.stderr)
        names = [name for name in names if name != "postfix"]
    if "source" in names and shutil.which("smtp-source") is None:
        print("source: left out (the package postfix is not installed)", file=sys.stderr)
        names = [name for name in names if name != "source"]
    return names


def table(figures: dict[str, list[Figure]]) -> str:
    """Markdown, medians over the rounds; ratios are mailerd's rate by the other's."""
    base = statistics.median(figure.rate for figure in figures["mailerd"]) if "mailerd" in figures else None
    lines = [
        "| sender | messages/s | rounds | mailerd is | CPU a message: sender | Postgres | sink |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name, all_rounds in figures.items():
        rate = statistics.median(figure.rate for figure in all_rounds)
        rounds = ", ".join(f"{figure.rate:,.0f}" for figure in all_rounds)
        ratio = "" if base is None or name == "mailerd" else f"{base / rate:.2f} ×"
        sender, postgres, sink = (
            statistics.median(getattr(figure, key) for figure in all_rounds)
            for key in ("sender_us", "postgres_us", "sink_us")
        )
        database = f"{postgres:,.0f} µs" if name not in ("postfix", "source") else "none"
        lines.append(
            f"| {CONTENDERS[name][1]} | {rate:,.0f} | {rounds} | {ratio} | {sender:,.0f} µs | {database} | {sink:,.0f} µs |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help=f"comma-separated, of: {', '.join(CONTENDERS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer messages a round")
    parser.add_argument("--postgres", type=int, choices=[15, 16, 18], help="version; default: the newest there is")
    parser.add_argument("--json", type=Path, help="write every round's figures there")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(CONTENDERS)
    if unknown := set(names) - CONTENDERS.keys():
        parser.error(f"unknown: {', '.join(unknown)}")
    names = prepare(names)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    figures: dict[str, list[Figure]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="mailerd-compare-") as folder:
        Path(folder).chmod(0o755)
        with Postgres(Path(folder) / "postgres", version=options.postgres) as server:
            place = Place(Path(folder), server)
            for number in range(1, options.rounds + 1):
                # Every other round backwards: none is always first, or always after the same other.
                for name in names if number % 2 else reversed(names):
                    count = max(200, int(CONTENDERS[name][0] * options.scale))
                    figure = RUN[name](place, count)
                    figures[name].append(figure)
                    print(f"round {number}: {name:9} {figure.rate:10,.0f} messages/s", file=sys.stderr, flush=True)
            version = (server.bin / "postgres").resolve()
            words = subprocess.run([version, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    facts = machine()
    print(
        f"{facts['cores']} cores ({facts['cpu']}), {words}, synchronous_commit on, {options.rounds} rounds, medians\n"
    )
    print(table(figures))
    if options.json:
        told = {name: [asdict(figure) for figure in rounds] for name, rounds in figures.items()}
        options.json.write_text(json.dumps({"machine": facts, "postgres": words, "rounds": told}, indent=2) + "\n")


if __name__ == "__main__":
    main()
