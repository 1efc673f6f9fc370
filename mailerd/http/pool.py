"""The calls of one stream to one provider's HTTP API: how many at a time, what each carries, and whether it works.

Same interface as `smtp.pool.SmtpPool`; `connections` are calls in flight. A call takes the next message from the source,
and where the API takes several, as many more as wait. The first call goes alone; once one was answered there are as many
as the caps allow. A call that refuses several messages together is made again in halves until the bad one stands
alone. A request that an idempotent API may have lost is sent again, the same octets.

A circuit breaker stops it while the provider cannot be reached, does not work, or refuses our account; one message
probes then. Where the provider says `too fast`, or that its window is used up, it rests.

Every message taken is given back exactly once, whatever happens to its call. Hazards: `wake` may be called from inside
`Source.done`; what it reads is set before a message is given back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from mailerd.config.provider import Provider
from mailerd.flow.breaker import Breaker, State
from mailerd.http.client import Client, Lost
from mailerd.http.dialect import Dialect, Fault, Response, Verdict
from mailerd.http.flight import Flight
from mailerd.http.outcome import STOPS, WORKS
from mailerd.http.window import Window
from mailerd.message import Phase, Source, Trouble, clean
from mailerd.smtp.budget import ConnectionBudget
from mailerd.smtp.timing import Timing

__all__ = ["HttpPool", "HttpTimings"]

log = logging.getLogger("mailerd.http")

FAILURES: Final = 5  # calls in a row that failed: the provider does not work
REST: Final = (
    5.0  # seconds up to which a rest is nobody else's matter; longer, the breaker opens, and the next pool sends
)
SECRET: Final = 8  # characters of a key that is looked for in what a provider says: a shorter one is in every word
STOP: Final = 10.0  # seconds that trouble of our account stops it at least


class HttpTimings:
    """One provider's phases: `request` (messages taken and said), `response` (their call, until its answer)."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request = Timing()
        self.response = Timing()

    def items(self) -> tuple[tuple[str, Timing], ...]:
        """(value of the label `phase`, its counters)."""
        return (("request", self.request), ("response", self.response))


class HttpPool:
    """`on_state` is called when `state` has changed, `on_trouble` with each failure to be served."""

    def __init__(
        self,
        provider: Provider,
        dialect: Dialect,
        source: Source,
        *,
        stream: str,
        budget: ConnectionBudget,
        concurrency: int = 20,
        on_state: Callable[[], None] = lambda: None,
        on_trouble: Callable[[Trouble], None] = lambda trouble: None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.provider = provider
        self.stream = stream
        self.timings = HttpTimings()
        self.last_trouble: Trouble | None = None
        self.dialect = dialect
        self.batch = min(provider.batch or dialect.batch, dialect.batch)
        self.source = source
        self._budget = budget
        self._concurrency = concurrency
        self._on_state = on_state
        self._on_trouble = on_trouble
        self.clock = clock
        self._chance = chance
        self.client = Client(provider, dialect.url)
        self._secrets = tuple(one for one in (provider.api_key, provider.secret_key) if one and len(one) >= SECRET)
        self._breaker = Breaker(FAILURES)
        self._pace = Breaker(first=0.5, longest=30.0)  # how long a rest is that was asked for without a number
        self._window = Window()
        self._rests_until = 0.0
        self._works = False  # a call was answered since the last trouble
        self._calls: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._filling: Flight | None = None  # takes what waits: another one would only make it smaller
        self._waking = False
        self._ending = False
        budget.join(stream)

    # -- what others see ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Of the circuit breaker."""
        return self._breaker.state

    @property
    def open_until(self) -> float:
        """While `state` is "open": the clock's instant of the next probe."""
        return self._breaker.until

    @property
    def eager(self) -> bool:
        """Could it take one more message within a moment?"""
        return (
            not self._ending
            and self._breaker.state == "closed"
            and self._room(self.clock()) > 0
            and self._budget.total < self._budget.cap
        )

    @property
    def reachable(self) -> bool:
        """Has it a call in flight, or may it make one?"""
        return self._budget.cap > 0 or bool(self._calls)

    def counts(self) -> dict[str, int]:
        """Calls by state: those in flight are `busy`."""
        return {"idle": 0, "busy": len(self._calls), "connecting": 0}

    # -- what the daemon calls ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Messages may be waiting: calls are started, as many as they need and the caps allow."""
        if self._waking:  # from inside `Source.done`, of a message that could not be said
            return
        self._waking = True
        try:
            while self.source.waiting() and self._start():
                pass
        finally:
            self._waking = False

    def tick(self, now: float) -> None:
        """The breaker's next probe, and messages that nobody woke us for. Calls look after their own deadlines."""
        if self._ending:
            return
        if self._breaker.probe(now):
            self._changed()  # half open until a message has decided: there may be none that is leased yet
        if self.source.waiting():
            self.wake()
        elif not self._calls:
            self._budget.waive(self.stream)

    async def drain(self, deadline: float) -> None:
        """Finishes the calls in flight; at `deadline` (of the clock) it ends what is left."""
        self._end()
        if self._calls:
            await asyncio.wait(self._calls, timeout=max(0.0, deadline - self.clock()))
        self.abort()
        if self._calls:
            await asyncio.wait(self._calls, timeout=5)
        await self.client.close()

    def abort(self) -> None:
        """Ends everything now. What was written is in doubt, the rest unsent."""
        self._end()
        for task in self._calls:
            task.cancel()

    # -- starting ----------------------------------------------------------------------------------------------------

    def _room(self, now: float) -> float:
        """How many more calls may be started."""
        if now < self._rests_until:
            return 0
        most = self._concurrency if self._works and self._breaker.state == "closed" else 1
        return min(most - len(self._calls), self._window.room(now))

    def _start(self) -> bool:
        """Starts a call with the next message. False: not now, or there is none."""
        now = self.clock()
        if self._ending or self._filling is not None or self._breaker.state == "open":
            return False
        if self._room(now) < 1:
            self._ring(max(self._rests_until, self._window.until if self._window.room(now) < 1 else 0.0), now)
            return False
        if not self._budget.acquire(self.stream):
            return False
        outgoing = self.source.take(self.provider.name)
        if outgoing is None:
            self._budget.release(self.stream)
            return False
        self._window.start(now)
        flight = Flight(self, outgoing)
        self._filling = flight if self.load > 1 else None
        task = asyncio.get_running_loop().create_task(flight.run(), name=f"call:{self.provider.name}")
        self._calls.add(task)
        task.add_done_callback(lambda done: self._landed(done, flight))
        return True

    def _landed(self, task: asyncio.Task[None], flight: Flight) -> None:
        """The end of a call's task, also of one that was cancelled before it ran."""
        self._calls.discard(task)
        if self._filling is flight:
            self._filling = None
        self._budget.release(self.stream)
        why = "shutting down"
        if not task.cancelled() and (error := task.exception()) is not None:  # a defect of ours
            log.error("provider %s: a call failed", self.provider.name, exc_info=error)
            why = self.clean(repr(error))
            self._failed(Trouble(Phase.REQUEST, text=why))
        flight.give_back(why)
        if not self._ending:
            self.wake()

    def _ring(self, at: float, now: float) -> None:
        """Wakes at this instant: a rest or a window ends."""
        if at > now and (self._alarm is None or self._alarm.cancelled()):
            self._alarm = asyncio.get_running_loop().call_later(at - now, self._rang)

    def _rang(self) -> None:
        self._alarm = None
        if not self._ending:
            self.wake()

    # -- what a call has learnt --------------------------------------------------------------------------------------

    def said(self, flight: Flight) -> None:
        """A call has taken what it can: the next one may be filled."""
        if self._filling is flight:
            self._filling = None
            if not self._ending:
                self.wake()

    def answered(self, response: Response, verdicts: Sequence[Verdict]) -> None:
        """What an answer says of the provider. Before its messages are given back."""
        now = self.clock()
        self._window.tell(response.headers, now, response.at.timestamp(), len(self._calls) - 1)
        faults = {verdict.fault for verdict in verdicts}
        for verdict in verdicts:
            if verdict.fault in STOPS:
                self._trip(Trouble(Phase.RESPONSE, response.status, "", verdict.text), max(STOP, verdict.retry_after))
                return
        if faults & WORKS:
            self._worked()
        if Fault.RATE in faults:
            self._too_fast(response.status, next(one for one in verdicts if one.fault is Fault.RATE), now)
        elif not faults & WORKS:
            self._failed(Trouble(Phase.RESPONSE, response.status, "", verdicts[0].text))
        else:
            self._pace.success()

    def lost(self, lost: Lost) -> None:
        """There was no answer."""
        if lost.ours or self._ending:
            return
        trouble = Trouble(lost.phase, text=lost.text)
        if lost.phase is Phase.CONNECT and not self._works:
            self._trip(trouble)
        else:
            self._failed(trouble)

    def _worked(self) -> None:
        self._works = True
        if self._breaker.success():
            log.info("provider %s, stream %s: works again", self.provider.name, self.stream)
            self._changed()

    def _too_fast(self, status: int, verdict: Verdict, now: float) -> None:
        """It rests as long as it was asked to, else longer each time."""
        if now < self._rests_until:
            return  # said of a call that was in flight when the rest began
        self._pace.probe(max(now, self._pace.until))
        self._pace.trip(now, self._chance())
        wait = verdict.retry_after or self._pace.wait
        self.last_trouble = Trouble(Phase.RESPONSE, status, "", verdict.text)
        log.info("provider %s, stream %s: rests for %.1f s: %s", self.provider.name, self.stream, wait, verdict.text)
        if wait > REST:
            self._trip(self.last_trouble, wait)
            return
        self._rests_until = now + wait
        self._ring(self._rests_until, now)
        if self._breaker.state == "half_open":
            self._breaker.success()  # it speaks to us
            self._changed()

    def _failed(self, trouble: Trouble) -> None:
        self.last_trouble = trouble
        if self._breaker.failure(self.clock(), self._chance()):
            self._tripped(trouble)

    def _trip(self, trouble: Trouble, least: float = 0.0) -> None:
        now = self.clock()
        self.last_trouble = trouble
        if self._breaker.state != "open":
            self._breaker.trip(now, self._chance())
            self._breaker.until = max(self._breaker.until, now + least)
            self._tripped(trouble)

    def _tripped(self, trouble: Trouble) -> None:
        self._works = False
        self._budget.waive(self.stream)
        self._on_trouble(trouble)
        wait = self._breaker.until - self.clock()
        log.warning("provider %s, stream %s: next try in %.1f s: %s", self.provider.name, self.stream, wait, trouble)
        self._changed()

    def _changed(self) -> None:
        self._on_state()

    def _end(self) -> None:
        if self._ending:
            return
        self._ending = True
        self._budget.waive(self.stream)
        self._budget.leave(self.stream)
        if self._alarm is not None:
            self._alarm.cancel()

    # -- what a call asks --------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Messages that one call may carry now: while it is probed, one decides."""
        return self.batch if self._breaker.state == "closed" else 1

    @property
    def stopped(self) -> str:
        """Why no further call may be made now, or ''."""
        if self._ending:
            return "shutting down"
        if self._breaker.state == "open" or self.clock() < self._rests_until:
            return str(self.last_trouble or "the provider rests")
        return ""

    def clean(self, text: str) -> str:
        """A peer's words without our secrets, should it repeat them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return clean(text)

    def __repr__(self) -> str:
        return f"<HttpPool {self.provider.name}/{self.stream} {self.state} {self.counts()} {self.last_trouble}>"
