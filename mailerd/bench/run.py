"""One load test from the empty database to its figures: fill, send, watch, audit.

The measured part begins when the sink has accepted the first message (or the first tenth of a window) and ends with
the last; both instants come from the sink's ledgers, CPU time from samples around them. Every wait has an end: a test
that is not done in time raises `Overdue`.

Hazards: the test's own process and Postgres share the machine with what is measured, so it sleeps between samples;
messages that were enqueued before the daemons started have the time of the fill in their latency.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from mailerd.bench.audit import Audit, audit
from mailerd.bench.bed import Bed
from mailerd.bench.load import PAUSED_DOMAIN, Loader
from mailerd.bench.progress import Progress
from mailerd.bench.result import Latency, Memory, Point, Result, machine, percentile, rate_between, versions
from mailerd.bench.settings import Settings
from mailerd.bench.stages import shares
from mailerd.bench.template import rendered

__all__ = ["Overdue", "run"]

_SAMPLE_SECONDS = 0.2
_QUIET_SECONDS = 1.0  # without an acceptance, before Postgres is asked whether anything is left


class Overdue(Exception):
    """The test did not get done within its deadline; the text says how far it came."""


class Window(msgspec.Struct):
    """The measured part: instants on `time.monotonic()`, and the ids whose latency counts (None: all tracked)."""

    begin: float
    end: float
    count: int
    latency_of: str
    probes: frozenset[int] | None = None


class Run:
    """The state of one test."""

    def __init__(self, settings: Settings, bed: Bed, show: Progress) -> None:
        self.settings = settings
        self.bed = bed
        self.show = show
        inline = rendered(settings.size) if settings.content == "inline" else None
        self.loader = Loader(bed.session, settings, inline)

    # Sending.

    async def watch(self, goal: int, *, whole: bool) -> None:
        """Samples until `goal` messages are accepted; with `whole`, until nothing is left to send."""
        limit = time.monotonic() + self.settings.limit
        last, changed = -1, time.monotonic()
        while True:
            count = await self.bed.sample()
            self.show.step(min(count, goal))
            now = time.monotonic()
            if count != last:
                last, changed = count, now
            if count >= goal and not whole:
                return
            # Refused messages are never accepted, and the last events come after the last acceptance.
            if (count >= goal or now - changed > _QUIET_SECONDS) and not await self.bed.queued():
                return
            if now > limit:
                words = (
                    "; ".join(filter(None, (daemon.words() for daemon in self.bed.daemons))) or "no words of a daemon"
                )
                raise Overdue(f"{count} of {goal} messages were accepted within {self.settings.limit:.0f} s: {words}")
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def throughput(self) -> Window | None:
        """Everything is waiting when the daemons start; or it comes at a rate while they run."""
        count = self.settings.messages
        feed: asyncio.Task[None] | None = None
        if not self.settings.rate:
            self.show.phase("enqueue", count)
            await self.loader.fill(count, step=self.show.step)
            await self.bed.calm()
        self.show.phase("send", count)
        await self.bed.start_daemons()
        try:
            if self.settings.rate:
                feed = asyncio.create_task(self.loader.pace(count, self.settings.rate))
                while not feed.done():
                    self.show.step(await self.bed.sample())
                    await asyncio.sleep(_SAMPLE_SECONDS)
                await feed
            await self.watch(count, whole=True)
        finally:
            if feed is not None:
                feed.cancel()
        return None

    async def backlog(self) -> Window | None:
        """A window of messages out of a standing backlog, with more rows in a paused domain beside it."""
        settings = self.settings
        warm = max(settings.messages // 10, 1)
        if settings.paused:
            await self.loader.pause(PAUSED_DOMAIN)
            self.show.phase("enqueue into a paused domain", settings.paused)
            await self.loader.fill(settings.paused, domain=PAUSED_DOMAIN, track=False, step=self.show.step)
        # What the window takes out is put on top, so that `backlog` rows are waiting at its end too.
        waiting = settings.backlog + settings.messages + 2 * warm
        self.show.phase("enqueue", waiting)
        await self.loader.fill(waiting, track=False, step=self.show.step)
        self.show.phase("wait for autovacuum")
        await self.bed.calm()
        self.show.phase("send", settings.messages + warm)
        await self.bed.start_daemons()
        await self.watch(settings.messages + warm, whole=False)
        return Window(0.0, 0.0, warm, "none (the rows waited)")

    async def latency(self) -> Window | None:
        """An idle daemon, one message at a time."""
        settings = self.settings
        self.show.phase("warm up", 20)
        await self.bed.start_daemons()
        for number in range(20):
            await self.loader.one("transactional", track=False)
            await asyncio.sleep(settings.interval)
            self.show.step(number + 1)
        await self.watch(20, whole=True)
        self.show.phase("one message at a time", settings.messages)
        begin = await self._probes(settings.messages, "transactional", goal=None)
        await self.watch(settings.messages + 20, whole=True)
        return Window(begin, time.monotonic(), 0, "single messages")

    async def isolation(self) -> Window | None:
        """Single transactional messages while the marketing stream sends a backlog at full speed."""
        settings = self.settings
        bulk = settings.backlog or 500_000
        self.show.phase("enqueue marketing", bulk)
        await self.loader.fill(bulk, streams=["marketing"], track=False, step=self.show.step)
        await self.bed.calm()
        self.show.phase("send marketing: warm up", bulk // 20)
        await self.bed.start_daemons()
        await self.watch(bulk // 20, whole=False)
        self.show.phase("single transactional messages beside it", settings.messages)
        begin = await self._probes(settings.messages, "transactional", goal=bulk - bulk // 50)
        end = time.monotonic()
        await asyncio.sleep(1.0)
        await self.bed.sample()
        return Window(begin, end, 0, "transactional messages", frozenset(self.loader.committed))

    async def _probes(self, count: int, stream: str, goal: int | None) -> float:
        """One message an interval; ends early when `goal` messages are accepted in all. Returns when it began."""
        begin = sampled = time.monotonic()
        for number in range(count):
            due = begin + number * self.settings.interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.loader.one(stream)
            if time.monotonic() - sampled > _SAMPLE_SECONDS:
                sampled = time.monotonic()
                accepted = await self.bed.sample()
                self.show.step(number + 1)
                if goal is not None and accepted >= goal:
                    break
        return begin

    # Figures.

    async def result(self, window: Window | None) -> Result:
        """Ends the daemons and the sink, audits, and counts."""
        bed, settings = self.bed, self.settings
        await bed.stop_daemons()
        await bed.stop_sink()
        self.show.phase("audit")
        found = await audit(
            bed.session, self.loader.rows, self.loader.committed, None if settings.sink else bed.ledgers
        )
        times = found.times
        if not times:
            raise Overdue("no message was accepted")
        if window is None:
            what = "messages enqueued while it ran" if settings.rate else "messages that waited for the start"
            window = Window(times[0], times[-1], 0, what)
        elif not window.end:  # a window by number: the first `count` are warm-up
            last = min(len(times), window.count + settings.messages) - 1
            window = Window(times[window.count], times[last], 0, window.latency_of, frozenset())
        inside = [at for at in times if window.begin <= at <= window.end]
        seconds = max(window.end - window.begin, 1e-9)
        latencies = sorted(
            max(0.0, found.first[message_id] - committed) * 1000
            for message_id, committed in self.loader.committed.items()
            if message_id in found.first and (window.probes is None or message_id in window.probes)
        )
        server, commit = (
            await bed.session.fetch("SELECT current_setting('server_version'), current_setting('synchronous_commit')")
        )[0]
        return Result(
            scenario=settings.scenario,
            messages=len(inside),
            seconds=round(seconds, 3),
            messages_per_second=round(len(inside) / seconds, 1),
            latency_ms=_latency(latencies),
            latency_of=window.latency_of,
            cpu_us_per_message=self._cpu(window, len(inside)),
            stages_us_per_message=self._stages(window, len(inside)),
            peak_rss_mb=round(bed.meter.peak / 2**20, 1),
            memory_mb=self._memory(window),
            lost=found.lost,
            duplicates=found.duplicates,
            resent_in_doubt=found.resent_in_doubt,
            refused=found.refused,
            waiting=found.waiting,
            probes=len(latencies) if window.probes else 0,
            instances=settings.instances,
            synchronous_commit=commit,
            settings=_asked(settings),
            versions=versions(server),
            machine=machine(),
            latency_curve=[
                (share / 10, round(percentile(latencies, share / 1000), 2)) for share in [*range(5, 1000, 5), 999]
            ]
            if latencies
            else [],
            series=self._series(found, window),
        )

    def _cpu(self, window: Window, messages: int) -> dict[str, float | None]:
        meter = self.bed.meter
        return {
            group: round(
                (meter.cpu_at(group, window.end) - meter.cpu_at(group, window.begin)) * 1e6 / max(messages, 1), 1
            )
            if meter.samples and group in meter.samples[-1].cpu
            else None
            for group in ("mailerd", "postgres", "sink")
        }

    def _stages(self, window: Window, messages: int) -> dict[str, float]:
        whole = self._cpu(window, messages)["mailerd"] or 0.0
        found = shares(self.bed.profiles, window.begin, window.end)
        return {stage: round(share * whole, 1) for stage, share in found.items()}

    def _memory(self, window: Window) -> Memory:
        inside = [s for s in self.bed.meter.samples if window.begin <= s.at <= window.end] or self.bed.meter.samples
        sizes = [s.rss.get("mailerd", 0) / 2**20 / self.settings.instances for s in inside]
        return Memory(round(sizes[len(sizes) // 10], 1), round(sizes[-1], 1), round(self.bed.meter.peak / 2**20, 1))

    def _series(self, found: Audit, window: Window) -> list[Point]:
        """At most about 240 points over the window and a little around it."""
        samples = [s for s in self.bed.meter.samples if window.begin - 1 <= s.at <= window.end + 1]
        step = max((window.end - window.begin) / 240, 1.0 if window.end - window.begin > 20 else 0.4)
        points: list[Point] = []
        before = None
        for sample in samples:
            if before is None:
                before = sample
                continue
            seconds = sample.at - before.at
            if seconds < step:
                continue
            points.append(
                Point(
                    round(sample.at - window.begin, 2),
                    round(rate_between(found.times, before.at, sample.at), 1),
                    {g: round((c - before.cpu.get(g, c)) / seconds, 3) for g, c in sample.cpu.items()},
                    {g: round(size / 2**20, 1) for g, size in sample.rss.items() if g != "postgres"},
                )
            )
            before = sample
        return points


def _latency(ordered: list[float]) -> Latency | None:
    if not ordered:
        return None
    p50, p95, p99 = (round(percentile(ordered, share), 2) for share in (0.5, 0.95, 0.99))
    return Latency(p50, p95, p99, round(ordered[-1], 2))


def _asked(settings: Settings) -> dict[str, Any]:
    asked: dict[str, Any] = msgspec.to_builtins(settings)
    del asked["stages"]
    asked["database"] = "given" if settings.database else "embedded"  # a URL may hold a password
    if not settings.faults:
        del asked["kinds"]
    return asked


async def run(settings: Settings, show: Progress) -> Result:
    """Raises `Overdue`, `ChildFailed`, `PostgresMissing`, `Unavailable`, `SchemaProblem`."""
    show.phase("start Postgres and the sink")
    async with Bed(settings) as bed:
        test = Run(settings, bed, show)
        scenario = {
            "throughput": test.throughput,
            "backlog": test.backlog,
            "latency": test.latency,
            "isolation": test.isolation,
        }[settings.scenario]
        return await test.result(await scenario())
