"""The figures of one load test, as `--json` prints them. Names are public: programs read them."""

from __future__ import annotations

import math
import os
import platform
from bisect import bisect_left
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

import mailerd

__all__ = ["Latency", "Memory", "Point", "Result", "machine", "percentile", "versions"]


class Latency(msgspec.Struct):
    """Milliseconds from the commit of the insert to the provider's 250."""

    p50: float
    p95: float
    p99: float
    max: float


class Memory(msgspec.Struct):
    """Megabytes (2^20 octets) of the largest daemon: after the first tenth of the messages, at the end, at most."""

    first: float
    last: float
    peak: float


class Point(msgspec.Struct):
    """A second or more of the run. `cpu` in CPUs, `rss` in megabytes, by process group."""

    at: float
    messages_per_second: float
    cpu: dict[str, float]
    rss: dict[str, float]


class Result(msgspec.Struct, kw_only=True):
    scenario: str
    messages: int
    seconds: float
    messages_per_second: float
    latency_ms: Latency | None
    latency_of: str
    cpu_us_per_message: dict[str, float | None]
    stages_us_per_message: dict[str, float] = {}  # what mailerd's part is made of, if it was sampled
    peak_rss_mb: float
    memory_mb: Memory
    lost: int
    duplicates: int | None
    resent_in_doubt: int | None
    refused: int
    waiting: int
    probes: int = 0
    instances: int
    synchronous_commit: str
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str]
    latency_curve: list[tuple[float, float]]  # (percentile, milliseconds)
    series: list[Point]


def percentile(ordered: list[float], share: float) -> float:
    """The nearest-rank percentile of an ordered list; `share` between 0 and 1."""
    return ordered[min(len(ordered), max(1, math.ceil(share * len(ordered) - 1e-9))) - 1]


def rate_between(times: list[float], begin: float, end: float) -> float:
    """Acceptances a second in [begin, end)."""
    return (bisect_left(times, end) - bisect_left(times, begin)) / max(end - begin, 1e-9)


def versions(postgres: str) -> dict[str, str]:
    """Of everything that the figures depend on."""
    found = {"mailerd": mailerd.__version__, "python": platform.python_version(), "postgres": postgres}
    for name in ("asyncpg", "uvloop", "jinja2", "msgspec"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # pragma: no cover
            continue
    return found


def machine() -> dict[str, str]:
    """What it ran on."""
    model, memory = platform.processor() or platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        memory = f"{int(Path('/proc/meminfo').read_text().split()[1]) / 2**20:.0f} GB"
    except (OSError, ValueError, IndexError):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    return {"cpu": model, "cores": str(cores), "memory": memory, "system": f"{platform.system()} {platform.release()}"}
