"""What the HTTP tests share: a provider's API on a real socket that answers as a test says, and a pool that calls it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from mailerd.compose.composer import Composer
from mailerd.config.base import Duration
from mailerd.config.model import Config, Identity
from mailerd.config.provider import Provider, Timeouts
from mailerd.http.kinds import DIALECTS
from mailerd.http.pool import HttpPool
from mailerd.message import Job, Lease, Outgoing, Trouble
from mailerd.smtp.budget import ConnectionBudget
from tests.smtp.rig import FOREVER, Errors, Messages

PATIENCE = 10.0  # seconds after which a test gives up waiting

_ids = itertools.count(1)
_composer = Composer(
    Config(identity=(Identity(name="shop", sender="The Shop <shop@shop.example>", reply_to="help@shop.example"),))
)


def job(recipient: str = "", **columns: Any) -> Job:
    number = next(_ids)
    columns = {"subject": "Hello", "text_body": "world", "sender": "shop", **columns}
    if columns.get("raw"):
        columns |= {"subject": None, "text_body": None}
    lease_until = columns.pop("lease_until", FOREVER)
    return Job(
        id=number,
        stream="s",
        priority=5,
        domain="example.net",
        campaign="",
        lease=Lease(1, lease_until),
        created_at=datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC),
        recipient=recipient or f"user{number}@example.net",
        **columns,
    )


def message(recipient: str = "", **columns: Any) -> Outgoing:
    """A message as the composer makes it."""
    return _composer.compose(job(recipient, **columns))


class Seen:
    """One request that the API was sent."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.method = request.method
        self.path = request.path_qs
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        self.body = body
        self.transport = request.transport

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Answer = Callable[[Seen], web.StreamResponse | Awaitable[web.StreamResponse]]


class Api:
    """An HTTP server on a free port. `answer` makes the reply to each request; `seen` keeps them."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self.url = ""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request, await request.read())
        self.seen.append(seen)
        reply = self.answer(seen)
        return await reply if isinstance(reply, Awaitable) else reply


@asynccontextmanager
async def api(answer: Answer) -> AsyncIterator[Api]:
    served = Api(answer)
    app = web.Application(client_max_size=100_000_000)
    app.router.add_route("*", "/{tail:.*}", served._handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield served
    finally:
        await runner.cleanup()


def reply(value: Any, status: int = 200, **headers: str) -> web.Response:
    """An answer in JSON; `headers` with `_` for `-`."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )


class Rig:
    """A pool, its source, and a clock that can be moved on."""

    def __init__(self, kind: str, url: str, messages: Sequence[Outgoing], again: bool, **options: Any) -> None:
        self.offset = 0.0
        self.troubles: list[Trouble] = []
        self.states: list[str] = []
        self.source = Messages(*messages, again=again)
        self.budget = options.pop("budget", None) or ConnectionBudget(options.pop("cap", 20))
        concurrency = options.pop("concurrency", 4)
        timeouts = {"connect": 2.0, "command": 5.0, "content": 5.0} | options.pop("timeouts", {})
        self.provider = Provider(
            name="esp",
            kind=kind,  # type: ignore[arg-type]
            endpoint=url,
            timeouts=Timeouts(**{k: Duration(v) for k, v in timeouts.items()}),
            **options,
        )
        self.pool = HttpPool(
            self.provider,
            DIALECTS[kind](self.provider),
            self.source,
            stream="s",
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

    def skip(self, seconds: float) -> None:
        """Time passes."""
        self.offset += seconds
        self.pool.tick(self.clock())


@asynccontextmanager
async def rig(kind: str, url: str, *messages: Outgoing, again: bool = False, **options: Any) -> AsyncIterator[Rig]:
    """A running pool; ended at the end, when nothing may be left of it. `options` go to the provider, but for `cap`,
    `budget`, `concurrency` and `timeouts`."""
    built = Rig(kind, url, messages, again, **options)
    errors = Errors()
    logging.getLogger().addHandler(errors)
    built.pool.wake()
    try:
        yield built
    finally:
        built.pool.abort()
        await built.pool.drain(built.clock() + 1)
        logging.getLogger().removeHandler(errors)
        assert not errors.found
        assert not built.source.flying, "taken and never done"
        assert not any(built.pool.counts().values())
        assert built.budget.total == 0
