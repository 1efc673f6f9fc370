"""The stage of a chaos run: Postgres, sink, instances and an application, as processes, all ours, and gone afterwards.

A scenario breaks things here and notes what it broke (`fault`); the stage then waits until everything has ended
(`quiet`), stops what runs, and collects the facts. Nothing is simulated: the daemons are `mailerd run`, the
signals, the closed sockets and the stopped servers are real.

Hazard: the sink must outlive the run, as its ledgers are a witness; scenarios that need a failing provider put
a proxy before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import shutil
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType

import asyncpg

from mailerd.bench.chaos.facts import Facts, Fault, collect
from mailerd.bench.chaos.instance import Instance
from mailerd.bench.chaos.plan import HOLDING, Knobs, configuration
from mailerd.bench.chaos.proxy import Proxy
from mailerd.bench.chaos.traffic import Traffic
from mailerd.bench.child import Child, ChildFailed, mailerd
from mailerd.bench.ending import undisturbed
from mailerd.bench.ledger import accepted
from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.config.model import Database
from mailerd.store.database import Session, Unavailable
from mailerd.store.migrate import migrate

__all__ = ["Overdue", "Stage"]


# A lease's token begins with the instance's id.
_BUSIEST = """
SELECT i.name FROM mailerd.ready r JOIN mailerd.instance i ON i.id = r.lease_token >> 32
WHERE r.lease_until > now() GROUP BY i.name ORDER BY count(*) DESC LIMIT 1
"""


class Overdue(Exception):
    """What was waited for did not come; the text says what."""


class Stage:
    """`async with Stage(knobs, seed) as stage:`. Scenarios may set `url`, `listen` and `provider` before `open`."""

    def __init__(self, knobs: Knobs, seed: int) -> None:
        self.knobs = knobs
        self.chance = random.Random(seed)
        self.seed = seed
        self.faults: list[Fault] = []
        self.figures: dict[str, float] = {}  # what a scenario has measured
        self.instances: list[Instance] = []
        self.folder = Path(tempfile.mkdtemp(prefix="mailerd-chaos-"))
        self.folder.chmod(0o755)  # root's Postgres runs as another user
        self.ledgers = self.folder / "ledgers"
        self.postgres: Postgres = Postgres(self.folder / "postgres")
        self.url = ""  # the daemons' database
        self.listen = ""  # and where they LISTEN
        self.prepare = "auto"
        self.own_url = ""  # the audit's and the application's
        self.provider = ("127.0.0.1", 0)
        self.stack = contextlib.AsyncExitStack()  # what a scenario started
        self._sink: Child | None = None
        self._session: Session | None = None
        self._traffic: Traffic | None = None
        self._begin = time.monotonic()

    # Up.

    async def __aenter__(self) -> Stage:
        return self

    def start_postgres(self) -> None:
        self.postgres.start()
        self.url = self.listen = self.own_url = self.postgres.url

    async def migrate(self) -> None:
        await migrate(self.session)

    def start_sink(self) -> None:
        knobs = self.knobs
        self.ledgers.mkdir()
        command = mailerd(
            *("sink", "--json", "--listen", "127.0.0.1:0", "--record", str(self.ledgers)),
            *("--seed", str(self.seed), "--latency", str(knobs.latency * 1000), "--faults", str(knobs.faults * 100)),
            *(part for kind in knobs.kinds for part in ("--fault", kind)),
        )
        sink = self._sink = Child("the sink", command, self.folder / "sink.log")
        sink.wait_until(lambda: "listening on" in sink.words())
        line = next(line for line in sink.words().splitlines() if "listening on" in line)
        self.provider = ("127.0.0.1", int(line.split(";")[0].rpartition(":")[2]))

    async def open(self, saboteur: Callable[[int], tuple[str, ...]]) -> None:
        """Fills the backlog and starts the instances."""
        await self.traffic.fill(self.knobs.backlog)
        self._begin = time.monotonic()
        for number in range(1, self.knobs.instances + 1):
            ops = free_port()
            config = self.folder / f"instance{number}.toml"
            config.write_text(
                configuration(
                    self.knobs,
                    database=self.url,
                    listen=self.listen,
                    prepare=self.prepare,
                    provider=self.provider,
                    ops=ops,
                    name=f"chaos{number}",
                )
            )
            instance = Instance(number, config, ops, saboteur(number))
            self.instances.append(instance)
            instance.launch()
        for instance in self.instances:
            await instance.until_ready()

    # What scenarios use.

    @property
    def session(self) -> Session:
        """A connection of our own, for looking."""
        if self._session is None:
            self._session = Session(
                Database(url=self.own_url, statement_timeout=60.0, connect_timeout=5.0),  # type: ignore[arg-type]
                "mailerd:chaos-audit",
            )
        return self._session

    def forget_session(self) -> None:
        """The next look goes to where `own_url` points now."""
        self._session = None

    @property
    def traffic(self) -> Traffic:
        if self._traffic is None:
            self._traffic = Traffic(self.own_url, self.knobs, self.chance)
        return self._traffic

    def fault(self, kind: str, *, deaths: int = 0) -> Fault:
        """Notes that something is broken from now on. A death is one of an instance."""
        now = time.monotonic()
        fault = Fault(kind=f"{kind} at {now - self._begin:.1f} s", at=now, until=now, deaths=deaths)
        self.faults.append(fault)
        return fault

    def some_instance(self) -> Instance:
        return self.chance.choice(self.instances)

    async def busiest(self, within: float = 20.0) -> Instance:
        """The instance that holds most leases now. Waits until one holds some."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            name = await self.session.value(_BUSIEST)
            if name is not None:
                return self.instances[int(name.removeprefix("chaos")) - 1]
            await asyncio.sleep(0.01)
        raise Overdue(f"no instance held a lease within {within:.0f} s")

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[Traffic]:
        """The application inserts at its pace while the block lasts. A failure of it is a failure of the run."""
        task = asyncio.create_task(self.traffic.run())
        try:
            yield self.traffic
        finally:
            if not task.done():
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def accepted(self) -> int:
        """Acceptances so far."""
        return accepted(self.ledgers)

    async def until_accepted(self, count: int, within: float = 30.0) -> None:
        """Waits for so many acceptances in all."""
        deadline = time.monotonic() + within
        while self.accepted() < count:
            if time.monotonic() > deadline:
                raise Overdue(f"only {self.accepted():,} of {count:,} messages were accepted within {within:.0f} s")
            await asyncio.sleep(0.02)

    async def quiet(self) -> None:
        """Until nothing is left to send. Raises `Overdue` with what is left."""
        deadline = time.monotonic() + self.knobs.patience
        left: object = "?"  # or the words of a database that is away
        while time.monotonic() < deadline:
            for instance in self.instances:
                instance.child.check()
            try:
                left = await self.session.value(
                    "SELECT (SELECT count(*) FROM mailerd.ready) + (SELECT count(*) FROM mailerd.scheduled)"
                )
            except (Unavailable, asyncpg.PostgresError) as error:
                left = str(error)
            if left == 0:
                return
            await asyncio.sleep(0.1)
        where = await self.session.fetch(
            "SELECT 'ready' AS at, stream, max(attempt) AS attempts, count(*) AS n FROM mailerd.ready GROUP BY 2 "
            "UNION ALL SELECT 'scheduled', stream, max(attempt), count(*) FROM mailerd.scheduled GROUP BY 2"
        )
        words = "; ".join(f"{r['n']} {r['at']} in {r['stream']}, tried up to {r['attempts']} times" for r in where)
        raise Overdue(f"{left} messages were still waiting {self.knobs.patience:.0f} s after the last fault: {words}")

    async def accepted_in(self, seconds: float) -> int:
        """How many are accepted during the next so many seconds."""
        before = self.accepted()
        await asyncio.sleep(seconds)
        return self.accepted() - before

    async def metric(self, name: str) -> float:
        """The sum of a counter over all instances and labels. An instance that does not answer counts nothing."""
        return sum([value for series, value in await self._scrape() if series.partition("{")[0] == name])

    async def histogram(self, name: str, label: str) -> dict[float, float]:
        """The cumulative counts of a histogram's series with this label, by upper bound, over all instances."""
        found: dict[float, float] = {}
        for series, value in await self._scrape():
            bucket = re.fullmatch(rf'{name}_bucket{{.*le="([^"]+)".*}}', series)
            if bucket and label in series:
                found[float(bucket[1])] = found.get(float(bucket[1]), 0.0) + value
        return found

    async def _scrape(self) -> list[tuple[str, float]]:
        def scrape(port: int) -> list[tuple[str, float]]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
                    lines = answer.read().decode().splitlines()
            except OSError:
                return []
            return [
                (series, float(value))
                for series, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
            ]

        return [pair for i in self.instances for pair in await asyncio.to_thread(scrape, i.ops)]

    def proxy(self, target: tuple[str, int]) -> Proxy:
        proxy = Proxy(target, self.folder / "proxy.log", self.seed)
        self.stack.callback(proxy.stop)
        return proxy

    def proxied(self) -> Proxy:
        """Puts a proxy between the instances and the sink. To be called before they start."""
        proxy = self.proxy(self.provider)
        self.provider = ("127.0.0.1", proxy.port)
        return proxy

    # Down.

    async def collect(self) -> Facts:
        """Stops the instances and the sink, and puts the evidence together."""
        codes = await asyncio.gather(*(instance.stop() for instance in self.instances))
        for instance, code in zip(self.instances, codes, strict=True):
            if code:
                raise ChildFailed(f"{instance.name} ended with status {code}: {instance.words()}")
        return await collect(
            self.session,
            self.ledgers,
            begin=self._begin,
            acknowledged=self.traffic.acknowledged,
            cancelled=self.traffic.cancelled,
            faults=self.faults,
            bound=self.knobs.bound,
            cap=self.knobs.cap + self.knobs.zombies,
            peak=await asyncio.to_thread(self._end_sink),
            slack=self.knobs.slack,
            holding=HOLDING,
        )

    def _end_sink(self) -> int | None:
        sink, self._sink = self._sink, None
        if sink is None:
            return None
        sink.stop()
        words = sink.log.read_text()
        return int(json.loads(words[words.index("{") :])["peak"])

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with undisturbed():
            for instance in self.instances:
                instance.discard()
            for closing in (self._session, self._traffic):
                if closing is not None:
                    with contextlib.suppress(Exception):
                        await closing.close()
            if self._sink is not None:
                await asyncio.to_thread(self._sink.stop, timeout=3.0)
            await self.stack.aclose()
            await asyncio.to_thread(self.postgres.stop, "immediate")
            shutil.rmtree(self.folder, ignore_errors=True)
