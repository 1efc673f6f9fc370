"""Connections to one provider from this instance, shared by all streams: a count with a promise.

Every stream that has no connection finds a slot free as long as the cap allows one each, so bulk mail never keeps a
password reset from connecting; and of the most urgent stream a tenth of the cap is kept free, for when there are many of
them. It opens and closes nothing; the pools ask and obey (`must_yield` at their own pace).

The cap is this instance's share (the provider's, divided by the live instances) and moves while the daemon runs.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ConnectionBudget", "share"]


URGENT: Final = 10  # one connection in so many is kept for the most urgent stream


def share(connections: int, instances: int, *, others: int, held: int) -> int:
    """What one of so many instances may have of a provider's `connections`: its part, and at least one; but no more than
    the `others` have left over. What it has (`held`) and what is its part it keeps, or two that came at once would both
    give way. A newcomer may have none for a moment, until the others have given up some."""
    return min(max(1, connections // instances), max(connections - others, held, 0))


class ConnectionBudget:
    """`cap` may be changed at any time; what is over it is given back connection by connection. `urgent` is the stream
    that has a part of its own."""

    def __init__(self, cap: int, urgent: str = "") -> None:
        self.cap = cap
        self.urgent = urgent
        self._held: dict[str, int] = {}
        self._members: dict[str, int] = {}
        self._wanting: list[str] = []  # asked for their first connection and got none; first come, first served

    def join(self, stream: str) -> None:
        """A pool of this stream exists: a slot is kept for it. Each `join` needs its `leave`."""
        self._members[stream] = self._members.get(stream, 0) + 1

    def leave(self, stream: str) -> None:
        left = self._members.get(stream, 0) - 1
        if left > 0:
            self._members[stream] = left
        else:
            self._members.pop(stream, None)

    @property
    def total(self) -> int:
        """Connections that are open or being opened."""
        return sum(self._held.values())

    def held(self, stream: str) -> int:
        return self._held.get(stream, 0)

    def acquire(self, stream: str) -> bool:
        """A slot for one more connection of `stream`, or False."""
        held = self._held.get(stream, 0)
        if held:
            kept = self._without(stream)
            if stream != self.urgent and self.urgent in self._members:
                # The slot that `_without` keeps for a stream without any is the first of them.
                mine = self._held.get(self.urgent, 0)
                kept += max(self.cap // URGENT - max(mine, 1), 0)
        else:
            kept = self._wanting.index(stream) if stream in self._wanting else len(self._wanting)
        if self.cap - self.total <= kept:
            if not held and stream not in self._wanting:
                self._wanting.append(stream)
            return False
        self.waive(stream)
        self._held[stream] = held + 1
        return True

    def release(self, stream: str) -> None:
        held = self._held.get(stream, 0)
        if held > 1:
            self._held[stream] = held - 1
        else:
            self._held.pop(stream, None)

    def waive(self, stream: str) -> None:
        """`stream` no longer wants the connection it asked for."""
        if stream in self._wanting:
            self._wanting.remove(stream)

    def must_yield(self, stream: str, ending: int = 0) -> bool:
        """Whether `stream` should end one of its connections, besides the `ending` ones that are about to.

        So it is when the cap shrank, or a stream that has none could not get one. The richest stream gives first; with
        fewer slots than streams they take turns, at the pace at which their pools ask.
        """
        held = self._held.get(stream, 0) - ending
        if held <= 0 or held < max((count for name, count in self._held.items() if name != stream), default=0):
            return False
        free = self.cap - self.total + ending
        hungry = any(other != stream and other not in self._held for other in self._wanting)
        return free < 0 or (hungry and free == 0)

    def _without(self, stream: str) -> int:
        """Streams other than this one that have no connection."""
        return sum(1 for other in self._members if other != stream and other not in self._held)
