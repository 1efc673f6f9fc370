"""The event loop's side of one SMTP session: an `asyncio.Protocol` around `core.Core`.

Callbacks only: bytes that arrive go into the core, what it returns is written, and no task exists per message. What is
said in answer to replies is written once the loop has read from every connection that was readable (`Outbox`). Content
is written piece by piece as the peer takes it, and replies are read meanwhile, so neither side can wait for the other
for ever. Deadlines are plain numbers that the pool's `tick` compares.

It decides nothing about messages and opens nothing. Hazard: the core takes a dot for said when it hands it over,
while the write comes a moment later, and its failure later still: what is lost in between is in doubt, on the safe side.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import Protocol, cast

from mailerd.smtp.core import Core, Wait

__all__ = ["Connection", "Outbox", "Owner"]

FAREWELL = 2.0  # seconds for the peer to answer our close, over TLS
LATE = 0.8  # seconds after which what was to be written may no longer be: below the margin of the shortest lease (1 s)
QUIET = 0.05  # seconds idle after which the socket is looked at before MAIL: a peer may have left meanwhile


class Owner(Protocol):
    """Whoever keeps connections. Called synchronously."""

    watching: bool
    """`settled` is to be called after replies."""
    outbox: Outbox

    def ready(self, connection: Connection) -> None:
        """The session stands; it is idle."""
        ...

    def idle(self, connection: Connection) -> None:
        """It found no next message, or may take none."""
        ...

    def settled(self, connection: Connection) -> None:
        """The server judged messages."""
        ...

    def closed(self, connection: Connection) -> None:
        """The socket is gone; all its messages have been given back. Called exactly once."""
        ...


class Outbox:
    """Connections with something to write, written one after the other before the loop waits again.

    Composing the next message takes longer than a peer on the same machine needs to take one in: written one by one,
    each write wakes a peer that has just fallen asleep, which costs both sides more than the rest of the transaction
    (measured: 15 % of our CPU and half of the sink's).

    Between the core's look at the lease and the write, the process may be stopped, or its machine be put to sleep. What
    waited too long is not written: by now another instance may have sent it.
    """

    __slots__ = ("_clock", "_since", "_waiting")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = 0.0
        self._waiting: list[Connection] = []

    def add(self, connection: Connection) -> None:
        if not self._waiting:
            self._since = self._clock()
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append(connection)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        late = self._clock() - self._since > LATE
        for connection in waiting:
            try:
                if late:
                    connection.withhold("the process stood still before it could write")
                else:
                    connection.flush()
            except (OSError, RuntimeError) as error:  # a transport that is closing; the others must still be written
                connection.abort(f"cannot write: {error}")


class Connection(asyncio.Protocol):
    """One session over one socket. `is_ready` once EHLO was answered; `leaving` once it is to end."""

    __slots__ = (
        "_clock",
        "_closing_until",
        "_idle_since",
        "_out",
        "_owner",
        "_paused",
        "_poll",
        "_seen",
        "_transport",
        "core",
        "is_ready",
        "leaving",
        "opened",
    )

    def __init__(self, core: Core, owner: Owner, clock: Callable[[], float]) -> None:
        self.core = core
        self.is_ready = False
        self.leaving = False
        self.opened = clock()
        self._out = b""  # waits for the outbox
        self._owner = owner
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._idle_since = 0.0
        self._closing_until = float("inf")
        self._seen = 0
        self._poll: select.poll | None = None

    def attach(self, transport: asyncio.Transport) -> None:
        """Takes over a transport whose greeting, TLS and AUTH are done, and says EHLO."""
        self._transport = transport
        transport.set_protocol(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)
        transport.write(self.core.hello(self._clock()))

    # -- what the pool calls -----------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self.core.wait == Wait.IDLE and not self.leaving

    def idle_for(self, now: float) -> float:
        """Seconds without a message; 0 while there is one."""
        return now - self._idle_since if self.core.wait == Wait.IDLE else 0.0

    def start(self) -> bool:
        """Takes a message, if idle and there is one. False: it did not."""
        now = self._clock()
        if self._transport is None or self.leaving or (now - self._idle_since > QUIET and self._stirs()):
            return False  # in the last case what stirred is delivered next, and most likely ends the session
        self._send(self.core.begin(now))
        if self.core.wait == Wait.CLOSED:
            self._shut()
        return bool(self._out)

    def leave(self) -> None:
        """Ends the session politely: after the message that it is sending, and the one behind that."""
        self.leaving = True
        self.core.limit = 0
        self._send(self.core.quit(self._clock()))

    def abort(self, why: str) -> None:
        """Ends it now. What was past its final dot is in doubt."""
        self.core.lost(why, self._clock())
        self._shut()

    def withhold(self, why: str) -> None:
        """Ends it now, without what waits for the outbox: nothing of that is in doubt."""
        if self._out:
            self.core.withheld(why, self._clock())
            self._shut()

    def tick(self, now: float) -> None:
        """Looks at the deadlines."""
        if now >= self.core.deadline:
            self.core.expire(now)
            self._shut()
        elif now >= self._closing_until and self._transport is not None:
            self._transport.abort()

    # -- what the event loop calls -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        core = self.core
        out = core.receive(data, now)
        if out:
            self._send(out)
        wait = core.wait
        if self._owner.watching and core.settled != self._seen:
            self._seen = core.settled
            self._owner.settled(self)
        if wait != Wait.DOT and wait != Wait.COMMAND:
            self._turn(now)

    def eof_received(self) -> None:
        self.core.lost("connection closed by the peer", self._clock())
        self._shut()

    def connection_lost(self, exc: Exception | None) -> None:
        self.core.lost(f"connection lost: {exc or 'closed'}", self._clock())
        if self._transport is not None:
            self._transport = self._poll = None
            self._owner.closed(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self.core.sending:
            self._pump(self._clock())

    def flush(self) -> None:
        """Writes what waits for the outbox."""
        out, self._out = self._out, b""
        if out and self._transport is not None:
            self._transport.write(out)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _turn(self, now: float) -> None:
        """The states that are not those of a message in full flow."""
        wait = self.core.wait
        if wait == Wait.CONTENT:
            self._pump(now)
        elif wait == Wait.IDLE:
            self._idle_since = now
            if not self.is_ready:
                self.is_ready = True
                self._owner.ready(self)
            else:
                self._owner.idle(self)
        elif wait == Wait.CLOSED:
            self._shut()

    def _send(self, out: bytes) -> None:
        if self._out:
            self._out += out
        elif out:
            self._out = out
            self._owner.outbox.add(self)

    def _pump(self, now: float) -> None:
        self.flush()
        while self.core.sending and not self._paused and self._transport is not None:
            self._transport.write(self.core.pump(now))
        if self.core.wait == Wait.CLOSED:
            self._shut()

    def _shut(self) -> None:
        """Closes the socket of a closed core. `connection_lost` follows."""
        if self._transport is None:
            return
        if self.core.trouble is None and self._closing_until == float("inf"):
            self._closing_until = self._clock() + FAREWELL
            try:
                self.flush()
                self._transport.close()
            except RuntimeError:  # uvloop, where the peer ended TLS in the packet that brought its last reply
                self._transport.abort()
        else:
            # Nothing is left that the peer should still get; close() might wait for it to take what is written.
            self._out = b""
            self._transport.abort()

    def _stirs(self) -> bool:
        """Something has arrived that the event loop has not delivered yet: an EOF or a 421, most likely."""
        return self._poll is not None and bool(self._poll.poll(0))

    def __repr__(self) -> str:
        core = self.core
        return f"<Connection wait={core.wait} settled={core.settled} leaving={self.leaving} {cast('object', core.trouble)}>"
