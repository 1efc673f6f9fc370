"""One daemon of a chaos run, that may be killed, stopped, stalled and started again under the same name.

It runs what anybody runs, `mailerd run`, unless the scenario tampers with the process (`chaos.saboteur`). Its log grows
over all its lives. Hazard: `pause` and `resume` are SIGSTOP and SIGCONT; a paused process ends by SIGKILL only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from mailerd.bench.child import Child, ChildFailed, mailerd, ready

__all__ = ["Instance"]


class Instance:
    """`deaths` counts how often it was killed."""

    def __init__(self, number: int, config: Path, ops: int, saboteur: tuple[str, ...]) -> None:
        self.number = number
        self.name = f"instance {number}"
        self.ops = ops
        self.deaths = 0
        self._config = config
        self._log = config.with_suffix(".log")
        self._saboteur = saboteur
        self._child: Child | None = None

    def launch(self) -> None:
        """Starts the process and does not wait for it."""
        command = mailerd("run", "--config", str(self._config))
        if self._saboteur:
            command = [sys.executable, "-m", "mailerd.bench.chaos.saboteur", *self._saboteur, "--", *command[3:]]
        self._child = Child(self.name, command, self._log)

    async def start(self, timeout: float = 20.0) -> None:
        """Starts it; returns when it is ready. Raises `ChildFailed`."""
        self.launch()
        await self.until_ready(timeout)

    async def until_ready(self, timeout: float = 20.0) -> None:
        deadline = time.monotonic() + timeout
        while not await asyncio.to_thread(ready, self.ops):
            self.child.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready within {timeout:.0f} s: {self.words()}")
            await asyncio.sleep(0.05)

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def kill(self) -> None:
        """SIGKILL: no time for a last word."""
        self.deaths += 1
        self.child.stop(signal.SIGKILL)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stall(self) -> None:
        """Blocks its event loop for as long as its saboteur was told."""
        os.kill(self.pid, signal.SIGUSR2)

    async def stop(self) -> int:
        """Drains it; the exit status."""
        return await asyncio.to_thread(self.child.stop, signal.SIGTERM, 40.0)

    def discard(self) -> None:
        """Whatever it does: its end."""
        if self.running:
            self.child.stop(signal.SIGKILL)

    def words(self) -> str:
        return self.child.words()

    def tracebacks(self) -> int:
        """How many exceptions its log tells of: a daemon survives faults, it does not stumble over them."""
        return self._log.read_text(errors="replace").count("Traceback (most recent call last)")
