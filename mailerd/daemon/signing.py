"""Messages that are signed, composed ahead in threads: a signature takes 0.3 ms, which the event loop does not have.

`put` takes leased jobs that have passed the gates; a few threads that all streams share compose them in small batches,
the most urgent first, and the backlog gets them with their octets (`Backlog.prepared`). RSA lets other threads run, so
the loop goes on meanwhile. Messages that nobody signs never come here.

As in `daemon.admission`, every await may see a lease go to another instance: what is no longer held, or held by another
lease, is dropped when its batch is back. A stream has at most `AT_ONCE` batches in the threads, so what an urgent one
waits for behind others is some milliseconds for each.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

from mailerd.daemon.backlog import LARGE, Backlog, Composes, compose
from mailerd.message import Failure, Job, Outgoing

__all__ = ["THREADS", "Signing"]

# More threads would only take turns: each holds the interpreter for a fifth of its time, and so does the event loop.
THREADS = min(os.cpu_count() or 1, 4)
BATCH = 8  # messages a thread composes before it says so: 3 to 6 ms, for which others may have to wait
AT_ONCE = THREADS + 1  # batches of one stream: none of the threads waits for the loop to bring the next


class Signing:
    """One stream's. `on_ready` is called when the backlog has more."""

    def __init__(self, backlog: Backlog, composer: Composes, threads: Executor, on_ready: Callable[[], None]) -> None:
        self._backlog = backlog
        self._composer = composer
        self._threads = threads
        self._on_ready = on_ready
        self._queues: list[deque[Job]] = [deque() for _ in range(10)]
        self._busy: dict[int, Job] = {}  # in a thread
        self._more = asyncio.Event()
        self.waiting = 0  # jobs that are not in the backlog yet
        self.octets = 0  # of their payload

    def put(self, jobs: Iterable[Job]) -> None:
        """Held jobs, with their payload."""
        for job in jobs:
            self._queues[job.priority].append(job)
            self._count(job, 1)
        self._more.set()

    def empty(self) -> list[Job]:
        """Takes out what is still ours, for giving it back; what a thread has just now, too: its result will be dropped."""
        jobs = [job for jobs in (self._busy.values(), *self._queues) for job in jobs if self._ours(job)]
        self._busy.clear()
        for queue in self._queues:
            queue.clear()
        self.waiting = self.octets = 0
        return jobs

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._batch()
            if not batch:
                self._more.clear()
                await self._more.wait()
                continue
            composed = await loop.run_in_executor(self._threads, _compose_all, self._composer, batch)
            self._admit(batch, composed)

    def _batch(self) -> list[Job]:
        """The next ones, of no more octets than a single message may have that is not large."""
        batch: list[Job] = []
        octets = 0
        for queue in self._queues:
            while queue and len(batch) < BATCH:
                job = queue[0]
                if not self._ours(job):
                    self._count(queue.popleft(), -1)
                    continue
                octets += job.size
                if batch and octets > LARGE:
                    return batch
                batch.append(queue.popleft())
                self._busy[job.id] = job
        return batch

    def _admit(self, batch: Sequence[Job], composed: Sequence[Outgoing | Failure]) -> None:
        ready: list[Job] = []
        for job, message in zip(batch, composed, strict=True):
            if self._busy.get(job.id) is not job:
                continue  # it was taken out meanwhile, and may be back by another lease
            del self._busy[job.id]
            self._count(job, -1)
            if self._ours(job):
                self._backlog.prepared[job.id] = message
                ready.append(job)
        if ready:
            self._backlog.add(ready)
            self._on_ready()

    def _ours(self, job: Job) -> bool:
        known = self._backlog.held.get(job.id)
        return known is not None and known.lease is job.lease

    def _count(self, job: Job, one: int) -> None:
        self.waiting += one
        self.octets += one * job.size


def _compose_all(composer: Composes, jobs: Sequence[Job]) -> list[Outgoing | Failure]:
    return [compose(composer, job) for job in jobs]
