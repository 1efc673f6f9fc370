"""Messages that wait for attachments named by reference (`fetch.files`): each in a task of its own, held and renewed.

For a moment (`HOLD`) a message counts as waiting, so that no more are leased than a quick store can serve. Then it steps
aside, so that a slow one stops nobody: others are leased, and get its tokens. It takes new ones when it is complete; if there
are none, it goes back to the queue, where its turn comes with tokens in hand and its files in the cache.

Messages that need the same places wait for each other, at most `AT_ONCE` of them fetch at a time; others pass. At most `MOST`
of a stream are here: what exceeds that is put off until about when its turn would be, and costs no attempt. What is complete
goes on by `on_ready`; what is not is deferred (temporary) or failed, with a reason that names the attachment. No provider sees
either.

As in `daemon.admission`, every await may see a lease go to another instance: what is no longer held is dropped.
Hazard: messages that fetch have their files in memory: `AT_ONCE` for each set of places, of `limit` octets each.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from mailerd.compose.mime import Reference
from mailerd.daemon.backlog import Backlog, refund
from mailerd.fetch.files import AT_ONCE, Files
from mailerd.fetch.trouble import Trouble
from mailerd.flow.bucket import Permit
from mailerd.message import Job

__all__ = ["MOST", "Attaching"]

MOST = 1000  # messages of one stream that wait at a time
HOLD = 0.25  # seconds that a message keeps its place and its tokens
SMALL = 65_536  # octets of a message that goes on at once, as those do that a lease brings with their payload
PAUSE = 0.02  # seconds between looks whether connections have taken some of what is in memory
PACED = 100  # the latest messages that the pace is judged by
LEAST_PACE = 1.0  # messages a second, for the first guess
LONGEST = 300.0  # seconds that a message is put off


class Attaching:
    """One stream's. `limit` is octets of one message; `room` says whether memory has room for another; `prepare` composes a
    large one in a thread; `on_aside` is called when one steps aside."""

    def __init__(
        self,
        backlog: Backlog,
        files: Files,
        limit: int,
        *,
        room: Callable[[], bool],
        prepare: Callable[[Job], Awaitable[None]],
        on_ready: Callable[[Job], None],
        on_aside: Callable[[], None],
    ) -> None:
        self._backlog = backlog
        self._files = files
        self._limit = limit
        self._room = room
        self._prepare = prepare
        self._on_ready = on_ready
        self._on_aside = on_aside
        self._doors: dict[frozenset[str], asyncio.Semaphore] = {}
        self._tasks: dict[int, tuple[Job, asyncio.Task[None]]] = {}
        self._ended: deque[float] = deque(maxlen=PACED)
        self._turn = 0.0  # monotonic; of the last message that was put off
        self._young: dict[int, Job] = {}  # by their identity: those that have not stepped aside
        self.octets = 0  # of the payload of those that are here, and of their files

    @property
    def waiting(self) -> int:
        """Those that have not stepped aside."""
        return len(self._young)

    def put(self, job: Job, references: Sequence[Reference]) -> bool:
        """A held job, and what it needs. True: all of it is there, and `job` is ready now; else it is looked after here."""
        known: list[tuple[Reference, bytes | Trouble]] = []
        size = job.size
        for reference in references:
            found = self._files.known(reference)
            size += len(found) if isinstance(found, bytes) else 0
            if found is None or size > SMALL:
                break
            known.append((reference, found))
        else:
            return self._complete(job, known)
        if len(self._tasks) >= MOST:
            reason = "others wait for their attachments before it"
            self._backlog.put_off(job, reason, "attachment", charged=False, after=self._wait())
            return False
        self._young[id(job)] = job
        self.octets += job.size
        task = asyncio.create_task(self._attach(job, references))
        self._tasks[job.id] = (job, task)
        task.add_done_callback(lambda done: self._done(job, done))
        return False

    def empty(self) -> list[Job]:
        """Takes out everything, for giving it back."""
        jobs = [job for job, _ in self._tasks.values() if self._ours(job)]
        for _, task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        return jobs

    def _done(self, job: Job, task: asyncio.Task[None]) -> None:
        self._young.pop(id(job), None)
        self.octets -= job.size
        self._ended.append(time.monotonic())
        known = self._tasks.get(job.id)
        if known is not None and known[0] is job:
            del self._tasks[job.id]
        if not task.cancelled() and (error := task.exception()) is not None and self._ours(job):
            self._backlog.put_off(job, f"attachments: {error!r}"[:300], "internal", charged=True)

    def _step_aside(self, job: Job) -> None:
        if self._young.pop(id(job), None) is not None:
            refund(job)
            self._on_aside()

    async def _attach(self, job: Job, references: Sequence[Reference]) -> None:
        places = frozenset(map(self._files.place, references))
        permits = cast("tuple[Permit, ...]", job.permits)
        aside = asyncio.get_running_loop().call_later(HOLD, self._step_aside, job)
        try:
            async with self._doors.setdefault(places, asyncio.Semaphore(AT_ONCE)):
                while not self._room():
                    await asyncio.sleep(PAUSE)
                found = await self._fetch(job, references)
                if not self._ours(job):
                    return
                before = job.size
                complete = self._complete(job, found)
                self.octets += job.size - before
                if not complete or not self._tokens(job, permits, references):
                    del self._tasks[job.id]
                    return
                await self._prepare(job)
        finally:
            aside.cancel()
        if self._ours(job):
            del self._tasks[job.id]
            self._on_ready(job)

    async def _fetch(self, job: Job, references: Sequence[Reference]) -> list[tuple[Reference, bytes | Trouble]]:
        """All of them, or up to the one that makes the others needless."""
        found: list[tuple[Reference, bytes | Trouble]] = []
        size = 0
        for reference in references:
            octets = await self._files.get(reference)
            found.append((reference, octets))
            size += len(octets) if isinstance(octets, bytes) else 0
            if not self._ours(job) or isinstance(octets, Trouble) or size > self._limit:
                break
        return found

    def _tokens(self, job: Job, permits: Sequence[Permit], references: Sequence[Reference]) -> bool:
        """Sees to it that a complete job has its tokens. If that is not possible now, it is put off."""
        if job.permits or not permits:
            return True
        now = time.monotonic()
        if any(permit.room(now, urgent=False) < job.tokens for permit in permits) and all(
            isinstance(self._files.known(reference), bytes) for reference in references
        ):
            self._backlog.put_off(job, "its attachments are there; it waits for its turn", "attachment", charged=False)
            return False
        # What does not fit into the cache is owed its tokens: otherwise it might be fetched again and again.
        job.not_before = max(slot for permit in permits for slot in permit.take(job.tokens, now))
        job.permits = tuple(permits)
        return True

    def _complete(self, job: Job, found: Sequence[tuple[Reference, bytes | Trouble]]) -> bool:
        """Gives the job its files; or says what becomes of it without."""
        size = 0
        for reference, octets in found:
            if isinstance(octets, Trouble):
                reason = f"{reference.where}: {octets.reason}"
                if octets.temporary:
                    self._backlog.put_off(job, reason, "attachment", charged=True, after=octets.after)
                else:
                    self._backlog.fail(job, reason, "attachment")
                return False
            size += len(octets)
            if size > self._limit:
                reason = f"{reference.where}: too large, with the others (limits.message_size)"
                self._backlog.fail(job, reason, "attachment")
                return False
        job.fetched = {reference.index: octets for reference, octets in found if isinstance(octets, bytes)}
        job.size += size
        return True

    def _wait(self) -> float:
        """Seconds until a message that is sent away now may expect its turn: each comes behind all that were before it."""
        now = time.monotonic()
        since = now - self._ended[0] if self._ended else 0.0
        pace = max(len(self._ended) / since if since else 0.0, LEAST_PACE)
        self._turn = max(self._turn, now + len(self._tasks) / pace) + 1 / pace
        return min(self._turn - now, LONGEST)

    def _ours(self, job: Job) -> bool:
        known = self._backlog.held.get(job.id)
        return known is not None and known.lease is job.lease
