"""Group commit: what many requests want written goes to Postgres in one statement, and each is told when it is durable.

While one statement is under way the next batch gathers, so a batch is as large as the load is, and nobody waits for a
timer. What waits is bounded, in number and octets: `add` says no beyond that, and the request is answered 429.

A batch that could not be written is given up (`done(False)`: the peer will try again) or, with `keep`, tried again until
Postgres is back. Whatever else fails a batch concerns one of its items; it is halved until the culprit stands alone.

Hazards: after `Unavailable` a batch may have been written all the same. Whoever writes must bear that twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import asyncpg

from mailerd.store.database import Unavailable

__all__ = ["GroupCommit"]

log = logging.getLogger("mailerd.public")

T = TypeVar("T")
Done = Callable[[bool], None]

_BACKOFF: Final = 1.0  # seconds before kept items are tried again


class GroupCommit(Generic[T]):
    """`write` writes a batch, all or nothing. `run` in a task; `drain` writes what is left.

    `most`: items that may wait; `octets`: of what they say to weigh; `batch`: items of one statement; `pause`: seconds
    for which a batch gathers even if nothing is under way.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[list[T]], Awaitable[object]],
        *,
        most: int,
        batch: int,
        octets: int = 1 << 62,
        keep: bool = False,
        pause: float = 0.0,
    ) -> None:
        self.name = name
        self.lost = 0  # items that were given up
        self._write = write
        self._most, self._batch, self._octets = most, batch, octets
        self._keep, self._pause = keep, pause
        self._waiting: deque[tuple[T, int, Done | None]] = deque()
        self._weight = 0
        self._some = asyncio.Event()
        self._stopping = False
        self._said = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, done: Done | None = None, weight: int = 0) -> bool:
        """False when it is full: then `done` is not called."""
        if len(self._waiting) >= self._most or self._weight + weight > self._octets or self._stopping:
            return False
        self._waiting.append((item, weight, done))
        self._weight += weight
        self._some.set()
        return True

    async def run(self) -> None:
        """Until `drain` has written the last."""
        while True:
            await self._some.wait()
            if self._pause and not self._stopping and len(self._waiting) < self._batch:
                await asyncio.sleep(self._pause)
            if not self._waiting:
                self._some.clear()
                if self._stopping:
                    return
                continue
            size = min(len(self._waiting), self._batch)
            batch = [self._waiting.popleft() for _ in range(size)]
            left = await self._commit(batch)
            self._weight -= sum(weight for _, weight, _ in batch)
            if left:
                self._waiting.extendleft(reversed(left))
                self._weight += sum(weight for _, weight, _ in left)
                if self._stopping:
                    return
                await asyncio.sleep(_BACKOFF)

    async def drain(self, running: asyncio.Task[None], grace: float) -> None:
        """Writes what waits, within `grace` seconds; then `running`, the task of `run`, has ended."""
        self._stopping = True
        self._some.set()
        await asyncio.wait([running], timeout=grace)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        self.lost += len(self._waiting)
        while self._waiting:
            done = self._waiting.popleft()[2]
            if done is not None:
                done(False)

    async def _commit(self, batch: list[tuple[T, int, Done | None]]) -> list[tuple[T, int, Done | None]]:
        """Those that are to be tried again."""
        try:
            await self._write([item for item, _, _ in batch])
        except Unavailable as error:
            if not self._said:
                log.warning("%s: nothing can be written: %s", self.name, error)
                self._said = True
            if self._keep:
                return batch
            self._end(batch, False)
        except Exception as error:  # Postgres refuses a value, or we have a defect: it concerns one of them
            half = len(batch) // 2
            if half:
                return await self._commit(batch[:half]) + await self._commit(batch[half:])
            log.error(
                "%s: one cannot be written: %s", self.name, error, exc_info=not isinstance(error, asyncpg.DataError)
            )
            self._end(batch, False)
        else:
            self._said = False
            self._end(batch, True)
        return []

    def _end(self, batch: list[tuple[T, int, Done | None]], written: bool) -> None:
        if not written:
            self.lost += len(batch)
        for _, _, done in batch:
            if done is not None:
                done(written)
