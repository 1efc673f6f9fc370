"""The demonstration: a whole installation in a temporary folder, as processes, for as long as the `with` block lasts.

An embedded Postgres, the schema, the SMTP sink and one daemon, on free ports, with three streams and a template each.
`SQL` is what an application would write. It prints nothing; `cli.demo` does.

Hazard: nothing of it is meant to last: the folder goes with the block, mail goes nowhere.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from mailerd.bench.child import Child, ChildFailed, mailerd, ready
from mailerd.bench.ending import undisturbed
from mailerd.bench.ledger import accepted, read
from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.bench.result import percentile
from mailerd.config.model import Database
from mailerd.store.database import Session
from mailerd.store.migrate import migrate

__all__ = ["SQL", "TRY_IT", "Demo", "StreamSummary", "shares"]

SQL: Final = {
    "transactional": """\
INSERT INTO mailerd.outbox (stream, recipient, template, params)
SELECT 'transactional', 'user' || n || '@example.org', 'password-reset',
       jsonb_build_object('name', 'Ann', 'token', md5(n::text))
FROM generate_series(1, {count}) AS n""",
    "notifications": """\
INSERT INTO mailerd.outbox (stream, recipient, template, params)
SELECT 'notifications', 'user' || n || '@example.net', 'reply',
       jsonb_build_object('author', 'Jonas', 'topic', 'Sourdough & rye',
         'number', n, 'words', 'Give it another hour. <Really> → worth it.')
FROM generate_series(1, {count}) AS n""",
    "marketing": """\
INSERT INTO mailerd.outbox (stream, priority, campaign, recipient, template, params)
SELECT 'marketing', 7, 'weekend', 'user' || n || '@d' || n % 20 || '.example', 'digest',
       jsonb_build_object('name', 'Zoë', 'city', 'Łódź', 'week', 'W48', 'titles',
         jsonb_build_array('A walk along the river', 'Soup for eight', 'The small cinema is back'))
FROM generate_series(1, {count}) AS n""",
}
"""What an application does, by stream; `{count}` rows each."""

TRY_IT: Final = """\
INSERT INTO mailerd.outbox (recipient, subject, text_body)
VALUES ('you@example.org', 'Hello', 'From psql, through the outbox, to the sink.') RETURNING id"""

_CONFIG: Final = """\
[database]
url = {url}

[ops]
listen = "127.0.0.1:{ops}"

[templates]
path = {templates}

[[identity]]
name = "main"
from = "mailerd demo <demo@mailerd.example>"

[[provider]]
name = "sink"
host = "127.0.0.1"
port = {port}
tls = "none"

[[stream]]
name = "transactional"

[[stream]]
name = "notifications"

[[stream]]
name = "marketing"
concurrency = 10
"""


class StreamSummary(msgspec.Struct):
    """What became of one stream's messages; milliseconds from commit to 250."""

    stream: str
    messages: int
    sent: int
    p50_ms: float
    p95_ms: float


def shares(messages: int) -> dict[str, int]:
    """How many messages each stream gets: 20, 30, and 50 %."""
    few, more = messages * 2 // 10, messages * 3 // 10
    return {"transactional": few, "notifications": more, "marketing": messages - few - more}


class Demo:
    """`with Demo() as demo:` gives an empty folder; then `start_…` in order, `enqueue`, `wait`, `summary`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailerd-demo-"))
        self.folder.chmod(0o755)  # root's Postgres runs as another user
        self.config = self.folder / "mailerd.toml"
        self.postgres: Postgres | None = None
        self.sink: Child | None = None
        self.daemon: Child | None = None
        self.sink_port = 0
        self.ops_url = ""
        self.committed: dict[int, float] = {}
        self._streams: dict[int, str] = {}

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with undisturbed():
            for child in filter(None, (self.daemon, self.sink)):
                child.stop(timeout=10.0)
            if self.postgres is not None:
                self.postgres.stop("immediate")
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        assert self.postgres is not None
        return self.postgres.url

    def _session(self) -> Session:
        return Session(Database(url=self.url), "mailerd:demo")

    # Up.

    async def start_postgres(self) -> str:
        """Returns the server's version."""
        self.postgres = Postgres(self.folder / "postgres", settings={"shared_buffers": "64MB"})
        self.postgres.start()
        async with self._session() as session:
            return str(await session.value("SELECT split_part(current_setting('server_version'), ' ', 1)"))

    async def migrate(self) -> int:
        """Returns how many migrations there were."""
        async with self._session() as session:
            return len(await migrate(session))

    def start_sink(self) -> None:
        ledgers = self.folder / "ledgers"
        command = mailerd("sink", "--listen", "127.0.0.1:0", "--record", str(ledgers))
        sink = self.sink = Child("the sink", command, self.folder / "sink.log")
        sink.wait_until(lambda: "listening on" in sink.words())
        self.sink_port = int(sink.words().split(";")[0].rpartition(":")[2])

    def start_daemon(self) -> None:
        ops = free_port()
        self.ops_url = f"http://127.0.0.1:{ops}/"
        templates = str(resources.files("mailerd.bench").joinpath("templates"))
        self.config.write_text(
            _CONFIG.format(url=json.dumps(self.url), ops=ops, port=self.sink_port, templates=json.dumps(templates))
        )
        self.daemon = Child("the daemon", mailerd("run", "--config", str(self.config)), self.folder / "daemon.log")
        self.daemon.wait_until(lambda: ready(ops))

    # The messages.

    async def enqueue(self, counts: dict[str, int]) -> None:
        """Runs `SQL`, a transaction each."""
        async with self._session() as session:
            for stream, count in counts.items():
                rows = await session.fetch(SQL[stream].format(count=count) + " RETURNING id")
                now = time.monotonic()
                for row in rows:
                    self.committed[row[0]] = now
                    self._streams[row[0]] = stream

    def accepted(self) -> int:
        """How many messages the sink has taken so far."""
        return accepted(self.folder / "ledgers")

    async def wait(self, timeout: float = 60.0) -> None:
        """Until the sink has every message and the database says so. Raises `ChildFailed` with the reason otherwise."""
        deadline = time.monotonic() + timeout
        async with self._session() as session:
            while True:
                for child in filter(None, (self.daemon, self.sink)):
                    child.check()
                if self.accepted() >= len(self.committed):
                    left = await session.value(
                        "SELECT (SELECT count(*) FROM mailerd.ready) + (SELECT count(*) FROM mailerd.scheduled)"
                    )
                    if not left:
                        return
                if time.monotonic() > deadline:
                    words = [self.daemon.words() if self.daemon else ""]
                    words += [
                        f"{row['type']}: {row['detail']}"
                        for row in await session.fetch(
                            "SELECT type, detail FROM mailerd.event WHERE type <> 'sent' ORDER BY id DESC LIMIT 3"
                        )
                    ]
                    reason = "; ".join(filter(None, words)) or "the daemon says nothing"
                    raise ChildFailed(
                        f"{self.accepted()} of {len(self.committed)} messages were sent within {timeout:.0f} s: {reason}"
                    )
                await asyncio.sleep(0.02)

    async def summary(self) -> list[StreamSummary]:
        """What `message_status` and the sink's ledger say, by stream."""
        taken: dict[str, list[float]] = {stream: [] for stream in SQL}
        for message_id, at, _ in read(self.folder / "ledgers"):
            if message_id in self.committed:
                late = max(0.0, at - self.committed[message_id]) * 1000
                taken[self._streams[message_id]].append(late)
        async with self._session() as session:
            rows = await session.fetch(
                """SELECT stream, count(*) AS messages, count(*) FILTER (WHERE status = 'sent') AS sent
                   FROM mailerd.message_status GROUP BY stream"""
            )
        counted = {row["stream"]: row for row in rows}
        lines = []
        for stream, latencies in taken.items():
            row = counted.get(stream)
            if row is None or not latencies:
                continue
            ordered = sorted(latencies)
            p50, p95 = percentile(ordered, 0.5), percentile(ordered, 0.95)
            lines.append(StreamSummary(stream, row["messages"], row["sent"], round(p50, 1), round(p95, 1)))
        return lines

    def seconds(self) -> float:
        """From the first commit to the last acceptance."""
        last = max(
            (at for message_id, at, _ in read(self.folder / "ledgers") if message_id in self.committed), default=0
        )
        return max(0.0, last - min(self.committed.values(), default=last))
