"""Whether this instance may be relied on: named checks that the daemon sets and the ops endpoint reads.

Two questions are kept apart. *Alive*: does the event loop turn (answering proves it), and does the lease loop make
progress (`progress`, which also feeds the watchdog)? *Ready*: is every required check good, and are we not draining?
A dead provider is in neither: restarting us would not heal it.

It checks nothing itself and does no I/O. `overview` is the newest picture of the whole queue, for the status page.
"""

from __future__ import annotations

import time
from typing import Final

from mailerd.store.overview import Overview

__all__ = ["REQUIRED", "Health"]

REQUIRED: Final = ("database", "schema", "config", "partitions")


class Health:
    """Set by the daemon, read by the ops endpoint, in one thread."""

    def __init__(self) -> None:
        self.checks: dict[str, tuple[bool, str]] = dict.fromkeys(REQUIRED, (False, "not checked yet"))
        self.draining = False
        self.overview: Overview | None = None
        self._progressed: dict[str, float] = {"": time.monotonic()}

    def set(self, name: str, ok: bool, detail: str = "ok") -> None:
        """The newest result of a check; `detail` is one line for people."""
        self.checks[name] = (ok, detail)

    @property
    def ready(self) -> bool:
        return not self.draining and all(ok for ok, _ in self.checks.values())

    def problems(self) -> list[str]:
        """Why it is not ready, one line each."""
        lines = ["draining"] if self.draining else []
        return lines + [f"{name}: {detail}" for name, (ok, detail) in self.checks.items() if not ok]

    def progress(self, stream: str = "") -> None:
        """The lease loop of a stream came round once more, work or no work, Postgres there or away."""
        self._progressed.pop("", None)
        self._progressed[stream] = time.monotonic()

    def forget(self, stream: str) -> None:
        """The stream's lease loop has ended, on purpose."""
        self._progressed.pop(stream, None)

    def stalled(self, limit: float) -> bool:
        """Whether the lease loop of any stream has not come round for `limit` seconds: then the watchdog must not be
        fed."""
        now = time.monotonic()
        return any(now - then > limit for then in self._progressed.values())
