"""The connections of one stream to one provider: how many, which are idle, and whether the provider works at all.

The pool opens connections while messages wait, gently (one, then as many again as work), up to the stream's and the
provider's caps; keeps them warm, and retires what is idle, old or used up. A circuit breaker (`flow.breaker`) stops it
when the provider cannot be reached or turns every message away: then one probe at a time, after growing waits.

It never touches a message: connections take theirs from the source themselves, and only when they are ready. All
methods but `drain` are synchronous; `tick` wants to be called a few times a second. Hazards: `wake` may be called from
inside `Source.done`, and so from inside any callback here; a state that it reads is set before a message is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from mailerd.config.provider import Provider
from mailerd.flow.breaker import Breaker, State
from mailerd.message import Phase, Source, Trouble
from mailerd.smtp.budget import ConnectionBudget
from mailerd.smtp.connection import Connection, Outbox
from mailerd.smtp.core import Core
from mailerd.smtp.handshake import Dialer
from mailerd.smtp.sink import SinkPool
from mailerd.smtp.timing import Timings

__all__ = ["ConnectionBudget", "SinkPool", "SmtpPool", "make_pool"]

log = logging.getLogger("mailerd.smtp")

RAMP = 0.02  # seconds between looks whether the connections keep up with what waits
FAILURES = 5  # sessions in a row that ended in trouble before any message was judged: the provider does not work


class SmtpPool:
    """`on_state` is called when `state` has changed, `on_trouble` with each failure to get a working session."""

    def __init__(
        self,
        provider: Provider,
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
        self.timings = Timings()
        self.last_trouble: Trouble | None = None
        self.outbox = Outbox(clock)
        self.watching = False  # (`connection.Owner`) the breaker has something to forget
        self._source = source
        self._budget = budget
        self._concurrency = concurrency
        self._on_state = on_state
        self._on_trouble = on_trouble
        self._clock = clock
        self._chance = chance
        self._dialer = Dialer(provider)
        self._breaker = Breaker(FAILURES)
        self._growth = Breaker()  # the provider works, but does not let more connections in
        self._by_mail = False  # the breaker was opened by sessions that stood, so that a session proves nothing
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []  # last in, first out: those that are not needed grow old
        self._opening: set[asyncio.Task[None]] = set()
        self._unready = 0  # in `_connections`
        self._ramp: asyncio.TimerHandle | None = None
        self._dry = False  # a connection found nothing to take since the last look
        self._ending = False
        self._gone = asyncio.Event()
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
        """Could it take one more message within a moment: has it a free connection, or room to open another?"""
        if self._idle:
            return True
        total = len(self._connections) + len(self._opening)
        return (
            len(self._connections) > self._unready  # one works
            and total < self._concurrency
            and self._budget.total < self._budget.cap
            and self._growth.state == "closed"
        )

    @property
    def reachable(self) -> bool:
        """Has it a connection, or may it open one?"""
        return self._budget.cap > 0 or bool(self._connections or self._opening)

    def counts(self) -> dict[str, int]:
        """Connections by state."""
        connecting = self._unready + len(self._opening)
        idle = len(self._idle)
        return {"idle": idle, "busy": len(self._connections) - self._unready - idle, "connecting": connecting}

    # -- what the daemon calls ---------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Messages may be waiting: idle connections start, and more are opened if that is not enough."""
        if self._ending or self._breaker.state == "open" or not self._source.waiting():
            return
        probing = self._breaker.state == "half_open"
        for connection in reversed(self._idle[:]):
            if probing and self.counts()["busy"]:
                return
            if connection not in self._idle:
                continue
            if probing:
                connection.core.speculate = False  # one message decides
            if connection.start():
                self._idle.remove(connection)
            if not self._source.waiting():
                return
        if not probing:
            self._more()

    def tick(self, now: float) -> None:
        """Deadlines, retirement, the breaker's next probe."""
        for connection in tuple(self._connections):
            connection.tick(now)
        if self._ending:
            return
        for connection in self._idle[:]:
            if connection.idle_for(now) >= self.provider.idle or now >= connection.core.retire_at:
                self._retire(connection)
        leaving = sum(1 for connection in self._connections if connection.leaving)
        if self._budget.must_yield(self.stream, leaving):
            staying = [connection for connection in self._connections if not connection.leaving]
            if staying:
                self._retire(self._idle[0] if self._idle else staying[0])
        if self._breaker.probe(now):
            if not self._idle and not self._open(1):
                self._breaker.abandon(now)
            else:
                self._changed()
        if self._source.waiting():
            self.wake()
        elif not self._opening:
            self._budget.waive(self.stream)

    async def drain(self, deadline: float) -> None:
        """Finishes what is being sent, says QUIT, closes; at `deadline` (of the clock) it closes what is left. `tick`
        must go on meanwhile."""
        self._end()
        for connection in tuple(self._connections):
            if connection.is_ready:
                connection.leave()
            else:
                connection.abort("shutting down")
        self._check_gone()
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await self._gone.wait()
        except TimeoutError:
            self.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):  # sockets close in the loop's next turns
                    await self._gone.wait()

    def abort(self) -> None:
        """Closes everything now. What was past its final dot is in doubt, the rest unsent."""
        self._end()
        for connection in tuple(self._connections):
            connection.abort("shutting down")
        self._check_gone()

    # -- what connections call ---------------------------------------------------------------------------------------

    def ready(self, connection: Connection) -> None:
        now = self._clock()
        self._unready -= 1
        self.timings.connect.observe(now - connection.opened)
        connection.core.retire_at = now + self.provider.max_age
        self._growth.success()
        if self._ending or connection.leaving:
            connection.leave()
            return
        if self._breaker.state == "half_open" and not self._by_mail:
            self._works()
        self._idle.append(connection)
        self.wake()

    def idle(self, connection: Connection) -> None:
        core = connection.core
        if self._ending or connection.leaving or core.limit <= 0 or self._clock() >= core.retire_at:
            self._retire(connection)
            self._more()
            return
        self._dry = True
        if connection not in self._idle:
            self._idle.append(connection)

    def settled(self, connection: Connection) -> None:
        if self._breaker.state != "closed":
            self._works()
        self._breaker.success()
        self.watching = False

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._budget.release(self.stream)
        trouble = connection.core.trouble
        if not connection.is_ready:
            self._unready -= 1
        if self._ending:
            self._check_gone()
            return
        if not connection.is_ready:
            self._refused(trouble or Trouble(Phase.EHLO, text="connection closed by the peer"))
        elif trouble is not None:
            self.last_trouble = trouble
            if not connection.core.settled:
                self._failed(trouble)
        elif not self._connections:
            self._breaker.abandon(self._clock())  # it was the probe, and met no message
        self.wake()

    # -- opening -----------------------------------------------------------------------------------------------------

    def _more(self) -> None:
        """Opens a connection if there is none, or looks again in a moment whether those that work keep up."""
        if self._ending or self._breaker.state != "closed" or not self._source.waiting():
            return
        if not self._connections and not self._opening:
            self._open(1)
        elif self._ramp is None and len(self._connections) + len(self._opening) < self._concurrency:
            self._dry = False
            self._ramp = asyncio.get_running_loop().call_later(RAMP, self._grow)

    def _grow(self) -> None:
        self._ramp = None
        waiting = self._source.waiting()
        if self._ending or self._dry or not waiting or self._breaker.state != "closed":
            return
        connecting = self._unready + len(self._opening)
        working = len(self._connections) - self._unready
        # As many again as work: 1, 2, 4 … and no more at a server that has not let one in yet.
        if self._open(min(waiting, max(1, working) - connecting)) or connecting:
            self._more()

    def _open(self, count: int) -> int:
        """Starts opening up to `count` connections, within the caps; how many."""
        now = self._clock()
        started = 0
        while started < count and len(self._connections) + len(self._opening) < self._concurrency:
            more = len(self._connections) > self._unready  # growth says something only beside connections that work
            if more and self._growth.state != "closed" and not self._growth.probe(now):
                break
            if not self._budget.acquire(self.stream):
                self._growth.abandon(now)
                break
            started += 1
            task = asyncio.get_running_loop().create_task(self._connect(now), name=f"connect:{self.provider.name}")
            self._opening.add(task)
            task.add_done_callback(self._opened)
        return started

    def _opened(self, task: asyncio.Task[None]) -> None:
        """The end of an opening task; a cancelled one leaves its slot."""
        self._opening.discard(task)
        if task.cancelled():
            self._budget.release(self.stream)
        self._check_gone()

    async def _connect(self, started: float) -> None:
        try:
            result = await self._dialer.open()
        except Exception as error:  # a defect; it must not cost a slot, nor take the daemon down
            log.exception("provider %s: opening a connection failed", self.provider.name)
            result = Trouble(Phase.CONNECT, text=repr(error))
        task = asyncio.current_task()
        if task is not None:
            self._opening.discard(task)
        if isinstance(result, Trouble):
            self._budget.release(self.stream)
            if not self._ending:
                self._refused(result)
        elif self._ending:
            result.abort()
            self._budget.release(self.stream)
        else:
            # No await since the dialer looked at the transport: nothing can have arrived in between.
            connection = Connection(
                Core(self.provider, self._source, self.timings, self._dialer.helo), self, self._clock
            )
            connection.opened = started
            self._connections.add(connection)
            self._unready += 1
            connection.attach(result)

    def _retire(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        connection.leave()

    # -- the breaker -------------------------------------------------------------------------------------------------

    def _refused(self, trouble: Trouble) -> None:
        """No session could be had."""
        now = self._clock()
        self.last_trouble = trouble
        self._on_trouble(trouble)
        if len(self._connections) > self._unready and self._breaker.state == "closed":
            # Others work: most likely a limit of the peer's on connections.
            self._growth.failure(now, self._chance())
            log.info(
                "provider %s, stream %s: no further connection for %.1f s: %s",
                self.provider.name,
                self.stream,
                self._growth.wait,
                trouble,
            )
            return
        self._growth.success()  # no connection works: whether there may be more is no question now
        if self._breaker.state != "open":
            self._by_mail = False
            self._breaker.trip(now, self._chance())
            self._tripped(trouble)

    def _failed(self, trouble: Trouble) -> None:
        """A session stood, and ended in trouble before any message was judged."""
        self.watching = True
        if self._breaker.failure(self._clock(), self._chance()):
            self._by_mail = True
            self._on_trouble(trouble)
            self._tripped(trouble)

    def _tripped(self, trouble: Trouble) -> None:
        self.watching = True
        self._budget.waive(self.stream)
        log.warning(
            "provider %s, stream %s: next try in %.1f s: %s",
            self.provider.name,
            self.stream,
            self._breaker.wait,
            trouble,
        )
        self._changed()

    def _works(self) -> None:
        if self._breaker.success():
            log.info("provider %s, stream %s: works again", self.provider.name, self.stream)
            for connection in self._connections:
                connection.core.speculate = True
            self._changed()
            self._more()
        self.watching = False

    def _changed(self) -> None:
        self._on_state()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        if self._ending:
            return
        self._ending = True
        self._budget.waive(self.stream)
        self._budget.leave(self.stream)
        if self._ramp is not None:
            self._ramp.cancel()
            self._ramp = None
        self._idle.clear()
        for task in self._opening:
            task.cancel()

    def _check_gone(self) -> None:
        if self._ending and not self._connections and not self._opening:
            self._gone.set()

    def __repr__(self) -> str:
        return f"<SmtpPool {self.provider.name}/{self.stream} {self.state} {self.counts()} {self.last_trouble}>"


def make_pool(
    provider: Provider,
    source: Source,
    *,
    stream: str,
    budget: ConnectionBudget,
    concurrency: int = 20,
    on_state: Callable[[], None] = lambda: None,
    on_trouble: Callable[[Trouble], None] = lambda trouble: None,
) -> SmtpPool | SinkPool:
    """The pool for this kind of provider."""
    if provider.kind == "sink":
        return SinkPool(provider, source, stream=stream)
    return SmtpPool(
        provider,
        source,
        stream=stream,
        budget=budget,
        concurrency=concurrency,
        on_state=on_state,
        on_trouble=on_trouble,
    )
