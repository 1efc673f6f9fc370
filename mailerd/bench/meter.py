"""What processes cost: CPU time and memory, read from /proc (Linux). Elsewhere there is nothing to read, and no figure.

A group is a root process with everything below it: Postgres with its backends, the sink with its processes. CPU time
of children that have ended is in their parent's account, so a group's total never falls.

Hazard: the kernel counts in ticks of 10 ms; figures over less than a second mean little.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from pathlib import Path

import msgspec

__all__ = ["Meter", "Sample", "postmaster"]

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Sample(msgspec.Struct):
    """`at` in `time.monotonic()` seconds, CPU in seconds since the group's start, memory in octets."""

    at: float
    accepted: int
    cpu: dict[str, float]
    rss: dict[str, int]


def _stat(pid: int) -> list[str] | None:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:
        return []


def _cpu(pid: int) -> float:
    """User and system time of a process, its children, and their ended children."""
    fields = _stat(pid)
    if fields is None:
        return 0.0
    own = sum(int(field) for field in fields[11:15]) / _TICK  # utime stime cutime cstime
    return own + sum(map(_cpu, _children(pid)))


def _rss(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[21]) * _PAGE if fields else 0


def _peak(pid: int) -> int:
    """The largest resident size (octets) that the process ever had."""
    try:
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def postmaster(backend: int) -> int | None:
    """The process above a backend of this machine, or None when it is somewhere else."""
    fields = _stat(backend)
    try:
        name = (_PROC / str(backend) / "comm").read_text()
    except OSError:
        return None
    return int(fields[1]) if fields and name.startswith("postgres") else None


class Meter:
    """Samples of all groups over time. Memory is taken of the roots of the groups named in `memory` only."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.peak = 0  # octets, of the largest daemon
        self._groups: dict[str, tuple[int, ...]] = {}

    @property
    def available(self) -> bool:
        return (_PROC / "self" / "stat").exists()

    def watch(self, group: str, *pids: int) -> None:
        self._groups[group] = pids

    def sample(self, accepted: int) -> Sample:
        sample = Sample(
            time.monotonic(),
            accepted,
            {group: sum(map(_cpu, pids)) for group, pids in self._groups.items()},
            {group: sum(map(_rss, pids)) for group, pids in self._groups.items()},
        )
        self.peak = max([self.peak, *map(_peak, self._groups.get("mailerd", ()))])
        self.samples.append(sample)
        return sample

    def cpu_at(self, group: str, at: float) -> float:
        """CPU seconds of a group at an instant between two samples, on the line between them."""
        right = bisect_right(self.samples, at, key=lambda sample: sample.at)
        if not self.samples or right == 0:
            return self.samples[0].cpu.get(group, 0.0) if self.samples else 0.0
        before = self.samples[right - 1]
        if right == len(self.samples):
            return before.cpu.get(group, 0.0)
        after = self.samples[right]
        share = (at - before.at) / (after.at - before.at)
        low, high = before.cpu.get(group, 0.0), after.cpu.get(group, 0.0)
        return low + (high - low) * share
