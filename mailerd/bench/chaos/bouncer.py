"""PgBouncer in transaction mode, in front of a Postgres: a process in a folder, on a free port.

Version 1.18, which distributions have, knows no prepared statements, so daemons go through it with `prepare = "off"`.
It refuses to run as root, so root runs it as nobody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from mailerd.bench.chaos.nothere import NotHere
from mailerd.bench.child import ChildFailed
from mailerd.bench.port import free_port

__all__ = ["Bouncer"]


class Bouncer:
    """`start`, `kill`, `start` again, `stop`. The port stays."""

    def __init__(self, target: int, folder: Path, *, pool: int = 10) -> None:
        """`target` is the port of Postgres. Raises `NotHere` where there is no PgBouncer."""
        found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise NotHere("there is no pgbouncer; on Debian, apt-get install pgbouncer")
        self.port = free_port()
        self._program = found
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self._log = folder / "log"
        self._ini = folder / "pgbouncer.ini"
        self._ini.write_text(
            f"[databases]\n* = user=postgres host=127.0.0.1 port={target}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"pool_mode = transaction\nauth_type = any\ndefault_pool_size = {pool}\nmax_client_conn = 500\n"
        )
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self, timeout: float = 10.0) -> None:
        """Returns when it accepts connections. Raises `ChildFailed`."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self._ini)], user=self._user, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self.kill()
        raise ChildFailed(f"PgBouncer does not answer: {self._log.read_text(errors='replace')[-500:]}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    stop = kill
