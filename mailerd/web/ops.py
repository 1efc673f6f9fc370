"""The operations endpoint: health, metrics and a status page on a listener of its own, for people and machines nearby.

    /livez    200 while the event loop turns (that it answers is the proof)
    /readyz   200 or 503; `?verbose` lists the checks, JSON if asked for; /healthz is another name for it
    /metrics  Prometheus text, or OpenMetrics by Accept
    /         the status page

It reads `Health`, `Metrics` and the overview that the daemon left there; no request touches the database, so an
attacker or an eager scraper costs nothing but CPU. It changes nothing and needs no secret: keep it on the loopback or
an inner network.

Hazard: a listener on the loopback is in reach of any web page that the operator's browser shows, by DNS rebinding;
there, only requests addressed to this machine by address or name are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from mailerd.config.values import listen as parse_listen
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics
from mailerd.web.page import CSP, render
from mailerd.web.throughput import INTERVAL, Throughput

__all__ = ["OpsServer", "PortTaken", "words"]

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "mailerd",
}
_STOP_SECONDS = 1.0  # requests in flight get this long when we stop


class PortTaken(Exception):
    """The listener cannot be opened; the text says what to change."""


class OpsServer:
    """`start` opens the listener (nothing when it is `off`), `stop` closes it. `address` is where it listens then."""

    def __init__(self, listen: str, health: Health, metrics: Metrics) -> None:
        self._listen = parse_listen(listen)
        self._health = health
        self._metrics = metrics
        self._throughput = Throughput()
        self._runner: web.AppRunner | None = None
        self._sampler: asyncio.Task[None] | None = None
        self._own_names: set[str] | None = None  # None: any Host is answered
        self.address: tuple[str, int] | None = None

    @property
    def url(self) -> str | None:
        """Where a browser finds it, or None."""
        if self.address is None:
            return None
        host, port = self.address
        host = "127.0.0.1" if host in ("", "0.0.0.0") else "::1" if host == "::" else host  # noqa: S104 (compared, not bound)
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    async def start(self) -> None:
        """Raises `PortTaken` with one line for the operator."""
        if self._listen is None:
            return
        host, port = self._listen
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/healthz", self._readyz)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/", self._page)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        # reuse_port stays off: with it, a second daemon on the port would silently get half of the requests.
        site = web.TCPSite(runner, host or None, port, reuse_address=True, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise PortTaken(words(error, host, port, "ops.listen")) from error
        self._runner = runner
        bound = runner.addresses[0]
        self.address = (host or str(bound[0]), int(bound[1]))
        if all(ipaddress.ip_address(str(a[0]).partition("%")[0]).is_loopback for a in runner.addresses):
            self._own_names = {"localhost", host.lower(), socket.gethostname().lower()}
        self._sampler = asyncio.create_task(self._sample(), name="ops throughput")

    async def stop(self) -> None:
        """Closes the listener; requests in flight get a second."""
        if self._sampler is not None:
            self._sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampler
            self._sampler = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.address = None

    async def _sample(self) -> None:
        while True:
            sent: dict[str, int] = {}
            for (stream, _, outcome), count in self._metrics.outcomes().items():
                if outcome == "sent":
                    sent[stream] = sent.get(stream, 0) + count
            self._throughput.sample(time.monotonic(), sent)
            await asyncio.sleep(INTERVAL)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        host = request.headers.get("Host")  # absent in HTTP/1.0, which no browser speaks
        if self._own_names is not None and host and not _addressed_to(host, self._own_names):
            response: web.StreamResponse = web.Response(status=421, text="this host name is not ours\n")
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = web.Response(status=error.status, text=f"{error.status} {error.reason}\n")
        response.headers.update(_HEADERS)
        return response

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        health = self._health
        status = 200 if health.ready else 503
        if "application/json" in request.headers.get("Accept", ""):
            return web.json_response(
                {
                    "ready": health.ready,
                    "draining": health.draining,
                    "checks": {name: {"ok": ok, "detail": detail} for name, (ok, detail) in health.checks.items()},
                },
                status=status,
            )
        if "verbose" in request.query:
            lines = [f"[{'+' if ok else '-'}] {name}: {detail}" for name, (ok, detail) in health.checks.items()]
            lines.append(f"[{'-' if health.draining else '+'}] draining: {'yes' if health.draining else 'no'}")
            lines.append("ready" if health.ready else "not ready")
        else:
            lines = ["ok"] if health.ready else health.problems()
        return web.Response(text="\n".join(lines) + "\n", status=status)

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        # A thousand series take 8 ms to write: longer than the loop may stand still.
        body, content_type = await asyncio.to_thread(self._metrics.render, request.headers.get("Accept", ""))
        response = web.Response(body=body)
        response.headers["Content-Type"] = content_type
        return response

    async def _page(self, request: web.Request) -> web.Response:
        text = render(
            self._health,
            self._throughput,
            self._metrics.connection_counts(),
            time.monotonic() - self._metrics.started,
            self._health.overview,
        )
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": CSP})


def _addressed_to(host: str, names: set[str]) -> bool:
    """Whether a Host header names this machine: an IP literal (no DNS, no rebinding) or one of our names."""
    name = host.lower()
    name = name.partition("]")[0].lstrip("[") if name.startswith("[") else name.partition(":")[0].rstrip(".")
    if name in names or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def words(error: OSError, host: str, port: int, key: str) -> str:
    """Why a listener could not be opened, in one line; `key` is what to change."""
    where = host or "every address"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {where} is taken: change {key}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {where} is not allowed to this user: change {key} to a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{where} is no address of this machine: change {key}"
    return (
        f"cannot listen on port {port} of {where}: {os.strerror(error.errno) if error.errno else error}: change {key}"
    )
