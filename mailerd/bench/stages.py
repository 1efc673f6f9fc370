"""Where a daemon's CPU time goes: a sampling profiler that runs inside it, for the load test only.

`python -m mailerd.bench.stages FILE run --config …` is `mailerd run --config …` with a timer on CPU time. Each tick
looks at the running stack and counts for the innermost room of ours on it: compose, smtp, store, … The counts are kept
by second and written at exit; `shares` adds up those of a window.

Hazard: a tick inside C code is seen when Python runs again, so work of C libraries counts for whoever called them or
is called next; shares are right to a few per cent. It costs about half a per cent.
"""

from __future__ import annotations

import atexit
import runpy
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

__all__ = ["shares"]

_TICK = 0.005  # seconds of CPU time
_ROOMS: Final = (
    ("mailerd.compose", "compose"),
    ("jinja2", "compose"),
    ("mailerd.smtp", "smtp"),
    ("mailerd.http", "http"),
    ("aiohttp", "http"),
    ("mailerd.store", "store"),
    ("asyncpg", "store"),
    ("mailerd.flow", "flow"),
    ("mailerd.web", "metrics"),
    ("mailerd.daemon", "pipeline"),
)
_REST: Final = "event loop"

_counts: dict[int, Counter[str]] = {}


def _room(frame: FrameType | None) -> str:
    """The innermost frame that belongs to somebody decides. Compiled templates have no module of their own."""
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if not module or ("root" in frame.f_code.co_name and "environment" in frame.f_globals):
            return "compose"
        for prefix, stage in _ROOMS:
            if module.startswith(prefix):
                return stage
        frame = frame.f_back
    return _REST


def _tick(_number: int, frame: FrameType | None) -> None:
    stage = _room(frame)
    if stage == _REST:  # our loop waits; it may be another thread that works
        for thread, other in sys._current_frames().items():
            if thread != threading.main_thread().ident and (found := _room(other)) != _REST:
                stage = found
                break
    _counts.setdefault(int(time.monotonic()), Counter())[stage] += 1


def _write(path: Path) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    path.write_bytes(msgspec.json.encode(_counts))


def shares(files: Iterable[Path], begin: float, end: float) -> dict[str, float]:
    """Each stage's share (0 to 1) of the daemons' CPU time between two instants of `time.monotonic()`."""
    total: Counter[str] = Counter()
    for path in files:
        if path.exists():
            for second, counts in msgspec.json.decode(path.read_bytes(), type=dict[int, dict[str, int]]).items():
                if begin <= second + 1 and second <= end:
                    total.update(counts)
    ticks = total.total()
    return {stage: count / ticks for stage, count in total.most_common()} if ticks else {}


def main() -> None:
    """Profiles the rest of the command line."""
    path = Path(sys.argv.pop(1))
    signal.signal(signal.SIGPROF, _tick)
    signal.siginterrupt(signal.SIGPROF, False)
    atexit.register(_write, path)
    signal.setitimer(signal.ITIMER_PROF, _TICK, _TICK)
    runpy.run_module("mailerd", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
