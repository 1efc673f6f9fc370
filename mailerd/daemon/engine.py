"""Everything that sends, for one configuration: pipelines, their connections, and the scout that feeds them.

A reload builds a new engine and drains the old one, so nothing in here ever changes its configuration. It owns no
signals, no listener and no heartbeat: that is `daemon.daemon`'s part, which outlives it.

Hazard: while an old engine drains a slow peer, both may have connections open; the budget of each provider is shared
between them for that reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mailerd.compose.bundle import Library
from mailerd.compose.composer import Composer
from mailerd.config.model import Config
from mailerd.config.resolved import Resolved
from mailerd.daemon.feed import Feed
from mailerd.daemon.feedback import Feedback
from mailerd.daemon.mint import Mint
from mailerd.daemon.mx import MxRoller
from mailerd.daemon.pipeline import Pipeline
from mailerd.daemon.pools import Pool, make_pool
from mailerd.daemon.scout import Scout
from mailerd.daemon.signing import THREADS
from mailerd.daemon.unsettled import Unsettled
from mailerd.daemon.warmer import Warmer
from mailerd.fetch.files import Files
from mailerd.flow.limits import Limits
from mailerd.flow.rules import RuleError, Rules, load
from mailerd.flow.warming import Warming
from mailerd.message import Failure, Outcome, OutcomeKind
from mailerd.smtp.budget import ConnectionBudget, share
from mailerd.smtp.timing import Timing
from mailerd.store.instances import Paused, ProviderState, Shared
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics

__all__ = ["Engine", "reply_rules"]

log = logging.getLogger("mailerd.engine")

REGROUP = 1.0  # seconds between times when all lanes look their limits up again
TICK = 0.25  # seconds between looks at deadlines of connections


class Engine:
    """Built, `run` in a task, `drain`ed. `budgets` are the providers' connection caps, shared with other engines."""

    def __init__(
        self,
        resolved: Resolved,
        *,
        instance: int,
        unsettled: Unsettled,
        budgets: dict[str, ConnectionBudget],
        metrics: Metrics,
        health: Health,
        library: Library | None = None,
    ) -> None:
        config = resolved.config
        self.resolved = resolved
        self._metrics = metrics
        self._budgets = budgets
        composer = Composer(config, library)
        metrics.clipped(composer.clipped)
        self._threads = ThreadPoolExecutor(THREADS, "sign") if composer.signing else None
        self._files = Files(config.attachments)
        self.pipelines: dict[str, Pipeline] = {}
        self._pools: list[Pool] = []
        for provider in config.provider:
            budget = budgets.setdefault(provider.name, ConnectionBudget(provider.connections))
            users = [s.name for s in config.stream if provider in resolved.providers_of(s.name)]
            budget.urgent = users[0] if users else ""
        self.limits = Limits(resolved)
        self._feedback = Feedback(self.limits, reply_rules(config), adapt=config.feedback.adapt, on_change=self._slowed)
        self._mint = Mint(config.database, self.limits, self._feedback, metrics, self._granted)
        self._warmer = Warmer(config.database, self.limits.warming, self._regrouped) if self.limits.warming else None
        self._regroup = False
        self._regrouped_at = 0.0
        self._roller = (
            MxRoller(self.limits.groups, self._regrouped, nameservers=config.groups.nameservers)
            if config.groups.mx
            else None
        )
        for stream in config.stream:
            pipeline = Pipeline(
                config,
                stream,
                composer,
                instance=instance,
                limits=self.limits,
                feedback=self._feedback,
                unsettled=unsettled,
                metrics=metrics,
                health=health,
                threads=self._threads,
                files=self._files,
                on_lane=self._roller.ask if self._roller else None,
            )
            self.pipelines[stream.name] = pipeline
            for group, pool_name in enumerate(stream.pools):
                self._attach(pipeline, group, pool_name)
                for spare in resolved.overflow_of(pool_name):
                    self._attach(pipeline, group, spare, spare_for=pool_name)
        self._scout = Scout(config.database, self.pipelines, float(config.lease.poll))

    def _attach(self, pipeline: Pipeline, group: int, pool_name: str, *, spare_for: str = "") -> None:
        """A pool's providers as ways of a stream; `spare_for`: they take what that pool's warm-up leaves over."""
        stream, resolved, warming = pipeline.stream, self.resolved, self.limits.warming
        for name in resolved.pools[pool_name].providers:
            provider = resolved.providers[name]
            feed = Feed(
                pipeline.backlog,
                name,
                pool=pool_name,
                weight=provider.weight,
                buckets=self.limits.of_provider(name, pool_name if spare_for else ""),
                urgent=self.limits.urgent(stream.name),
                sticky=resolved.pools[pool_name].sticky,
            )
            if spare_for:
                feed.wants = partial(warming.spills, spare_for, resolved.pools[spare_for].providers)
            elif warming.covers(pool_name, name):
                feed.wants = partial(warming.wants, pool_name, name)
                feed.warm = partial(warming.of, pool_name, name)
                feed.tally = partial(_tally, warming, pool_name, name)
            pool = make_pool(
                provider,
                feed,
                stream=stream.name,
                concurrency=stream.concurrency,
                budget=self._budgets[name],
                on_state=pipeline.provider_changed,
            )
            self._pools.append(pool)
            pipeline.attach(group, pool, feed, spare=bool(spare_for))

    async def run(self) -> None:
        """Until cancelled, or until every pipeline has been stopped."""
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(self._scout.run(), name="scout"),
                group.create_task(self._tick(), name="tick"),
                group.create_task(self._mint.run(), name="mint"),
            ]
            if self._warmer is not None:
                others.append(group.create_task(self._warmer.run(), name="warmup"))
            if self._roller is not None:
                others.append(group.create_task(self._roller.run(), name="mx"))
            pipelines = [group.create_task(p.run(), name=f"pipeline:{name}") for name, p in self.pipelines.items()]
            await asyncio.wait(pipelines)
            for task in others:
                task.cancel()

    def _granted(self, changed: bool) -> None:
        for pipeline in self.pipelines.values():
            pipeline.granted(changed)

    def _regrouped(self) -> None:
        """Lanes fall under other limits than before: a domain belongs to another group, a warm-up has begun or is over.
        Told to all of them with the others of this second."""
        self._regroup = True

    def _slowed(self) -> None:
        """A reply has stopped or slowed something: soon, since we are in a connection's callback."""
        asyncio.get_running_loop().call_soon(self._granted, True)

    async def _tick(self) -> None:
        expected = time.monotonic() + TICK
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self._metrics.loop_lag(max(0.0, now - expected))
            expected = now + TICK
            self.tick(now)

    def tick(self, now: float) -> None:
        """Deadlines, idle connections, breakers; domains that joined another group."""
        if self._regroup and now - self._regrouped_at >= REGROUP:
            self._regroup, self._regrouped_at = False, now
            self.limits.version += 1
            self._granted(True)
        for pool in self._pools:
            pool.tick(now)

    def share(self, shared: Shared) -> None:
        """What the heartbeat brought: the number of instances and what is paused."""
        some = False
        for name, provider in self.resolved.providers.items():
            budget = self._budgets[name]
            others = shared.others.get(name, 0)
            cap = share(provider.connections, shared.instances, others=others, held=budget.total)
            some |= cap > budget.cap == 0
            budget.cap = cap
        if some:
            self._granted(False)
        self.limits.share(shared.instances)
        self._mint.share(shared.instances)
        self._feedback.share(shared.instances)
        self.pause(shared.paused)

    def pause(self, paused: Paused) -> None:
        for pipeline in self.pipelines.values():
            pipeline.pause(paused)

    def provider_states(self, now: float) -> list[ProviderState]:
        """One entry per provider: the worst breaker over the streams, and all connections."""
        states: dict[str, ProviderState] = {}
        for pool in self._pools:
            name = pool.provider.name
            counts = pool.counts()
            total = sum(counts.values())
            known = states.get(name)
            open_for = max(pool.open_until - now, 0.0) if pool.state == "open" else None
            state = ProviderState(name, pool.state, open_for, str(pool.last_trouble or "")[:500], total)
            if known is None:
                states[name] = state
            elif (known.state, state.state).count("closed") == 1 and known.state == "closed":
                states[name] = state._replace(connections=total + known.connections)
            else:
                states[name] = known._replace(connections=total + known.connections)
        return list(states.values())

    def connections(self) -> dict[str, dict[str, int]]:
        """Connections by provider and state, for the metrics."""
        found: dict[str, dict[str, int]] = {}
        for pool in self._pools:
            mine = found.setdefault(pool.provider.name, {})
            for state, count in pool.counts().items():
                mine[state] = mine.get(state, 0) + count
        return found

    def timings(self) -> dict[tuple[str, str], Timing]:
        """Durations by provider and phase, for the metrics."""
        found: dict[tuple[str, str], Timing] = {}
        for pool in self._pools:
            for phase, timing in pool.timings.items():
                found.setdefault((pool.provider.name, phase), Timing()).add(timing)
        return found

    def sent(self) -> int:
        return sum(p.backlog.sent for p in self.pipelines.values())

    def held(self) -> int:
        return sum(len(p.backlog.held) for p in self.pipelines.values())

    def stop(self) -> None:
        """Leasing ends; `run` returns."""
        for pipeline in self.pipelines.values():
            pipeline.stop()

    async def drain(self, grace: float) -> None:
        """After `stop` and the end of `run`: finishes what is in flight, within `grace` seconds."""
        deadline = time.monotonic() + grace
        ticking = asyncio.create_task(self._tick())
        try:
            await asyncio.gather(*(p.drain(deadline) for p in self.pipelines.values()))
        finally:
            ticking.cancel()
            await self._mint.close()
            if self._warmer is not None:
                await self._warmer.close()
            for pipeline in self.pipelines.values():
                await pipeline.close()
            await self._files.close()
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    def abort(self) -> None:
        for pipeline in self.pipelines.values():
            pipeline.abort()


def _tally(warming: Warming, pool: str, provider: str, domain: str, outcomes: Sequence[Outcome]) -> None:
    sent = sum(outcome.kind is OutcomeKind.SENT for outcome in outcomes)
    rejected = sum(outcome.kind is OutcomeKind.REJECTED for outcome in outcomes)
    if sent or rejected:
        warming.note(pool, provider, domain, sent, rejected)


def reply_rules(config: Config) -> Rules:
    """The user's rules and the shipped ones. Raises `Failure` naming the rule that cannot be used."""
    path = config.feedback.rules
    if path is None:
        return Rules()
    try:
        return Rules(load(Path(path).read_text("utf-8"), path))
    except (OSError, UnicodeDecodeError, RuleError) as wrong:
        raise Failure(f"feedback.rules: {wrong}", "configuration") from wrong
