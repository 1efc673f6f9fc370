"""Tells systemd how we are: the datagrams of sd_notify(3), nothing else.

Without NOTIFY_SOCKET every call does nothing, so the daemon calls it unconditionally. A full or vanished socket is
ignored: being supervised badly is no reason to stop sending mail.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier", "watchdog_interval"]


class Notifier:
    """One datagram a call to `$NOTIFY_SOCKET` (a path, or `@name` in the abstract namespace)."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        address = (os.environ if env is None else env).get("NOTIFY_SOCKET", "")
        # Only these two forms are AF_UNIX; `vsock:` is for virtual machines, which get no mail daemon of ours.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address if address.startswith("/") else ""
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @property
    def active(self) -> bool:
        return self._socket is not None

    def send(self, *assignments: str) -> None:
        """`NAME=value` each, in one datagram."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(assignments).encode(), self._address)

    def ready(self, status: str = "") -> None:
        """Started, or finished reloading."""
        self.send("READY=1", *_status(status))

    def reloading(self) -> None:
        """Reload begins. systemd wants the monotonic time in the same datagram, to tell this reload from an older."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """Drain begins."""
        self.send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self.send(*_status(text))

    def watchdog(self) -> None:
        """Still making progress."""
        self.send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes `seconds` longer, counted from now."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _status(text: str) -> tuple[str, ...]:
    # A line break would begin another assignment.
    return (f"STATUS={' '.join(text.splitlines())}",) if text else ()


def watchdog_interval(env: Mapping[str, str] | None = None) -> float | None:
    """Seconds between two `watchdog` calls (half the limit, as sd_watchdog_enabled(3) advises), or None if unwatched."""
    env = os.environ if env is None else env
    try:
        limit = int(env["WATCHDOG_USEC"])
        pid = int(env.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return limit / 2_000_000 if limit > 0 and pid == os.getpid() else None
