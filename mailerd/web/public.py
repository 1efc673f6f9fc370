"""The public listener: what recipients and providers reach over HTTP, apart from the operations endpoint.

It owns the listener, the queues between requests and Postgres, and the reader of the inbox; `web.desk` decides what a
request means. A reload replaces the desk, never a queue. Stopping closes the listener first, answers what is in hand, and
then writes what the queues hold.

Each queue has a connection to Postgres of its own, so a slow statement of one delays no other. While Postgres is away,
webhooks are answered 429 and unsubscribes 503, and both will come again; pixels and links work all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

from mailerd.compose.address import parse
from mailerd.compose.tokens import Tokens
from mailerd.config.model import Config
from mailerd.config.resolved import Resolved
from mailerd.config.values import listen as parse_listen
from mailerd.feedback import Feedback
from mailerd.store import feedback, inbox, preference
from mailerd.store.database import Session, Unavailable
from mailerd.web.desk import BODY_LIMIT, Desk, refusal
from mailerd.web.group import GroupCommit
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics
from mailerd.web.ops import PortTaken, words
from mailerd.web.reader import Apply, Reader
from mailerd.web.receiver import Receiver
from mailerd.web.server import Answer, Limits, Server
from mailerd.web.traffic import Traffic
from mailerd.web.visitor import Proxies
from mailerd.webhook.dialect import LIMIT, Webhook
from mailerd.webhook.kinds import webhook as make_webhook

__all__ = ["PublicServer", "webhooks_of"]

log = logging.getLogger("mailerd.public")

_GRACE: Final = 5.0  # seconds for requests in hand when we stop, and again for what the queues hold then
_TASKS: Final = 256  # pages that read or write Postgres, at a time
_PAGE_SECONDS: Final = 5.0


def webhooks_of(config: Config) -> dict[str, Webhook]:
    """By the provider's name, those that have one configured."""
    found = ((provider.name, make_webhook(provider)) for provider in config.provider)
    return {name: webhook for name, webhook in found if webhook is not None}


class PublicServer:
    """`start` opens the listener, `run` in a task, `configure` after a reload, `stop`. `address` is where it listens.

    `webhooks` and `apply` are the configuration's and the store's, unless given.
    """

    def __init__(
        self,
        resolved: Resolved,
        health: Health,
        metrics: Metrics,
        *,
        webhooks: Mapping[str, Webhook] | None = None,
        apply: Apply = feedback.apply,
    ) -> None:
        config = resolved.config
        database = config.database
        self.address: tuple[str, int] | None = None
        self.traffic = Traffic(metrics.registry)
        self.traffic.gauges = self._gauges
        self._config = config
        self._health = health
        self._given = webhooks
        self._sessions = {name: Session(database, f"mailerd:{name}") for name in ("received", "left", "seen", "page")}
        self._page_lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._pages: set[asyncio.Task[None]] = set()
        known = webhooks_of(config) if webhooks is None else webhooks
        self._reader = Reader(database, known, apply, self.traffic, busy=lambda: len(self._received) > 64)
        self._received: GroupCommit[inbox.Raw] = GroupCommit(
            "webhooks", self._store, most=4096, octets=64 << 20, batch=512
        )
        self._left: GroupCommit[Feedback] = GroupCommit(
            "unsubscribes", partial(self._applied, apply, "left"), most=4096, batch=200
        )
        self._seen: GroupCommit[Feedback] = GroupCommit(
            "opens and clicks",
            partial(self._applied, apply, "seen"),
            most=50_000,
            batch=500,
            keep=True,
            pause=0.5,
        )
        self._receiver = Receiver(known, self._received, self.traffic)
        self._proxies = Proxies(config.public.trusted_proxies)
        self._server = Server(
            self._desk(resolved).handle,
            Limits(body=_body_limit),
            refusal=refusal,
            observe=self.traffic.response,
            uncounted=lambda peer: self._proxies.trusts(peer),
        )

    def _desk(self, resolved: Resolved) -> Desk:
        public = resolved.config.public
        return Desk(
            base_url=public.base_url or "",
            tokens=Tokens(public.secret),
            proxies=self._proxies,
            senders=_senders(resolved),
            receiver=self._receiver,
            engagement=self._seen,
            leaving=self._left,
            preferences=self,
            traffic=self.traffic,
            later=self._later,
        )

    def configure(self, resolved: Resolved) -> None:
        """After a reload: other secrets, proxies, providers. Where it listens stays."""
        public = resolved.config.public
        if not public.secret:
            log.error("reload: [public] has no secret any more: links are read with the old ones")
            return
        self._proxies = Proxies(public.trusted_proxies)
        if self._given is None:
            self._receiver.webhooks = self._reader.webhooks = webhooks_of(resolved.config)
        self._server.handle = self._desk(resolved).handle

    async def start(self) -> None:
        """Raises `PortTaken` with one line for the operator."""
        where = parse_listen(self._config.public.listen)
        assert where is not None, "it is off"
        host, port = where
        try:
            self.address = await self._server.start(host or None, port)
        except OSError as error:
            raise PortTaken(words(error, host, port, "public.listen")) from error
        for name, task in (
            ("webhooks", self._received.run()),
            ("unsubscribes", self._left.run()),
            ("opens and clicks", self._seen.run()),
            ("inbox", self._reader.run()),
        ):
            self._tasks.append(asyncio.create_task(task, name=f"public: {name}"))
        here = host in ("localhost", "::1") or host.startswith("127.")
        if here and not self._config.public.trusted_proxies:
            log.warning("public.trusted_proxies is empty: all that comes through a proxy counts as one address")
        self._health.set("public", True, f"listening on {self.address[0]}:{self.address[1]}")

    async def run(self) -> None:
        """Until stopped. Raises what broke a task."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self, grace: float = _GRACE) -> None:
        """Closes the listener, answers what is in hand, writes what the queues hold: `grace` seconds for each of both."""
        if not self._tasks:
            return
        self._server.refuse_more()
        received, left, seen, reading = self._tasks
        deadline = time.monotonic() + grace
        await self._receiver.close(grace / 2)
        await self._server.stop(max(0.0, deadline - time.monotonic()))
        reading.cancel()
        await asyncio.gather(
            self._received.drain(received, grace),
            self._left.drain(left, grace),
            self._seen.drain(seen, grace),
            asyncio.wait([reading], timeout=grace),
        )
        if self._seen.lost:
            log.warning("%d opens and clicks were lost", self._seen.lost)
        for session in self._sessions.values():
            await session.close()
        self._tasks = []
        self.address = None

    # What the queues write.

    async def _store(self, batch: list[inbox.Raw]) -> None:
        await inbox.put(self._sessions["received"], batch)
        self._reader.wake.set()

    async def _applied(self, apply: Apply, session: str, batch: list[Feedback]) -> None:
        await apply(self._sessions[session], batch)

    # Preferences, and pages that wait for Postgres.

    async def topics(self, address: str, stream: str) -> Sequence[tuple[str, bool]]:
        """See `desk.Preferences`."""
        async with self._page_lock:
            return await preference.topics(self._sessions["page"], address, stream)

    async def resubscribe(self, address: str, stream: str, topic: str) -> None:
        """See `desk.Preferences`."""
        async with self._page_lock:
            await preference.resubscribe(self._sessions["page"], address, stream, topic)

    def _later(self, work: Coroutine[Any, Any, None], answer: Answer) -> None:
        """Runs what must be awaited, with a deadline; few at a time."""
        if len(self._pages) >= _TASKS:
            work.close()
            answer(refusal(429))
            return
        task = asyncio.create_task(self._page(work, answer))
        self._pages.add(task)
        task.add_done_callback(self._pages.discard)

    async def _page(self, work: Coroutine[Any, Any, None], answer: Answer) -> None:
        try:
            async with asyncio.timeout(_PAGE_SECONDS):
                await work
        except (Unavailable, TimeoutError) as error:
            log.warning("the page cannot be shown: %s", error or "no answer from Postgres in time")
            answer(refusal(503))
        except Exception:
            log.exception("the page cannot be shown")
            answer(refusal(500))

    def _gauges(self) -> dict[str, float]:
        return {
            "connections": len(self._server.connections),
            "connections_turned_away": self._server.turned_away,
            "webhooks_waiting": len(self._received),
            "unsubscribes_waiting": len(self._left),
            "visits_waiting": len(self._seen),
            "visits_lost": self._seen.lost,
        }


def _body_limit(path: str) -> int:
    return LIMIT if "/webhooks/" in path else BODY_LIMIT


def _senders(resolved: Resolved) -> dict[str, str]:
    """By stream: the name that people know its mail by."""
    found = {}
    for stream in resolved.config.stream:
        identity = resolved.identity_of(stream.name)
        if identity is not None:
            mailbox = parse(identity.sender)
            found[stream.name] = mailbox.name or mailbox.address
    return found
