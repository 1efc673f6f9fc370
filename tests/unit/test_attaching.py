"""Messages that wait for their attachments: who goes on, who is put off until when, and what a lost lease means."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime

import pytest

from mailerd.compose.mime import Reference, references
from mailerd.config.base import Duration
from mailerd.config.model import Stream
from mailerd.daemon import attaching as module
from mailerd.daemon.attaching import Attaching
from mailerd.daemon.backlog import Backlog
from mailerd.daemon.unsettled import Unsettled
from mailerd.fetch.files import AT_ONCE
from mailerd.fetch.trouble import Trouble
from mailerd.flow.bucket import Bucket, Limit
from mailerd.message import Action, Job, Lease, Outgoing, Settlement
from tests.daemon.harness import until


class Files:
    """`kept` is known at once; `coming` after the gate; a path's first letter is its place."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes | Trouble] = {}
        self.coming: dict[str, bytes | Trouble | Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []

    def place(self, reference: Reference) -> str:
        return reference.path[0]

    def known(self, reference: Reference) -> bytes | Trouble | None:
        return self.kept.get(reference.path)

    async def get(self, reference: Reference) -> bytes | Trouble:
        self.asked.append(reference.path)
        await self.gates.setdefault(self.place(reference), asyncio.Event()).wait()
        found = self.coming.get(reference.path, b"x" * 10)
        if isinstance(found, Exception):
            raise found
        return found

    def open(self, place: str) -> None:
        self.gates.setdefault(place, asyncio.Event()).set()


class Composer:
    def compose(self, job: Job) -> Outgoing:
        raise AssertionError


class Rig:
    def __init__(self) -> None:
        self.files = Files()
        stream = Stream(name="s", expires=Duration(10_000))
        self.backlog = Backlog(
            stream, Composer(), Unsettled(512), on_settlement=lambda: None, on_low=lambda: None
        )  # fmt: skip
        self.full = False
        self.prepared: list[int] = []
        self.ready: list[Job] = []
        self.aside: list[int] = []
        self.attaching = Attaching(
            self.backlog,
            self.files,  # type: ignore[arg-type]
            100,
            room=lambda: not self.full,
            prepare=self._prepare,
            on_ready=self.ready.append,
            on_aside=lambda: self.aside.append(self.attaching.waiting),
        )

    async def _prepare(self, job: Job) -> None:
        self.prepared.append(job.id)

    def put(self, id_: int, *paths: str, permits: tuple[Bucket, ...] = (), tokens: int = 1) -> Job:
        job = Job(
            id=id_, stream="s", priority=5, domain="d", campaign="", lease=Lease(1, time.monotonic() + 100),
            created_at=datetime.now(UTC), recipient="a@example.org", size=7, permits=permits, tokens=tokens,
            attachments=json.dumps([{"path": path} for path in paths]), leased_at=time.monotonic(),
        )  # fmt: skip
        self.backlog.held[id_] = job
        if self.attaching.put(job, references(job.attachments)):
            self.ready.append(job)
        return job

    @property
    def settled(self) -> dict[int, Settlement]:
        return {settlement.job.id: settlement for settlement in self.backlog.settlements}

    def reason(self, id_: int) -> str:
        return self.settled[id_].events[0][2].text


async def turn(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_what_is_known_goes_on_at_once() -> None:
    rig = Rig()
    rig.files.kept = {"a": b"aa", "b": b"bb", "t": Trouble("is away", True, after=77), "p": Trouble("is gone")}
    job = rig.put(1, "a", "b")
    assert rig.ready == [job]
    assert (job.fetched, job.size) == ({0: b"aa", 1: b"bb"}, 11)
    rig.put(2, "a", "t")
    rig.put(3, "p")
    assert rig.ready == [job]
    assert (rig.settled[2].action, rig.settled[2].charged, rig.settled[2].delay >= 77) == (Action.RETRY, True, True)
    assert rig.reason(2) == "attachments[1] ('t'): is away"
    assert (rig.settled[3].action, rig.reason(3)) == (Action.DONE, "attachments[0] ('p'): is gone")
    assert rig.attaching.octets == 0
    assert rig.files.asked == []


async def test_places_do_not_wait_for_each_other() -> None:
    rig = Rig()
    for id_ in range(20):
        rig.put(id_, f"s{id_}")
    rig.put(20, "q")
    rig.put(21, "q", "s")
    rig.files.open("q")
    await turn()
    assert [job.id for job in rig.ready] == [20] == rig.prepared
    assert len([path for path in rig.files.asked if path.startswith("s")]) == AT_ONCE + 1
    assert rig.attaching.octets == 21 * 7
    rig.files.open("s")
    await turn(100)
    assert {job.id for job in rig.ready} == set(range(22))
    assert all(job.fetched == {0: b"x" * 10} for job in rig.ready if job.id < 21)
    assert rig.attaching.octets == 0


async def test_large_ones_wait_for_room_even_if_their_files_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 20)
    rig = Rig()
    rig.full = True
    rig.files.open("a")
    rig.files.kept = {"a1": b"x" * 13, "a2": b"x" * 14}
    small, large = rig.put(1, "a1"), rig.put(2, "a2")
    await turn()
    assert rig.ready == [small]
    rig.full = False
    await until(lambda: rig.ready == [small, large], "there is room")
    assert rig.prepared == [2]


async def test_a_message_has_a_limit() -> None:
    rig = Rig()
    rig.files.open("a")
    rig.files.coming = {"a1": b"x" * 60, "a2": b"x" * 41, "a3": b""}
    rig.put(1, "a1", "a2", "a3")
    await turn()
    assert rig.reason(1) == "attachments[1] ('a2'): too large, with the others (limits.message_size)"
    assert rig.files.asked == ["a1", "a2"]
    assert not rig.ready


async def test_nothing_is_fetched_without_room_in_memory() -> None:
    rig = Rig()
    rig.full = True
    rig.files.open("a")
    rig.put(1, "a")
    await turn()
    assert rig.files.asked == []
    rig.full = False
    await until(lambda: [job.id for job in rig.ready] == [1], "there is room")


async def test_too_many_come_back_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    rig = Rig()
    for id_ in range(30):
        rig.put(id_, f"s{id_}")
    assert set(rig.settled) == set(range(10, 30))
    waits = [rig.settled[id_].delay for id_ in range(10, 30)]
    assert not any(rig.settled[id_].charged for id_ in range(10, 30))
    # With nothing to go by, one a second, behind the ten that are here.
    expected = [10 + n for n in range(1, 21)]
    assert waits == pytest.approx(expected, abs=0.5)
    rig.files.open("s")
    await turn(100)
    assert len(rig.ready) == 10
    rig.put(30, "t")
    assert rig.attaching.octets == 7  # there is room again
    rig.attaching.empty()


async def test_a_lost_lease_and_a_new_one() -> None:
    rig = Rig()
    old = rig.put(1, "a")
    await turn()
    rig.backlog.lost([1])
    new = rig.put(1, "b")
    rig.files.open("a")
    await turn()
    assert rig.ready == []
    assert old.fetched is None
    assert not rig.settled
    rig.files.open("b")
    await turn()
    assert rig.ready == [new]
    assert rig.attaching.octets == 0


async def test_giving_back_ends_all_of_it() -> None:
    rig = Rig()
    jobs = [rig.put(id_, f"a{id_}") for id_ in range(12)]
    await turn()
    rig.backlog.lost([3])
    assert rig.attaching.empty() == [job for job in jobs if job.id != 3]
    rig.files.open("a")
    await turn()
    assert rig.ready == []
    assert not rig.settled
    assert rig.attaching.octets == 0


async def test_a_bug_costs_one_message_an_attempt_and_nobody_else() -> None:
    rig = Rig()
    rig.files.open("a")
    rig.files.coming["a1"] = ValueError("a bug")
    rig.put(1, "a1")
    rig.put(2, "a2")
    await turn()
    assert [job.id for job in rig.ready] == [2]
    assert (rig.settled[1].action, rig.settled[1].charged) == (Action.RETRY, True)
    assert "a bug" in rig.reason(1)


async def test_tokens_are_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD", 0.02)
    rig = Rig()
    limit = Bucket(Limit(key="pool:p", rate=100.0))
    limit.take(2, time.monotonic())
    quick = rig.put(1, "q", permits=(limit,))
    late = rig.put(2, "s", permits=(limit,))
    rig.files.open("q")
    await turn()
    assert rig.ready == [quick]
    assert quick.permits == (limit,)
    assert rig.attaching.waiting == 1
    await until(lambda: rig.aside, "it steps aside")
    assert rig.aside == [0]
    assert late.permits == ()
    assert limit.held == 1
    rig.files.open("s")
    await turn()
    assert rig.ready == [quick, late]  # what is not kept in the cache takes tokens again
    assert late.permits == (limit,)
    assert limit.held == 2


async def test_who_finds_no_tokens_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD", 0.02)
    rig = Rig()
    limit = Bucket(Limit(key="pool:p", rate=100.0))
    limit.take(1, time.monotonic())
    rig.put(1, "s", permits=(limit,))
    await until(lambda: rig.aside, "it steps aside")
    limit.take(1, time.monotonic())  # somebody else has it now
    rig.files.kept["s"] = b"x"
    rig.files.open("s")
    await turn()
    assert rig.ready == []
    assert (rig.settled[1].action, rig.settled[1].charged) == (Action.RETRY, False)
    assert limit.held == 1
    assert rig.attaching.octets == 0
