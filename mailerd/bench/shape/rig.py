"""The rig of a flow-control run: Postgres, sinks that keep ledgers, real instances with a configuration of the scenario's,
and a trickle of urgent messages beside the bulk.

Everything is measured from outside: when a sink accepted what (its ledger, on the machine's monotonic clock), and what
the database says of it afterwards. Processes are ours and are gone afterwards. Loopback only.

Hazard: on a machine that is busy with other things, starts are slow and windows uneven; the scenarios say so by failing.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

import asyncpg

from mailerd.bench import ledger
from mailerd.bench.chaos.instance import Instance
from mailerd.bench.child import Child, mailerd
from mailerd.bench.ending import undisturbed
from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.config.model import Database
from mailerd.store.database import Session
from mailerd.store.migrate import migrate

__all__ = ["BULK_DOMAIN", "NothingSent", "Rig", "Times"]

BULK_DOMAIN = "bulk.example"
TRICKLE = 20.0  # urgent messages a second
_BULK = """
INSERT INTO mailerd.outbox (stream, recipient, campaign, subject, text_body)
SELECT 'marketing', 'u' || g || '@' || $2, $3 || (g % $4), 'News', repeat('Lorem ipsum dolor sit amet. ', 40)
FROM generate_series(1, $1::bigint) g
"""


class NothingSent(Exception):
    """No sink accepted anything; the text says of what."""


class Times:
    """Instants of acceptance, sorted."""

    def __init__(self, instants: list[float]) -> None:
        self.all = sorted(instants)

    def first(self, after: float = 0.0) -> float:
        """The first one after that instant. Raises `NothingSent`."""
        at = bisect.bisect_right(self.all, after)
        if at == len(self.all):
            raise NothingSent("nothing was accepted: the instances are too slow to start here, or something is broken")
        return self.all[at]

    def between(self, begin: float, end: float) -> int:
        return bisect.bisect_left(self.all, end) - bisect.bisect_left(self.all, begin)

    def windows(self, begin: float, end: float, width: float, step: float) -> list[int]:
        """How many there are in each window of `width` seconds that lies wholly between the two."""
        found = []
        while begin + width <= end:
            found.append(self.between(begin, begin + width))
            begin += step
        return found


class Rig:
    """`async with Rig() as rig:`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailerd-shape-"))
        self.folder.chmod(0o755)  # root's Postgres runs as another user
        self.postgres = Postgres(self.folder / "postgres")
        self.sinks: dict[str, tuple[Child, int, Path]] = {}
        self.instances: list[Instance] = []
        self.waits: list[float] = []  # of the urgent messages, once `urgent` has ended
        self._session: Session | None = None
        self._sent: dict[int, float] = {}  # urgent: id to the instant of its commit

    async def __aenter__(self) -> Rig:
        await asyncio.to_thread(self.postgres.start)
        await migrate(self.session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with undisturbed():
            for instance in self.instances:
                instance.discard()
            for child, _, _ in self.sinks.values():
                child.stop(timeout=3.0)
            if self._session is not None:
                await self._session.close()
            await asyncio.to_thread(self.postgres.stop, "immediate")
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = Session(Database(url=self.postgres.url, statement_timeout=600.0), "mailerd:shape")  # type: ignore[arg-type]
        return self._session

    # -- up ------------------------------------------------------------------------------------------------------------

    def sink(self, name: str, *, limit: float = 0.0) -> int:
        """Starts one; its port."""
        book = self.folder / f"ledger-{name}"
        book.mkdir()
        port = free_port()
        command = mailerd("sink", "--listen", f"127.0.0.1:{port}", "--record", str(book), "--limit", str(limit))
        child = Child(f"sink {name}", command, self.folder / f"sink-{name}.log")
        child.wait_until(lambda: "listening on" in child.words())
        self.sinks[name] = (child, port, book)
        return port

    def kill_sink(self, name: str) -> int:
        """All of its processes; its port, which nobody holds then."""
        child, port, _ = self.sinks[name]
        os.killpg(child.pid, signal.SIGKILL)  # a session of its own (`bench.child`)
        child.stop(signal.SIGKILL)
        return port

    async def bulk(self, rows: int, *, domain: str = BULK_DOMAIN, campaign: str = "c", campaigns: int = 1) -> None:
        """Inserts rows of the marketing stream."""
        if rows:
            await self.session.execute(_BULK, rows, domain, campaign, campaigns, timeout=600.0)
        if rows > 100_000:  # or autovacuum would do it while we measure
            await self.session.execute("VACUUM mailerd.ready", timeout=600.0)
            await self.session.execute("VACUUM mailerd.outbox", timeout=600.0)

    def configuration(self, number: int, ops: int, extra: str, provider: str) -> str:
        """The file of one instance: every sink is a provider; `provider` is added to each, `extra` to the file."""
        q = json.dumps  # a JSON string of ours is a TOML basic string
        providers = "\n".join(
            f'[[provider]]\nname = {q(name)}\nhost = "127.0.0.1"\nport = {port}\ntls = "none"\nconnections = 64\n'
            f"messages_per_connection = 0\n{provider}"
            for name, (_, port, _) in self.sinks.items()
        )
        return f"""\
[database]
url = {q(self.postgres.url)}
[instance]
name = "shape{number}"
[ops]
listen = "127.0.0.1:{ops}"
[log]
level = "warning"
[[identity]]
name = "shop"
from = "Oak & Wool <orders@shop.example>"
{providers}
{extra if "[[stream]]" in extra else "[[stream]]" + chr(10) + 'name = "transactional"' + chr(10) + "[[stream]]" + chr(10) + 'name = "marketing"' + chr(10) + extra}
"""

    async def settle_down(self) -> None:
        """What was inserted is on disk: or the checkpoint, and the system's own writing, would share the measured time."""
        await self.session.execute("CHECKPOINT", timeout=600.0)
        await asyncio.to_thread(os.sync)

    async def start(self, count: int, *, extra: str = "", provider: str = "") -> None:
        """Starts so many more instances, and waits until they are ready."""
        fresh = []
        for _ in range(count):
            number, ops = len(self.instances) + 1, free_port()
            config = self.folder / f"shape{number}.toml"
            config.write_text(self.configuration(number, ops, extra, provider))
            instance = Instance(number, config, ops, ())
            instance.launch()
            self.instances.append(instance)
            fresh.append(instance)
        for instance in fresh:
            await instance.until_ready(60.0)

    async def stop(self, count: int) -> None:
        """Stops so many of those that run, cleanly."""
        await asyncio.gather(*(instance.stop() for instance in self.running()[-count:]))

    def running(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.running]

    # -- meanwhile -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def urgent(self, pace: float = TRICKLE) -> AsyncIterator[None]:
        """Transactional messages, `pace` a second, while the block runs; `waits` has how long each took."""
        before = set(self._sent)
        task = asyncio.create_task(self._trickle(pace))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            at = {acceptance.id: acceptance.at for acceptance in self.accepted()}
            if self._sent.keys() <= at.keys():
                break
            await asyncio.sleep(0.2)
        self.waits = [
            at.get(id_, float("inf")) - committed for id_, committed in self._sent.items() if id_ not in before
        ]

    async def _trickle(self, pace: float) -> None:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self.postgres.url)
        try:
            number = 0
            while True:
                number += 1
                id_ = await connection.fetchval(
                    "SELECT mailerd.enqueue($1, subject => 'Your code', text_body => '123456')",
                    f"u{number}@d{number % 20}.urgent.example",
                )
                self._sent[id_] = time.monotonic()
                await asyncio.sleep(1.0 / pace)
        finally:
            connection.terminate()

    # -- what happened -------------------------------------------------------------------------------------------------

    def accepted(self, name: str = "") -> list[ledger.Acceptance]:
        """What a sink, or all, accepted so far (but for the last tenth of a second)."""
        books = [book for sink, (_, _, book) in self.sinks.items() if name in ("", sink)]
        return [acceptance for book in books for acceptance in ledger.read(book)]

    def bulk_times(self, name: str = "") -> Times:
        """The acceptances that were none of the urgent ones."""
        return Times([a.at for a in self.accepted(name) if a.id not in self._sent])

    @property
    def urgent_ids(self) -> set[int]:
        return set(self._sent)

    def urgent_p99(self) -> float:
        """Seconds."""
        return sorted(self.waits)[int(len(self.waits) * 0.99)] if self.waits else 0.0

    async def until(self, count: int, within: float) -> bool:
        """Waits until so many bulk messages were accepted."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if sum(ledger.accepted(book) for _, _, book in self.sinks.values()) - len(self._sent) >= count:
                return True
            await asyncio.sleep(0.1)
        return False
