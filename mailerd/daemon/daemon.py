"""The process: starts, keeps the heartbeat, reloads, drains, stops.

It owns the signals (TERM, INT: drain; a second one: stop now; HUP: reload, all or nothing), the operations endpoint,
systemd's notifications, the heartbeat and the upkeep of the store. What sends is an `Engine`; a reload replaces it.

Failures at the start are `StartFailure`s with one line that says what to do and the exit code. After that, Postgres
or a provider being away is a normal state: tasks keep trying, /readyz and the log say so. A task that ends by an
exception is a bug: the process stops with exit 1 and lets its supervisor start it again; leases expire by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable

import asyncpg

from mailerd.config.load import Loaded
from mailerd.config.model import Config
from mailerd.config.problem import ConfigError
from mailerd.daemon.engine import Engine
from mailerd.daemon.eventlog import EventLog
from mailerd.daemon.neighbours import Neighbours
from mailerd.daemon.numbers import Numbers
from mailerd.daemon.shelf import Shelf
from mailerd.daemon.unsettled import Unsettled
from mailerd.daemon.upkeep import Upkeep
from mailerd.daemon.webhooks import Webhooks
from mailerd.intake.intake import CannotListen, Intake
from mailerd.message import Failure
from mailerd.smtp.pool import ConnectionBudget
from mailerd.store.database import Session, Unavailable, apply_role_settings
from mailerd.store.instances import beat, leave, publish_streams
from mailerd.store.migrate import SchemaProblem, verify
from mailerd.store.upkeep import make_partitions, partitions_ok
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics
from mailerd.web.notify import Notifier, watchdog_interval
from mailerd.web.ops import OpsServer, PortTaken
from mailerd.web.public import PublicServer

__all__ = ["Daemon", "StartFailure"]

log = logging.getLogger("mailerd")

BEAT = 1.0
STALL = 45.0  # seconds without a turn of some lease loop after which the watchdog is not fed; a statement may take 30
RELOAD_GRACE = 5.0
INTAKE_GRACE = 5.0  # seconds for mails that are being stored


class StartFailure(Exception):
    """The daemon cannot start; `code` is the exit status (69 unavailable, 78 configuration or schema)."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


class Daemon:
    """`await Daemon(loaded, reload).run()` returns the exit status."""

    def __init__(self, loaded: Loaded, reload: Callable[[], Loaded]) -> None:
        self._loaded = loaded
        self._reload = reload
        self.instance = secrets.randbits(31) | 1
        self.name = loaded.config.instance.name or socket.gethostname()
        self.metrics = Metrics()
        self.health = Health()
        self._unsettled = Unsettled(loaded.config.lease.max_unsettled)
        self._budgets: dict[str, ConnectionBudget] = {}
        self._shelf = Shelf(loaded.config.database)
        self._engine: Engine | None = None
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Event()
        self._aborted = False
        self._neighbours = Neighbours()
        self._webhooks = Webhooks(loaded.config.database, self.metrics, loaded.config.webhook)
        self._notify = Notifier()
        self._ops: OpsServer | None = None
        self._intake = Intake(loaded.config, self.metrics, self.health)
        self._public: PublicServer | None = None

    @property
    def config(self) -> Config:
        return self._loaded.config

    def _resolved_config(self) -> Config:
        return self._loaded.resolved.config

    def _group_of(self, domain: str) -> str | None:
        return self._engine.limits.groups.of(domain) if self._engine is not None else None

    # Start.

    async def run(self) -> int:
        """Starts, runs until told to stop, drains. Raises `StartFailure` if it cannot start."""
        await self._check_database()
        self.health.set("config", True, str(self._loaded.path or "defaults"))
        if self.config.public.listen != "off":
            self.health.set("public", False, "not listening yet")
        await self._open_ops()
        await self._open_intake()
        try:
            self._engine = self._build(self._loaded)
        except Failure as failure:
            raise StartFailure(failure.reason, os.EX_CONFIG) from failure
        await self._open_public()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reloading.set)
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(self._heartbeat(), name="heartbeat"),
            asyncio.create_task(
                Upkeep(
                    self.config.database,
                    self.metrics,
                    self.health,
                    lambda: list(self._engine.pipelines) if self._engine else [],
                ).run(),
                name="upkeep",
            ),
            asyncio.create_task(self._shelf.run(), name="templates"),
            asyncio.create_task(self._watchdog(), name="watchdog"),
            asyncio.create_task(self._intake.run(), name="inbound"),
            asyncio.create_task(self._webhooks.run(), name="webhooks"),
            asyncio.create_task(Numbers(self._resolved_config, self._group_of, self.metrics).run(), name="numbers"),
            asyncio.create_task(self._engines(), name="engines"),
        ]
        if self._public is not None:
            tasks.insert(0, asyncio.create_task(self._public.run(), name="public listener"))
        if self.config.log.events == "stdout":
            tasks.insert(0, asyncio.create_task(EventLog(self.config.database).run(), name="events"))
        self._notify.ready(f"{len(self._engine.pipelines)} streams")
        log.info("started: instance %s (%d), streams %s", self.name, self.instance, ", ".join(self._engine.pipelines))
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        code = 0
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    log.critical("%s failed: the process stops", task.get_name(), exc_info=task.exception())
                    code = 1
                    self._stopping.set()
            if self._ops is not None:
                self.health.draining = True
            self._notify.stopping("draining")
            engines = tasks[-1]
            with contextlib.suppress(Exception):
                await self._intake.drain(INTAKE_GRACE)
            with contextlib.suppress(Exception):
                await engines
        finally:
            stopping.cancel()
            if self._public is not None:
                await self._public.stop(0.5 if self._aborted else 5.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await self._say_goodbye()
            if self._ops is not None:
                await self._ops.stop()
        log.info("stopped")
        return code

    async def _check_database(self) -> None:
        async with Session(self.config.database, "mailerd:start") as session:
            try:
                version = await verify(session)
                await apply_role_settings(session)
                await publish_streams(session, self._loaded.resolved.config.stream)
                await make_partitions(session)
                self.health.set("partitions", await partitions_ok(session), "made ahead")
            except Unavailable as error:
                raise StartFailure(str(error), os.EX_UNAVAILABLE) from error
            except SchemaProblem as error:
                raise StartFailure(str(error), os.EX_CONFIG) from error
            except asyncpg.PostgresError as error:
                raise StartFailure(f"the database refuses: {error}", os.EX_CONFIG) from error
        self.health.set("database", True)
        self.health.set("schema", True, f"version {version}")

    async def _open_ops(self) -> None:
        if self.config.ops.listen == "off":
            return
        self._ops = OpsServer(self.config.ops.listen, self.health, self.metrics)
        try:
            await self._ops.start()
        except PortTaken as error:
            raise StartFailure(str(error), os.EX_UNAVAILABLE) from error
        log.info("operations endpoint on %s", self._ops.url)

    async def _open_intake(self) -> None:
        try:
            await self._intake.open()
        except CannotListen as error:
            raise StartFailure(str(error), os.EX_UNAVAILABLE) from error

    async def _open_public(self) -> None:
        if self.config.public.listen == "off":
            return
        self._public = PublicServer(self._loaded.resolved, self.health, self.metrics)
        try:
            await self._public.start()
        except PortTaken as error:
            raise StartFailure(str(error), os.EX_UNAVAILABLE) from error
        log.info("public listener on %s:%d", *(self._public.address or ("", 0)))

    def _build(self, loaded: Loaded) -> Engine:
        """Raises `Failure` for an identity that cannot be composed with."""
        engine = Engine(
            loaded.resolved,
            instance=self.instance,
            unsettled=self._unsettled,
            budgets=self._budgets,
            metrics=self.metrics,
            health=self.health,
            library=self._shelf.versions,
        )
        if self._neighbours.shared is not None:
            engine.share(self._neighbours.shared)
        return engine

    # Running.

    async def _engines(self) -> None:
        """Runs the engine, and the next one after each reload, until told to stop."""
        draining: set[asyncio.Task[None]] = set()
        await self._make_acquaintance()
        while not self._stopping.is_set():
            assert self._engine is not None
            engine = self._engine
            running = asyncio.create_task(engine.run(), name="engine")
            stop = asyncio.create_task(self._stopping.wait())
            reload = asyncio.create_task(self._wait_for_reload())
            await asyncio.wait([running, stop, reload], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            reload.cancel()
            engine.stop()
            await running  # raises what broke it
            if self._stopping.is_set():
                grace = float(self.config.shutdown.grace)
                self._notify.extend(grace + 5)
                log.info("draining: %d messages in hand", engine.held())
                await engine.drain(0.0 if self._aborted else grace)
            else:
                self._engine = reload.result()
                old = asyncio.create_task(engine.drain(float(self.config.shutdown.grace)))
                draining.add(old)
                await asyncio.wait([old], timeout=RELOAD_GRACE)
                draining = {task for task in draining if not task.done()}
        await asyncio.gather(*draining, return_exceptions=True)

    async def _make_acquaintance(self) -> None:
        """Where others send already, waits until they have given up our share of the connections: limits hold across
        instances also in the moment when one more comes. Without Postgres nothing could be leased anyhow."""
        while not (self._neighbours.acquainted or self._stopping.is_set()):
            await asyncio.sleep(0.01)

    async def _wait_for_reload(self) -> Engine:
        """The next engine, once a reload has brought a configuration that can be used."""
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            self._notify.reloading()
            try:
                loaded = self._reload()
                async with Session(self.config.database, "mailerd:reload") as session:
                    await publish_streams(session, loaded.resolved.config.stream)
                await self._intake.configure(loaded.config)
                engine = self._build(loaded)  # last: it takes its places in the budgets
            except (ConfigError, Failure, CannotListen, Unavailable, asyncpg.PostgresError) as error:
                for line in error.lines() if isinstance(error, ConfigError) else [str(error)]:
                    log.error("reload refused, the old configuration stays: %s", line)
                with contextlib.suppress(CannotListen):
                    await self._intake.configure(self.config)  # it may have gone ahead
                self.metrics.reload(False)
                self._notify.ready("reload refused")
                continue
            for key in restart_only(self.config, loaded.config):
                log.warning("reload: %s changes only at a restart", key)
            self._loaded = loaded
            self._webhooks.configure(loaded.config.webhook)
            self._unsettled.cap = loaded.config.lease.max_unsettled
            if self._public is not None:
                self._public.configure(loaded.resolved)
            self.metrics.reload(True)
            self._notify.ready("reloaded")
            log.info("configuration reloaded from %s", loaded.path)
            return engine

    async def _heartbeat(self) -> None:
        session = Session(self.config.database, "mailerd:heartbeat")
        last = (time.monotonic(), 0)
        try:
            while True:
                engine = self._engine
                now = time.monotonic()
                if engine is not None:
                    for provider, counts in engine.connections().items():
                        self.metrics.connections(provider, counts)
                    self.metrics.phases(engine.timings())
                    try:
                        state = "draining" if self._stopping.is_set() else "running"
                        # Two that start at once do not see each other in their first: one of them does in its second.
                        for _ in range(1 if self._neighbours.shared else 2):
                            shared = await beat(
                                session,
                                self.instance,
                                self.name,
                                list(engine.pipelines),
                                state,
                                engine.provider_states(now),
                            )
                        self.health.set("database", True)
                        engine.share(self._neighbours.heard(shared, time.monotonic()))
                    except Unavailable as error:
                        self.health.set("database", False, str(error))
                    except asyncpg.PostgresError as error:
                        log.error("heartbeat: %s", error)
                    sent = engine.sent()
                    self._notify.status(
                        f"{max(0, sent - last[1]) / max(now - last[0], 0.001):.0f} msg/s, {engine.held()} in hand"
                    )
                    last = (now, sent)
                await asyncio.sleep(BEAT)
        finally:
            session.drop()

    async def _watchdog(self) -> None:
        every = watchdog_interval(os.environ)
        while True:
            if every and not self.health.stalled(STALL):
                self._notify.watchdog()
            await asyncio.sleep(every / 2 if every else 60.0)

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(Unavailable, asyncpg.PostgresError, TimeoutError):
            async with asyncio.timeout(2), Session(self.config.database, "mailerd:stop") as session:
                await leave(session, self.instance)

    # Signals.

    def stop(self) -> None:
        """First call: drain. Second: stop now."""
        if not self._stopping.is_set():
            log.info("stopping")
            self._stopping.set()
        elif not self._aborted:
            log.warning("stopping now: what is in flight is left to its lease")
            self._aborted = True
            if self._engine is not None:
                self._engine.abort()


def restart_only(old: Config, new: Config) -> list[str]:
    """Keys that a running process cannot change."""
    return [
        name
        for name, before, after in (
            ("database", old.database, new.database),
            ("ops.listen", old.ops, new.ops),
            ("public.listen", old.public.listen, new.public.listen),
            ("instance.name", old.instance, new.instance),
            ("log", old.log, new.log),
        )
        if before != after
    ]
