"""The public listener's desk: which path is what, and what each may set off.

    POST     /webhooks/NAME      a provider's webhook
    GET      /o/TOKEN.gif        an open: a pixel, whoever asks and whatever the token
    GET      /c/TOKEN/URL        a click: a redirect to the URL that the token covers, and nowhere else
    GET      /u/TOKEN            the unsubscribe page: changes nothing, since scanners follow links
    POST     /u/TOKEN            unsubscribes: at once by List-Unsubscribe=One-Click (RFC 8058), or from the page

Opens and clicks go into a queue in memory and are answered at once: a crash loses those of the last second, a full queue
drops them, and both are only figures. An unsubscribe is answered when it is durable.

A token that is not ours gets the pixel or a neutral page, and changes nothing; which of both halves was wrong, or whether
the message exists, cannot be told from the answer. Nothing here logs an address, a token or a URL.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import idna

from mailerd.compose.tokens import Claim, Subscriber, Tokens
from mailerd.feedback import Feedback
from mailerd.web import unsubscribe as page
from mailerd.web.group import GroupCommit
from mailerd.web.receiver import Receiver
from mailerd.web.robots import judge
from mailerd.web.server import Answer, Request, Response
from mailerd.web.traffic import Traffic
from mailerd.web.visitor import Allowance, Proxies

__all__ = ["BODY_LIMIT", "Desk", "Preferences", "refusal", "target"]

access = logging.getLogger("mailerd.public.access")

BODY_LIMIT: Final = 16 << 10  # octets of a form
_RATE, _BURST = 200.0, 2000.0  # units a second an address, at once
_STRANGER: Final = 20.0  # units of a request that proves nothing
_PAGE: Final = 10.0  # of one that reads or writes Postgres
_TOPIC_LIMIT: Final = 100  # topics of one form

_SECURE: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Robots-Tag", "noindex"),
)
_HTML: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    *_SECURE,
    ("Content-Security-Policy", page.CSP),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_TEXT: Final = (("Content-Type", "text/plain; charset=utf-8"), *_SECURE)
# One transparent dot.
_GIF: Final = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
_PIXEL: Final = Response(
    200, _GIF, (("Content-Type", "image/gif"), *_SECURE, ("Cross-Origin-Resource-Policy", "cross-origin"))
)
_INVALID: Final = Response(404, page.invalid(), _HTML)
_UNSURE: Final = Response(503, page.unsure(), (*_HTML, ("Retry-After", "60")))
_LIMITED: Final = Response(429, b"too many requests\n", (*_TEXT, ("Retry-After", "10")))
_DONE: Final = Response(200, b"unsubscribed\n", _TEXT)
_REFUSALS: Final = {
    status: Response(status, b"%d\n" % status, _TEXT, close=True) for status in (400, 408, 413, 414, 429, 431, 500)
} | {503: _UNSURE}
_READ_ONLY: Final = Response(405, b"GET\n", (*_TEXT, ("Allow", "GET, HEAD")))
_PAGE_METHODS: Final = Response(405, b"GET, POST\n", (*_TEXT, ("Allow", "GET, HEAD, POST")))
_ROBOTS: Final = Response(200, b"User-agent: *\nDisallow: /\n", _TEXT)

_UNQUOTED: Final = "%/:=&?~#+!$,;'@()*[]"
_BAD: Final = re.compile(r"[\x00-\x20\x7f\\]")


def refusal(status: int) -> Response:
    """What the server answers where no request was understood."""
    return _REFUSALS.get(status) or _REFUSALS[400]


class Preferences(Protocol):
    """What the page reads and writes besides unsubscribing. Raises what a `Session` raises."""

    async def topics(self, address: str, stream: str) -> Sequence[tuple[str, bool]]:
        """The topics that this address may choose, and whether it gets them."""
        ...

    async def resubscribe(self, address: str, stream: str, topic: str) -> None:
        """Takes an unsubscribe back. `topic` '': of all of the stream."""
        ...


class Desk:
    """`handle` answers one request, at once or later. Built for one configuration; the queues outlive it.

    `senders`: the display name that people know a stream by. `later(coroutine, answer)` runs what must be awaited.
    """

    def __init__(
        self,
        *,
        base_url: str,
        tokens: Tokens,
        proxies: Proxies,
        senders: Mapping[str, str],
        receiver: Receiver,
        engagement: GroupCommit[Feedback],
        leaving: GroupCommit[Feedback],
        preferences: Preferences,
        traffic: Traffic,
        later: Callable[[Any, Answer], None],
    ) -> None:
        self._prefix = urlsplit(base_url).path.rstrip("/")
        self._tokens = tokens
        self._proxies = proxies
        self._senders = senders
        self._receiver = receiver
        self._engagement = engagement
        self._leaving = leaving
        self._preferences = preferences
        self._traffic = traffic
        self._later = later
        self._allowance = Allowance(_RATE, _BURST)

    def handle(self, request: Request, answer: Answer) -> None:
        """May raise: the server makes a 500 of it."""
        path = request.path
        if self._prefix and path.startswith(self._prefix + "/"):  # whether or not the proxy takes it away
            path = path[len(self._prefix) :]
        now = time.monotonic()
        address = self._proxies.client(request.peer, request.headers.get("x-forwarded-for", ""))
        route, _, rest = path[1:].partition("/")
        if route == "webhooks":
            # Providers send from few addresses, as fast as we can send: who proves itself is not limited, who failed is.
            if self._allowance.spent(address, now):
                self._seen(route, "limited", answer, _LIMITED)
            elif not self._receiver.take(rest, request, answer):
                self._allowance.charge(address, _STRANGER, now)
            return
        if not self._allowance.take(address, _PAGE if route == "u" else 1.0, now):
            self._seen("other" if route not in ("o", "c", "u") else route, "limited", answer, _LIMITED)
            return
        proven = False
        if route in ("o", "c"):
            if request.method not in ("GET", "HEAD"):
                self._seen(route, "invalid", answer, _READ_ONLY)
            else:
                proven = (self._open if route == "o" else self._click)(rest, request, answer)
        elif route == "u":
            proven = self._unsubscribe(rest, request, answer)
        elif path == "/robots.txt":
            self._seen("other", "robots", answer, _ROBOTS)
        else:
            self._seen("other", "invalid", answer, _INVALID)
        if not proven:
            self._allowance.charge(address, _STRANGER, now)

    def _seen(self, route: str, result: str, answer: Answer, response: Response) -> None:
        self._traffic.visit(route, result)
        access.debug("%s %s %d", route, result, response.status)
        answer(response)

    # Opens and clicks.

    def _open(self, rest: str, request: Request, answer: Answer) -> bool:
        claim = self._tokens.read_open(rest.removesuffix(".gif"))
        result = "invalid" if claim is None else self._engaged("opened", "pixel", claim, request, {})
        self._seen("o", result, answer, _PIXEL)
        return claim is not None

    def _click(self, rest: str, request: Request, answer: Answer) -> bool:
        token, _, encoded = rest.partition("/")
        read = self._tokens.read_click(token, encoded)
        where = target(read[1]) if read is not None else None
        if read is None or where is None:
            self._seen("c", "invalid", answer, _INVALID)
            return read is not None
        result = self._engaged("clicked", "link", read[0], request, {"url": read[1][:2000].replace("\0", "")})
        self._seen("c", result, answer, Response(302, b"", (("Location", where), *_SECURE)))
        return True

    def _engaged(self, kind: str, source: str, claim: Claim, request: Request, metadata: dict[str, str]) -> str:
        now = time.time()
        visitor = judge(request.method, request.headers, claim.message, now)
        if visitor.name:
            metadata["agent"] = visitor.name
        report = Feedback(
            type=kind,
            message_id=claim.message,
            rcpt=claim.bit,
            source=source,
            at=datetime.fromtimestamp(now, UTC),
            bot=visitor.bot,
            metadata=metadata,
        )
        if not self._engagement.add(report):
            return "dropped"
        return "bot" if visitor.bot else "person"

    # Unsubscribing.

    def _unsubscribe(self, rest: str, request: Request, answer: Answer) -> bool:
        subscriber = self._tokens.read_unsubscribe(rest)
        if subscriber is None:
            self._seen("u", "invalid", answer, _INVALID)
            return False
        if request.method in ("GET", "HEAD"):
            self._later(self._ask(subscriber, answer), answer)
        elif request.method != "POST":
            self._seen("u", "invalid", answer, _PAGE_METHODS)
        else:
            self._act(subscriber, _form(request), answer)
        return True

    def _sender(self, subscriber: Subscriber) -> str:
        return self._senders.get(subscriber.stream, "")

    async def _ask(self, who: Subscriber, answer: Answer) -> None:
        found = await self._topics(who)
        choices = [page.Choice(name, on) for name, on in found]
        body = page.asked(self._sender(who), who.address, who.topic, choices)
        self._seen("u", "asked", answer, Response(200, body, _HTML))

    async def _topics(self, who: Subscriber) -> Sequence[tuple[str, bool]]:
        try:
            return await self._preferences.topics(who.address, who.stream)
        except Exception as error:  # the button works without them
            access.warning("topics cannot be read: %s", error)
            return ()

    def _act(self, who: Subscriber, form: Mapping[str, Sequence[str]], answer: Answer) -> None:
        action = form.get("action", [""])[0]
        if "one-click" in (value.lower() for value in form.get("list-unsubscribe", ())):
            self._leave([_left(who, who.topic, "one-click")], answer, _DONE, "one-click")
        elif action == "unsubscribe":
            body = page.done(self._sender(who), who.address, who.topic)
            self._leave([_left(who, who.topic, "page")], answer, Response(200, body, _HTML), "unsubscribed")
        elif action == "resubscribe":
            self._later(self._return(who, answer), answer)
        elif action == "choose":
            self._later(self._choose(who, form.get("topic", ())[:_TOPIC_LIMIT], answer), answer)
        else:  # RFC 8058 §3.2: without its own key, a POST means nothing
            self._later(self._ask(who, answer), answer)

    def _leave(self, reports: Sequence[Feedback], answer: Answer, response: Response, result: str) -> None:
        """Answers once all of them are durable."""
        left, good = len(reports), True

        def written(ok: bool) -> None:
            nonlocal left, good
            left, good = left - 1, good and ok
            if left <= 0:
                self._seen("u", result if good else "unavailable", answer, response if good else _UNSURE)

        for report in reports:
            if not self._leaving.add(report, written):
                written(False)
        if not reports:
            written(True)

    async def _return(self, who: Subscriber, answer: Answer) -> None:
        await self._preferences.resubscribe(who.address, who.stream, who.topic)
        body = page.undone(self._sender(who), who.address, who.topic)
        self._seen("u", "resubscribed", answer, Response(200, body, _HTML))

    async def _choose(self, who: Subscriber, wanted: Sequence[str], answer: Answer) -> None:
        """Only topics that the page offered: a form is a stranger's words."""
        found = await self._preferences.topics(who.address, who.stream)
        for topic, on in found:
            if topic in wanted and not on:
                await self._preferences.resubscribe(who.address, who.stream, topic)
        reports = [_left(who, topic, "page") for topic, on in found if on and topic not in wanted]
        body = page.done(self._sender(who), who.address, who.topic, chosen=True)
        self._leave(reports, answer, Response(200, body, _HTML), "chosen")


def _left(who: Subscriber, topic: str, source: str) -> Feedback:
    return Feedback(
        type="unsubscribed",
        message_id=who.message,
        rcpt=who.bit,
        recipient=who.address,
        stream=who.stream,
        topic=topic,
        source=source,
        at=datetime.now(UTC),
    )


def _form(request: Request) -> Mapping[str, list[str]]:
    """The fields of a form, names in lower case: urlencoded or multipart (RFC 8058 §3.2 allows both). Never raises."""
    kind = request.headers.get("content-type", "")
    fields: dict[str, list[str]] = {}
    try:
        if kind.lower().startswith("multipart/"):
            head = f"Content-Type: {kind}\r\n\r\n".encode("latin-1")
            for part in BytesParser(policy=HTTP).parsebytes(head + request.body).iter_parts():
                content = part.get_payload(decode=True)
                name = part.get_param("name", header="content-disposition")
                if isinstance(name, str) and isinstance(content, bytes):
                    fields.setdefault(name.lower(), []).append(content.decode("utf-8", "replace").strip())
        else:
            given = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200)
            for key, values in given.items():
                fields.setdefault(key.lower(), []).extend(values)
    except Exception:  # whatever the standard library makes of a stranger's octets
        return {}
    return fields


def target(url: str) -> str | None:
    """The URL as a Location field; None if it leads anywhere but to http or https."""
    if _BAD.search(url[:1]):
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
        if parts.scheme not in ("http", "https") or not host or _BAD.search(parts.netloc):
            return None
        if not parts.netloc.isascii():
            parts = parts._replace(netloc=parts.netloc.lower().replace(host, idna.encode(host, uts46=True).decode()))
        return quote(urlunsplit(parts), safe=_UNQUOTED)
    except (ValueError, UnicodeError):
        return None
