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
from pathlib import Path

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
from mailerd.daemon.unsettled import Unsettled
from mailerd.flow.limits import Limits
from mailerd.flow.rules import RuleError, Rules, load
from mailerd.message import Failure
from mailerd.smtp.budget import ConnectionBudget
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
    ) -> None:
        config = resolved.config
        self.resolved = resolved
        self._metrics = metrics
        self._budgets = budgets
        composer = Composer(config)
        self.pipelines: dict[str, Pipeline] = {}
        self._pools: list[Pool] = []
        for provider in config.provider:
            budget = budgets.setdefault(provider.name, ConnectionBudget(provider.connections))
            users = [s.name for s in config.stream if provider in resolved.providers_of(s.name)]
            budget.urgent = users[0] if users else ""
        self.limits = Limits(resolved)
        self._feedback = Feedback(self.limits, reply_rules(config), adapt=config.feedback.adapt, on_change=self._slowed)
        self._mint = Mint(config.database, self.limits, self._feedback, metrics, self._granted)
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
                on_lane=self._roller.ask if self._roller else None,
            )
            self.pipelines[stream.name] = pipeline
            for group, pool_name in enumerate(stream.pools):
                for provider_name in resolved.pools[pool_name].providers:
                    provider = resolved.providers[provider_name]
                    feed = Feed(
                        pipeline.backlog,
                        provider_name,
                        weight=provider.weight,
                        buckets=self.limits.of_provider(provider_name),
                        urgent=self.limits.urgent(stream.name),
                        sticky=resolved.pools[pool_name].sticky,
                    )
                    pool = make_pool(
                        provider,
                        feed,
                        stream=stream.name,
                        concurrency=stream.concurrency,
                        budget=budgets[provider_name],
                        on_state=pipeline.provider_changed,
                    )
                    self._pools.append(pool)
                    pipeline.attach(group, pool, feed)
        self._scout = Scout(config.database, self.pipelines, float(config.lease.poll))

    async def run(self) -> None:
        """Until cancelled, or until every pipeline has been stopped."""
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(self._scout.run(), name="scout"),
                group.create_task(self._tick(), name="tick"),
                group.create_task(self._mint.run(), name="mint"),
            ]
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
        """A domain belongs to another group than before. Told to all lanes with the others of this second."""
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
        for name, provider in self.resolved.providers.items():
            # Connections across instances: floor(cap / live instances), and no more than the others leave; at least
            # one, so that no instance sits on what it has leased.
            free = provider.connections - shared.others.get(name, 0)
            self._budgets[name].cap = max(1, min(provider.connections // shared.instances, free))
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
            for pipeline in self.pipelines.values():
                await pipeline.close()

    def abort(self) -> None:
        for pipeline in self.pipelines.values():
            pipeline.abort()


def reply_rules(config: Config) -> Rules:
    """The user's rules and the shipped ones. Raises `Failure` naming the rule that cannot be used."""
    path = config.feedback.rules
    if path is None:
        return Rules()
    try:
        return Rules(load(Path(path).read_text("utf-8"), path))
    except (OSError, UnicodeDecodeError, RuleError) as wrong:
        raise Failure(f"feedback.rules: {wrong}", "configuration") from wrong
