"""The application of a chaos run: inserts messages at a pace, lets some expire, cancels some, and remembers what it was told.

What counts is what Postgres acknowledged: an INSERT whose commit was answered must never be lost, a `cancel()` that
said true must never be sent after it. A statement that failed may have been applied; those rows are found in the
outbox at the end. Faults of the database are expected: it reconnects and goes on.

Hazard: ids and times are kept in memory, some 200 octets a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import Final

import asyncpg

from mailerd.bench.chaos.plan import SHARES, STREAMS, Knobs
from mailerd.config.model import Database
from mailerd.store.database import Session, Unavailable

__all__ = ["Traffic"]

_STEP: Final = 0.05  # seconds between transactions
_BATCH: Final = 5_000
_EXPIRING: Final = 50  # one message in so many expires soon
_CANCELLED: Final = 40  # one in so many is scheduled for a moment later, and then cancelled

# One message in _EXPIRING may not be sent later than in a moment; one in _CANCELLED waits for a moment.
_INSERT: Final = f"""
INSERT INTO mailerd.outbox (stream, priority, recipient, campaign, send_at, expires_at, subject, text_body)
SELECT s.name, s.priority, 'user' || i || '@d' || i % 40 || '.example', CASE WHEN s.priority > 5 THEN 'weekend' END,
  CASE WHEN i % {_CANCELLED} = 7 THEN now() + make_interval(secs => 0.2 + (i % 13) * 0.15) END,
  CASE WHEN i % {_EXPIRING} = 3 THEN now() + make_interval(secs => 1 + (i % 7) * 0.5) END,
  'Message ' || i, $3::text
FROM generate_series($1::bigint, $2::bigint) AS i
CROSS JOIN LATERAL (SELECT (ARRAY['{"','".join(STREAMS)}'])[n] AS name, (ARRAY[5, 7, 5])[n] AS priority FROM (
  SELECT CASE WHEN i % 100 < {SHARES[0] * 100:.0f} THEN 1 WHEN i % 100 < {(SHARES[0] + SHARES[1]) * 100:.0f} THEN 2 ELSE 3 END) AS pick(n)) AS s
RETURNING id, send_at > created_at
"""


class Traffic:
    """`acknowledged` maps ids to the `time.monotonic()` when their commit was answered, `cancelled` those of cancels."""

    def __init__(self, url: str, knobs: Knobs, chance: random.Random) -> None:
        self._session = Session(Database(url=url, statement_timeout=30.0, connect_timeout=2.0), "mailerd:chaos")  # type: ignore[arg-type]
        self._knobs = knobs
        self._chance = chance
        self._body = "x" * knobs.size
        self._next = 0
        self._to_cancel: deque[tuple[float, int]] = deque()
        self.acknowledged: dict[int, float] = {}
        self.cancelled: dict[int, float] = {}
        self.refusals = 0  # transactions that Postgres did not acknowledge
        self.last_refusal = ""

    async def insert(self, count: int) -> None:
        """One transaction; raises what Postgres raises."""
        first, self._next = self._next, self._next + count
        rows = await self._session.fetch(_INSERT, first, first + count - 1, self._body)
        now = time.monotonic()
        for row in rows:
            self.acknowledged[row[0]] = now
            if row[1] and self._chance.random() < 0.7:
                self._to_cancel.append((now + self._chance.random() * 2.0, row[0]))

    async def fill(self, count: int) -> None:
        """`count` messages at once, in as few transactions as is good."""
        while count > 0:
            await self.insert(min(count, _BATCH))
            count -= _BATCH

    async def run(self, seconds: float | None = None) -> None:
        """Inserts at the scenario's rate, until cancelled or for so long; owed messages are made up for in big steps."""
        begin = time.monotonic()
        done = 0
        while seconds is None or time.monotonic() - begin < seconds:
            due = int((time.monotonic() - begin) * self._knobs.rate) - done
            try:
                if due > 0:
                    await self.insert(min(due, _BATCH))
                    done += min(due, _BATCH)
                await self._cancel_some()
            except (Unavailable, asyncpg.PostgresError) as error:
                self.refusals += 1
                self.last_refusal = str(error)
                self._session.drop()
                await asyncio.sleep(0.1)
            await asyncio.sleep(_STEP)

    async def _cancel_some(self) -> None:
        for _ in range(10):
            if not self._to_cancel or self._to_cancel[0][0] > time.monotonic():
                return
            _, message_id = self._to_cancel.popleft()
            if await self._session.value("SELECT mailerd.cancel($1)", message_id):
                self.cancelled[message_id] = time.monotonic()

    async def close(self) -> None:
        with contextlib.suppress(Unavailable):
            await self._session.close()
