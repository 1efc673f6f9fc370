"""One stream's pipeline: lease, gate, hand out, settle, renew. Streams share nothing but the process.

A single task (`run`) does everything that touches the stream's rows, one statement after the other: that serialises
lease, renew and settle without a lock. While it waits for Postgres, connections go on sending from the backlog.

Order of a turn: renew what is old (first, so that no other statement's trouble can let a lease run out), settle what
has ended, lease what there is room for, commit intents (in streams that hold what is uncertain). When Postgres is away the
turn is repeated with back-off: outcomes are kept, leases run on until their deadline, and the cap on unsettled
messages stops new ones.

How much is kept ready is `daemon.depth`'s matter. `daemon.intents` and `daemon.settling` make their statements when they are
called from here, and from nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor

import asyncpg
import msgspec

from mailerd.compose.composer import Composer
from mailerd.config.base import Duration
from mailerd.config.model import Config, Stream
from mailerd.daemon.admission import Admission
from mailerd.daemon.backlog import Backlog
from mailerd.daemon.depth import Depth
from mailerd.daemon.feed import Feed
from mailerd.daemon.feedback import Feedback
from mailerd.daemon.intents import Intents
from mailerd.daemon.pools import Pool
from mailerd.daemon.route import PACE, Route
from mailerd.daemon.settling import Settling
from mailerd.daemon.terms import Terms
from mailerd.daemon.unsettled import Unsettled
from mailerd.fetch.files import Files
from mailerd.flow.lanes import UNPARK, Lanes
from mailerd.flow.limits import Limits
from mailerd.message import Job
from mailerd.store import erased
from mailerd.store.database import Session, Unavailable
from mailerd.store.instances import Paused
from mailerd.store.lease import MOST_LEASES, Claim, Unreadable, fetch_addresses, give_back, lease, margin, renew
from mailerd.store.work import Lane
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics

__all__ = ["Pipeline"]

log = logging.getLogger("mailerd.pipeline")

IDLE = 1.0  # seconds between turns when nothing happens: renewals and rates are looked at
MOST_BACKOFF = 5.0
STATEMENT_SHARE = 1 / 3  # of a lease's time that a statement may take: another renewal must fit behind it


class Pipeline:
    """One stream in one instance. `pools` come in the order of the stream's pools; `groups[i]` is pool i's providers."""

    def __init__(
        self,
        config: Config,
        stream: Stream,
        composer: Composer,
        *,
        instance: int,
        limits: Limits,
        feedback: Feedback,
        unsettled: Unsettled,
        metrics: Metrics,
        health: Health,
        threads: Executor | None = None,
        files: Files | None = None,
        on_lane: Callable[[str], None] | None = None,
    ) -> None:
        self.stream = stream
        self._config = config
        self._instance = instance
        self._unsettled = unsettled
        self._metrics = metrics
        self._health = health
        longest = min(float(config.database.statement_timeout), float(config.lease.ttl) * STATEMENT_SHARE)
        settings = msgspec.structs.replace(config.database, statement_timeout=Duration(longest))
        self._session = Session(settings, f"mailerd:{stream.name}")
        self._payloads = Session(config.database, f"mailerd:{stream.name}:payload")
        self.lanes = Lanes(float(stream.ageing))
        self.route = Route(stream.pools)
        self._limits = limits
        self.lanes.rules = Terms(stream.name, limits, self.route, config.campaign, on_lane)
        self._ripe_timer: asyncio.TimerHandle | None = None
        self.backlog = Backlog(
            stream,
            composer,
            unsettled,
            on_settlement=self._nudge,
            on_low=self._nudge,
            judge=lambda job, to, outcome: feedback.judge(job.pool, job, to, outcome),
            on_sent=lambda job: feedback.sent(job.pool, job),
            on_returned=lambda: self.route.wake_at(time.monotonic()),
            on_stale=self._stale,
        )
        room, hidden = int(config.limits.memory), erased.keys(config.privacy.key, config.public.secret)
        self._admission = Admission(
            stream,
            self.backlog,
            composer,
            self._payloads,
            room,
            self._admitted,
            threads,
            hidden,
            files,
            int(config.limits.message_size),
            self._nudge,
            plus_tags=config.suppression.plus_tags,
        )
        self._intents = Intents(stream.name, self.backlog, self._session, unsettled, metrics, self._timed)
        self._settling = Settling(stream.name, self.backlog, self._session, metrics, self._timed)
        self._wake = asyncio.Event()
        self._paused = Paused()
        self._draining = False
        self._stopping = asyncio.Event()
        self._careful_until = 0.0
        self._short_until = math.inf  # when the providers have tokens again, if that is what we wait for
        self._depth = Depth(time.monotonic())
        self._timings = {name: metrics.statement(name) for name in ("lease", "settle", "renew", "intend")}
        unsettled.on_release.append(self._room_again)

    def attach(self, group: int, pool: Pool, feed: Feed, *, spare: bool = False) -> None:
        """A provider's connections for this stream; `group` is the position of its pool in the stream's list, or
        (`spare`) of the one whose warm-up overflows to it."""
        self.route.attach(group, pool, feed, self._has_work, spare=spare)

    # What others tell it.

    def hint(self, lanes: Iterable[Lane], *, swept: bool = False) -> None:
        """These lanes have messages."""
        now = time.monotonic()
        news = False
        for lane in lanes:
            news |= self.lanes.hint(lane.priority, lane.domain, lane.campaign, now, swept=swept, first=lane.first)
        if news:
            self._wake.set()

    def pause(self, paused: Paused) -> None:
        """What operators paused, as of the last heartbeat."""
        if paused == self._paused:
            return
        self._paused = paused
        domains, campaigns, group = paused.domain, paused.campaign, self._limits.groups.of
        self.lanes.close(
            lambda domain, campaign: domain in domains or campaign in campaigns or group(domain) in domains
        )
        self.route.pause(paused.provider | self._limits.stopped())
        self._wake.set()

    def provider_changed(self) -> None:
        """A circuit breaker opened or closed."""
        self.route.choose()
        self._wake.set()

    def granted(self, changed: bool = False) -> None:
        """Tokens came; or (`changed`) the limits themselves are others now."""
        if changed:
            self.route.limit(self._limits.of_provider)
            self.route.pause(self._paused.provider | self._limits.stopped())
            self.lanes.recheck()
        self._wake.set()
        self.route.wake()

    # The task.

    async def run(self) -> None:
        """Until `stop`."""
        async with asyncio.TaskGroup() as group:
            helper = group.create_task(self._admission.run(), name=f"payloads:{self.stream.name}")
            await self._turns()
            self._health.forget(self.stream.name)
            helper.cancel()

    async def _turns(self) -> None:
        failures = 0
        while not self._draining:
            self._wake.clear()
            try:
                pause = await self._turn()
                failures = 0
            except (Unavailable, asyncpg.PostgresError) as error:
                failures += 1
                longest = min(MOST_BACKOFF, float(self._config.lease.ttl) / 10)  # the next renewal must not be late
                pause = min(0.1 * 2 ** min(failures, 10), longest) * (0.5 + random.random() / 2)
                self._health.set("database", False, str(error))
                if failures in (1, 10):
                    log.warning("stream %s: %s; trying again", self.stream.name, error)
            self._health.progress(self.stream.name)
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await (self._stopping if failures else self._wake).wait()

    async def _turn(self) -> float:
        """One round; the seconds until the next (0: at once, IDLE: when woken)."""
        now = time.monotonic()
        self._depth.measure(now, self.backlog.sent)
        await self._renew()
        if self._settling.wait(now) <= 0:
            await self._settling.write()
        await self._admission.again(self._session)
        if self.route.none_usable(now) or self.stream.name in self._paused.stream:
            await self._return_waiting()
        else:
            if self.lanes.rules.moved():
                # What waits has the tokens of another pool. (Without limits of their own, pools make no difference.)
                self.lanes.recheck()
                await self._return_waiting()
            again = await self._lease()
            if self.backlog.hold and await self._intents.commit(self._depth.messages):
                self.route.wake()
            if again:
                return 0.0
        if self._settling.pending:
            return self._settling.wait(time.monotonic())
        return self._until_open()

    def _until_open(self) -> float:
        """Seconds until a lane that waits for tokens may go on."""
        opens = min(self.lanes.opens, self._short_until)
        if opens == math.inf:
            return IDLE
        return min(IDLE, max(opens - time.monotonic(), UNPARK))

    @contextlib.contextmanager
    def _timed(self, statement: str) -> Iterator[None]:
        """Measures a statement that succeeds."""
        begin = time.monotonic()
        yield
        self._timings[statement].observe(time.monotonic() - begin)
        self._health.progress(self.stream.name)  # a slow Postgres is no reason for the watchdog to end us

    # Lease.

    def _has_work(self) -> bool:
        return self.lanes.ready and not self._draining

    async def _lease(self) -> bool:
        """Leases once if there is room; True when that may be repeated at once."""
        self.backlog.low = self._depth.messages // 2
        waiting = self.backlog.waiting + self._admission.waiting
        self._short_until = math.inf
        if not self.lanes or waiting > self.backlog.low or self._unsettled.full or not self.route.reachable:
            return False
        octets = self.backlog.octets + self._admission.octets
        if octets >= self._config.limits.memory or not self._health.checks["partitions"][0]:
            return (
                False  # without tomorrow's partitions settle will fail: what is leased would be sent and not recorded
            )
        now = time.monotonic()
        room = 1 if now < self._careful_until else self._depth.messages - waiting
        tokens = self.route.room(now) - waiting - self.backlog.ripening - self.backlog.cleared
        if tokens < room:
            if tokens < 1:
                self._short_until = self.route.opens()
                return False
            room = int(tokens)
        plans = self.lanes.plan(room, now)
        if not plans:
            return False
        claims = [Claim(p.lane.priority, p.lane.domain, p.lane.campaign, p.quota - p.older, p.low) for p in plans]
        claims += [Claim(p.lane.priority, p.lane.domain, p.lane.campaign, p.older, p.look) for p in plans if p.older]
        try:
            with self._timed("lease"):
                light, heavy, doubtful = await lease(
                    self._session, self.stream.name, claims, self._instance, float(self._config.lease.ttl)
                )
        except Unreadable as error:
            # One value that cannot be read takes its whole batch with it until the lease is over. The constraints of
            # the outbox know no such value; should there be one, rows are taken one by one for a while.
            log.error("stream %s: a row cannot be read: %s", self.stream.name, error)
            self.lanes.unleased(plans)
            self._careful_until = now + 2 * float(self._config.lease.ttl)
            return False
        except BaseException:
            self.lanes.unleased(plans)
            raise
        found: dict[tuple[int, str, str], list[Job]] = {}
        again = 0
        for jobs in (light, heavy, doubtful):
            for job in jobs:
                found.setdefault((job.priority, job.domain, job.campaign), []).append(job)
                again += job.leases > 1
        self.lanes.leased(plans, found, time.monotonic())
        total = len(light) + len(heavy) + len(doubtful)
        self._metrics.leased(total)
        if again:
            self._metrics.lease_expired(again)
        self._admission.later(heavy)
        poison = [job for job in light if job.leases > MOST_LEASES] if again else []
        if poison:
            light = [job for job in light if job.leases <= MOST_LEASES]
        if light:
            await self._admission.admit(light, self._session)
        if poison or doubtful:
            await self._end_unread(poison, doubtful)
        return total > 0 and bool(self.lanes)

    async def _end_unread(self, poison: Sequence[Job], doubtful: Sequence[Job]) -> None:
        """Those that end without being sent, and without their content having been read."""
        unread = [job for job in (*poison, *doubtful) if not job.recipient]
        if unread:
            await fetch_addresses(self._session, unread)
        for job in doubtful:
            self.backlog.doubt(job)
        for job in poison:
            reason = f"leased {job.leases - 1} times and never settled: it stops whoever sends it"
            self.backlog.fail(job, reason, "poison")

    def _admitted(self) -> None:
        if self.backlog.ripening:
            self._ripen()
        if self.backlog.hold:
            self._wake.set()  # their intents are to be committed first
        else:
            self.route.wake()

    def _ripen(self) -> None:
        """Lets go those whose slot has come, and comes back for the others, at the pace of the route's own wakes."""
        if self._ripe_timer is not None:
            self._ripe_timer.cancel()
            self._ripe_timer = None
        now = time.monotonic()
        due = self.backlog.ripe(now)
        if due < math.inf:
            self._ripe_timer = asyncio.get_running_loop().call_later(max(due - now, PACE), self._ripened)

    def _ripened(self) -> None:
        self._ripe_timer = None
        self._admitted()

    # Renew and give back.

    async def _renew(self) -> None:
        ttl = float(self._config.lease.ttl)
        # Renewed once a third of the time has gone: two more renewals may fail before anything is lost.
        limit = time.monotonic() + ttl * 2 / 3 - margin(ttl)
        old = [job for job in self.backlog.held.values() if job.lease.deadline < limit] if self.backlog.held else []
        if not old:
            return
        with self._timed("renew"):
            lost = await renew(self._session, self.stream.name, old, ttl)
        if lost:
            self._metrics.fenced(len(lost))
            self.backlog.lost(lost)

    async def _return_waiting(self) -> None:
        jobs = [*self.backlog.empty(), *self._admission.empty()]
        if jobs:
            await give_back(self._session, self.stream.name, jobs)
            self.hint(Lane(self.stream.name, j.priority, j.domain, j.campaign, j.id) for j in jobs)

    # Wakers.

    def _room_again(self) -> None:
        self._wake.set()
        self.route.wake()

    def _nudge(self) -> None:
        self._wake.set()

    def _stale(self, job: Job) -> None:
        self._admission.stale(job)
        self._wake.set()

    # The end.

    async def drain(self, deadline: float) -> None:
        """After `run` has returned: gives back what was not started, finishes what flies, settles all of it."""
        with contextlib.suppress(Unavailable, asyncpg.PostgresError):
            await self._return_waiting()
        self.route.shut()
        if self._ripe_timer is not None:
            self._ripe_timer.cancel()
        closing = asyncio.gather(*(pool.drain(deadline) for pool in self.route.pools))
        while not closing.done() or self._settling.pending:
            try:
                await self._renew()
                if self._settling.pending:
                    await self._settling.write()
                await self._return_waiting()  # what came back unsent
            except (Unavailable, asyncpg.PostgresError) as error:
                if closing.done() and time.monotonic() >= deadline:
                    log.error(
                        "stream %s: %d outcomes could not be settled: %s",
                        self.stream.name,
                        self._settling.pending,
                        error,
                    )
                    break
                await asyncio.sleep(0.2)
            if not closing.done():
                await asyncio.wait({closing}, timeout=0.02)
        await closing
        with contextlib.suppress(Unavailable, asyncpg.PostgresError):
            await self._return_waiting()

    def stop(self) -> None:
        """Makes `run` return at its next turn."""
        self._draining = True
        self._stopping.set()
        self._wake.set()

    def abort(self) -> None:
        """Second TERM: connections close now; leases expire by themselves."""
        for pool in self.route.pools:
            pool.abort()

    async def close(self) -> None:
        self._unsettled.on_release.remove(self._room_again)  # it outlives this engine
        await self._session.close()
        await self._payloads.close()
