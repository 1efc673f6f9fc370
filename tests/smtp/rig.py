"""What the SMTP tests share: messages, a source that keeps account of them, and a pool with its ticker running."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from mailerd.config.base import Duration
from mailerd.config.provider import Provider, Timeouts
from mailerd.message import Job, Lease, Outcome, OutcomeKind, Outgoing, Recipient, Trouble
from mailerd.smtp.budget import ConnectionBudget
from mailerd.smtp.pool import SmtpPool

PATIENCE = 10.0  # seconds after which a test gives up waiting
FOREVER = 1e12

_ids = itertools.count(1)

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"


def outgoing(
    *recipients: str,
    content: bytes = CONTENT,
    sender: str = "from@example.org",
    utf8: bool = False,
    eight_bit: bool = False,
    lease_until: float = FOREVER,
) -> Outgoing:
    """A composed message; without recipients given, to one of its own."""
    number = next(_ids)
    job = Job(
        id=number,
        stream="s",
        priority=5,
        domain="example.net",
        campaign="",
        lease=Lease(1, lease_until),
        created_at=datetime.now(UTC),
    )
    to = tuple(Recipient(bit, address) for bit, address in enumerate(recipients or (f"user{number}@example.net",)))
    return Outgoing(job, sender, to, content, f"<{number}@example.org>", utf8, eight_bit)


class Messages:
    """A `Source`. Asserts what the engine owes it: one `done` a `take`, one outcome a recipient."""

    def __init__(self, *messages: Outgoing, again: bool = False) -> None:
        self.queue = deque(messages)
        self.again = again  # what comes back wholly unsent waits again
        self.flying: dict[int, Outgoing] = {}
        self.results: dict[int, list[Outcome]] = {}
        self.log: list[tuple[Outgoing, list[Outcome]]] = []
        self.changed = asyncio.Event()

    def take(self, provider: str) -> Outgoing | None:
        if not self.queue:
            return None
        message = self.queue.popleft()
        assert message.job.id not in self.flying
        self.flying[message.job.id] = message
        return message

    def waiting(self) -> int:
        return len(self.queue)

    def done(self, outgoing: Outgoing, outcomes: Sequence[Outcome]) -> None:
        assert self.flying.pop(outgoing.job.id) is outgoing, "done without take"
        assert len(outcomes) == len(outgoing.recipients)
        assert all(isinstance(outcome, Outcome) for outcome in outcomes)
        self.log.append((outgoing, list(outcomes)))
        if self.again and all(outcome.kind is OutcomeKind.UNSENT for outcome in outcomes):
            self.queue.append(outgoing)
        else:
            self.results[outgoing.job.id] = list(outcomes)
        self.changed.set()

    def kinds(self, message: Outgoing) -> list[str]:
        return [str(outcome.kind) for outcome in self.results[message.job.id]]

    def outcome(self, message: Outgoing) -> Outcome:
        (outcome,) = self.results[message.job.id]
        return outcome


class Errors(logging.Handler):
    """Collects what asyncio or the engine calls an error: an exception in a callback is one, and fails no test itself."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "mail.log" and record.thread == threading.main_thread().ident:  # not a server's own
            self.found.append(self.format(record))


class Rig:
    """A pool, its source, and a clock that can be moved on. `fast` deadlines unless the test gives others."""

    def __init__(self, port: int, messages: Sequence[Outgoing], again: bool, **options: Any) -> None:
        self.offset = 0.0
        self.troubles: list[Trouble] = []
        self.states: list[str] = []
        self.source = Messages(*messages, again=again)
        self.budget = options.pop("budget", None) or ConnectionBudget(options.pop("cap", 20))
        concurrency = options.pop("concurrency", 1)
        stream = options.pop("stream", "s")
        timeouts = {"connect": 5.0, "greeting": 5.0, "command": 5.0, "content": 5.0, "dot": 5.0}
        timeouts |= options.pop("timeouts", {})
        settings: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": "none", "helo": "client.example"}
        self.provider = Provider(
            name="relay",
            timeouts=Timeouts(**{k: Duration(v) for k, v in timeouts.items()}),
            **(settings | options),
        )
        self.pool = SmtpPool(
            self.provider,
            self.source,
            stream=stream,
            concurrency=concurrency,
            budget=self.budget,
            on_state=lambda: self.states.append(self.pool.state),
            on_trouble=self.troubles.append,
            clock=self.clock,
            chance=lambda: 0.0,
        )

    def clock(self) -> float:
        return time.monotonic() + self.offset

    def send(self, *messages: Outgoing) -> None:
        self.source.queue.extend(messages)
        self.pool.wake()

    async def until(self, condition: Callable[[], object], what: str = "condition") -> None:
        """Waits, ticking."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE} s: {self.pool}, {len(self.source.log)} done"
            self.pool.tick(self.clock())
            await asyncio.sleep(0.005)

    async def settled(self, *messages: Outgoing) -> None:
        """Waits until these have their outcomes."""
        await self.until(lambda: all(m.job.id in self.source.results for m in messages), "outcomes")

    async def trouble(self) -> Trouble:
        """Waits for the first trouble that the pool tells of."""
        await self.until(lambda: self.troubles, "trouble")
        return self.troubles[0]

    async def skip(self, seconds: float) -> None:
        """Time passes."""
        self.offset += seconds
        self.pool.tick(self.clock())
        await asyncio.sleep(0)


@asynccontextmanager
async def rig(port: int, *messages: Outgoing, again: bool = False, **options: Any) -> AsyncIterator[Rig]:
    """A running pool; ended at the end, when nothing may be left of it. `options` go to the provider, but for `cap`,
    `budget`, `concurrency`, `stream` and `timeouts`."""
    built = Rig(port, messages, again, **options)
    errors = Errors()
    logging.getLogger().addHandler(errors)
    built.pool.wake()
    try:
        yield built
    finally:
        built.pool.abort()
        end = time.monotonic() + PATIENCE
        while sum(built.pool.counts().values()):
            assert time.monotonic() < end, f"connections left: {built.pool}"
            await asyncio.sleep(0.005)
        logging.getLogger().removeHandler(errors)
        assert not errors.found
        assert not built.source.flying, "taken and never done"
        assert built.budget.held(built.pool.stream) == 0
