"""What replies teach: rules are carried out, and where none speaks the rate that a receiver takes is learnt.

`judge` is asked about every refusal, `sent` told of every acceptance, both from callbacks of connections: they only look
up, count and note down. What was noted is written to Postgres by `flush`, about once a second, so that all instances
act on it; what a rule stops, stops here at once (`Limits.put`).

It touches no message but its outcome: the category, whether a refusal may be tried again, whether it is our account's
matter, which costs the message no attempt. Hazard: replies are strangers' words; a lane or a provider is named by us.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec

from mailerd.compose import address
from mailerd.flow import aimd
from mailerd.flow.aimd import Aimd
from mailerd.flow.classify import classify, wait_asked
from mailerd.flow.limits import Held, Limits, key_of
from mailerd.flow.rules import Rule, Rules, Thresholds
from mailerd.message import Failure, Job, Outcome, OutcomeKind, Phase, Recipient
from mailerd.store.database import DataError, Session
from mailerd.store.suppression import Suppression, add
from mailerd.store.throttle import alert, learn, set_rate

__all__ = ["Feedback"]

log = logging.getLogger("mailerd.feedback")

ACTOR: Final = "mailerd"
FLUSH: Final = 1.0  # seconds between writes
_SLOT: Final = 0.5  # seconds of sending whose refusals are told together
_MOST_NOTES: Final = 1000  # rates and suppressions noted between two writes; more are dropped, and come again

Lane = tuple[str, str]  # pool, domain group


class _Note(msgspec.Struct):
    """A rate that a rule asks for."""

    rate: float
    seconds: float
    reason: str


class Feedback:
    """One engine's. `on_change` is called, from a callback, when a rule has stopped or slowed something here."""

    def __init__(self, limits: Limits, rules: Rules, *, adapt: bool, on_change: Callable[[], None]) -> None:
        self._limits = limits
        self._rules = rules
        self._adapt = adapt
        self._on_change = on_change
        self._thresholds = Thresholds()
        self._instances = 1
        self._notes: dict[str, _Note] = {}
        self._held_until: dict[str, tuple[float, float]] = {}  # what was noted lately: (rate, instant of its end)
        self._alerts: list[tuple[str, str]] = []
        self._suppress: dict[str, str] = {}
        self._sent: dict[Lane, int] = {}
        self._before: dict[Lane, int] = {}  # of the period before, `_period` long
        self._period = FLUSH
        self._refused: dict[Lane, dict[int, int]] = {}  # by half seconds of sending
        self._learnt: set[str] = set()
        self._flushed_at = time.monotonic()

    def share(self, instances: int) -> None:
        """How many instances there are."""
        self._instances = instances

    # -- what connections tell -----------------------------------------------------------------------------------------

    def sent(self, pool: str, job: Job) -> None:
        """It was accepted."""
        if self._adapt:
            lane = (pool, self._limits.groups.of(job.domain) or job.domain)
            self._sent[lane] = self._sent.get(lane, 0) + 1

    def judge(self, pool: str, job: Job, to: Recipient, outcome: Outcome) -> Outcome:
        """A refusal as it is to be understood; what it asks for besides is noted."""
        if outcome.kind not in (OutcomeKind.DEFERRED, OutcomeKind.REJECTED, OutcomeKind.UNSENT):
            return outcome
        kind: OutcomeKind = outcome.kind
        category = outcome.category
        wait = outcome.retry_after or wait_asked(outcome.text)
        if outcome.code:
            domain = to.address.rpartition("@")[2] or job.domain
            group = self._limits.groups.of(domain) or domain
            rule = self._rules.match(outcome.provider, group, outcome.code, outcome.enhanced, outcome.text)
            category = (
                category or (rule.category if rule else "") or classify(outcome.code, outcome.enhanced, outcome.text)
            )
            if rule is not None:
                if rule.temporary and kind is OutcomeKind.REJECTED:
                    kind = OutcomeKind.DEFERRED
                job.hang_up |= rule.drop
                if rule.acts:
                    kind = self._act(rule, pool, group, to, outcome, kind)
            if (
                self._adapt
                and category == "rate"
                and (rule is None or not rule.acts)
                and kind is not OutcomeKind.REJECTED
                and outcome.phase is not Phase.RESPONSE  # an API speaks of our account, and its pool paces itself
            ):
                slots = self._refused.setdefault((pool, group), {})
                slot = int((job.started or time.monotonic()) / _SLOT)
                slots[slot] = slots.get(slot, 0) + 1
        elif not category:
            category = "connection" if kind is OutcomeKind.UNSENT else classify(0, outcome.enhanced, outcome.text)
        return msgspec.structs.replace(outcome, kind=kind, category=category, retry_after=wait)

    def _act(
        self, rule: Rule, pool: str, group: str, to: Recipient, outcome: Outcome, kind: OutcomeKind
    ) -> OutcomeKind:
        now = time.monotonic()
        lane = key_of("pool", pool, group)
        if rule.suppress:
            self._suppress_later(to, outcome)
        if rule.breaker:
            # Whatever it said, it said of our account: the message moves, and nothing is charged to it.
            kind = OutcomeKind.UNSENT
            if self._thresholds.hit(rule, outcome.provider, now):
                self._note(key_of("provider", outcome.provider), 0.0, rule.breaker, outcome, now, alarm=True)
        elif (rule.pause or rule.slow) and self._thresholds.hit(rule, lane, now):
            self._note(lane, 0.0 if rule.pause else rule.slow, rule.pause or rule.lasts, outcome, now)
        return kind

    def _note(
        self, key: str, rate: float, seconds: float, outcome: Outcome, now: float, *, alarm: bool = False
    ) -> None:
        known, holds = self._held_until.get(key), self._limits.rate(key)
        if (
            known is not None
            and known[0] == rate
            and now < known[1] - seconds * 0.8
            and holds is not None
            and holds <= rate
        ):
            return  # it holds, for about as long, and nobody has cleared it
        if len(self._notes) >= _MOST_NOTES:
            return
        reason = " ".join(filter(None, (str(outcome.code), outcome.enhanced, outcome.text)))[:300]
        self._held_until[key] = (rate, now + seconds)
        if len(self._held_until) > _MOST_NOTES:
            del self._held_until[next(iter(self._held_until))]
        self._notes[key] = _Note(rate, seconds, reason)
        what = "stopped" if not rate else f"slowed to {rate * 60:.4g} a minute"
        log.warning("%s is %s for %.0f s: %s", key, what, seconds, reason)
        if alarm:
            self._alerts.append((key, reason))
        self._limits.put(Held(key, "reply", rate))
        self._on_change()

    def _suppress_later(self, to: Recipient, outcome: Outcome) -> None:
        if len(self._suppress) >= _MOST_NOTES:
            return
        with contextlib.suppress(Failure):  # it names nobody
            self._suppress[address.normal(to.address)] = outcome.text[:300]

    # -- what is written -----------------------------------------------------------------------------------------------

    def known(self, learnt: set[str]) -> None:
        """Lanes of which something is learnt already, by anybody."""
        self._learnt = learnt

    def due(self, now: float) -> bool:
        """Is there anything to be written now? What a rule asked for is, at once."""
        return bool(self._notes or self._alerts or self._suppress) or now - self._flushed_at >= FLUSH

    async def flush(self, session: Session) -> None:
        """Writes what was noted. Raises what Postgres raises; what could not be written is kept."""
        while self._notes:
            key, note = next(iter(self._notes.items()))
            try:
                await set_rate(session, key, "reply", note.rate, note.seconds, note.reason, ACTOR, note.reason)
            except DataError as error:  # trying again cannot help, and everything else waits behind it
                log.error("%s: what a reply asked for cannot be stored: %s", key, error)
            self._notes.pop(key, None)
        while self._alerts:
            await alert(session, ACTOR, *self._alerts[0])
            del self._alerts[0]
        if self._suppress:
            entries = [
                Suppression(address=name, reason="bounce", source=f"reply: {said}")
                for name, said in self._suppress.items()
            ]
            await add(session, entries)
            for entry in entries:
                self._suppress.pop(entry.address, None)
        now = time.monotonic()
        if now - self._flushed_at >= FLUSH:
            await self._learn(session, now)

    async def _learn(self, session: Session, now: float) -> None:
        sent, before = self._sent, self._before
        period, last = now - self._flushed_at, self._period
        self._sent, self._before, self._period, self._flushed_at = {}, sent, period, now
        refused, self._refused = self._refused, {}
        lanes = {lane for lane in sent if key_of("pool", *lane) in self._learnt} | refused.keys()
        if not lanes:
            return
        changes: dict[str, Callable[[Aimd, float], Aimd]] = {}
        for lane in lanes:
            rate = (sent.get(lane, 0) + before.get(lane, 0)) / max(period + last, 0.1) * self._instances
            changes[key_of("pool", *lane)] = _change(sent.get(lane, 0), refused.get(lane, {}), rate, now)
        await learn(session, changes)


def _change(sent: int, refused: dict[int, int], rate: float, now: float) -> Callable[[Aimd, float], Aimd]:
    def change(state: Aimd, store_now: float) -> Aimd:
        state = aimd.grown(state, store_now, sent)
        for slot, count in sorted(refused.items()):
            sent_at = store_now - (now - slot * _SLOT)
            state = aimd.refused(state, store_now, rate, sent_at=sent_at, count=count)
        return state

    return change
