"""Outgoing webhooks: a task for each endpoint leases deliveries, posts them, and writes down what became of them.

Endpoints share nothing but one connection to Postgres, which none of them holds while it talks to its peer: a slow or
dead one delays no other. `http.hook` bounds what a peer can do to us. All of this is apart from sending mail: trouble
here is logged and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Sequence

import asyncpg

from mailerd.config.model import Database
from mailerd.config.outgoing import Webhook
from mailerd.http import standard
from mailerd.http.hook import Answer, Peer
from mailerd.store import notices, webhooks
from mailerd.store.database import Session, Unavailable
from mailerd.store.webhooks import Delivery
from mailerd.web.metrics import Metrics

__all__ = ["Endpoint", "Webhooks"]

log = logging.getLogger("mailerd.webhooks")

IN_FLIGHT = 4  # requests of one instance to one endpoint at a time
IDLE = 0.25  # seconds between looks when there is nothing to do
LEASE_MARGIN = 30.0  # seconds that a lease outlasts the request
PUBLISH_EVERY = 3600.0


class Webhooks:
    """`run` until cancelled; `configure` gives it other endpoints after a reload."""

    def __init__(self, settings: Database, metrics: Metrics, hooks: Sequence[Webhook]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._hooks = tuple(hooks)
        self._changed = asyncio.Event()

    def configure(self, hooks: Sequence[Webhook]) -> None:
        """From now on these."""
        if tuple(hooks) != self._hooks:
            self._hooks = tuple(hooks)
            self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            if not self._hooks:
                await self._changed.wait()
                continue
            await self._serve(self._hooks)

    async def _serve(self, hooks: Sequence[Webhook]) -> None:
        """These endpoints, until there are others."""
        store = Store(self._settings)
        tasks = [
            asyncio.create_task(self._keep_published(store, hooks), name="webhooks"),
            *(
                asyncio.create_task(Endpoint(hook, store, self._metrics).run(), name=f"webhook:{hook.name}")
                for hook in hooks
            ),
        ]
        waiting = asyncio.create_task(self._changed.wait())
        try:
            done, _ = await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()  # none of them ends but by a bug
        finally:
            for task in (*tasks, waiting):
                task.cancel()
            await asyncio.gather(*tasks, waiting, return_exceptions=True)
            store.session.drop()

    async def _keep_published(self, store: Store, hooks: Sequence[Webhook]) -> None:
        while True:
            try:
                async with store.lock:
                    await webhooks.publish(store.session, hooks)
                await asyncio.sleep(PUBLISH_EVERY)
            except (Unavailable, asyncpg.PostgresError) as error:
                log.warning("webhooks cannot be published: %s", error)
                await asyncio.sleep(5.0)


class Store:
    """The one connection, for one statement at a time."""

    def __init__(self, settings: Database) -> None:
        self.session = Session(settings, "mailerd:webhooks")
        self.lock = asyncio.Lock()


class Endpoint:
    """One webhook, as this instance serves it."""

    def __init__(self, hook: Webhook, store: Store, metrics: Metrics) -> None:
        self.hook = hook
        self._store = store
        self._metrics = metrics
        self._rng = random.Random()
        self._busy: set[asyncio.Task[None]] = set()
        self._troubled = False

    async def run(self) -> None:
        """Until cancelled. What is in flight then is leased again after its lease."""
        peer = Peer(self.hook, IN_FLIGHT)
        try:
            while True:
                await self._turn(peer)
        finally:
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)
            await peer.close()

    async def _turn(self, peer: Peer) -> None:
        """Leases what there is room for and starts it; waits when there is nothing."""
        token, room = secrets.randbits(62) | 1, IN_FLIGHT - len(self._busy)
        made, leased = 0, list[Delivery]()
        if room:
            try:
                async with self._store.lock:
                    session = self._store.session
                    leased = await webhooks.lease(
                        session, self.hook.name, room, float(self.hook.timeout) + LEASE_MARGIN, token
                    )
                    if len(leased) < room:
                        made = await webhooks.prepare(session, self.hook.name, self.hook.batch_size)
            except (Unavailable, asyncpg.PostgresError) as error:
                log.debug("webhook %s: %s", self.hook.name, error)
                await asyncio.sleep(1.0)
                return
        for delivery in leased:
            task = asyncio.create_task(self._deliver(peer, delivery, token))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        if not made and not leased:
            waiting = asyncio.create_task(asyncio.sleep(IDLE))
            await asyncio.wait([waiting, *self._busy], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()

    async def _deliver(self, peer: Peer, delivery: Delivery, token: int) -> None:
        try:
            async with self._store.lock:
                events = await notices.read(
                    self._store.session, delivery.events, delivery.messages, delivery.first_at, delivery.last_at
                )
            body = standard.body_of(events, delivery.made_at)
            # Events are gone only with their partition, after months.
            answer = await peer.post(delivery.id, body) if events else Answer(True, False, "nothing left to tell")
            self._metrics.webhook(self.hook.name, "delivered" if answer.taken else "failed")
            async with self._store.lock:
                if answer.taken:
                    await webhooks.delivered(self._store.session, self.hook.name, delivery, token, answer.text)
                    if self._troubled:
                        log.info("webhook %s takes events again", self.hook.name)
                    self._troubled = False
                    return
                disabled = await webhooks.failed(
                    self._store.session,
                    self.hook.name,
                    delivery,
                    token,
                    answer.text,
                    delay=standard.delay(delivery.attempts, self._rng),
                    give_up=float(self.hook.give_up),
                    gone=answer.gone,
                )
            if disabled:
                log.error("webhook %s is disabled: %s", self.hook.name, answer.text)
            elif not self._troubled:
                log.warning("webhook %s: %s; trying again", self.hook.name, answer.text)
            self._troubled = True
        except (Unavailable, asyncpg.PostgresError) as error:
            log.debug("webhook %s: %s", self.hook.name, error)  # the lease runs out, the same request is made again
        except Exception:  # a bug of ours, or of a library that a peer has found: no reason to stop sending mail
            log.exception("webhook %s: unexpected trouble", self.hook.name)
