"""Chaos: instances that die, stop and stall.

`kill-9` gives the figure that matters most: how many messages one death sends twice. `stop-cont` makes zombies, which
wake up when another instance has their messages; `loop-stall` the same from inside.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mailerd.bench.chaos.facts import Facts
from mailerd.bench.chaos.instance import Instance
from mailerd.bench.chaos.plan import Knobs
from mailerd.bench.chaos.promise import Promise, Verdict
from mailerd.bench.chaos.scenario import Scenario, scenario
from mailerd.bench.chaos.stage import Stage

__all__ = ["ClockSkew", "Kill", "LoopStall", "Memory", "StopCont"]


@scenario
class Kill(Scenario):
    name = "kill-9"
    what = "one or all instances are killed, again and again, at full speed"

    def knobs(self) -> Knobs:
        kills = 24 if self.long else 5
        return Knobs(seconds=kills * 2.0, backlog=250_000 if self.long else 20_000, patience=180.0)

    async def play(self, stage: Stage) -> None:
        kills = 24 if self.long else 5
        async with stage.load():
            for number in range(kills):
                # At a moment of its own within the work: never while nothing is sent.
                await stage.until_accepted(
                    stage.accepted() + stage.chance.randrange(200, 3_000 if self.long else 1_000)
                )
                everyone = number % 4 == 3
                struck = stage.instances if everyone else [stage.some_instance()]
                stage.fault("kill-9 of all" if everyone else f"kill-9 of {struck[0].name}", deaths=len(struck))
                for instance in struck:
                    instance.kill()
                for instance in struck:
                    instance.launch()
                for instance in struck:
                    await instance.until_ready()

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        counts = sorted(verdict.duplicates.by_death)
        stage.figures |= {
            "sent twice a kill, median": counts[len(counts) // 2],
            "sent twice a kill, most": counts[-1],
            "bound of one instance": stage.knobs.bound,
            "instances killed": sum(fault.deaths for fault in stage.faults),
        }
        return []


# An instance that stands still keeps its connections. The other one takes its share after 15 s of silence, or after some
# heartbeats if it comes new; it cannot know whether the silent one's connections are closed, as those of a dead one are.
_STILL_OPEN = 24

_FENCED = "mailerd_fenced_total"
_TRIES = 3


class Zombies(Scenario):
    """The busiest instance stands still for longer than its lease, wakes up, and must find that it holds nothing."""

    times = (1, 3)  # short, long

    async def stand_still(self, stage: Stage, instance: Instance) -> None:
        """Returns when it goes on."""
        raise NotImplementedError

    async def play(self, stage: Stage) -> None:
        async with stage.load():
            for _ in range(self.times[self.long]):
                for _ in range(_TRIES):
                    if await self._stand(stage):
                        break
            stage.figures["fenced"] = await stage.metric(_FENCED)
            stage.figures["leases taken over"] = await stage.metric("mailerd_lease_expired_total")

    async def _stand(self, stage: Stage) -> bool:
        """Whether it lost something: between the look and the blow the busiest instance may have settled all it held."""
        await stage.until_accepted(stage.accepted() + 300)
        zombie = await stage.busiest()
        before = await stage.metric(_FENCED)
        fault = stage.fault(f"{self.name} of {zombie.name}", deaths=1)
        await self.stand_still(stage, zombie)
        fault.until = time.monotonic()
        deadline = fault.until + 10.0  # a busy machine wakes it late, and late it answers
        while time.monotonic() < deadline:
            await asyncio.sleep(1.0)
            if await stage.metric(_FENCED) > before:
                return True
        return False

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        fenced = int(stage.figures["fenced"])  # a zombie that lost nothing to its neighbours proves nothing
        return [
            Promise("what a zombie held was taken from it", fenced > 0, f"{fenced:,} leases and settles were fenced")
        ]


@scenario
class StopCont(Zombies):
    name = "stop-cont"
    what = "an instance is stopped for twice its lease, and wakes up with messages that others have sent"
    times = (1, 4)

    def knobs(self) -> Knobs:
        return Knobs(rate=400, latency=0.03, patience=60.0, zombies=_STILL_OPEN)

    async def stand_still(self, stage: Stage, instance: Instance) -> None:
        instance.pause()
        await asyncio.sleep(2 * stage.knobs.ttl)
        instance.resume()


@scenario
class LoopStall(Zombies):
    name = "loop-stall"
    what = "the event loop of an instance is blocked for longer than its lease"

    @property
    def stall(self) -> float:
        return 30.0 if self.long else 8.0

    def knobs(self) -> Knobs:
        return Knobs(rate=400, latency=0.03, zombies=_STILL_OPEN)

    def saboteur(self, number: int) -> tuple[str, ...]:
        return ("--stall", f"{self.stall:g}")

    async def stand_still(self, stage: Stage, instance: Instance) -> None:
        instance.stall()
        await asyncio.sleep(self.stall)


@scenario
class ClockSkew(Scenario):
    name = "clock-skew"
    what = "the wall clocks of two instances are an hour fast and an hour slow"

    def knobs(self) -> Knobs:
        return Knobs(seconds=60.0 if self.long else 6.0)

    def saboteur(self, number: int) -> tuple[str, ...]:
        return ("--skew", "3600" if number % 2 else "-3600")

    async def play(self, stage: Stage) -> None:
        stage.fault("clocks an hour fast and an hour slow")
        async with stage.load():
            await asyncio.sleep(stage.knobs.seconds)


@scenario
class Memory(Scenario):
    name = "memory"
    what = "an instance may have 256 MB, and its messages have 20 kB"

    def knobs(self) -> Knobs:
        return Knobs(
            instances=1, size=20_000, rate=300, seconds=60.0 if self.long else 6.0,
            backlog=20_000 if self.long else 4_000,
        )  # fmt: skip

    def saboteur(self, number: int) -> tuple[str, ...]:
        return ("--memory", str(256 * 2**20))

    async def play(self, stage: Stage) -> None:
        stage.fault("256 MB")
        async with stage.load():
            await asyncio.sleep(stage.knobs.seconds)
        status = Path(f"/proc/{stage.instances[0].pid}/status").read_text()
        stage.figures["peak MB"] = int(status.partition("VmHWM:")[2].split()[0]) // 1024
