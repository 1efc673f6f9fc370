"""Messages that wait for attachments named by reference (`daemon.fetch`): each in a task of its own, held and renewed.

They do not count as waiting for the lease, so that a slow origin stops no message that needs nothing of it; instead at
most `MOST` of a stream are here, and what exceeds that is put off without costing an attempt. What is there goes on by
`on_ready`; what is not is deferred (temporary) or failed, with a reason that names the attachment.

As in `daemon.admission`, every await may see a lease go to another instance: what is no longer held is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mailerd.compose.mime import Reference
from mailerd.daemon.backlog import Backlog
from mailerd.daemon.fetch import AT_ONCE, Files, Trouble
from mailerd.message import Job

__all__ = ["MOST", "Attaching"]

MOST = 64  # messages of one stream that wait at a time
PAUSE = 0.02  # seconds between looks whether connections have taken some of what is in memory


class Attaching:
    """One stream's. `room` says whether another file fits into memory, `limit` is octets of one message; `prepare` composes
    a large one in a thread."""

    def __init__(
        self,
        backlog: Backlog,
        files: Files,
        limit: int,
        room: Callable[[], bool],
        prepare: Callable[[Job], Awaitable[None]],
        on_ready: Callable[[Job], None],
    ) -> None:
        self._backlog = backlog
        self._files = files
        self._limit = limit
        self._room = room
        self._prepare = prepare
        self._on_ready = on_ready
        self._doors: dict[str, asyncio.Semaphore] = {}
        self._tasks: dict[int, tuple[Job, asyncio.Task[None]]] = {}

    @property
    def octets(self) -> int:
        """Of the payload of those that are here."""
        return sum(job.size for job, _ in self._tasks.values())

    def put(self, job: Job, references: list[Reference]) -> None:
        """A held job, and what it needs."""
        if len(self._tasks) >= MOST:
            self._backlog.put_off(job, "others wait for their attachments before it", "attachment", charged=False)
            return
        task = asyncio.create_task(self._attach(job, references))
        self._tasks[job.id] = (job, task)
        task.add_done_callback(lambda done: self._done(job, done))

    def empty(self) -> list[Job]:
        """Takes out everything, for giving it back."""
        jobs = [job for job, _ in self._tasks.values() if self._ours(job)]
        for _, task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        for job in jobs:
            job.fetched = None
        return jobs

    def _done(self, job: Job, task: asyncio.Task[None]) -> None:
        known = self._tasks.get(job.id)
        if known is not None and known[0] is job:
            del self._tasks[job.id]
        if not task.cancelled() and (error := task.exception()) is not None and self._ours(job):
            self._backlog.put_off(job, f"attachments: {error!r}"[:300], "internal", charged=True)

    async def _attach(self, job: Job, references: list[Reference]) -> None:
        fetched: dict[int, bytes] = {}
        total = 0
        for reference in references:
            async with self._doors.setdefault(self._files.place(reference), asyncio.Semaphore(AT_ONCE)):
                while not self._room():
                    await asyncio.sleep(PAUSE)
                found = await self._files.get(reference)
            if not self._ours(job):
                return
            if isinstance(found, Trouble):
                reason = f"{reference.where}: {found.reason}"
                if found.temporary:
                    self._backlog.put_off(job, reason, "attachment", charged=True)
                else:
                    self._backlog.fail(job, reason, "attachment")
                return
            fetched[reference.index] = found
            total += len(found)
            if total > self._limit:
                self._backlog.fail(
                    job, f"{reference.where}: too large with the others (limits.message_size)", "attachment"
                )
                return
        job.fetched = fetched
        job.size += total
        await self._prepare(job)
        if self._ours(job):
            del self._tasks[job.id]
            self._on_ready(job)

    def _ours(self, job: Job) -> bool:
        known = self._backlog.held.get(job.id)
        return known is not None and known.lease is job.lease
