"""One task's work for a pool: it takes messages, says them, makes their call, and gives each message back once.

What several messages were refused together for is found by halves. Without an answer, a request that was never written
leaves its messages unsent; one that was written leaves them in doubt, unless the API acts only once on the same request:
then it is made again, the same octets, as long as the leases allow.

It decides nothing about the provider: it tells its pool what came (`Owner`), before any message is given back. Between
two turns of the event loop it says at most `TURN` messages, since saying one costs what composing it did.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from msgspec.structs import replace

from mailerd.config.provider import Provider
from mailerd.http.client import Call, Client, Lost
from mailerd.http.dialect import Dialect, Entry, Fault, Request, Response, Verdict, by_status
from mailerd.http.outcome import WORKS, outcome
from mailerd.message import Failure, Outcome, OutcomeKind, Outgoing, Phase, Source, clean
from mailerd.smtp.timing import Timing

__all__ = ["Flight", "Owner"]

log = logging.getLogger("mailerd.http")

LARGE: Final = 262_144  # octets above which a message is said in a thread
FULL: Final = 4_000_000  # octets with which a call is full, whatever its API takes: they are all in memory
TURN: Final = 10  # messages said before the event loop turns
REPEATS: Final = 3  # times that an idempotent call without an answer is made again
REPEAT_WAIT: Final = 0.5  # seconds before the first of them; each further wait is twice as long


class Timings(Protocol):
    """Where durations are counted."""

    @property
    def request(self) -> Timing: ...
    @property
    def response(self) -> Timing: ...


class Owner(Protocol):
    """The pool, as a flight sees it."""

    @property
    def provider(self) -> Provider: ...
    @property
    def dialect(self) -> Dialect: ...
    @property
    def source(self) -> Source: ...
    @property
    def client(self) -> Client: ...
    @property
    def clock(self) -> Callable[[], float]: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def load(self) -> int:
        """Messages that one call may carry now."""
        ...

    @property
    def stopped(self) -> str:
        """Why no further call may be made now, or ''."""
        ...

    def said(self, flight: Flight) -> None:
        """It takes no further message."""
        ...

    def answered(self, response: Response, verdicts: Sequence[Verdict]) -> None: ...
    def lost(self, lost: Lost) -> None: ...
    def clean(self, text: str) -> str: ...


class Flight:
    """`run` once, in a task of its own; `give_back` when that task has ended, however it did."""

    def __init__(self, owner: Owner, first: Outgoing) -> None:
        self._owner = owner
        self._first = first
        self._hands: dict[int, Outgoing] = {first.job.id: first}  # taken, and not given back
        self._aboard: frozenset[int] = frozenset()  # of those, what a written call without an answer carries

    async def run(self) -> None:
        owner = self._owner
        begun = owner.clock()
        loads = self._loads(await self._say())
        owner.said(self)
        owner.timings.request.observe(owner.clock() - begun)
        while loads:
            if why := owner.stopped:
                self.give_back(why)
                return
            load = self._in_time(loads.pop())
            if load:
                loads += await self._send(load)

    def give_back(self, why: str) -> None:
        """The end of everything that is still in hand."""
        for id_ in tuple(self._hands):
            doubt = id_ in self._aboard
            kind = OutcomeKind.IN_DOUBT if doubt else OutcomeKind.UNSENT
            phase = Phase.RESPONSE if doubt else Phase.REQUEST
            self._done(id_, Outcome(kind, phase, text=clean(why), provider=self._owner.provider.name))

    # -- before the call ---------------------------------------------------------------------------------------------

    async def _say(self) -> list[Entry]:
        """The first message and, up to what a call may carry, those that wait behind it, each as an entry."""
        owner, name = self._owner, self._owner.provider.name
        entries: list[Entry] = []
        octets = said = 0
        outgoing: Outgoing | None = self._first
        while outgoing is not None:
            self._hands[outgoing.job.id] = outgoing
            entry = await self._entry(outgoing)
            if isinstance(entry, Failure):
                reason, category = clean(entry.reason), entry.category
                failed = Outcome(OutcomeKind.FAILED, Phase.REQUEST, 0, "", reason, name, category=category)
                self._done(outgoing.job.id, failed)
            else:
                entries.append(entry)
                octets += len(entry.octets)
            if len(entries) >= owner.load or octets >= FULL or owner.stopped:
                break
            said += 1
            if said % TURN == 0:
                await asyncio.sleep(0)
            outgoing = owner.source.take(name)
        return entries

    async def _entry(self, outgoing: Outgoing) -> Entry | Failure:
        dialect = self._owner.dialect
        if len(outgoing.recipients) > dialect.recipients:
            outgoing = replace(outgoing, recipients=outgoing.recipients[: dialect.recipients])
        try:
            if len(outgoing.content) > LARGE:
                return await asyncio.to_thread(dialect.entry, outgoing)
            return dialect.entry(outgoing)
        except Failure as failure:
            return failure
        except Exception as error:
            log.exception("provider %s: message %d cannot be said", self._owner.provider.name, outgoing.job.id)
            return Failure(f"cannot be said to this provider: {error!r}", "internal")

    def _loads(self, entries: Sequence[Entry]) -> list[list[Entry]]:
        """What goes in one call each; the last one goes first."""
        most = self._owner.dialect.octets
        loads: list[list[Entry]] = []
        shared: list[Entry] = []
        octets = 0
        for entry in entries:
            if entry.alone:
                loads.append([entry])
                continue
            if shared and octets + len(entry.octets) > most:
                loads.append(shared)
                shared, octets = [], 0
            shared.append(entry)
            octets += len(entry.octets) + 1
        if shared:
            loads.append(shared)
        loads.reverse()
        return loads

    def _in_time(self, load: Sequence[Entry]) -> list[Entry]:
        """Those whose lease and life last; the others go back."""
        now = self._owner.clock()
        kept = []
        for entry in load:
            if late := _too_late((entry,), now):
                self._end((entry,), Outcome(OutcomeKind.UNSENT, Phase.REQUEST, 0, "", late, self._owner.provider.name))
            else:
                kept.append(entry)
        return kept

    # -- the call ----------------------------------------------------------------------------------------------------

    async def _send(self, load: list[Entry]) -> list[list[Entry]]:
        """Makes the call for these; what is left of it to be done in calls of their own."""
        owner, name = self._owner, self._owner.provider.name
        try:
            request = owner.dialect.request(load, datetime.now(UTC))
        except Exception as error:
            log.exception("provider %s: a call cannot be written", name)
            text = clean(f"the call cannot be written: {error!r}")
            self._end(load, Outcome(OutcomeKind.FAILED, Phase.REQUEST, 0, "", text, name, category="internal"))
            return []
        answer = await self._answer(request, load)
        # They stay aboard until each is given back: should anything of ours fail meanwhile, they are in doubt.
        if isinstance(answer, Lost):
            owner.lost(answer)
            kind = OutcomeKind.IN_DOUBT if self._aboard else OutcomeKind.UNSENT
            phase = Phase.RESPONSE if self._aboard else answer.phase
            self._end(load, Outcome(kind, phase, text=answer.text, provider=name))
            self._aboard = frozenset()
            return []
        response, verdicts, earlier = answer
        owner.answered(response, verdicts)
        if earlier:  # what refuses this try has said nothing of the one before, which may have been accepted
            verdicts = [v if v.fault in WORKS else replace(v, fault=Fault.DOUBT) for v in verdicts]
        if len(verdicts) < len(load):
            if verdicts[0].fault in (Fault.MESSAGE, Fault.RECIPIENT):
                half = len(load) // 2
                self._aboard = frozenset()
                return [load[half:], load[:half]]
            verdicts = verdicts * len(load)
        for entry, verdict in zip(load, verdicts, strict=True):
            self._done(entry.outgoing.job.id, outcome(verdict, response.status, name))
        self._aboard = frozenset()
        return []

    async def _answer(self, request: Request, load: Sequence[Entry]) -> tuple[Response, list[Verdict], bool] | Lost:
        """The call's answer; where there is none that is clear, and the API is idempotent, that of a later try. The
        last part: an earlier try was left without."""
        owner = self._owner
        ids = frozenset(entry.outgoing.job.id for entry in load)
        for repeat in range(1 + REPEATS * owner.dialect.idempotent):
            if repeat:
                await asyncio.sleep(REPEAT_WAIT * 2 ** (repeat - 1))
            call = Call(request, lambda: _too_late(load, owner.clock()), lambda: self._written(ids))
            begun = owner.clock()
            answer: tuple[Response, list[Verdict], bool] | Lost
            earlier = bool(self._aboard)
            try:
                response = await owner.client.call(call, len(load))
            except Lost as lost:
                lost.text = owner.clean(lost.text)
                answer, again = lost, bool(self._aboard)
            else:
                owner.timings.response.observe(owner.clock() - begun)
                verdicts = self._verdicts(load, response)
                answer, again = (response, verdicts, earlier), all(verdict.fault is Fault.DOUBT for verdict in verdicts)
            if not again or call.late or owner.stopped:
                break
        return answer

    def _verdicts(self, load: Sequence[Entry], response: Response) -> list[Verdict]:
        try:
            found = self._owner.dialect.verdicts(load, response)
        except Exception:  # a defect of ours: the answer must not stop anybody
            log.exception("provider %s: an answer could not be read", self._owner.provider.name)
            found = by_status(response)
        if isinstance(found, list) and len(found) != len(load):
            found = by_status(response)
        verdicts = found if isinstance(found, list) else [found]
        # From here on its words are seen by others: in the log, in the status of the provider, in events.
        return [replace(one, text=self._owner.clean(one.text)) if one.fault else one for one in verdicts]

    def _written(self, ids: frozenset[int]) -> None:
        """From here on they may be accepted."""
        self._aboard = ids

    def _end(self, load: Sequence[Entry], end: Outcome) -> None:
        for entry in load:
            self._done(entry.outgoing.job.id, end)

    def _done(self, id_: int, end: Outcome) -> None:
        outgoing = self._hands.pop(id_)
        ends = [end] * len(outgoing.recipients)
        most = self._owner.dialect.recipients
        if len(ends) > most:
            text = f"this provider takes {most} recipients at a time"
            later = Outcome(OutcomeKind.UNSENT, Phase.REQUEST, text=text, provider=self._owner.provider.name)
            ends[most:] = [later] * (len(ends) - most)
        self._owner.source.done(outgoing, ends)


def _too_late(load: Sequence[Entry], now: float) -> str:
    """Why these may not be sent any more, or ''."""
    for entry in load:
        job = entry.outgoing.job
        if now >= job.lease.deadline:
            return "the lease ran out before it was sent"  # another instance may hold the message by now
        if job.expires is not None and now >= job.expires:
            return "the message expired before it was sent"
    return ""
