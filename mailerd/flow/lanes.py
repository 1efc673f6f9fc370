"""Which lanes to lease from, and how many rows of each: one stream's lanes, in memory, by priority.

A lane is known from a hint (the outbox's tail, a notification, the due mover, the sweep) until a lease finds less in
it than asked. `plan` takes the most urgent class first, strictly, but a class whose head has waited grows more urgent
by one for each `ageing` seconds, so nothing starves; inside a class lanes take turns, by the weight of their campaign. Lanes
that are paused are never planned: that is why a million blocked rows cost nothing.

A lane's messages may need permits (`flow.bucket`). A plan takes them along, for all of its messages or for none; a lane
for which there is none is parked at the limit that is short, and takes its turn there: deficit round robin among those
that share it, without a look at any of the others.

It never talks to Postgres and reads no clock. A lane's `low` water mark is where leases look from: it trails them by one
to two seconds, and a hint that names an id lowers it: retries come back under their old one, and the sweep finds late
commits and leases that ran out. So a lease never wades through the dead rows of a lane while vacuum is held up.

Hazards: lanes may be hundreds of thousands; nothing here may walk them all per lease or per hint.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from mailerd.flow.bucket import Permit
from mailerd.message import Job

__all__ = ["Lane", "Lanes", "Plan"]

MOST_LANES: Final = 256  # in one lease statement
_MOST_LOOKS: Final = 4096  # lanes looked at for one: with a hundred thousand blocked ones, the others wait their turn
UNPARK: Final = 0.03  # seconds between looks whether parked lanes may go on: tokens of a fast limit come in handfuls
_LOW_STEP: Final = 1.0
_LOW_RESET: Final = 600.0  # looks from the very start all the same, one lane in a lease: should the sweep ever fail
_REST: Final = 1.0  # seconds that a lane found empty ignores the sweep (its rows are leased by others)
_KNOWN_LIMIT: Final = 100_000  # known lanes above which those that are not active are forgotten
_MOST_SWEPT: Final = 200_000  # active lanes above which the sweep brings no more: it passes again
_MOST_ACTIVE: Final = 400_000  # and above which nobody does, so that memory has a bound (some 150 MB)

Key = tuple[int, str, str]  # priority, domain, campaign


class Lane(msgspec.Struct, gc=False):
    """What is remembered of one lane."""

    priority: int
    domain: str
    campaign: str
    active: bool = False
    idle: bool = False  # is in the queue of those to be forgotten
    since: float = 0.0  # when it last became active or was leased from
    rest_until: float = 0.0
    low: int = 0
    look: int = 0  # rows are said to lie from here on, below `low`; 0: not that we know
    mark: int = 0
    mark_at: float = -1e9
    reset_at: float = -1e9
    weight: int = 1
    due: int = 0  # what it did not get of its turn
    permits: tuple[Permit, ...] = ()
    turn: bool = False
    version: int = -1  # of the limits, when `permits` were looked up


class Plan(msgspec.Struct, frozen=True):
    """One entry of a lease: at most `quota` rows of `lane`, from id `low` up; `slots` are those of their tokens.

    Of these, `older` from id `look` up: retries and late commits, which lie below the others and would else go before
    all of them. Both kinds have the same share.
    """

    lane: Lane
    quota: int
    low: int
    older: int = 0
    look: int = 0
    permits: tuple[Permit, ...] = ()
    slots: Sequence[float] = ()


class Rules:
    """What a stream's lanes are subject to: replaced as a whole by whoever knows the limits."""

    version: int = 0
    urgent: bool = True

    def moved(self) -> bool:
        """Does another pool send than when this was last asked?"""
        return False

    def permits(self, lane: Lane) -> tuple[Permit, ...]:
        return ()

    def weight(self, campaign: str) -> int:
        return 1


class Lanes:
    """The lanes of one stream."""

    def __init__(self, ageing: float) -> None:
        self._ageing = ageing
        self._known: dict[Key, Lane] = {}
        self._idle: deque[Lane] = deque()  # known and not active, the longest first; some may be active again
        self._active: dict[int, deque[Lane]] = {}
        self._closed: Callable[[str, str], bool] = lambda domain, campaign: False
        self.rules = Rules()
        self._parked: dict[Permit, dict[int, deque[Lane]]] = {}
        self._parked_count = 0
        self._unparked_at = -1e9
        self.opens = math.inf  # when a parked lane may go on, as far as that is known

    def __bool__(self) -> bool:
        """Is there a lane worth asking?"""
        return any(self._active.values()) or bool(self._parked)

    @property
    def ready(self) -> bool:
        """Is there a lane that may be leased from now, as far as we know?"""
        return any(self._active.values())

    def active(self) -> int:
        """Lanes with rows, those that are parked included."""
        return sum(map(len, self._active.values())) + self._parked_count

    def close(self, closed: Callable[[str, str], bool]) -> None:
        """Sets the test of (domain, campaign) for paused lanes."""
        self._closed = closed

    def hint(
        self, priority: int, domain: str, campaign: str, now: float, *, swept: bool = False, first: int = 0
    ) -> bool:
        """This lane has rows (or, when `swept`, had some when the sweep passed); True when that is news.

        `first`, if it is known, is the smallest id among them: it may lie below the lane's mark.
        """
        key = (priority, domain, campaign)
        lane = self._known.get(key)
        if lane is not None:
            if first and first < lane.low:
                lane.look = min(first, lane.look or first)
            if lane.active or (swept and now < lane.rest_until):
                return False
        # There are never more active lanes than known ones: as long as those are few, nothing needs to be counted.
        if self._closed(domain, campaign) or (len(self._known) >= _MOST_SWEPT and not self._admit(priority, swept)):
            return False
        if lane is None:
            if len(self._known) >= _KNOWN_LIMIT:
                self._forget()
            lane = self._known[key] = Lane(priority, domain, campaign, weight=self.rules.weight(campaign))
        lane.active = True
        lane.since = now
        self._active.setdefault(priority, deque()).append(lane)
        return True

    def _rest(self, lane: Lane) -> None:
        """It leaves the active ones."""
        lane.active = False
        if not lane.idle:
            lane.idle = True
            self._idle.append(lane)

    def _forget(self) -> None:
        """Forgets a lane or two for the one that comes: a walk over all of them would stop everything else."""
        for _ in range(min(2, len(self._idle))):
            lane = self._idle.popleft()
            lane.idle = False
            if not lane.active:
                del self._known[lane.priority, lane.domain, lane.campaign]

    def _admit(self, priority: int, swept: bool) -> bool:
        """Is there room for one more active lane? One more urgent than others has it, at their cost if need be: what is
        refused or given up here, the sweep finds again."""
        active = self.active()
        if active < (_MOST_SWEPT if swept else _MOST_ACTIVE):
            return True
        queues = [(p, queue) for p, queue in self._active.items() if queue]
        parked = [(p, queue) for waiting in self._parked.values() for p, queue in waiting.items() if queue]
        least, queue = max((*queues, *parked), key=lambda found: found[0])
        if priority >= least:
            return False
        if active >= _MOST_ACTIVE:
            self._parked_count -= any(queue is other for _, other in parked)
            self._rest(queue.pop())
        return True

    def plan(self, room: int, now: float) -> list[Plan]:
        """The next lease: at most `room` rows over at most 256 lanes, with their tokens. The lanes leave the queue until
        `leased`."""
        if self._parked:
            if now - self._unparked_at >= UNPARK:
                self._unpark(now)
            else:
                # Whoever woke us may have brought tokens: they are looked at in a moment, not at the next occasion.
                self.opens = min(self.opens, self._unparked_at + UNPARK)
        urgent = self.rules.urgent
        taken: list[Lane] = []
        shares: list[int] = []
        left: dict[Permit, int] = {}  # tokens that are not promised yet
        sharing: Counter[Permit] = Counter()
        rows = looks = 0
        while rows < room and len(taken) < MOST_LANES and looks < _MOST_LOOKS:
            looks += 1
            queue = self._most_urgent(now)
            if queue is None or (taken and queue[0].priority != taken[0].priority):
                break  # a less urgent class waits for what this class leaves over
            lane = queue.popleft()
            if self._closed(lane.domain, lane.campaign):
                self._rest(lane)
                continue
            # The first turn: what it is due (deficit round robin), so that the lanes of one limit share it by weight.
            due = lane.due or lane.weight
            share = min(due, room - rows)
            permits = self._permits(lane)
            if permits:
                short, least = permits[0], share
                for permit in permits:
                    if permit not in left:
                        left[permit] = permit.room(now, urgent=urgent)
                    if left[permit] < least:
                        short, least = permit, left[permit]
                if least < 1:
                    self._park(lane, short)
                    continue
                share = least
                lane.due = due - share
                for permit in permits:
                    left[permit] -= share
                    sharing[permit] += 1
            taken.append(lane)
            shares.append(share)
            rows += share
        if not taken:
            return []
        # What is left is spread by weight, as far as their limits go.
        spare = room - rows
        total = sum(lane.weight for lane in taken)
        for i, lane in enumerate(taken):
            if spare <= 0:
                break
            more = -(-spare * lane.weight // total)
            total -= lane.weight
            for permit in lane.permits:
                more = min(more, left[permit] // sharing[permit])
                sharing[permit] -= 1
            if more > 0:
                for permit in lane.permits:
                    left[permit] -= more
                shares[i] += more
                spare -= more
        slots = _take(taken, shares, now)
        # At most one lane is looked through from its start: under a held snapshot that takes its time.
        cold = next((lane for lane in taken if lane.low and now - lane.reset_at >= _LOW_RESET), None)
        plans = []
        for lane, share, mine in zip(taken, shares, slots, strict=True):
            low, older, look = self._from(lane, lane is cold, now), 0, lane.look
            if low and look:
                lane.turn = not lane.turn
                older = (share + lane.turn) // 2
            plans.append(Plan(lane, share, low, older, look if older else 0, lane.permits, mine))
        return plans

    def _permits(self, lane: Lane) -> tuple[Permit, ...]:
        rules = self.rules
        if lane.version != rules.version:
            lane.permits = rules.permits(lane)
            lane.version = rules.version
        return lane.permits

    def _park(self, lane: Lane, permit: Permit) -> None:
        queue = self._parked.setdefault(permit, {}).setdefault(lane.priority, deque())
        if lane.due:
            queue.appendleft(lane)  # its turn is not over
        else:
            queue.append(lane)
        self._parked_count += 1

    def _unpark(self, now: float) -> None:
        """Lanes whose limit has room go on, the most urgent first, no more of them than it has room for."""
        self._unparked_at = now
        self.opens = math.inf
        urgent = self.rules.urgent
        for permit in list(self._parked):
            queues = self._parked[permit]
            room = permit.room(now, urgent=urgent)
            if room < 1:
                self.opens = min(self.opens, permit.opens(now, urgent=urgent))
                continue
            for priority in sorted(queues):
                queue = queues[priority]
                back: list[Lane] = []
                while queue and room > 0:
                    lane = queue.popleft()
                    room -= lane.due or lane.weight
                    back.append(lane)
                self._active.setdefault(priority, deque()).extendleft(reversed(back))
                self._parked_count -= len(back)
                if not queue:
                    del queues[priority]
            if not queues:
                del self._parked[permit]

    def recheck(self) -> None:
        """The limits have changed: whoever is parked looks again."""
        for queues in self._parked.values():
            for priority, queue in queues.items():
                self._active.setdefault(priority, deque()).extendleft(reversed(queue))
        self._parked.clear()
        self._parked_count = 0

    def _most_urgent(self, now: float) -> deque[Lane] | None:
        best: deque[Lane] | None = None
        rank: tuple[int, int] = (1 << 30, 0)
        for priority, queue in self._active.items():
            if queue:
                waited = int((now - queue[0].since) / self._ageing) if self._ageing else 0
                if (priority - waited, priority) < rank:
                    best, rank = queue, (priority - waited, priority)
        return best

    @staticmethod
    def _from(lane: Lane, cold: bool, now: float) -> int:
        """The id that this lease looks from."""
        if cold or not lane.low:
            lane.reset_at = now
            return 0
        return lane.low

    def leased(self, plans: Iterable[Plan], found: Mapping[Key, list[Job]], now: float) -> None:
        """What the lease brought, by lane. Lanes that gave less than asked rest; what they did not use of their tokens
        goes back."""
        urgent = self.rules.urgent
        for plan in plans:
            lane = plan.lane
            jobs = found.get((lane.priority, lane.domain, lane.campaign), ())
            count = len(jobs)
            ids = sorted([job.id for job in jobs])
            if plan.permits:
                _hand_out(plan, jobs)
            below = bisect_left(ids, lane.low) if lane.low else 0  # of the older kind, or from a look at the very start
            if plan.older or not plan.low:
                # As many as asked: there may be more where these came from.
                lane.look = ids[0] if below and below >= (plan.older or plan.quota) else 0
            if count:
                lane.since = now
                if below < count and now - lane.mark_at >= _LOW_STEP:
                    lane.low, lane.mark, lane.mark_at = lane.mark, ids[below], now
            # The older ones may have reached into the others, which are counted once.
            fresh = count - below if plan.older else count
            if fresh >= plan.quota - plan.older or lane.look:
                short = next((p for p in plan.permits if p.room(now, urgent=urgent) < 1), None)
                if short is not None:
                    self._park(lane, short)  # at once, so that turns at that limit keep their order
                else:
                    self._active.setdefault(lane.priority, deque()).append(lane)
            else:
                lane.due = 0
                self._rest(lane)
                lane.rest_until = 0.0 if count else now + _REST

    def unleased(self, plans: Iterable[Plan]) -> None:
        """The lease statement failed: nothing is known, the lanes stay."""
        for plan in plans:
            for permit in plan.permits:
                permit.refund(plan.quota)
            self._active.setdefault(plan.lane.priority, deque()).appendleft(plan.lane)


def _take(lanes: Sequence[Lane], shares: Sequence[int], now: float) -> list[Sequence[float]]:
    """The tokens of a plan, for all lanes under the same limits at once; for each message the latest slot among them."""
    groups: dict[tuple[Permit, ...], list[int]] = {}
    for i, lane in enumerate(lanes):
        if lane.permits:
            groups.setdefault(lane.permits, []).append(i)
    found: list[Sequence[float]] = [()] * len(lanes)
    for permits, members in groups.items():
        total = sum(shares[i] for i in members)
        slots = permits[0].take(total, now)
        for permit in permits[1:]:
            slots = list(map(max, slots, permit.take(total, now)))
        at = 0
        for i in members:
            found[i] = slots[at : at + shares[i]]
            at += shares[i]
    return found


def _hand_out(plan: Plan, jobs: Sequence[Job]) -> None:
    """The tokens of a lane to its messages, the oldest first."""
    for job, slot in zip(sorted(jobs, key=_by_id), sorted(plan.slots), strict=False):
        job.permits = plan.permits
        job.not_before = slot
    surplus = plan.quota - len(jobs)
    if surplus > 0:
        for permit in plan.permits:
            permit.refund(surplus)


def _by_id(job: Job) -> int:
    return job.id
