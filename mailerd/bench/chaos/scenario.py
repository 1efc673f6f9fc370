"""A chaos scenario: what it breaks, with which knobs, and what else must hold; and the run of one, start to verdict.

Each family of scenarios has a file of its own and registers with `scenario`. One scenario has a short form, for every
commit, and a long one, for every night. It plays on a `Stage`, and only breaks and notes; the judging of the promises
is the same for all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from mailerd.bench.chaos.facts import Facts
from mailerd.bench.chaos.plan import Knobs
from mailerd.bench.chaos.promise import Promise, Verdict, judge
from mailerd.bench.chaos.stage import Stage

__all__ = ["SCENARIOS", "Report", "Scenario", "play", "scenario"]


class Scenario:
    """Subclasses say `name` and `what` (one line), and override what they need."""

    name = ""
    what = ""
    forgetful = False  # the database itself may lose what it acknowledged

    def __init__(self, *, long: bool) -> None:
        self.long = long

    def knobs(self) -> Knobs:
        return Knobs()

    def saboteur(self, number: int) -> tuple[str, ...]:
        """Options of `chaos.saboteur` for instance `number` (from 1); none: it runs untampered."""
        return ()

    async def set_up(self, stage: Stage) -> None:
        """Postgres, schema and sink. Raises `NotHere` where the machine cannot play this."""
        stage.start_postgres()
        await stage.migrate()
        stage.start_sink()

    async def play(self, stage: Stage) -> None:
        """The faults, under load."""
        raise NotImplementedError

    def judge(self, stage: Stage, facts: Facts, verdict: Verdict) -> list[Promise]:
        """Promises of this scenario alone."""
        return []


SCENARIOS: Final[dict[str, type[Scenario]]] = {}


def scenario(kind: type[Scenario]) -> type[Scenario]:
    """A class decorator: makes the scenario known by its name."""
    SCENARIOS[kind.name] = kind
    return kind


class Report(msgspec.Struct, kw_only=True):
    """One scenario's outcome. `error` is set when it could not be played to its end, `skipped` when not at all."""

    scenario: str
    seed: int
    long: bool
    seconds: float = 0.0
    faults: list[str] = []
    verdict: Verdict | None = None
    figures: dict[str, float] = {}
    error: str = ""
    skipped: str = ""

    @property
    def kept(self) -> bool:
        """False when a promise broke or the run did not come to its end."""
        return bool(self.skipped) or (not self.error and self.verdict is not None and self.verdict.kept)


async def play(kind: type[Scenario], *, long: bool, seed: int, say: Callable[[str], None] = lambda _: None) -> Report:
    """Sets up, plays, waits, judges. Raises `ChildFailed`, `Overdue`, `NotHere`, `PostgresMissing`, `Unavailable`."""
    played = kind(long=long)
    begin = time.monotonic()
    async with Stage(played.knobs(), seed) as stage:
        say("set up")
        await played.set_up(stage)
        await stage.open(played.saboteur)
        say("play")
        await played.play(stage)
        say("wait for the end")
        await stage.quiet()
        stumbles = sum(instance.tracebacks() for instance in stage.instances)
        facts = await stage.collect()
        say("judge")
        verdict = await asyncio.to_thread(judge, facts, forgetful=played.forgetful)
        text = "no instance stumbled" if not stumbles else f"{stumbles} tracebacks: {stage.instances[0].words()[-500:]}"
        verdict.promises.append(Promise("no fault is a crash", not stumbles, text))
        verdict.promises += played.judge(stage, facts, verdict)
        return Report(
            scenario=kind.name,
            seed=seed,
            long=long,
            seconds=round(time.monotonic() - begin, 1),
            faults=[str(fault) for fault in stage.faults],
            verdict=verdict,
            figures=stage.figures,
        )
