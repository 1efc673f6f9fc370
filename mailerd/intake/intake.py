"""Everything that receives: listeners, Maildirs, IMAP mailboxes, where they store, and who reads it. The daemon owns one.

A reload changes what it can in place (`configure`): places that stay keep their sockets and sessions. New places are opened
before anything changes, so one that cannot be had refuses the whole reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import Final

from mailerd.compose.address import normal
from mailerd.config.model import Config
from mailerd.intake.desk import Desk
from mailerd.intake.imap import ImapPoll
from mailerd.intake.listener import CannotListen, Connection, Listener, Terms
from mailerd.intake.maildir import MaildirWatch
from mailerd.intake.worker import Worker, return_paths
from mailerd.message import Failure
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics

__all__ = ["CannotListen", "Intake", "accepting"]

log = logging.getLogger("mailerd.inbound")

TICK: Final = 1.0
GOODBYE: Final = "421 4.3.2 the service stops"


def accepting(config: Config) -> Callable[[str], bool]:
    """Is mail for an address taken? For signed return paths, `mailboxes`, and postmaster."""
    inbound = config.inbound
    paths = return_paths(config)
    boxes = {_bare(address) for address in inbound.mailboxes}
    domains = {address.rpartition("@")[2] for address in boxes}
    domains |= {inbound.return_path_domain.lower()} if inbound.return_path_domain else set()
    # RFC 5321 §4.5.1: of each domain, and without one
    boxes |= {"postmaster", *(f"postmaster@{domain}" for domain in domains)}

    def accepts(address: str) -> bool:
        return _bare(address) in boxes or (paths is not None and paths.decode(address) is not None)

    return accepts


def _bare(address: str) -> str:
    try:
        return normal(address)
    except Failure:
        return address.lower()


class Intake:
    """`open`, `run` in a task, `close`."""

    def __init__(self, config: Config, metrics: Metrics, health: Health) -> None:
        self._config = config
        self._metrics = metrics
        self._health = health
        self._listeners: dict[str, Listener] = {}
        self._connections: set[Connection] = set()
        self._worker = Worker(config, metrics.inbound)
        self._desk = Desk(config.database, self._stored)
        self._terms = _terms(config)
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Opens what listens. Raises `CannotListen`."""
        await self.configure(self._config)

    async def configure(self, config: Config) -> None:
        """Goes over to another configuration, or raises `CannotListen` and changes nothing."""
        terms = _terms(config)
        wanted = config.inbound.listen
        fresh: dict[str, Listener] = {}
        try:
            for place in wanted:
                if place not in self._listeners:
                    fresh[place] = Listener(
                        place, self._terms, self._desk, self._connections, self._metrics.inbound_refused
                    )
                    await fresh[place].open()
        except CannotListen:
            for listener in fresh.values():
                listener.close()
            raise
        for place in self._listeners.keys() - set(wanted):
            self._listeners.pop(place).close()
        self._listeners |= fresh
        self._terms.adopt(terms)
        self._worker.configure(config)
        self._config = config
        self._changed.set()
        for place, listener in fresh.items():
            log.info("inbound mail is taken at %s%s", place, f" (port {listener.port})" if place.endswith(":0") else "")
        if wanted or "inbound" in self._health.checks:
            self._health.set("inbound", True, f"listens on {', '.join(wanted)}" if wanted else "does not listen")

    @property
    def ports(self) -> dict[str, int]:
        """The port of each place."""
        return {place: listener.port for place, listener in self._listeners.items()}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._desk.run(), name="inbound:store")
            group.create_task(self._tick(), name="inbound:tick")
            while True:
                self._changed.clear()
                inbound, settings = self._config.inbound, self._config
                if inbound.active and self._reading is None:  # once and for all: a reload interrupts no reading
                    self._reading = group.create_task(self._worker.run(), name="inbound:read")
                sources = [
                    *(MaildirWatch(box, self._desk, self._metrics.inbound_refused).run() for box in inbound.maildir),
                    *(ImapPoll(box, self._desk, self._metrics.inbound_refused).run() for box in inbound.imap),
                ]
                tasks = [group.create_task(work) for work in sources]
                while self._config.inbound == settings.inbound:
                    await self._changed.wait()
                    self._changed.clear()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            now = loop.time()
            for connection in list(self._connections):
                connection.expire(now)

    def _stored(self, source: str) -> None:
        self._metrics.inbound_stored(source)
        self._worker.wake()

    async def drain(self, grace: float) -> None:
        """No new mail; what is being stored is, and answered, and what is being read is applied, within `grace` seconds."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections):
            if not connection.storing:
                connection.end(GOODBYE)
        self._worker.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while any(connection.storing for connection in self._connections):
                    await asyncio.sleep(0.02)
                if self._reading is not None:
                    await asyncio.wait([self._reading])
        for connection in list(self._connections):
            connection.end(GOODBYE, abort=connection.storing)


def _terms(config: Config) -> Terms:
    """Raises `CannotListen` for a certificate that cannot be used."""
    inbound = config.inbound
    tls = None
    if inbound.tls_cert is not None and inbound.tls_key is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            tls.load_cert_chain(inbound.tls_cert, inbound.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise CannotListen(f"inbound.tls_cert: {inbound.tls_cert}: {error}") from error
    return Terms(accepting(config), int(inbound.message_size), inbound.connections, tls)
