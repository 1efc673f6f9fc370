"""Mailgun: documentation.mailgun.com (webhooks, securing webhooks, event types and their payloads).

One event a request, in JSON. The signature stands in the body: HMAC-SHA256 over a timestamp and a token, hexadecimal, with the
webhook signing key (not an API key). Ids of events are unique within a day, so the day is part of ours.

Hazards: the event itself is not signed. Whoever has seen one request could put another event behind its signature: hence
TLS, the window in time, and each token once. `permanent` says that Mailgun gave up, not that the address is dead.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from mailerd.config.provider import Provider
from mailerd.feedback import Feedback
from mailerd.http.dialect import ID_KEY, mapping
from mailerd.webhook.dialect import Malformed, Post, Verdict, accepted, fresh, refused, same
from mailerd.webhook.event import Failed, Reporter, digest, failed, instant, load, text

__all__ = ["Mailgun"]

PATIENCE: Final = 900.0  # seconds; its own client's
_SILENT: Final = frozenset(("accepted", "stored"))


class Signature(msgspec.Struct, frozen=True):
    timestamp: str | int
    token: str
    signature: str


class Signed(msgspec.Struct, frozen=True):
    signature: Signature


_signed = msgspec.json.Decoder(Signed).decode


class Mailgun:
    """`kind = "mailgun"`."""

    keep: tuple[str, ...] = ()

    def __init__(self, provider: Provider) -> None:
        self._keys = [secret.encode() for secret in provider.webhook_secret]
        self._reporter = Reporter(provider.name)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        try:
            found = _signed(post.body).signature
        except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError):
            return refused(401, "signature missing")
        then = text(found.timestamp)
        signed = (then + found.token).encode("utf-8", "replace")
        if not any(same(hmac.digest(key, signed, sha256).hex(), found.signature) for key in self._keys):
            return refused(401, "signature wrong")
        return accepted(text(found.token, 200)) if fresh(then, now, PATIENCE) else refused(403, "too old")

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        found = load(body)
        event = mapping(mapping(found).get("event-data"))
        if not event:
            raise Malformed("no event: `event-data` is missing")
        kind = text(event.get("event"))
        if kind in _SILENT:
            return []
        at = instant(event.get("timestamp"))
        message = text(mapping(mapping(event.get("message")).get("headers")).get("message-id"))
        given = text(event.get("id"), 100)
        day = f"{at:%Y%m%d}" if at else ""
        id_ = f"{day}-{given}" if given else digest(kind, event.get("recipient"), event.get("timestamp"), message)
        ours = mapping(event.get("user-variables")).get(ID_KEY)
        common: dict[str, Any] = {
            "ours": ours,
            "message": message,
            "header": message,
            "recipient": event.get("recipient"),
            "at": event.get("timestamp"),
        }
        report = self._reporter.report
        match kind:
            case "delivered":
                status = mapping(event.get("delivery-status"))
                return [report("delivered", id_, **common, detail=status.get("message"))]
            case "complained" | "unsubscribed":
                return [report(kind, id_, **common)]
            case "opened" | "clicked":
                client = mapping(event.get("client-info"))
                agent, robot = client.get("user-agent"), text(client.get("bot"))
                machine = bool(robot) or text(client.get("client-type")) in ("robot", "bot")
                more = {"url": event.get("url"), "user_agent": agent, "bot": robot}
                return [report(kind, id_, **common, bot=machine, more=more)]
            case "failed":
                return [self._failed(event, id_, common)]
            case "rejected":
                reason = text(mapping(event.get("reject")).get("reason")) or text(event.get("reason"))
                return [report("rejected", id_, **common, detail=reason, means=failed(reason))]
        return [self._reporter.unknown(event, kind, id_, ours=ours, message=message)]

    def _failed(self, event: dict[str, Any], id_: str, common: dict[str, Any]) -> Feedback:
        status, reason = mapping(event.get("delivery-status")), text(event.get("reason"))
        words = text(status.get("message")) or text(status.get("description")) or reason
        temporary = event.get("severity") == "temporary"
        more = {"reason": reason, "bounce": status.get("bounce-type")}
        if reason.startswith("suppress-"):  # its own list
            means = failed("", hard=reason == "suppress-bounce")
            return self._reporter.report("rejected", id_, **common, detail=words or reason, means=means, more=more)
        code = status.get("code") or 0
        claim = {"hard": True, "soft": False}.get(text(status.get("bounce-type")))
        own = isinstance(code, int) and code >= 600  # its codes for what it did itself: 605 and 607 are its lists
        means = failed(words, hard=claim, code=code, enhanced=status.get("enhanced-code"), temporary=temporary)
        if own and code in (605, 606, 607):
            means = Failed(0, "", means.category, code == 605)
        return self._reporter.report(
            "deferred" if temporary else "bounced", id_, **common, detail=words, means=means, more=more
        )
