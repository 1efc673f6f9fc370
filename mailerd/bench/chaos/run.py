"""The chaos command: which scenarios there are, and one after the other of them. Importing it makes all of them known.

A scenario that cannot be played here (no root, no PgBouncer) is skipped with the reason; one that does not come to its
end is a failure with its last words; neither keeps the others from being played.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from mailerd.bench.chaos import database, deaths, endurance, network
from mailerd.bench.chaos.nothere import NotHere
from mailerd.bench.chaos.scenario import SCENARIOS, Report, play
from mailerd.bench.chaos.stage import Overdue
from mailerd.bench.child import ChildFailed
from mailerd.store.database import Unavailable

__all__ = ["SCENARIOS", "reports"]

_FAMILIES = (deaths, database, network, endurance)  # imported for what they register


def reports(names: Iterable[str], *, long: bool, seed: int, say: Callable[[str], None]) -> Iterator[Report]:
    """Plays each; `say` is told what is being done. Raises `PostgresMissing`."""
    for name in names:

        def tell(what: str, name: str = name) -> None:
            say(f"{name}: {what}")

        try:
            yield asyncio.run(play(SCENARIOS[name], long=long, seed=seed, say=tell))
        except NotHere as missing:
            yield Report(scenario=name, seed=seed, long=long, skipped=str(missing))
        except (ChildFailed, Overdue, Unavailable) as failed:
            yield Report(scenario=name, seed=seed, long=long, error=str(failed))
