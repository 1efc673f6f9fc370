"""Messages composed ahead in threads: the most urgent first, and what became of a lease meanwhile decides."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from mailerd.config.base import Duration
from mailerd.config.model import Stream
from mailerd.daemon.backlog import LARGE, Backlog
from mailerd.daemon.signing import AT_ONCE, BATCH, Signing
from mailerd.daemon.unsettled import Unsettled
from mailerd.message import Failure, Job, Lease, Outcome, OutcomeKind, Outgoing, Phase, Recipient


class Composer:
    """Waits at a gate, in a thread; `composed` are the jobs in the order of their turn."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.composed: list[int] = []
        self.threads: set[str] = set()

    def open(self, messages: int = 1000) -> None:
        self.gate.release(messages)

    def compose(self, job: Job) -> Outgoing:
        self.composed.append(job.id)
        self.threads.add(threading.current_thread().name)
        assert self.gate.acquire(timeout=10)
        if job.subject == "bad":
            raise Failure("a bad one", "content")
        return Outgoing(job, "s@x.example", (Recipient(0, job.recipient),), b"x\r\n", signed=True)


class Rig:
    def __init__(self, threads: int) -> None:
        self.composer = Composer()
        self.backlog = Backlog(
            Stream(name="s", expires=Duration(100)), self.composer, Unsettled(512), on_settlement=lambda: None, on_low=lambda: None
        )  # fmt: skip
        self.ready = 0
        self.threads = ThreadPoolExecutor(threads, "signing")
        self.signing = Signing(self.backlog, self.composer, self.threads, self._ready)

    def _ready(self) -> None:
        self.ready += 1

    def put(self, *jobs: Job) -> None:
        for job in jobs:
            self.backlog.held[job.id] = job
        self.signing.put(jobs)

    async def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.005)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    built = Rig(threads=1)
    task = asyncio.create_task(built.signing.run())
    yield built
    built.composer.open()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    built.threads.shutdown()


def job(id_: int, *, priority: int = 5, size: int = 10, token: int = 1, **fields: object) -> Job:
    now = time.monotonic()
    return Job(
        id=id_, stream="s", priority=priority, domain="d", campaign="", lease=Lease(token, now + 60), created_at=datetime.now(UTC),
        recipient=f"r{id_}@d.example", leased_at=now, size=size, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


async def test_they_are_composed_in_threads_and_then_can_be_taken(rig: Rig) -> None:
    rig.put(*(job(n) for n in range(1, 21)), job(21, subject="bad"))
    assert (rig.signing.waiting, rig.signing.octets, rig.backlog.waiting) == (21, 210, 0)
    rig.composer.open()
    await rig.until(lambda: rig.backlog.waiting == 21)
    assert rig.composer.threads == {"signing_0"}
    assert (rig.signing.waiting, rig.signing.octets, rig.backlog.octets) == (0, 0, 210)
    assert rig.ready >= 21 // BATCH
    taken = [o.job.id for _ in range(20) if (o := rig.backlog.take("relay"))]
    assert taken == list(range(1, 21))
    assert rig.backlog.take("relay") is None  # the bad one has ended
    assert [event for s in rig.backlog.settlements for event, _, _ in s.events] == ["failed"]
    assert rig.composer.composed.count(1) == 1  # not again, when it was taken


async def test_an_urgent_one_passes_those_that_no_thread_has_yet(rig: Rig) -> None:
    rig.put(*(job(n) for n in range(1, 101)))
    await rig.until(lambda: rig.composer.composed)
    rig.put(job(200, priority=0))
    rig.composer.open()
    await rig.until(lambda: rig.backlog.waiting == 101)
    assert rig.composer.composed.index(200) <= AT_ONCE * BATCH


async def test_a_batch_is_no_larger_than_a_large_message(rig: Rig) -> None:
    rig.put(*(job(n, size=LARGE // 2) for n in range(1, 4)), job(4, size=10 * LARGE))
    rig.composer.open(2)
    await rig.until(lambda: rig.backlog.waiting == 2)
    rig.composer.open(1)
    await rig.until(lambda: rig.backlog.waiting == 3)
    rig.composer.open(1)
    await rig.until(lambda: rig.backlog.waiting == 4)


async def test_what_was_lost_meanwhile_is_dropped(rig: Rig) -> None:
    last = (AT_ONCE + 1) * BATCH
    rig.put(*(job(n) for n in range(1, last + 1)))
    await rig.until(lambda: rig.composer.composed)
    rig.backlog.lost([1, 2, last])  # two in a thread, one that waits
    rig.composer.open()
    await rig.until(lambda: not rig.signing.waiting)
    assert rig.backlog.waiting == last - 3
    assert last not in rig.composer.composed
    assert not {1, 2} & rig.backlog.prepared.keys()


async def test_what_is_given_back_while_a_thread_has_it_does_not_come_in(rig: Rig) -> None:
    first = job(1)
    rig.put(first, job(2))
    await rig.until(lambda: rig.composer.composed)
    rig.put(job(3))
    rig.backlog.lost([3])
    rig.put(again_3 := job(3, token=2))  # leased again; what was lost is not given back in its place
    back = rig.signing.empty()
    assert [j.id for j in back] == [1, 2, 3]
    assert back[2] is again_3
    assert (rig.signing.waiting, rig.signing.octets) == (0, 0)
    for j in back:
        del rig.backlog.held[j.id]
    again = job(1, token=2)
    rig.put(again)  # leased once more, by ourselves
    rig.composer.open()
    await rig.until(lambda: rig.backlog.waiting == 1)
    assert (rig.signing.waiting, rig.signing.octets) == (0, 0)
    taken = rig.backlog.take("relay")
    assert taken is not None
    assert taken.job is again
    assert rig.backlog.take("relay") is None


async def test_a_signed_message_that_comes_back_unsent_is_not_signed_again(rig: Rig) -> None:
    rig.put(job(1))
    rig.composer.open()
    await rig.until(lambda: rig.backlog.waiting == 1)
    taken = rig.backlog.take("relay")
    assert taken is not None
    rig.backlog.done(taken, [Outcome(OutcomeKind.UNSENT, Phase.CONNECT, provider="relay")])
    assert rig.backlog.take("relay") is taken
    assert rig.composer.composed == [1]
