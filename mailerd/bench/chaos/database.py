"""Chaos: Postgres restarts, dies, fails over, is full, or is held up by somebody else's transaction.

An instance keeps what it has learnt until it could be written: nothing that was accepted while Postgres was away may
be sent again, unless a lease ran out meanwhile; and at most `max_unsettled` of it may come together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import asyncpg

from mailerd.bench.chaos.bouncer import Bouncer
from mailerd.bench.chaos.disk import SmallDisk
from mailerd.bench.chaos.facts import Facts
from mailerd.bench.chaos.plan import Knobs
from mailerd.bench.chaos.promise import Promise, Verdict
from mailerd.bench.chaos.scenario import Scenario, scenario
from mailerd.bench.chaos.stage import Stage
from mailerd.bench.postgres import Postgres
from mailerd.store.database import Unavailable

__all__ = ["BackendKill", "DiskFull", "Failover", "FailoverAsync", "LateCommit", "PgBouncer", "PgDump", "Restart"]


@scenario
class Restart(Scenario):
    name = "postgres-restart"
    what = "Postgres is restarted (fast), crashes (immediate), and stays away for a while, at full speed"

    @property
    def away(self) -> float:
        return 30.0 if self.long else 3.0

    def knobs(self) -> Knobs:
        # Its lease outlives the absence, as the default of 60 s does.
        return Knobs(ttl=2 * self.away + 10, backlog=400_000 if self.long else 30_000, rate=100, patience=240.0)

    async def play(self, stage: Stage) -> None:
        async with stage.load():
            for _ in range(4 if self.long else 1):
                for mode in ("fast", "immediate"):
                    await stage.until_accepted(stage.accepted() + stage.chance.randrange(500, 2_000))
                    stage.fault(f"restart, {mode}")
                    await asyncio.to_thread(stage.postgres.stop, mode)
                    await asyncio.to_thread(stage.postgres.start)
            await stage.until_accepted(stage.accepted() + 1_000)
            stage.fault(f"Postgres away for {self.away:.0f} s")
            await asyncio.to_thread(stage.postgres.stop, "immediate")
            stage.figures["accepted while away"] = await stage.accepted_in(self.away)
            await asyncio.to_thread(stage.postgres.start)

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        count, most = int(stage.figures["accepted while away"]), stage.knobs.instances * stage.knobs.bound
        text = f"{count:,} accepted, {most:,} may be"
        return [Promise("without Postgres sending stops at the cap", count <= most, text)]


@scenario
class BackendKill(Scenario):
    name = "backend-kill"
    what = "pg_terminate_backend of random connections, those that LISTEN too"

    def knobs(self) -> Knobs:
        return Knobs(rate=600, ttl=10.0, seconds=60.0 if self.long else 6.0)

    async def play(self, stage: Stage) -> None:
        end = time.monotonic() + stage.knobs.seconds
        killed = 0
        async with stage.load():
            while time.monotonic() < end:
                stage.fault("backends terminated")
                # asyncpg's own draw would not repeat with the seed, so it is made here.
                for pid in await stage.session.fetch(_BACKENDS):
                    if stage.chance.random() < 0.4:
                        killed += bool(await stage.session.value("SELECT pg_terminate_backend($1)", pid[0]))
                await asyncio.sleep(0.2 + stage.chance.random() * 0.4)
        stage.figures["backends"] = killed


_BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mailerd:%' AND pid <> pg_backend_pid() ORDER BY pid"
)


@scenario
class Failover(Scenario):
    name = "failover"
    what = "the primary dies, its synchronous standby is promoted, clients follow a URL with both hosts"
    synchronous = True
    behind = 0.1  # seconds that an asynchronous standby is behind

    def knobs(self) -> Knobs:
        return Knobs(rate=600, ttl=20.0)

    async def set_up(self, stage: Stage) -> None:
        await super().set_up(stage)
        self.proxy = stage.proxy(("127.0.0.1", stage.postgres.port))  # replication goes through it
        self.standby = stage.postgres.standby(stage.folder / "standby", "second", port=self.proxy.port)
        stage.stack.callback(self.standby.stop, "immediate")
        if self.synchronous:
            stage.postgres.configure({"synchronous_standby_names": "FIRST 1 (second)"})
        ports = f"127.0.0.1:{stage.postgres.port},127.0.0.1:{self.standby.port}"
        url = f"postgresql://postgres@{ports}/postgres?target_session_attrs=read-write"
        stage.url = stage.listen = stage.own_url = url
        await stage.session.close()
        stage.forget_session()

    async def play(self, stage: Stage) -> None:
        async with stage.load():
            await stage.until_accepted(stage.accepted() + 1_000)
            if not self.synchronous:
                self.proxy.slow(self.behind)
                await asyncio.sleep(1.0)
            # With an asynchronous standby all that it has not got yet is gone: the instances' settles too.
            stage.fault("the primary dies", deaths=0 if self.synchronous else stage.knobs.instances)
            await asyncio.to_thread(stage.postgres.kill)
            self.proxy.cut()
            await asyncio.sleep(0.5)
            begin = time.monotonic()
            if not self.synchronous:
                # Until now the instances went on with what they had leased; the standby knows of none of it.
                stage.fault("the standby is promoted", deaths=stage.knobs.instances)
            await asyncio.to_thread(self.standby.promote)
            await stage.until_accepted(stage.accepted() + 300)
            stage.figures["seconds until mail went out again"] = time.monotonic() - begin
            await asyncio.sleep(2.0)


@scenario
class FailoverAsync(Failover):
    name = "failover-async"
    what = "the same with a standby 100 ms behind, which may forget what was acknowledged; how much is a figure"
    synchronous = False
    forgetful = True

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        stage.figures["forgotten by the database"] = len(facts.acknowledged.keys() - facts.rows.keys())
        return []


@scenario
class PgBouncer(Scenario):
    name = "pgbouncer"
    what = "through PgBouncer in transaction mode, which is killed and started again"

    def knobs(self) -> Knobs:
        return Knobs(rate=400, ttl=10.0)

    async def set_up(self, stage: Stage) -> None:
        await super().set_up(stage)
        self.bouncer = Bouncer(stage.postgres.port, stage.folder / "pgbouncer")
        self.bouncer.start()
        stage.stack.callback(self.bouncer.stop)
        stage.url, stage.prepare = self.bouncer.url, "off"

    async def play(self, stage: Stage) -> None:
        async with stage.load():
            for _ in range(15 if self.long else 3):
                await stage.until_accepted(stage.accepted() + stage.chance.randrange(200, 800))
                stage.fault("PgBouncer killed")
                self.bouncer.kill()
                await asyncio.sleep(stage.chance.random())
                await asyncio.to_thread(self.bouncer.start)


@scenario
class LateCommit(Scenario):
    name = "late-commit"
    what = "a producer holds its INSERT open while others commit past it"

    @property
    def hold(self) -> float:
        return 60.0 if self.long else 7.0

    def knobs(self) -> Knobs:
        return Knobs(rate=500)

    async def play(self, stage: Stage) -> None:
        late = await asyncpg.connect(stage.own_url)
        try:
            async with stage.load():
                transaction = late.transaction()
                await transaction.start()
                rows = await late.fetch(
                    """INSERT INTO mailerd.outbox (recipient, subject, text_body)
                       SELECT 'late' || i || '@d' || i % 40 || '.example', 'late', 'late' FROM generate_series(1, 200) i
                       RETURNING id"""
                )
                stage.fault(f"a transaction is held open for {self.hold:.0f} s")
                await asyncio.sleep(self.hold)
                await transaction.commit()
                committed = time.monotonic()
                ids = [row[0] for row in rows]
                stage.traffic.acknowledged.update((id_, committed) for id_ in ids)
                while await stage.session.value("SELECT count(*) FROM mailerd.ready WHERE id = ANY ($1)", ids):
                    if time.monotonic() - committed > 60:
                        break
                    await asyncio.sleep(0.02)
                stage.figures["seconds until all late rows were settled"] = time.monotonic() - committed
        finally:
            await late.close()

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        seconds = stage.figures["seconds until all late rows were settled"]
        return [Promise("late commits are found within 35 s", seconds < 35, f"{seconds:.1f} s", timed=True)]


@scenario
class PgDump(Scenario):
    name = "pg-dump"
    what = "pg_dump of the whole database, one after the other"

    def knobs(self) -> Knobs:
        return Knobs(rate=600, seconds=120.0 if self.long else 6.0, backlog=20_000 if self.long else 3_000)

    async def play(self, stage: Stage) -> None:
        end = time.monotonic() + stage.knobs.seconds
        dumps = failed = 0
        async with stage.load():
            while time.monotonic() < end:
                stage.fault("pg_dump")
                process = await asyncio.create_subprocess_exec(
                    str(stage.postgres.bin / "pg_dump"), "-f", "/dev/null", stage.own_url,
                    stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
                dumps += 1
                failed += bool(await process.wait())
        stage.figures["dumps"] = dumps
        stage.figures["failed dumps"] = failed

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        failed = int(stage.figures["failed dumps"])
        return [Promise("dumps come to their end", not failed, f"{failed} of {stage.figures['dumps']:.0f} failed")]


@scenario
class DiskFull(Scenario):
    name = "disk-full"
    what = "the disk of Postgres is full, again and again"

    def knobs(self) -> Knobs:
        return Knobs(rate=200, ttl=20.0, patience=120.0)

    async def set_up(self, stage: Stage) -> None:
        disk = self.disk = SmallDisk(stage.folder / "disk", 400 * 2**20)
        disk.mount()
        stage.stack.callback(disk.unmount)
        small = {"max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "32MB", "wal_recycle": "off"}
        stage.postgres = Postgres(disk.folder / "postgres", settings=small)
        await super().set_up(stage)

    async def play(self, stage: Stage) -> None:
        refused = 0
        async with stage.load() as traffic:
            for _ in range(5 if self.long else 1):
                await stage.until_accepted(stage.accepted() + 300, within=60.0)
                stage.fault("disk full")
                before = traffic.refusals
                for second in range(20):  # four, and more while nobody has felt it
                    if second >= 4 and traffic.refusals > before:
                        break
                    for _ in range(10):
                        await asyncio.to_thread(self.disk.fill)  # what Postgres gives back is taken, too
                        await asyncio.sleep(0.1)
                refused += traffic.refusals - before
                self.disk.free()
                await self._revive(stage)
        stage.figures["transactions refused"] = refused

    async def _revive(self, stage: Stage) -> None:
        """A server that died of it is started again, as its supervisor would."""
        for _ in range(3):
            await asyncio.sleep(1.0)
            with contextlib.suppress(Unavailable):
                await stage.session.value("SELECT 1")
                return
            await asyncio.to_thread(stage.postgres.stop, "immediate")
            await asyncio.to_thread(stage.postgres.start)

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        refused = int(stage.figures["transactions refused"])
        return [Promise("the full disk was felt", refused > 0, f"{refused:,} transactions were refused")]
