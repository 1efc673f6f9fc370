"""The test bed: a database of its own, a sink of its own, daemons as processes; all of it gone afterwards.

Without a URL the database is an embedded Postgres with fsync and synchronous_commit on. With one, the test makes a
schema there and drops it at the end; other schemas are not touched. (Migrations make the cluster's roles `mailerd_app`
and `mailerd_read` if they are missing; those stay.)

Hazard: a bed that is killed by -9 leaves its schema behind; its name begins with `mailerd_bench_`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

import asyncpg

from mailerd.bench.child import Child, ChildFailed, mailerd, ready
from mailerd.bench.ending import undisturbed
from mailerd.bench.ledger import accepted
from mailerd.bench.meter import Meter, postmaster
from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.bench.settings import Settings, Target, configuration
from mailerd.bench.template import write_template
from mailerd.config.dkim import new_key, write_key
from mailerd.config.model import Database
from mailerd.store.database import Session
from mailerd.store.migrate import migrate

__all__ = ["Bed"]

_START_SECONDS = 20.0


class Bed:
    """`async with Bed(settings) as bed:`, then `start_daemons`, `accepted`, `stop_daemons`, as often as wanted."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.meter = Meter()
        self.daemons: list[Child] = []
        self.profiles: list[Path] = []
        self.sink: Child | None = None
        self.sink_address = settings.sink or ("127.0.0.1", 0)
        self.schema = "mailerd" if settings.database is None else f"mailerd_bench_{secrets.token_hex(4)}"
        self.url = settings.database or ""
        self._postgres: Postgres | None = None
        self._session: Session | None = None
        self._ca: Path | None = None
        self._dkim: Path | None = None
        self._base = 0
        # Everybody may pass: root's Postgres runs as another user.
        self.folder = Path(tempfile.mkdtemp(prefix="mailerd-bench-"))
        self.folder.chmod(0o755)
        self.ledgers = self.folder / "ledgers"
        self.templates = self.folder / "templates"

    @property
    def session(self) -> Session:
        """The test's own connection."""
        assert self._session is not None
        return self._session

    # Up.

    async def __aenter__(self) -> Bed:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def _start(self) -> None:
        settings = self.settings
        if settings.database is None:
            self._postgres = Postgres(self.folder / "postgres", version=settings.postgres)
            self._postgres.start()  # not in a thread: an interruption would leave it behind
            self.url = self._postgres.url
        self._session = Session(
            Database(url=self.url, schema=self.schema, statement_timeout=600.0),  # type: ignore[arg-type]
            "mailerd:bench",
        )
        await migrate(self._session)
        backend = await self._session.value("SELECT pg_backend_pid()")
        root = self._postgres.pid if self._postgres else await self._local_postmaster(int(backend))
        if root:
            self.meter.watch("postgres", root)
        self.ledgers.mkdir()
        self.templates.mkdir()
        write_template(self.templates / "bench", settings.size)
        if settings.dkim:
            self._dkim = self.folder / "dkim.pem"
            write_key(self._dkim, new_key())
        if settings.sink is None:
            self._start_sink()

    async def _local_postmaster(self, backend: int) -> int | None:
        address = await self.session.value("SELECT inet_server_addr()::text")
        if address is None or address.partition("/")[0] in ("127.0.0.1", "::1"):
            return postmaster(backend)
        return None

    def _start_sink(self) -> None:
        settings = self.settings
        command = mailerd(
            "sink",
            *("--listen", "127.0.0.1:0", "--record", str(self.ledgers), "--dialect", settings.provider),
            *("--processes", str(settings.sink_processes), "--seed", str(settings.seed)),
            *("--latency", str(settings.latency * 1000), "--faults", str(settings.faults * 100)),
            *(part for kind in settings.kinds for part in ("--fault", kind)),
        )
        if settings.tls:
            tls = "starttls" if settings.provider == "smtp" else "implicit"
            command += ["--tls", tls, "--ca", str(self.folder)]
            self._ca = self.folder / "ca.pem"
        self.sink = Child("the sink", command, self.folder / "sink.log")
        self.sink.wait_until(lambda: "listening on" in self.sink.words() if self.sink else False)
        line = next(line for line in self.sink.words().splitlines() if "listening on" in line)
        self.sink_address = ("127.0.0.1", int(line.split(";")[0].rpartition(":")[2]))
        self.meter.watch("sink", self.sink.pid)

    async def start_daemons(self) -> None:
        """Starts every instance; returns when all are ready. Raises `ChildFailed`."""
        ports = []
        for number in range(1, self.settings.instances + 1):
            ports.append(free_port())
            target = Target(
                database=self.url,
                schema=self.schema,
                host="localhost" if self._ca else self.sink_address[0],
                port=self.sink_address[1],
                ops=ports[-1],
                templates=self.templates,
                ca=self._ca,
                dkim=self._dkim,
            )
            file = self.folder / f"daemon{number}.toml"
            file.write_text(configuration(self.settings, target, f"bench{number}"))
            log = self.folder / f"daemon{number}.log"
            command = mailerd("run", "--config", str(file))
            if self.settings.stages:
                self.profiles.append(self.folder / f"daemon{number}.stages")
                command[2:3] = ["mailerd.bench.stages", str(self.profiles[-1])]
            self.daemons.append(Child(f"daemon {number}", command, log))
        self.meter.watch("mailerd", *(daemon.pid for daemon in self.daemons))
        self._base = accepted(self.ledgers)
        deadline = time.monotonic() + _START_SECONDS
        while True:  # sampled from the first moment: it may send before it says that it is ready
            await self.sample()
            ports = [port for port in ports if not ready(port)]
            if not ports:
                return
            if time.monotonic() > deadline:
                words = "; ".join(filter(None, (daemon.words() for daemon in self.daemons)))
                raise ChildFailed(f"not every daemon was ready within {_START_SECONDS:.0f} s: {words or 'no words'}")
            await asyncio.sleep(0.05)

    # In between.

    def check(self) -> None:
        """Raises `ChildFailed` when a daemon or the sink has died."""
        for child in (*self.daemons, *filter(None, [self.sink])):
            child.check()

    async def accepted(self) -> int:
        """Messages accepted since the daemons were started: from the sink, else what Postgres counts as events."""
        if self.sink is not None:
            return accepted(self.ledgers) - self._base
        return int(
            await self.session.value(
                "SELECT coalesce(sum(n_tup_ins), 0) FROM pg_stat_user_tables WHERE schemaname = $1 AND relname LIKE 'event_%'",
                self.schema,
            )
        )

    async def sample(self) -> int:
        """Takes one sample of everything; returns the messages accepted."""
        self.check()
        count = await self.accepted()
        self.meter.sample(count)
        return count

    async def queued(self) -> bool:
        """Is anything left that will be sent sooner or later (paused domains aside)?"""
        return bool(
            await self.session.value(
                """SELECT EXISTS (SELECT FROM mailerd.scheduled) OR EXISTS (
                  SELECT FROM mailerd.ready r WHERE NOT EXISTS (
                    SELECT FROM mailerd.lane_control c WHERE c.kind = 'domain' AND c.name = r.domain))"""
            )
        )

    async def calm(self, timeout: float = 300.0) -> None:
        """Waits until Postgres has digested a fill (autovacuum, checkpoint), so that windows can be compared."""
        with contextlib.suppress(asyncpg.PostgresError):
            await self.session.execute("CHECKPOINT")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while await self.session.value(
                    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker')"
                ):
                    await asyncio.sleep(0.5)

    # Down.

    async def stop_daemons(self) -> None:
        """Drains every instance. Raises `ChildFailed` when one ends badly."""
        daemons, self.daemons = self.daemons, []
        codes = await asyncio.gather(*(asyncio.to_thread(daemon.stop) for daemon in daemons))
        for daemon, code in zip(daemons, codes, strict=True):
            if code:
                raise ChildFailed(f"{daemon.name} ended with status {code}: {daemon.words() or 'no words'}")

    async def stop_sink(self) -> None:
        """Ends the sink, which completes its ledgers."""
        if self.sink is not None:
            await asyncio.to_thread(self.sink.stop)
            self.sink = None

    async def _end(self) -> None:
        with undisturbed():
            await self._clean_up()

    async def _clean_up(self) -> None:
        for child in (*self.daemons, *filter(None, [self.sink])):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(child.stop, timeout=3.0)
        if self._session is not None:
            if self.settings.database is not None:
                with contextlib.suppress(Exception):
                    await self._session.execute(
                        f"SET client_min_messages = warning; DROP SCHEMA IF EXISTS {self.schema} CASCADE"
                    )
            await self._session.close()
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.stop, "immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
