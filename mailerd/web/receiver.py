"""Webhooks at the door: judged on their raw octets, made durable, answered. What they say is read later (`web.reader`).

A judgement is synchronous, so the usual request costs no task: into the group commit, and its answer when that is
durable. Only what must be fetched first (the certificate or the confirmation of an SNS topic) is a task, of which few run at
a time. What may come only once is remembered after it was stored, in memory and bounded; behind that, reports carry an id
of their source and count once.

Whatever we cannot take for now is answered 429, never 5xx: some providers throw an event away at once after a 503.

Hazards: URLs that are fetched come from a stranger's body; the dialect has made sure that they lead to the provider alone,
and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

import aiohttp
import msgspec

from mailerd.store.inbox import Raw
from mailerd.web.group import GroupCommit
from mailerd.web.server import Answer, Request, Response
from mailerd.web.traffic import Traffic
from mailerd.webhook.dialect import CERTIFICATE_LIMIT, Post, Verdict, Webhook

__all__ = ["Receiver"]

log = logging.getLogger("mailerd.public")

_PLAIN: Final = (
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)
_OK: Final = Response(200, b"ok\n", _PLAIN)
_BUSY: Final = Response(429, b"try again\n", (*_PLAIN, ("Retry-After", "5")))
_REFUSED: Final = {status: Response(status, b"refused\n", _PLAIN) for status in (400, 401, 403)}
_ABSENT: Final = Response(404, b"no such webhook\n", _PLAIN)
_METHOD: Final = Response(405, b"POST\n", (*_PLAIN, ("Allow", "POST, HEAD")))
_ONCE: Final = 100_000  # names that are remembered
_CERTIFICATES: Final = 64
_FETCHES: Final = 8  # at a time
_FETCH_SECONDS: Final = 10.0
_QUIET: Final = 60.0  # seconds between lines that say why requests are refused

_encode = msgspec.json.Encoder().encode


class Receiver:
    """`take` answers one request. `webhooks` by the provider's name; they may be replaced while it runs."""

    def __init__(self, webhooks: Mapping[str, Webhook], inbox: GroupCommit[Raw], traffic: Traffic) -> None:
        self.webhooks = webhooks
        self._inbox = inbox
        self._traffic = traffic
        self._once: dict[tuple[str, str], None] = {}
        self._certificates: dict[str, bytes] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self._said: dict[str, float] = {}

    def take(self, name: str, request: Request, answer: Answer) -> bool:
        """Whether the request was proven, or need not be: False is what a stranger may try only so often."""
        webhook = self.webhooks.get(name)
        if webhook is None:
            answer(_ABSENT)
            return False
        if request.method != "POST":
            answer(_OK if request.method == "HEAD" else _METHOD)
            return request.method == "HEAD"
        query = dict(reversed(parse_qsl(request.query, keep_blank_values=True))) if request.query else {}
        post = Post(request.headers, request.body, query)
        return self._judged(name, webhook, post, webhook.judge(post, time.time(), self._certificates), answer)

    def _judged(self, name: str, webhook: Webhook, post: Post, verdict: Verdict, answer: Answer) -> bool:
        if verdict.status != 200:
            self._certificates.pop(verdict.certificate, None)  # it was of no use: another may be there later
            self._traffic.webhook(name, "refused")
            self._say(name, verdict.reason)
            answer(_REFUSED.get(verdict.status) or Response(verdict.status, b"refused\n", _PLAIN))
            return False
        if verdict.certificate or verdict.visit:
            if len(self._fetching) >= _FETCHES:
                self._busy(name, "overload", answer)
                return False
            task = asyncio.create_task(self._fetch(name, webhook, post, verdict, answer))
            self._fetching.add(task)
            task.add_done_callback(self._fetching.discard)
            return not verdict.certificate
        once = (name, verdict.once)
        if verdict.empty or (verdict.once and once in self._once):
            self._traffic.webhook(name, "empty" if verdict.empty else "repeated")
            answer(_OK)
            return True
        headers = {key: post.headers[key] for key in webhook.keep if key in post.headers}
        raw = Raw(name, _encode(headers).decode(), post.body)

        def stored(written: bool) -> None:
            if not written:
                self._busy(name, "unavailable", answer)
                return
            if verdict.once:
                if len(self._once) >= _ONCE:
                    del self._once[next(iter(self._once))]
                self._once[once] = None
            self._traffic.webhook(name, "stored")
            answer(_OK)

        if not self._inbox.add(raw, stored, len(raw.body) + len(raw.headers)):
            self._busy(name, "overload", answer)
        return True

    def _say(self, name: str, reason: str) -> None:
        """Why requests are refused, once a minute: strangers must not write our log."""
        now = time.monotonic()
        if now - self._said.get(name, -_QUIET) >= _QUIET:
            self._said[name] = now
            log.warning("webhook %s: refused: %s", name, reason)

    def _busy(self, name: str, result: str, answer: Answer) -> None:
        self._traffic.webhook(name, result)
        answer(_BUSY)

    async def _fetch(self, name: str, webhook: Webhook, post: Post, verdict: Verdict, answer: Answer) -> None:
        """What must be had before the answer: then the request is judged again, or done."""
        url = verdict.certificate or verdict.visit
        try:
            timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session,
                session.get(url, allow_redirects=False) as reply,
            ):
                octets = await reply.content.read(CERTIFICATE_LIMIT + 1)
                while len(octets) <= CERTIFICATE_LIMIT and (more := await reply.content.read(CERTIFICATE_LIMIT)):
                    octets += more
                if reply.status != 200 or len(octets) > CERTIFICATE_LIMIT:
                    raise ValueError(f"answered {reply.status}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.warning("webhook %s: what it names could not be fetched: %s", name, error or type(error).__name__)
            self._busy(name, "unavailable", answer)
            return
        if not verdict.certificate:
            log.info("webhook %s: confirmed", name)
            self._traffic.webhook(name, "confirmed")
            answer(_OK)
            return
        if len(self._certificates) >= _CERTIFICATES:
            self._certificates.clear()
        self._certificates[url] = octets
        again = webhook.judge(post, time.time(), self._certificates)
        if again.certificate and again.status == 200:
            self._busy(name, "unavailable", answer)
        else:
            self._judged(name, webhook, post, again, answer)

    async def close(self, grace: float) -> None:
        """Gives what is being fetched `grace` seconds."""
        if self._fetching:
            await asyncio.wait(self._fetching, timeout=grace)
        for task in list(self._fetching):
            task.cancel()
