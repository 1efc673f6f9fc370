"""Puts messages into the outbox, all at once or at a rate, and remembers when each was committed.

Rows are made by INSERT … SELECT inside Postgres, 5 000 a transaction, so that loading costs this process nothing; the
single messages of the latency tests go through INSERT or `enqueue()`, as an application's would.

Hazard: the commit's time is taken when Postgres has answered; what was sent before the answer came has latency 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from mailerd.bench.settings import Settings
from mailerd.bench.template import PARAMS_SQL
from mailerd.store.database import Session

__all__ = ["PAUSED_DOMAIN", "Loader"]

PAUSED_DOMAIN: Final = "paused.example"
_BATCH: Final = 5_000
_RATE_STEP: Final = 0.05  # seconds between the transactions of a paced load


class Loader:
    """`committed` maps the id of each message that was asked to be tracked to its commit's `time.monotonic()`."""

    def __init__(self, session: Session, settings: Settings, inline: tuple[str, str, str] | None) -> None:
        """`inline` is (subject, text, HTML) for content in the row instead of a template."""
        self._session = session
        self._settings = settings
        self._inline = inline
        self.committed: dict[int, float] = {}
        self.rows = 0

    def _content(self, first: int) -> tuple[dict[str, str], tuple[str, ...]]:
        """Columns with their SQL, and the arguments, the first of which is $`first`."""
        if self._inline is None:
            return {"template": "'bench'", "params": PARAMS_SQL}, ()
        columns = ("subject", "text_body", "html_body")
        return {column: f"${number}::text" for number, column in enumerate(columns, first)}, self._inline

    async def fill(
        self,
        count: int,
        *,
        streams: list[str] | None = None,
        domain: str | None = None,
        track: bool = True,
        step: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`count` rows over the streams, domains and campaigns of the settings (or all in one `domain`)."""
        done = 0
        while done < count:
            batch = min(_BATCH, count - done)
            await self._insert(batch, streams, domain, track)
            done += batch
            step(done)

    async def _insert(self, batch: int, streams: list[str] | None, domain: str | None, track: bool) -> None:
        content, arguments = self._content(4)
        settings = self._settings
        names = streams or settings.stream_names
        place = f"'{domain}'" if domain else f"'d' || i % {settings.domains} || '.example'"
        campaign = f"'campaign' || i % {settings.campaigns}" if settings.campaigns > 1 else "NULL"
        returning = "RETURNING id" if track else ""
        rows = await self._session.fetch(
            f"""INSERT INTO mailerd.outbox (stream, recipient, campaign, {", ".join(content)})
                SELECT ($3::text[])[1 + i % {len(names)}], 'user' || i || '@' || {place}, {campaign},
                  {", ".join(content.values())}
                FROM generate_series($1::bigint, $2::bigint) AS i {returning}""",
            self.rows,
            self.rows + batch - 1,
            names,
            *arguments,
        )
        now = time.monotonic()
        self.rows += batch
        self.committed.update((row[0], now) for row in rows)

    async def pace(self, count: int, rate: int) -> None:
        """`count` rows at `rate` a second, committed every 50 ms."""
        begin = time.monotonic()
        done = 0
        while done < count:
            due = min(count, int((time.monotonic() - begin + _RATE_STEP) * rate))
            if due > done:
                await self._insert(min(due - done, _BATCH), None, None, True)
                done += min(due - done, _BATCH)
            await asyncio.sleep(_RATE_STEP)

    async def one(self, stream: str, *, track: bool = True) -> None:
        """A single message: `enqueue()`, or a plain INSERT when nobody is to be woken."""
        content, arguments = self._content(3)
        recipient = f"'user' || i || '@d' || i % {self._settings.domains} || '.example'"
        one = "FROM (VALUES ($1::bigint)) AS v(i)"
        if self._settings.wake == "notify":
            given = ", ".join(f"{column} => {value}" for column, value in content.items())
            sql = f"SELECT mailerd.enqueue({recipient}, stream => $2::text, {given}) {one}"
        else:
            sql = f"""INSERT INTO mailerd.outbox (stream, recipient, {", ".join(content)})
                SELECT $2::text, {recipient}, {", ".join(content.values())} {one} RETURNING id"""
        message_id = await self._session.value(sql, self.rows, stream, *arguments)
        now = time.monotonic()
        self.rows += 1
        if track:
            self.committed[message_id] = now

    async def pause(self, domain: str) -> None:
        """What `mailerd pause domain:NAME` does."""
        await self._session.execute(
            "INSERT INTO mailerd.lane_control (kind, name, actor, reason) VALUES ('domain', $1, 'bench', 'load test')",
            domain,
        )
