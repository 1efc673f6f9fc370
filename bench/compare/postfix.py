"""A Postfix of one's own as relay: a temporary configuration and queue, in by smtp-source, out to the sink.

Settings beside Debian's defaults: no chroot, no local delivery, everything relayed to the sink over cached connections,
50 at a time, 200 processes, no in-flow delay, no per-recipient lookups. The queue is on disk and is fsynced, as always.
Needs root and Debian's `postfix` package; touches neither the system's Postfix nor /etc/postfix.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

__all__ = ["Postfix", "missing"]

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{sink}
alias_maps =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
smtp_destination_concurrency_limit = 50
initial_destination_concurrency = 50
default_process_limit = 200
in_flow_delay = 0
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
multi_instance_name = postfix-compare
syslog_name = postfix-compare
"""

MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


def missing() -> str | None:
    """Why Postfix cannot take part, or None."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("postfix") is None or shutil.which("smtp-source") is None:
        return "the package postfix is not installed"
    return None


class Postfix:
    """`start` returns when it takes connections; `stop` ends all of its processes."""

    def __init__(self, folder: Path, port: int, sink: int) -> None:
        self.folder = folder
        self.port = port
        config = folder / "etc"
        for name in ("etc", "queue", "data"):
            (folder / name).mkdir(parents=True)
        (config / "main.cf").write_text(MAIN.format(folder=folder, sink=sink))
        (config / "master.cf").write_text(MASTER.format(port=port))
        owner = pwd.getpwnam("postfix")
        os.chown(folder / "data", owner.pw_uid, owner.pw_gid)
        self._config = config

    def start(self) -> int:
        """Returns the master's process id."""
        # `start-fg` would do without the wait below, but is refused to instances other than the first.
        done = subprocess.run(
            ["/usr/sbin/postfix", "-c", str(self._config), "start"], capture_output=True, text=True, timeout=60
        )
        pid = self.folder / "queue" / "pid" / "master.pid"
        deadline = time.monotonic() + 10
        while not (pid.exists() and pid.read_text().strip()):
            if time.monotonic() > deadline:
                log = self.folder / "log"
                raise SystemExit(
                    f"postfix did not start: {done.stderr} {log.read_text()[-500:] if log.exists() else ''}"
                )
            time.sleep(0.05)
        return int(pid.read_text())

    def stop(self) -> None:
        subprocess.run(
            ["/usr/sbin/postfix", "-c", str(self._config), "stop"], capture_output=True, timeout=60, check=False
        )
        pid = self.folder / "queue" / "pid" / "master.pid"
        deadline = time.monotonic() + 10
        while pid.exists() and time.monotonic() < deadline:
            number = int(pid.read_text() or 0)
            if not number or not Path(f"/proc/{number}").exists():
                return
            time.sleep(0.1)
        if pid.exists() and pid.read_text().strip():
            os.killpg(int(pid.read_text()), signal.SIGKILL)
