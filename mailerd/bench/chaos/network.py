"""Chaos: the network to the provider, and the provider itself.

A proxy stands between the instances and the sink. What it resets, swallows or holds back is what networks do; the sink
itself refuses, and closes after the dot, as providers do on their bad days.
"""

from __future__ import annotations

import asyncio

from mailerd.bench.chaos.facts import Facts
from mailerd.bench.chaos.plan import Knobs
from mailerd.bench.chaos.promise import Promise, Verdict
from mailerd.bench.chaos.proxy import Proxy
from mailerd.bench.chaos.scenario import Scenario, scenario
from mailerd.bench.chaos.stage import Stage
from mailerd.bench.fault import Kind

__all__ = ["NetCut", "NetSlow", "ProviderStorm"]

# Nobody waits ten minutes for a dot here.
_SHORT = 'timeouts = { connect = "2s", greeting = "3s", command = "3s", content = "3s", dot = "3s" }'
_ON_THEIR_WAY = 8  # ends of connections that the proxy has not passed on yet


class Proxied(Scenario):
    """With a proxy before the sink."""

    def __init__(self, *, long: bool) -> None:
        super().__init__(long=long)
        self._proxy: Proxy | None = None

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    async def set_up(self, stage: Stage) -> None:
        await super().set_up(stage)
        self._proxy = stage.proxied()


@scenario
class NetCut(Proxied):
    name = "net-cut"
    what = "connections are reset, half open, or lose their answers, in mid-transaction"

    def knobs(self) -> Knobs:
        return Knobs(rate=600, latency=0.01, timeouts=_SHORT, zombies=_ON_THEIR_WAY)

    async def play(self, stage: Stage) -> None:
        proxy = self.proxy
        async with stage.load():
            for _ in range(10 if self.long else 1):
                for kind in ("cut-some", "cut", "cut-some", "deafen", "freeze"):
                    await stage.until_accepted(stage.accepted() + stage.chance.randrange(100, 400))
                    stage.fault(kind)
                    if kind == "cut-some":
                        proxy.cut_some(0.5)
                        continue
                    {"cut": proxy.cut, "deafen": proxy.deafen, "freeze": proxy.freeze}[kind]()
                    await asyncio.sleep(0.3 + stage.chance.random())
                    proxy.heal()
        stage.figures["in doubt"] = float(
            await stage.session.value("SELECT count(*) FROM mailerd.event WHERE type = 'in_doubt'")
        )

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        doubts = int(stage.figures["in doubt"])
        return [Promise("lost answers are on record", doubts > 0, f"{doubts:,} in_doubt events")]


@scenario
class NetSlow(Proxied):
    name = "net-slow"
    what = "packets take 50 to 200 ms each way, and some connections break on the way"

    def knobs(self) -> Knobs:
        return Knobs(rate=150, seconds=60.0 if self.long else 8.0, slack=4.0, connections=12, zombies=_ON_THEIR_WAY)

    async def play(self, stage: Stage) -> None:
        self.proxy.slow(0.05, 0.15)
        stage.fault("50 to 200 ms each way")
        end = asyncio.get_running_loop().time() + stage.knobs.seconds
        async with stage.load():
            while asyncio.get_running_loop().time() < end:
                await asyncio.sleep(1.0 + stage.chance.random())
                stage.fault("cut-some")
                self.proxy.cut_some(0.2)


@scenario
class ProviderStorm(Proxied):
    name = "provider-storm"
    what = "the provider defers, says 421, closes after the dot, and then refuses all connections"

    def knobs(self) -> Knobs:
        return Knobs(
            rate=400, latency=0.005, faults=0.25, timeouts=_SHORT, patience=400.0, zombies=_ON_THEIR_WAY,
            kinds=(
                Kind.MAIL_4XX, Kind.MAIL_421, Kind.RCPT_4XX, Kind.RCPT_5XX, Kind.DOT_4XX, Kind.DOT_5XX, Kind.DOT_421, Kind.DOT_CLOSE,
            ),
        )  # fmt: skip

    async def play(self, stage: Stage) -> None:
        away = 300.0 if self.long else 5.0
        async with stage.load():
            stage.fault("every fourth message is treated badly")
            await asyncio.sleep(60.0 if self.long else 4.0)
            stage.fault(f"connections refused for {away:.0f} s")
            self.proxy.cut()
            await asyncio.sleep(away)
            self.proxy.heal()
            await asyncio.sleep(3.0)
