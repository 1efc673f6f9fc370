"""The leased messages of one stream, most urgent first, and what became of them: the `Source` of its connections.

A connection asks for its next message when it can start one (`daemon.feed`); the backlog runs the gates, composes, and
hands it over. What became of it comes back by `done` and waits as a `Settlement` for the pipeline to write. Everything
here is synchronous and cheap: no task and no await per message.

In a stream that holds what is uncertain there is one more station: a message may be taken only once its intent is
committed (`intentions`, `intended`), so that even our death leaves word that it may have been sent.

A message that was leased a little before the slot of its tokens (`flow.bucket`) ripens here first (`ripe`); whatever ends
or leaves without having been sent gives its tokens back.

Gates, in order: is the lease still ours, has it expired, is the look into the suppression list recent enough (if not, it
goes back to `daemon.admission` for another), does it compose. Whatever stops at a gate gets its outcome
here, and the next one is tried, so a bad row never holds up a good one.

It never talks to Postgres or to a peer, and never raises. Hazards: a job is in exactly one place at a time: `_queues`
(waiting), `_ripening`, `_cleared` (intent committed), `flying` (a connection has it), or `settlements`; `held` knows it in all of
them, since its lease must be renewed in all of them.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from mailerd.config.model import Stream
from mailerd.daemon.unsettled import Unsettled
from mailerd.flow.bucket import GRAIN
from mailerd.flow.classify import classify, wait_asked
from mailerd.flow.retry import decide
from mailerd.message import Failure, Job, Lease, Outcome, OutcomeKind, Outgoing, Phase, Recipient, Settlement

__all__ = ["Backlog", "Composes", "classified", "compose", "refund"]

TRIES = 50  # messages stopped at a gate before a connection is sent away, so that the event loop turns
LOOKS = 50  # messages looked through for one that is wanted
LARGE = 262_144  # octets of payload above which a message is composed in a thread
FRESH = 30.0  # seconds that a look into the suppression list is good for
RETURNS = 3  # times a message may come back unsent within one lease before it is put off


class Composes(Protocol):
    """What turns a job into bytes (`compose.composer.Composer`)."""

    def compose(self, job: Job) -> Outgoing:
        """Raises only `Failure`."""
        ...


class Backlog:
    """One stream's messages in this instance."""

    def __init__(
        self,
        stream: Stream,
        composer: Composes,
        unsettled: Unsettled,
        *,
        on_settlement: Callable[[], None],
        on_low: Callable[[], None],
        judge: Callable[[Job, Recipient, Outcome], Outcome] = lambda job, to, outcome: classified(outcome),
        on_sent: Callable[[Job], None] = lambda job: None,
        on_returned: Callable[[], None] = lambda: None,
        on_stale: Callable[[Job], None] | None = None,
    ) -> None:
        self.stream = stream
        self.composer = composer
        self._unsettled = unsettled
        self._on_settlement = on_settlement
        self._on_low = on_low
        self._judge = judge
        self._on_sent = on_sent
        self._on_returned = on_returned
        self._on_stale = on_stale
        self.hold = stream.on_uncertain == "hold"
        self._queues: list[deque[Job]] = [deque() for _ in range(10)]
        self._cleared: deque[Job] = deque()
        self._ripening: list[tuple[float, int, Job]] = []  # a heap, by slot
        self.waiting = 0
        self.octets = 0  # of payload in `_queues`, `_ripening` and `_cleared`
        self.low = 0  # when `waiting` falls to this, `on_low` is called
        self.cleared_low = 0  # and when `cleared` falls to this
        self.held: dict[int, Job] = {}
        self.prepared: dict[int, Outgoing | Failure] = {}  # large and signed messages, composed off the loop
        self.flying: dict[int, Job] = {}
        self.settlements: list[Settlement] = []
        self._accepted: set[int] = set()  # may have been accepted, and is not settled yet
        self.returned = 0  # messages that a provider gave back, ever: another one may be asked first (`daemon.feed`)
        self.sent = 0  # messages accepted by a provider, ever
        self.latencies: list[float] = []  # seconds from insert to acceptance since somebody last looked

    # What the pipeline does.

    def add(self, jobs: Iterable[Job]) -> None:
        """Leased jobs, with their payload."""
        now = time.monotonic()
        for job in jobs:
            self.held[job.id] = job
            if job.expires is None:  # the stream's limit on age, looked at up to the final dot as the row's own is
                job.expires = job.leased_at + float(self.stream.expires) - job.age
            if job.noted and not job.rcpt:
                self._end(job, ())
                continue
            if job.cc or job.bcc:
                _own_all(job)
            self.octets += job.size
            if job.not_before > now + GRAIN:
                heapq.heappush(self._ripening, (job.not_before, job.id, job))
            else:
                self._queues[job.priority].append(job)
                self.waiting += 1

    @property
    def ripening(self) -> int:
        """Messages whose slot has not come."""
        return len(self._ripening)

    def ripe(self, now: float) -> float:
        """Lets go those whose slot has come; the next slot (inf: there is none)."""
        heap = self._ripening
        while heap and heap[0][0] <= now + GRAIN:
            job = heapq.heappop(heap)[2]
            self._queues[job.priority].append(job)
            self.waiting += 1
        return heap[0][0] if heap else math.inf

    def fail(self, job: Job, reason: str, category: str) -> None:
        """A held job that cannot be sent."""
        self.held[job.id] = job
        self._stop(job, reason, category)

    def put_off(self, job: Job, reason: str, category: str, *, charged: bool, after: float = 0.0) -> None:
        """A held job that cannot be sent now; `charged`: it costs an attempt; not before `after` seconds."""
        self.held[job.id] = job
        kind = OutcomeKind.DEFERRED if charged else OutcomeKind.UNSENT
        self._end(job, (), kind, Phase.GATE, reason, category, after)

    def doubt(self, job: Job) -> None:
        """A dead instance may have sent it (its intent is committed): it goes to `in_doubt`, and nothing is sent."""
        self.held[job.id] = job
        text = "the instance that was sending it died, perhaps after the final dot"
        self._end(job, (), OutcomeKind.IN_DOUBT, Phase.DOT, text)

    def take_settlements(self, limit: int) -> list[Settlement]:
        batch, self.settlements = self.settlements[:limit], self.settlements[limit:]
        return batch

    def put_back(self, batch: list[Settlement]) -> None:
        """They could not be written now; they go first next time."""
        self.settlements = batch + self.settlements

    def settled(self, batch: Sequence[Settlement]) -> None:
        """They are written (or were fenced): the jobs are no longer ours."""
        for settlement in batch:
            self.held.pop(settlement.job.id, None)
        before = len(self._accepted)
        self._accepted.difference_update([settlement.job.id for settlement in batch])
        self._unsettled.release(before - len(self._accepted))

    def intentions(self, limit: int) -> list[Job]:
        """Takes out at most `limit` messages, the most urgent first, whose intent is to be committed now."""
        jobs: list[Job] = []
        while len(jobs) < limit and (job := self._pop_waiting()) is not None:
            jobs.append(job)
        return jobs

    def intended(self, jobs: Iterable[Job], gone: set[int]) -> None:
        """Their intent is committed, but for those that are `gone` to another instance: connections may take them."""
        for job in jobs:
            if job.id in gone:
                self._forget(job)
            else:
                self._cleared.append(job)
                self.octets += job.size

    def unintended(self, jobs: Sequence[Job]) -> None:
        """It could not be committed now: they go first next time."""
        for job in reversed(jobs):
            self._queues[job.priority].appendleft(job)
            self.waiting += 1
            self.octets += job.size

    @property
    def cleared(self) -> int:
        """Messages whose intent is committed and that no connection has taken."""
        return len(self._cleared)

    @property
    def takeable(self) -> int:
        """How many messages `take` could give now."""
        return len(self._cleared) if self.hold else self.waiting

    def lost(self, ids: Iterable[int]) -> None:
        """Their leases went to another instance: what waits is forgotten; what flies may not send its content any more,
        and will be fenced when it lands."""
        gone = set(ids)
        for id_ in gone & self.held.keys():
            # The batch's lease may have been renewed for its neighbours; this one's is over, wherever it is now.
            job = self.held[id_]
            job.lease = Lease(job.lease.token, -math.inf)
            if id_ not in self.flying:
                refund(job)
            self.prepared.pop(id_, None)
        if any(job.id in gone for _, _, job in self._ripening):
            self.octets -= sum(job.size for _, _, job in self._ripening if job.id in gone)
            self._ripening = [entry for entry in self._ripening if entry[2].id not in gone]
            heapq.heapify(self._ripening)
        for queue in (*self._queues, self._cleared):
            if any(job.id in gone for job in queue):
                kept = [job for job in queue if job.id not in gone]
                for job in queue:
                    if job.id in gone:
                        self.octets -= job.size
                        self.waiting -= queue is not self._cleared
                queue.clear()
                queue.extend(kept)
        for id_ in gone:
            if id_ not in self.flying:
                self.held.pop(id_, None)

    def empty(self) -> list[Job]:
        """Takes out everything that was not started, for giving it back."""
        jobs = [
            *self._cleared,
            *(entry[2] for entry in self._ripening),
            *(job for queue in self._queues for job in queue),
        ]
        self._ripening.clear()
        for queue in (*self._queues, self._cleared):
            queue.clear()
        self.waiting = self.octets = 0
        self.prepared.clear()
        for job in jobs:
            self.held.pop(job.id, None)
            refund(job)
        return jobs

    # What connections do, through `daemon.feed`.

    def take(self, provider: str, wants: Callable[[Job], bool] | None = None) -> Outgoing | None:
        """The next message, or (`wants`) the next one that is wanted, of the first few."""
        now = time.monotonic()
        if self._unsettled.full:
            return None
        for _ in range(TRIES):
            job = self._pop() if wants is None else self._pop_wanted(wants)
            if job is None:
                return None
            if job.lease.deadline <= now:
                self._forget(job)  # anybody may lease it now; we send nothing of it
                continue
            if self._expired(job, now):
                self.prepared.pop(job.id, None)
                self._end(job, (), *self._how_it_expired(job))
                continue
            if self._on_stale is not None and now - job.checked > FRESH:
                self._on_stale(job)
                continue
            composed = self.prepared.pop(job.id, None) or compose(self.composer, job)
            if isinstance(composed, Failure):
                self._stop(job, composed.reason, composed.category)
                continue
            self.flying[job.id] = job
            job.started = now
            job.hang_up = False
            return composed
        return None

    def wanted(self, wants: Callable[[Job], bool]) -> bool:
        """Is any of the first few wanted?"""
        queues = (self._cleared,) if self.hold else self._queues
        return any(wants(job) for queue in queues for job in islice(queue, LOOKS))

    def done(self, outgoing: Outgoing, outcomes: Sequence[Outcome]) -> None:
        job = outgoing.job
        self.flying.pop(job.id, None)
        first = outcomes[0]
        if first.kind is OutcomeKind.SENT and len(outcomes) == 1 and not job.noted:
            self._spend(job)
            self.sent += 1
            self._count(job)
            self._on_sent(job)
            now = time.monotonic()
            self.latencies.append(job.age + now - job.leased_at)
            self._settle(
                decide(
                    job, ((outgoing.recipients[0], first),), self.stream.retry, hold=False, remaining=None, chance=0.0
                )
            )
            return
        outcomes = [self._judge(job, to, outcome) for to, outcome in zip(outgoing.recipients, outcomes, strict=True)]
        unsent = all(o.kind is OutcomeKind.UNSENT for o in outcomes)
        if not unsent:
            self._spend(job)
        elif job.bounced < RETURNS and job.id in self.held:
            job.bounced += 1
            job.avoid = outcomes[0].provider
            self.returned += 1
            if job.size > LARGE or outgoing.signed:
                self.prepared[job.id] = outgoing  # not composed again, and not on the loop
            if self.hold:
                self._cleared.appendleft(job)
                self.octets += job.size
            else:
                self.unintended((job,))
            self._on_returned()
            return
        if any(o.kind in (OutcomeKind.SENT, OutcomeKind.IN_DOUBT) for o in outcomes):
            self._count(job)
            if outcomes[0].kind is OutcomeKind.SENT:
                self.sent += 1
                self._on_sent(job)
        self._end(job, zip(outgoing.recipients, outcomes, strict=True))

    # Helpers.

    def _spend(self, job: Job) -> None:
        """It was on the wire: its tokens are used."""
        if job.permits:
            for permit in job.permits:
                permit.spent(job.tokens)
            job.permits = ()

    def _count(self, job: Job) -> None:
        """It may have been accepted: until it is settled, our death would send it again."""
        if job.id not in self._accepted:
            self._accepted.add(job.id)
            self._unsettled.add()

    def _pop(self) -> Job | None:
        if not self.hold:
            return self._pop_waiting()
        if not self._cleared:
            return None
        job = self._cleared.popleft()
        self.octets -= job.size
        if len(self._cleared) == self.cleared_low:
            self._on_low()
        return job

    def _pop_wanted(self, wants: Callable[[Job], bool]) -> Job | None:
        for queue in (self._cleared,) if self.hold else self._queues:
            for place, job in enumerate(islice(queue, LOOKS)):
                if wants(job):
                    del queue[place]
                    queue.appendleft(job)
                    return self._pop()
        return None

    def _pop_waiting(self) -> Job | None:
        for queue in self._queues:
            if queue:
                job = queue.popleft()
                self.waiting -= 1
                self.octets -= job.size
                if self.waiting == self.low:
                    self._on_low()
                return job
        return None

    def _forget(self, job: Job) -> None:
        """It is another instance's, or will be."""
        refund(job)
        self.held.pop(job.id, None)
        self.prepared.pop(job.id, None)

    def _expired(self, job: Job, now: float) -> bool:
        return self.remaining(job, now) <= 0

    def _how_it_expired(self, job: Job) -> tuple[OutcomeKind, Phase, str]:
        if job.leases > 1 and not self.hold:
            # In streams that hold, it would have come back with its intent committed, had it been started.
            text = "an instance that had leased it died, and may have sent it; it expired before it could be sent again"
            return OutcomeKind.IN_DOUBT, Phase.GATE, text
        return OutcomeKind.EXPIRED, Phase.GATE, "expired before it could be sent"

    def remaining(self, job: Job, now: float) -> float:
        """Seconds until the message expires: by its own `expires_at` where it has one, else by the stream's age limit.

        The row's own instant alone decides, so that an operator may retry a message that is older than the limit.
        """
        return math.inf if job.expires is None else job.expires - now

    def _stop(self, job: Job, reason: str, category: str) -> None:
        self._end(job, (), OutcomeKind.FAILED, Phase.COMPOSE, reason, category)

    def _end(
        self,
        job: Job,
        results: Iterable[tuple[Recipient, Outcome]],
        kind: OutcomeKind | None = None,
        phase: Phase = Phase.GATE,
        reason: str = "",
        category: str = "",
        after: float = 0.0,
    ) -> None:
        """The end of this lease: for the recipients in `results`, or with one outcome of `kind` for all that are left."""
        refund(job)
        ends = [*job.noted, *results]
        if kind is not None:
            outcome = Outcome(kind, phase, text=reason, category=category, retry_after=after)
            ends += [(to, outcome) for to in _recipients(job)]
        now = time.monotonic()
        settlement = decide(
            job,
            ends,
            self.stream.retry,
            hold=self.hold,
            remaining=self.remaining(job, now),
            chance=random.random(),
        )
        if not job.recipient:
            # Its payload is gone: the one event stands for all recipients, and none of them is forgotten.
            settlement.left = settlement.left and job.rcpt
            settlement.dead = settlement.dead and job.rcpt
        self._settle(settlement)

    def _settle(self, settlement: Settlement) -> None:
        self.settlements.append(settlement)
        if len(self.settlements) == 1:
            self._on_settlement()


def compose(composer: Composes, job: Job) -> Outgoing | Failure:
    """The message, or why there is none, as a value. May run in a thread."""
    try:
        return composer.compose(job)
    except Failure as failure:
        return failure


def refund(job: Job) -> None:
    """It is not sent: its tokens are free again."""
    if job.permits:
        for permit in job.permits:
            permit.refund(job.tokens)
        job.permits = ()


def _own_all(job: Job) -> None:
    """Each recipient costs a token. The row was leased with one of each limit: the others are taken now."""
    everybody = (1 << 1 + len(job.cc or ()) + len(job.bcc or ())) - 1
    more = (job.rcpt & everybody).bit_count() - job.tokens
    if more > 0:
        for permit in job.permits:
            permit.owe(more)
        job.tokens += more


def _recipients(job: Job) -> list[Recipient]:
    """Those still to do, as the row writes them: for messages whose addresses could not be parsed, too. At least one."""
    if not job.recipient:
        return [Recipient(max((job.rcpt & -job.rcpt).bit_length() - 1, 0), "")]
    names = [job.recipient, *(job.cc or ()), *(job.bcc or ())]
    done = {to.bit for to, _ in job.noted}
    return [Recipient(bit, name) for bit, name in enumerate(names) if job.rcpt >> bit & 1 and bit not in done]


def classified(outcome: Outcome) -> Outcome:
    """A refusal with its category and the wait it asks for."""
    if outcome.kind not in (OutcomeKind.DEFERRED, OutcomeKind.REJECTED, OutcomeKind.UNSENT):
        return outcome
    category = outcome.category or (
        "connection"
        if outcome.kind is OutcomeKind.UNSENT and not outcome.code
        else classify(outcome.code, outcome.enhanced, outcome.text)
    )
    return Outcome(
        outcome.kind,
        outcome.phase,
        outcome.code,
        outcome.enhanced,
        outcome.text,
        outcome.provider,
        outcome.provider_message_id,
        category,
        outcome.retry_after or wait_asked(outcome.text),
    )
