"""Chaos: what only time brings out. A transaction that holds up vacuum, and a long run with a little of every fault.

`held-xmin` compares the time before, while and after somebody holds a snapshot open: dead rows pile up in `ready`, and
the lease must not have to wade through them. `soak` watches what grows: memory, file descriptors, tables, indexes.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import asyncpg

from mailerd.bench.chaos.facts import Facts
from mailerd.bench.chaos.plan import Knobs
from mailerd.bench.chaos.promise import Promise, Verdict
from mailerd.bench.chaos.proxy import Proxy
from mailerd.bench.chaos.scenario import Scenario, scenario
from mailerd.bench.chaos.stage import Stage

__all__ = ["HeldXmin", "Soak"]

LEASE_P99 = 0.03  # seconds
_SETTLE = 5.0  # seconds before a window is measured


@scenario
class HeldXmin(Scenario):
    name = "held-xmin"
    what = "a REPEATABLE READ transaction is held open for the whole run, so that vacuum can remove nothing"

    def knobs(self) -> Knobs:
        return Knobs(instances=1, rate=2_000 if self.long else 800, ttl=10.0, patience=180.0)

    @property
    def windows(self) -> tuple[float, float, float]:
        """Seconds before, while and after it is held."""
        return (60.0, 900.0, 60.0) if self.long else (3.0, 8.0, 3.0)

    async def play(self, stage: Stage) -> None:
        before, held, after = self.windows
        async with stage.load():
            await asyncio.sleep(_SETTLE if self.long else 1.0)
            await self._window(stage, "before", before)
            holder = await asyncpg.connect(stage.own_url)
            transaction = holder.transaction(isolation="repeatable_read")
            await transaction.start()
            await holder.fetchval("SELECT count(*) FROM mailerd.lane_control")  # takes the snapshot
            stage.fault(f"a snapshot is held for {held:.0f} s")
            await self._window(stage, "held", held)
            await transaction.rollback()
            await holder.close()
            await asyncio.sleep(_SETTLE if self.long else 1.0)
            await self._window(stage, "after", after)

    async def _window(self, stage: Stage, name: str, seconds: float) -> None:
        """Acceptances a second, and the 99th percentile of the lease, rounded up to its bucket."""
        leases, begin = await stage.histogram("mailerd_statement_seconds", 'statement="lease"'), time.monotonic()
        count = await stage.accepted_in(seconds)
        rate = count / (time.monotonic() - begin)
        later = await stage.histogram("mailerd_statement_seconds", 'statement="lease"')
        counts = {le: later[le] - leases.get(le, 0.0) for le in later}
        total = max(counts.values(), default=0.0)
        stage.figures[f"msg/s {name}"] = round(rate, 1)
        stage.figures[f"lease p99 {name}, s"] = min((le for le, n in counts.items() if n >= 0.99 * total), default=0.0)

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        before, held = stage.figures["msg/s before"], stage.figures["msg/s held"]
        p99 = stage.figures["lease p99 held, s"]
        rates = f"{before:,.0f} → {held:,.0f} msg/s"
        return [
            Promise("a held snapshot costs at most a tenth", held >= 0.9 * before, rates, timed=True),
            Promise("and its lease stays below 30 ms", p99 <= LEASE_P99, f"p99 up to {p99 * 1000:.0f} ms", timed=True),
        ]


@scenario
class Soak(Scenario):
    name = "soak"
    what = "many messages with a little of every fault; nothing may grow"

    def knobs(self) -> Knobs:
        # Nine kinds of faults of the sink, one per cent each. One of them keeps a connection for a second: hence so many.
        return Knobs(
            instances=1, rate=3_500 if self.long else 500, seconds=290.0 if self.long else 8.0, faults=0.09,
            connections=40, latency=0.001, patience=180.0,
        )  # fmt: skip

    async def set_up(self, stage: Stage) -> None:
        await super().set_up(stage)
        self.proxy: Proxy = stage.proxied()

    async def play(self, stage: Stage) -> None:
        instance = stage.instances[0]
        end = time.monotonic() + stage.knobs.seconds
        samples: list[dict[str, float]] = []
        async with stage.load():
            while time.monotonic() < end:
                await asyncio.sleep(1.0)
                if stage.chance.random() < 0.3:
                    stage.fault("cut-some")
                    self.proxy.cut_some(0.05)
                if stage.chance.random() < 0.1:
                    stage.fault("backend terminated")
                    await stage.session.value(_ANY_BACKEND)
                samples.append(await self._sample(stage, instance.pid))
        # The first third warms up: caches, connections, vacuum's first rounds.
        third = len(samples) // 3
        for name in samples[0]:
            middle = sorted(sample[name] for sample in samples[third : 2 * third])[third // 2]
            last = sorted(sample[name] for sample in samples[-third:])[third // 2]
            stage.figures[f"{name}, middle"], stage.figures[f"{name}, end"] = round(middle, 1), round(last, 1)

    async def _sample(self, stage: Stage, pid: int) -> dict[str, float]:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        sizes = (await stage.session.fetch(_SIZES))[0]
        return {
            "memory MB": resident / 2**20,
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "connections": self.proxy.counts()[0],
            "backends": sizes["backends"],
            "ready MB": sizes["ready"] / 2**20,
            "ready index MB": sizes["ready_index"] / 2**20,
            "scheduled MB": sizes["scheduled"] / 2**20,
            "waiting": sizes["waiting"],
        }

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        promises = []
        for name, room in (
            ("memory MB", 10),
            ("descriptors", 10),
            ("backends", 3),
            ("ready MB", 16),
            ("scheduled MB", 16),
        ):
            middle, end = stage.figures[f"{name}, middle"], stage.figures[f"{name}, end"]
            kept, detail = end <= 1.1 * middle + room, f"{middle:g} → {end:g}"
            promises.append(Promise(f"{name} does not grow", kept, detail, timed=not self.long))
        return promises


_ANY_BACKEND = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'mailerd:%' AND application_name NOT LIKE 'mailerd:chaos%' ORDER BY random() LIMIT 1
"""
_SIZES = """
SELECT pg_relation_size('mailerd.ready') AS ready, pg_indexes_size('mailerd.ready') AS ready_index,
  pg_total_relation_size('mailerd.scheduled') AS scheduled,
  (SELECT count(*) FROM mailerd.ready) AS waiting,
  (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mailerd:%') AS backends
"""
