"""Which providers of a stream may send now: the first pool that has a working one, and whoever is being probed.

A stream's pools come in order; the providers of the first pool with a closed breaker send, by their weight; the others
are shut. An open breaker's provider is shut too; while it is half open it may take a message, as that decides, and the
pool that works goes on meanwhile. It talks to nobody: breakers and pauses are told to it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from mailerd.config.resolved import base_of
from mailerd.daemon.feed import Feed
from mailerd.daemon.pools import Pool
from mailerd.flow.bucket import Bucket

__all__ = ["Route"]

PATIENCE = 5.0  # seconds without a usable provider before leased messages are given back
PACE = 0.005  # seconds between wakes for tokens that ripen: those of a fast limit come in handfuls


class _Way(NamedTuple):
    """A provider's connections for this stream; `group` is the position of its pool in the stream's list, or of the pool
    whose warm-up overflows to it (`spare`)."""

    group: int
    pool: Pool
    feed: Feed
    spare: bool


class Route:
    """One stream's pools, in order; `names` are theirs."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._paused: frozenset[str] = frozenset()
        self._ways: list[_Way] = []
        self._none_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.group = 0  # that sends now

    def attach(self, group: int, pool: Pool, feed: Feed, has_work: Callable[[], bool], *, spare: bool = False) -> None:
        # Without a connection, work that is not leased yet is reason enough to open the first one, and to probe.
        feed.probe = lambda: has_work() and not any(pool.counts().values())
        feed.eager = lambda: pool.eager
        feed.on_short = self.wake_at
        self._ways.append(_Way(group, pool, feed, spare))
        self.choose()

    @property
    def pools(self) -> list[Pool]:
        return [way.pool for way in self._ways]

    @property
    def name(self) -> str:
        """The pool that sends now."""
        return self._names[self.group] if self._names else ""

    def limit(self, buckets: Callable[[str, str], tuple[Bucket, ...]]) -> None:
        """The limits of (provider, pool that it is spare for) are others now."""
        for way in self._ways:
            way.feed.buckets = buckets(way.pool.provider.name, way.feed.pool if way.spare else "")

    def pause(self, providers: frozenset[str]) -> None:
        self._paused = providers
        self.choose()

    def choose(self) -> None:
        """Opens and shuts the feeds, and wakes whoever may send."""
        # A spare one takes what a warm-up leaves over; it does not stand in for those that are down.
        working = {
            way.group
            for way in self._ways
            if way.pool.state == "closed" and not way.spare and not self._is_paused(way.pool)
        }
        first = min(working, default=None)
        if first is not None:
            self.group = first
        for way in self._ways:
            # With no working provider at all, each breaker still probes for itself.
            chosen = first is None or way.group == first or way.pool.state == "half_open"
            way.feed.may_send = chosen and not self._is_paused(way.pool)
        for way in self._ways:
            # One that is probed is nobody's rival: a single message decides, whatever its weight.
            way.feed.rivals = tuple(
                other.feed
                for other in self._ways
                if other is not way
                and other.group == way.group == first
                and other.feed.pool == way.feed.pool
                and other.feed.may_send
                and other.pool.state == way.pool.state == "closed"
            )
        self.wake()

    def shut(self) -> None:
        """Nobody starts another message."""
        if self._timer is not None:
            self._timer.cancel()
        for way in self._ways:
            way.feed.may_send = False

    def wake(self) -> None:
        """Messages may be waiting. Whoever is furthest behind its share is asked first."""
        for way in sorted(self._ways, key=lambda way: way.feed.served) if len(self._ways) > 1 else self._ways:
            if way.feed.may_send:
                way.pool.wake()

    def wake_at(self, at: float) -> None:
        """Wakes them at this (monotonic) instant, and not before the next few milliseconds."""
        if at == math.inf:
            return  # a grant will wake them
        at = max(at, time.monotonic() + PACE)
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(at - time.monotonic(), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self.wake()

    @property
    def reachable(self) -> bool:
        """Is there a connection, or may one be opened? Else what is leased would only wait here."""
        return any(way.feed.may_send and way.pool.reachable for way in self._ways)

    def room(self, now: float) -> float:
        """Messages that the providers may take within a moment, as far as their own limits go; inf without any."""
        return sum(way.feed.room(now) for way in self._ways if way.feed.may_send)

    def opens(self) -> float:
        """The slot of the next token of any provider."""
        return min((way.feed.opens() for way in self._ways if way.feed.may_send and way.feed.buckets), default=math.inf)

    def none_usable(self, now: float) -> bool:
        """For some time no provider could be used: what is leased is better given back."""
        if any(way.pool.state != "open" and not self._is_paused(way.pool) for way in self._ways):
            self._none_since = None
            return False
        if self._none_since is None:
            self._none_since = now
        return now - self._none_since >= PATIENCE

    def _is_paused(self, pool: Pool) -> bool:
        name = pool.provider.name
        return name in self._paused or base_of(name) in self._paused
