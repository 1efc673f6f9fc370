"""The backlog as one provider's connections see it: nothing while the provider may not send for this stream, no more than
its tokens allow, and not more than its share while another of its pool stands ready.

The provider's tokens are taken when a connection starts a message, since only then it is known which provider sends it.
They are paced: a token may be used from its slot on, so a connection may find nothing to do for a moment; `on_short`
asks to be woken then.

Weights decide between providers that could both take the message within a moment: one that has all its connections
busy, is broken or out of tokens holds nobody up. Each message advances its provider's `served` by 1 / weight; whoever is
ahead lets the others go first, for a moment: one that does not come forward meanwhile is `stuck`, and no longer waited
for until it takes a message again.

Under a warm-up (`flow.warming`) a provider takes only messages whose domain has a token left of today's; the pools that
such a pool overflows to take what has none (`wants`).

In a sticky pool the domain decides instead (rendezvous hashing, by weight): each takes only what is its own, and what
has waited for `LONG` because its own provider is too slow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from mailerd.daemon.backlog import Backlog
from mailerd.flow.bucket import AHEAD, Bucket
from mailerd.message import Job, Outcome, OutcomeKind, Outgoing

__all__ = ["Feed"]

LEAD: Final = 1.0  # messages of weight 1 that a provider may be ahead of another
PATIENCE: Final = 0.05  # seconds that another is waited for
LONG: Final = 5.0  # seconds after which any provider may take what is another's in a sticky pool
LOOK: Final = 0.05  # seconds after which it is looked again whether a warm-up has tokens for what waits
AWAY: Final = 20.0  # and behind: more than that is not made up for, it was away


class Feed:
    """One provider for one stream. `buckets` are the provider's limits; `urgent`: is this the most urgent stream."""

    __slots__ = (
        "_backlog",
        "_provider",
        "_taken",
        "_waits_since",
        "buckets",
        "eager",
        "may_send",
        "on_short",
        "pool",
        "probe",
        "rivals",
        "served",
        "sticky",
        "stuck",
        "taken_at",
        "tally",
        "urgent",
        "wants",
        "warm",
        "weight",
    )

    def __init__(
        self,
        backlog: Backlog,
        provider: str,
        *,
        pool: str = "",
        weight: int = 1,
        buckets: Sequence[Bucket] = (),
        urgent: bool = True,
        sticky: bool = False,
    ) -> None:
        self._backlog = backlog
        self._provider = provider
        self.pool = pool
        self.buckets = tuple(buckets)  # may be replaced at any time
        self._taken: dict[int, tuple[Bucket, ...]] = {}  # by what is in flight
        self.urgent = urgent
        self.weight = weight
        self.sticky = sticky
        self.served = 0.0
        self.rivals: tuple[Feed, ...] = ()  # the others of the pool, while they may send
        self.may_send = True
        self.taken_at = 0.0
        self.stuck = False
        self._waits_since = 0.0  # for others to come forward
        self.eager: Callable[[], bool] = lambda: False  # could it take a message within a moment?
        self.probe: Callable[[], bool] = lambda: False  # is there work worth a probe although nothing is leased?
        # Is a message to this domain for us, now, after so many seconds here? None: any is.
        self.wants: Callable[[str, float, float], bool] | None = None
        self.warm: Callable[[str], tuple[Bucket, ...]] = lambda domain: ()  # what it costs besides `buckets`
        self.tally: Callable[[str, Sequence[Outcome]], None] | None = None  # told what became of a message to a domain
        self.on_short: Callable[[float], None] = lambda at: None  # wake me at this instant: a token's slot

    # -- what connections call -----------------------------------------------------------------------------------------

    def take(self, provider: str) -> Outgoing | None:
        if not self.may_send:
            return None
        if not self.buckets and not self.rivals and self.wants is None:
            return self._hand(self._backlog.take(provider))
        now = time.monotonic()
        if self.buckets and not self._ripe(now):
            self.on_short(self.opens() + AHEAD)
            return None
        if self.wants is not None:
            outgoing = self._backlog.take(provider, lambda job: self._wanted(job, now))
            if outgoing is None and self._backlog.takeable:
                self.on_short(now + LOOK)
        elif self.sticky and self.rivals:
            outgoing = self._backlog.take(provider, lambda job: self._owns(job.domain) or now - job.leased_at > LONG)
        elif self.rivals and self._ahead(now):
            self.on_short(now)  # the one behind goes first, then we
            return None
        elif self.rivals and self._backlog.returned:
            # What came back from here is for the others, if one of them takes it soon.
            outgoing = self._backlog.take(provider, lambda job: job.avoid != provider or now - job.started > PATIENCE)
        else:
            outgoing = self._backlog.take(provider)
        if outgoing is not None:
            self.served += 1.0 / self.weight
            self.taken_at = now
            self.stuck = False
            self._waits_since = 0.0
            buckets = self.buckets if self.wants is None else self.buckets + self.warm(outgoing.job.domain)
            if buckets:
                self._taken[outgoing.job.id] = buckets
                for bucket in buckets:
                    bucket.take(outgoing.job.tokens, now)
        return self._hand(outgoing)

    def waiting(self) -> int:
        if not self.may_send:
            return 0
        takeable = self._backlog.takeable
        if not takeable:
            return int(self.probe())
        if self.wants is not None:
            now = time.monotonic()
            if not self._backlog.wanted(lambda job: self._wanted(job, now)):
                self.on_short(now + LOOK)
                return 0
        if self.buckets:
            now = time.monotonic()
            ripe = self._ripe(now)
            if ripe < takeable:
                self.on_short(self.opens() + AHEAD)
            return min(takeable, ripe)
        return takeable

    def done(self, outgoing: Outgoing, outcomes: Sequence[Outcome]) -> None:
        if self._taken and (taken := self._taken.pop(outgoing.job.id, None)) is not None:
            unsent = all(outcome.kind is OutcomeKind.UNSENT for outcome in outcomes)
            for bucket in taken:
                if unsent:
                    bucket.refund(outgoing.job.tokens)
                else:
                    bucket.spent(outgoing.job.tokens)
        if self.tally is not None:
            self.tally(outgoing.job.domain, outcomes)
        self._backlog.done(outgoing, outcomes)

    # -- what the pipeline asks ----------------------------------------------------------------------------------------

    def room(self, now: float) -> float:
        """Messages that it may take within a moment; inf without limits."""
        if not self.buckets:
            return math.inf
        return max(0, min(bucket.room(now, urgent=self.urgent) for bucket in self.buckets))

    def opens(self) -> float:
        """When it may take a message again, as far as tokens go; a little before their slot. inf: it has none."""
        return max(bucket.opens(0.0, urgent=self.urgent) for bucket in self.buckets)

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _ripe(self, now: float) -> int:
        return max(0, min(bucket.ripe(now, urgent=self.urgent) for bucket in self.buckets))

    def _hand(self, outgoing: Outgoing | None) -> Outgoing | None:
        if outgoing is not None:
            outgoing.job.pool = self.pool
        return outgoing

    def _wanted(self, job: Job, now: float) -> bool:
        """Under a warm-up, or beside one: is it for us? What would be another's in a sticky pool is not."""
        mine = not self.sticky or not self.rivals or self._owns(job.domain) or now - job.leased_at > LONG
        return mine and self.wants is not None and self.wants(job.domain, now, now - job.leased_at)

    def _owns(self, domain: str) -> bool:
        """Of those that may send, is it this one's domain? All instances answer alike."""
        mine = self._score(domain)
        return all(mine < rival._score(domain) for rival in self.rivals)

    def _score(self, domain: str) -> float:
        # No checksum: those of two names differ by the same bits for every domain.
        digest = blake2b(f"{self._provider}\0{domain}".encode(errors="replace"), digest_size=8).digest()
        chance = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
        return -math.log(chance) / self.weight

    def _ahead(self, now: float) -> bool:
        """Another provider is behind, and could take this very message."""
        base = max(rival.served for rival in self.rivals)
        if self.served < base - AWAY:
            self.served = base - AWAY
        for rival in self.rivals:
            if (
                rival.served + LEAD < self.served
                and rival.may_send
                and not rival.stuck
                and rival.eager()
                and (not rival.buckets or rival._ripe(now))
            ):
                if not self._waits_since:
                    self._waits_since = now
                elif now - self._waits_since > PATIENCE and rival.taken_at < self._waits_since:
                    rival.stuck = True
                    continue
                return True
        return False
