"""From leased to ready to send: payloads that the lease left out are fetched, recipients that are suppressed or were written
to too often are noted, attachments that are references fetched (`daemon.attaching`), large messages composed in a thread,
and signed ones in several (`daemon.signing`); then the backlog has the job.

Leased jobs come by `admit` and `later`; every await in here may see their lease go to another instance (`Backlog.lost`),
so each is asked for again before it goes on: what is no longer held, or held by another lease, is dropped. What could
not be looked up stays, held and renewed, and is tried again: nothing is sent unchecked, and nothing is given up.

What waited long in the backlog comes back (`stale`) and is looked up once more before it is sent: somebody may have
unsubscribed meanwhile. The limit on how often one address is written to has counted it already.

Hazard: `run` fetches beside the pipeline's own statements, on a session of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

import asyncpg

from mailerd.compose.composer import Composer
from mailerd.compose.mime import Reference, references
from mailerd.config import values
from mailerd.config.model import Stream
from mailerd.daemon.attaching import Attaching
from mailerd.daemon.backlog import LARGE, Backlog, compose, refund
from mailerd.daemon.signing import Signing
from mailerd.fetch.files import Files
from mailerd.message import Failure, Job, Outcome, OutcomeKind, Phase, Recipient
from mailerd.store.database import Session, Unavailable
from mailerd.store.gates import Look, capped, suppressed, unwanted
from mailerd.store.lease import fetch_payloads
from mailerd.store.templates import fill

__all__ = ["Admission"]

log = logging.getLogger("mailerd.admission")

BATCH = 64  # payloads fetched by one statement
BUDGET_PAUSE = 0.01  # seconds between looks whether connections have taken some of what is in memory
TROUBLE_PAUSE = 1.0


class Admission:
    """One stream's. `memory` is the octets of payload that may wait; `on_admitted` is called when the backlog has
    more; `threads` sign, if there is a key at all; `erased` are the keys of erased addresses (`store.erased`);
    `plus_tags` as `[suppression]` has it; `files` are what rows refer to, for messages of at most `message_size` octets;
    `on_aside`: a slow one lets others go before it."""

    def __init__(
        self,
        stream: Stream,
        backlog: Backlog,
        composer: Composer,
        payloads: Session,
        memory: int,
        on_admitted: Callable[[], None],
        threads: Executor | None = None,
        erased: Sequence[bytes] = (),
        files: Files | None = None,
        message_size: int = 0,
        on_aside: Callable[[], None] = lambda: None,
        *,
        plus_tags: bool = False,
    ) -> None:
        self._stream = stream.name
        self._cap = values.cap(stream.per_recipient) if stream.per_recipient else None
        self._drop = stream.per_recipient_excess == "drop"
        self._backlog = backlog
        self._composer = composer
        self._erased = erased
        self._plus_tags = plus_tags
        self._payloads = payloads
        self._memory = memory
        self._on_admitted = on_admitted
        self._heavy: deque[Job] = deque()  # leased without their payload
        self._unchecked: list[Job] = []  # with it, but the suppression list could not be read
        self._stale: list[Job] = []  # looked up too long ago
        self._signing = Signing(backlog, composer, threads, on_admitted) if threads is not None else None
        self._attaching = (
            Attaching(
                backlog,
                files,
                message_size,
                room=self._room,
                prepare=self._large,
                on_ready=lambda job: self._hand_over([job]),
                on_aside=on_aside,
            )
            if files is not None
            else None
        )
        self._more = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Jobs that are leased, and not in the backlog yet; not those that stepped aside to wait for attachments."""
        signing = self._signing.waiting if self._signing else 0
        attaching = self._attaching.waiting if self._attaching else 0
        return len(self._heavy) + len(self._unchecked) + len(self._stale) + signing + attaching

    @property
    def octets(self) -> int:
        """Of the payload of those that are being signed, or wait for attachments."""
        signing = self._signing.octets if self._signing else 0
        return signing + (self._attaching.octets if self._attaching else 0)

    def _room(self) -> bool:
        return self._backlog.octets + self.octets < self._memory

    def later(self, jobs: Iterable[Job]) -> None:
        """These were leased without their payload: it will be fetched."""
        for job in jobs:
            self._backlog.held[job.id] = job
            self._heavy.append(job)
        self._more.set()

    def stale(self, job: Job) -> None:
        """A held job was looked up too long ago to be sent: `again` does it once more."""
        self._stale.append(job)

    def empty(self) -> list[Job]:
        """Takes out everything, for giving it back. What is being looked up just now is found to be gone then."""
        jobs = [*self._heavy, *self._unchecked, *self._stale, *(self._signing.empty() if self._signing else ())]
        jobs += self._attaching.empty() if self._attaching else ()
        self._heavy.clear()
        self._unchecked.clear()
        self._stale.clear()
        ours = [job for job in jobs if self._backlog.held.pop(job.id, None) is not None]
        for job in ours:
            refund(job)
        return ours

    def _ours(self, jobs: Iterable[Job]) -> list[Job]:
        held = self._backlog.held
        return [job for job in jobs if (known := held.get(job.id)) is not None and known.lease is job.lease]

    async def admit(self, jobs: Sequence[Job], session: Session) -> None:
        """Jobs with their payload. Raises what Postgres raises; they are kept then, and `again` tries once more."""
        for job in jobs:
            self._backlog.held[job.id] = job
        await self._admit(jobs, session)

    async def again(self, session: Session) -> None:
        """What could not be checked before, or was too long ago."""
        if self._unchecked:
            jobs, self._unchecked = self._unchecked, []
            await self._admit(self._ours(jobs), session)
        if self._stale:
            jobs, self._stale = self._stale, []
            await self._recheck(self._ours(jobs), session)

    async def _recheck(self, jobs: Sequence[Job], session: Session) -> None:
        wanted = [(job, self._composer.addresses(job)) for job in jobs]
        now = time.monotonic()  # before the look, not after: it is as old as its snapshot
        try:
            stopped = await self._suppressed(session, wanted)
        except BaseException:
            self._stale.extend(jobs)
            raise
        anew: list[Job] = []  # of several recipients, some are left: it is another message now
        for job, pairs in wanted:
            job.checked = now
            if ends := _ends(job, pairs, stopped):
                _note(job, ends)
                self._backlog.prepared.pop(job.id, None)
                if job.rcpt:
                    anew.append(job)
        if anew:
            others = {job.id for job in anew}
            jobs = [job for job in jobs if job.id not in others]
        self._backlog.add(self._ours(jobs))
        self._on_admitted()
        if anew:
            await self._admit(self._ours(anew), session)

    async def _admit(self, jobs: Sequence[Job], session: Session) -> None:
        wanted = [(job, self._composer.addresses(job)) for job in jobs]
        looked = time.monotonic()
        try:
            if (library := self._composer.versions) and (names := self._composer.unknown(jobs)):
                await fill(session, library, names)
            stopped = await self._suppressed(session, wanted)
            waits = await self._too_often(session, wanted, stopped) if self._cap else {}
        except BaseException:
            self._unchecked.extend(jobs)
            raise
        for job in jobs:
            job.checked = looked
        if stopped:
            for job, pairs in wanted:
                _note(job, _ends(job, pairs, stopped))
        if waits:
            for job, pairs in wanted:
                _note(job, [(bit, a, self._excess(waits[job.id, a])) for bit, a in pairs if (job.id, a) in waits])
        try:
            if self._attaching and any(job.attachments for job in jobs):
                jobs = await self._attach(self._ours(jobs), self._attaching)
            for job in jobs:
                await self._large(job)
        except asyncio.CancelledError:
            self._unchecked.extend(jobs)  # for `empty` to give them back
            raise
        ours = self._ours(jobs)
        if len(ours) < len(jobs):
            for id_ in {job.id for job in jobs} - {job.id for job in ours}:
                self._backlog.prepared.pop(id_, None)
        self._hand_over(ours)

    async def _attach(self, jobs: Sequence[Job], attaching: Attaching) -> list[Job]:
        """Those that have all they need; the others are looked after."""
        wanted: dict[int, list[Reference]] = {}
        for job in jobs:
            if job.attachments and job.rcpt and job.fetched is None:
                # The JSON of a large one may hold 20 MB beside its references.
                look = _references(job) if job.size <= LARGE else await asyncio.to_thread(_references, job)
                if look:
                    wanted[job.id] = look
        return [job for job in self._ours(jobs) if job.id not in wanted or attaching.put(job, wanted[job.id])]

    def _signs(self, job: Job) -> bool:
        return self._signing is not None and bool(job.rcpt) and self._composer.signs(job)

    async def _large(self, job: Job) -> None:
        if job.size > LARGE and job.rcpt and not self._signs(job):
            # A 20 MB message takes 0.3 s to compose: not on the loop that all streams share.
            composed = await asyncio.to_thread(compose, self._composer, job)
            if self._ours((job,)):
                self._backlog.prepared[job.id] = composed

    def _hand_over(self, jobs: Sequence[Job]) -> None:
        signed = {job.id for job in jobs if self._signs(job)}
        if self._signing and signed:
            self._signing.put([job for job in jobs if job.id in signed])
        self._backlog.add([job for job in jobs if job.id not in signed])
        self._on_admitted()

    async def _suppressed(
        self, session: Session, wanted: Sequence[tuple[Job, list[tuple[int, str]]]]
    ) -> dict[tuple[int, str], str]:
        """Of their recipients, those that must not get it, as (message id, address), with the reason. Both looks are this
        one. Where nobody has a topic, topics cost nothing."""
        topics = self._composer.topics
        of = {job.id: topic for job, _ in wanted if (topic := topics.find(job))} if topics else {}
        addresses = {a for job, pairs in wanted if job.id not in of for _, a in pairs}
        looks = {
            Look(a, topic.name, topic.double_opt_in)
            for job, pairs in wanted
            if (topic := of.get(job.id)) is not None
            for _, a in pairs
        }
        key, plus = self._erased, self._plus_tags
        listed = await suppressed(session, self._stream, addresses, key, plus_tags=plus) if addresses else {}
        found = await unwanted(session, self._stream, looks, key, plus_tags=plus) if looks else {}
        stopped: dict[tuple[int, str], str] = {}
        if listed or found:
            for job, pairs in wanted:
                topic = of.get(job.id)
                for _, a in pairs:
                    if reason := listed.get(a) if topic is None else found.get((a, topic.name)):
                        stopped[job.id, a] = reason
        return stopped

    async def _too_often(
        self,
        session: Session,
        wanted: Sequence[tuple[Job, list[tuple[int, str]]]],
        stopped: dict[tuple[int, str], str],
    ) -> dict[tuple[int, str], float]:
        assert self._cap is not None
        pairs = [(job.id, address) for job, pairs in wanted for _, address in pairs if (job.id, address) not in stopped]
        return await capped(session, self._stream, list(dict.fromkeys(pairs)), *self._cap) if pairs else {}

    def _excess(self, wait: float) -> Outcome:
        """What becomes of a message to somebody who was written to often enough."""
        text = f"over the stream's limit of mail to one address; there is room in {wait:.0f} s"
        if self._drop:
            return Outcome(OutcomeKind.SUPPRESSED, Phase.GATE, text=text, category="capped")
        # No refusal of anybody's: it costs the message no attempt.
        return Outcome(OutcomeKind.UNSENT, Phase.GATE, text=text, category="capped", retry_after=max(wait, 1.0))

    async def run(self) -> None:
        """Fetches payloads, as the budget allows, and signs. Until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._signing is not None:
                group.create_task(self._signing.run())
            await self._fetch()

    async def _fetch(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._heavy:
                batch = self._batch()
                if not batch:
                    await asyncio.sleep(BUDGET_PAUSE)
                    continue
                try:
                    found, missing = await fetch_payloads(self._payloads, batch)
                except (Unavailable, asyncpg.PostgresError) as error:
                    log.warning("stream %s: payloads: %s; trying again", self._stream, error)
                    self._heavy.extendleft(reversed(self._ours(batch)))
                    await asyncio.sleep(TROUBLE_PAUSE)
                    continue
                except asyncio.CancelledError:
                    self._heavy.extendleft(reversed(batch))  # for `empty` to give them back
                    raise
                for job in self._ours(missing):
                    self._backlog.fail(job, "its payload is in no table any more", "internal")
                found = self._ours(found)
                if found:
                    try:
                        await self.admit(found, self._payloads)
                    except (Unavailable, asyncpg.PostgresError) as error:
                        log.warning("stream %s: suppression list: %s; trying again", self._stream, error)
                        await asyncio.sleep(TROUBLE_PAUSE)

    def _batch(self) -> list[Job]:
        """The next ones that fit into memory; a single one fits always, when nothing else is there."""
        held = self._backlog.octets + self.octets
        room = self._memory - held
        batch: list[Job] = []
        while self._heavy and len(batch) < BATCH:
            job = self._heavy[0]
            if not self._ours((job,)):
                self._heavy.popleft()
            elif room >= job.size or not (batch or held):
                room -= job.size
                batch.append(self._heavy.popleft())
            else:
                break
        return batch


def _ends(
    job: Job, pairs: Iterable[tuple[int, str]], stopped: dict[tuple[int, str], str]
) -> list[tuple[int, str, Outcome]]:
    return [(bit, a, _suppressed(stopped[job.id, a])) for bit, a in pairs if (job.id, a) in stopped]


def _references(job: Job) -> list[Reference]:
    try:
        return references(job.attachments)
    except Failure:
        return []  # composing says so


def _note(job: Job, ends: Sequence[tuple[int, str, Outcome]]) -> None:
    """Ends these recipients of a job (bit, address, how)."""
    if not ends:
        return
    job.noted = (*job.noted, *((Recipient(bit, address), outcome) for bit, address, outcome in ends))
    everybody = (1 << 1 + len(job.cc or ()) + len(job.bcc or ())) - 1
    job.rcpt &= everybody & ~sum(1 << bit for bit, _, _ in ends)


def _suppressed(reason: str) -> Outcome:
    return Outcome(OutcomeKind.SUPPRESSED, Phase.GATE, text=reason, category="suppressed")
