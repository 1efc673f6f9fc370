"""How many messages were accepted and are not settled yet: the bound on duplicates of one crash.

At the cap no new message is started, on any stream, until a settle has brought the count down. So a Postgres that is
away does not pile up messages that would all be sent again if we died. Counted here, decided here, in one thread.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Unsettled"]


class Unsettled:
    """One instance's count. `on_release` callbacks run when the cap was reached and there is room again."""

    __slots__ = ("_waiting", "cap", "count", "on_release")

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.count = 0
        self._waiting = False
        self.on_release: list[Callable[[], None]] = []

    @property
    def full(self) -> bool:
        """No new message may be started. Asking while full asks to be called back as well."""
        if self.count >= self.cap:
            self._waiting = True
            return True
        return False

    def add(self) -> None:
        self.count += 1

    def release(self, count: int) -> None:
        self.count -= count
        if self._waiting and self.count < self.cap:
            self._waiting = False
            for callback in self.on_release:
                callback()
