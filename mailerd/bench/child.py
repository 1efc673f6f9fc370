"""A process that we started: its output goes to a file, it is stopped within a deadline, it never outlives us by much.

`mailerd(...)` is the command line of this very installation. Children get a session of their own, so that a Ctrl-C at
the terminal reaches only us, and we end them in order.

Hazard: a parent that is killed by -9 cannot end anybody; the sink then ends by itself, a daemon does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import mailerd as package

__all__ = ["Child", "ChildFailed", "mailerd", "ready"]


def ready(port: int) -> bool:
    """Does the daemon whose operations endpoint is on this loopback port say that it is ready?"""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class ChildFailed(Exception):
    """A process did not start, or ended when it should not have; the text has the last words of its log."""


def mailerd(*arguments: str) -> list[str]:
    """The command line of `mailerd ARGUMENTS` in this installation."""
    return [sys.executable, "-m", "mailerd", *arguments]


class Child:
    """One process. `log` gets what it writes to stdout and stderr."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        # A checkout that is not installed is found all the same.
        root = str(Path(package.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:].strip()

    def check(self) -> None:
        """Raises `ChildFailed` if it is not there any more."""
        if not self.running:
            raise ChildFailed(f"{self.name} ended (status {self._process.returncode}): {self.words() or 'no words'}")

    def wait_until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Polls `condition`; raises `ChildFailed` when the process ends first or the time (seconds) is over."""
        deadline = time.monotonic() + timeout
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready within {timeout:.0f} s: {self.words() or 'no words'}")
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Signals it, waits, kills it if need be. Returns the exit status."""
        if self.running:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
        return int(self._process.returncode)
