"""What limits cost that hold nobody up: five of them for each message, so high that they never bite, against none at all.

Runs alternate (none, five, none, five, …), each with a Postgres, a sink and a daemon of its own: marketing mail at full
speed and single transactional messages beside it. From a run come its speed, the wait of the transactional ones, and how
often the daemon asked Postgres for tokens. `judge` is pure.

Hazard: on a machine that does other things, single runs differ by more than what is measured; hence medians, and longer
runs in the long form.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import tomllib
import urllib.request
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Final, NamedTuple

from mailerd.bench.bed import Bed
from mailerd.bench.progress import Progress
from mailerd.bench.run import Overdue, Run
from mailerd.bench.settings import Settings

__all__ = ["LEAST_SPEED", "MOST_STATEMENTS", "MOST_WAIT", "Speed", "counter", "judge", "settings", "slope", "throttled"]

LEAST_SPEED: Final = 0.92  # of what goes out without limits
MOST_STATEMENTS: Final = 2.0  # a second, of one instance
MOST_WAIT: Final = 0.25  # seconds, p99 of the transactional messages
_SERIES: Final = 'mailerd_statement_seconds_count{statement="grant"}'
_LOOK: Final = 0.1  # seconds between looks at the counter: by which the ends of a run of some 6 s are uncertain


class Speed(NamedTuple):
    """One run: messages a second, seconds until the transactional ones were accepted (p99), statements a second."""

    rate: float
    wait: float
    statements: float


def settings(*, limited: bool, long: bool) -> Settings:
    """Of one run: what the marketing stream sends is its `backlog`."""
    # More transactional messages than the backlog takes time for: the run ends with the backlog.
    return Settings(
        scenario="isolation", limited=limited, backlog=150_000 if long else 30_000, messages=20_000, interval=0.05
    )


def counter(page: str, series: str) -> float:
    """The value of a series on a page of metrics; 0 if it is not there."""
    found = (line.rpartition(" ") for line in page.splitlines())
    return next((float(value) for name, _, value in found if name == series), 0.0)


def judge(free: Sequence[Speed], limited: Sequence[Speed]) -> tuple[dict[str, float], list[tuple[str, bool, str]]]:
    """(figures, promises as (name, kept, detail)) from the runs without and with limits, as many of each."""
    without, with_ = (median(run.rate for run in runs) for runs in (free, limited))
    ratio = with_ / without
    pairs = [b.rate / a.rate for a, b in zip(free, limited, strict=True)]
    statements = fmean(run.statements for run in limited)
    wait = max(run.wait for run in (*free, *limited))
    figures = {
        "msg/s without": without,
        "msg/s with five": with_,
        "ratio": ratio,
        "lowest pair": min(pairs),
        "highest pair": max(pairs),
        "statements/s": statements,
        "urgent p99, ms": wait * 1000,
    }
    return figures, [
        (
            f"five limits leave {LEAST_SPEED:.0%} of the speed at least",
            ratio >= LEAST_SPEED,
            f"{without:,.0f} → {with_:,.0f} msg/s, {ratio:.1%}",
        ),
        (
            f"tokens take {MOST_STATEMENTS:.0f} statements a second at most",
            0 < statements <= MOST_STATEMENTS,
            f"{statements:.2f}",
        ),
        (f"urgent mail takes {MOST_WAIT * 1000:.0f} ms at most (p99)", wait <= MOST_WAIT, f"{wait * 1000:.0f} ms"),
    ]


async def throttled(
    *, long: bool, say: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, float], list[tuple[str, bool, str]]]:
    """Plays the runs; what `judge` makes of them. Raises `Overdue`, `ChildFailed`, `PostgresMissing`, `Unavailable`."""
    runs: dict[bool, list[Speed]] = {False: [], True: []}
    for number in range(3):
        for limited in (False, True):
            say(f"{'five limits' if limited else 'no limits'}, run {number + 1} of 3")
            runs[limited].append(await _run(settings(limited=limited, long=long)))
    return judge(runs[False], runs[True])


async def _run(asked: Settings) -> Speed:
    counts: list[tuple[float, float]] = []
    async with Bed(asked) as bed:
        run = Run(asked, bed, Progress(quiet=True))
        watching = asyncio.create_task(_count_statements(bed, counts))
        try:
            window = await run.isolation()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        result = await run.result(window)
    if result.latency_ms is None or window is None:
        raise Overdue("the backlog was sent before a transactional message could be")
    inside = [(at, count) for at, count in counts if window.begin <= at <= window.end]
    return Speed(result.messages_per_second, result.latency_ms.p99 / 1000, slope(inside))


def slope(counts: Sequence[tuple[float, float]]) -> float:
    """A second, by (instant, count) in order: from the first change to the last, so that what lies between two changes at
    the ends of a short run adds nothing. 0 with less than two."""
    changes = [after for before, after in pairwise(counts) if after[1] != before[1]]
    if len(changes) < 2:
        return 0.0
    (first, low), (last, high) = changes[0], changes[-1]
    return (high - low) / (last - first)


async def _count_statements(bed: Bed, counts: list[tuple[float, float]]) -> None:
    """Notes (`time.monotonic()`, statements so far) every now and then, until cancelled."""
    file = bed.folder / "daemon1.toml"
    while True:
        await asyncio.sleep(_LOOK)
        if file.exists() and (page := await asyncio.to_thread(_metrics, file)):
            counts.append((time.monotonic(), counter(page, _SERIES)))


def _metrics(file: Path) -> str:
    """What the daemon with this configuration shows; nothing while it is not there."""
    listen = tomllib.loads(file.read_text())["ops"]["listen"]
    try:
        with urllib.request.urlopen(f"http://{listen}/metrics", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
