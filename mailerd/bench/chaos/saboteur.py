"""`mailerd` in a process that was tampered with: a wrong wall clock, little memory, an event loop that can be blocked.

`python -m mailerd.bench.chaos.saboteur [--skew S] [--memory OCTETS] [--stall S] -- run --config FILE` does the damage
and then calls the command line as it is. What cannot be done to a healthy process from outside is done here; nothing
else is changed.

Hazards: the skew reaches Python code only (time.time, datetime), not C libraries nor time.gmtime() without a time;
mailerd's own code is what is tried. SIGUSR2 before the command line has begun ends the process.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import runpy
import signal
import sys
import time
from typing import Any

__all__ = ["main"]


def skew(seconds: float) -> None:
    """Moves the wall clock. `time.monotonic` goes on truly: no adjustment of a clock moves it."""
    true_time, true_ns = time.time, time.time_ns

    true_datetime = datetime.datetime

    class Moment(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, true_datetime)  # what Postgres and C code made are instants, too

    class Skewed(datetime.datetime, metaclass=Moment):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return true_datetime.fromtimestamp(true_time() + seconds, tz)  # of the true type, which C code asks for

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    time.time = lambda: true_time() + seconds
    time.time_ns = lambda: true_ns() + int(seconds * 1e9)
    datetime.datetime = Skewed  # type: ignore[misc]


def limit_memory(octets: int) -> None:
    """A hard limit on what may be allocated.

    RLIMIT_DATA counts private writable memory, which is what a process can ask for in vain. RLIMIT_AS counts address
    space: shared libraries too, and the 64 MB that malloc reserves for each thread, several times what is ever touched.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (octets, octets))


def stall_on_signal(seconds: float) -> None:
    """SIGUSR2 blocks the main thread, and with it the event loop, for so long."""
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(seconds))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--stall", type=float, default=0.0)
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    if asked.skew:
        skew(asked.skew)
    if asked.memory:
        limit_memory(asked.memory)
    if asked.stall:
        stall_on_signal(asked.stall)
    sys.argv = ["mailerd", *asked.command]
    runpy.run_module("mailerd", run_name="__main__")  # only now: what it imports is to see the damage


if __name__ == "__main__":
    main(sys.argv[1:])
