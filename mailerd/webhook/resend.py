"""Resend: resend.com/docs/dashboard/webhooks, its published OpenAPI document, and standardwebhooks.com.

Signed as Standard Webhooks lays down, with headers called `svix-…` or `webhook-…`: HMAC-SHA256 over `id.timestamp.body`, base64,
several signatures in one header while a key rotates. One event a request; `svix-id` stays the same when it is sent again.

Hazards: `to` names all recipients of the call, and no event but a bounce's says who is meant: our adapter's planted bit does.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from mailerd.config.provider import Provider
from mailerd.feedback import Feedback
from mailerd.http.dialect import ID_KEY, mapping
from mailerd.webhook.dialect import Malformed, Post, Verdict, accepted, fresh, refused, same
from mailerd.webhook.event import Reporter, bot, entries, failed, load, text

__all__ = ["Resend"]

SIGNATURES: Final = 16  # that one header may list
_SILENT: Final = frozenset(("email.sent", "email.scheduled"))  # what we know already


class Resend:
    """`kind = "resend"`."""

    keep: tuple[str, ...] = ("svix-id", "webhook-id")

    def __init__(self, provider: Provider) -> None:
        self._keys = [b64decode(secret.removeprefix("whsec_")) for secret in provider.webhook_secret]
        self._reporter = Reporter(provider.name)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        prefix = "svix" if "svix-id" in post.headers else "webhook"
        id_, then, given = (post.headers.get(f"{prefix}-{name}", "") for name in ("id", "timestamp", "signature"))
        if not id_ or not then or not given:
            return refused(401, "signature missing")
        signed = f"{id_}.{then}.".encode("utf-8", "replace") + post.body
        ours = [b64encode(hmac.digest(key, signed, sha256)) for key in self._keys]
        theirs = [
            one.removeprefix("v1,").encode("utf-8", "replace")
            for one in given.split(" ", SIGNATURES)[:SIGNATURES]
            if one.startswith("v1,")
        ]
        if not any(same(mine, one) for mine in ours for one in theirs):
            return refused(401, "signature wrong")
        if not fresh(then, now):
            return refused(403, "too old")
        return accepted(text(id_, 200))

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        event = load(body)
        if not isinstance(event, dict):
            raise Malformed("no event: a JSON object is due")
        kind = text(event.get("type"))
        if kind in _SILENT:
            return []
        data, id_ = mapping(event.get("data")), headers.get("svix-id") or headers.get("webhook-id") or ""
        to = entries(data.get("to"))
        common: dict[str, Any] = {
            "ours": _tag(data.get("tags")),
            "message": data.get("email_id"),
            "recipient": to[0] if len(to) == 1 else "",
            "at": event.get("created_at"),
        }
        report = self._reporter.report
        match kind:
            case "email.delivered" | "email.complained":
                return [report(kind.removeprefix("email."), id_, **common)]
            case "email.delivery_delayed":
                return [report("deferred", id_, **common)]
            case "email.opened" | "email.clicked":
                said = mapping(data.get("open" if kind == "email.opened" else "click"))
                agent = said.get("userAgent")
                more = {"url": said.get("link"), "user_agent": agent}
                return [report(kind.removeprefix("email."), id_, **common, bot=bot(agent), more=more)]
            case "email.bounced":
                return [self._bounced(mapping(data.get("bounce")), id_, common)]
            case "email.suppressed":
                said = mapping(data.get("suppressed"))
                reason = text(said.get("reason"))
                means = failed("", hard=True) if reason == "previous_bounce" else failed(reason)
                return [report("rejected", id_, **common, detail=said.get("message") or reason, means=means)]
            case "email.failed":
                reason = text(mapping(data.get("failed")).get("reason"))
                return [report("failed", id_, **common, detail=reason)]
        return [self._reporter.unknown(event, kind, id_, ours=common["ours"], message=common["message"])]

    def _bounced(self, bounce: dict[str, Any], id_: str, common: dict[str, Any]) -> Feedback:
        replies = [text(one) for one in entries(bounce.get("diagnosticCode"))[:10]]
        words = " ".join(replies) or text(bounce.get("message"))
        kind = bounce.get("type")
        listed = bounce.get("subType") in ("Suppressed", "OnAccountSuppressionList")
        claim = True if kind == "Permanent" else False if kind == "Transient" else None
        means = failed("" if listed else words, hard=claim)
        return self._reporter.report(
            "rejected" if listed else "bounced",
            id_,
            **common,
            detail=words,
            means=means,
            more={"bounce": kind, "reason": bounce.get("subType")},
        )


def _tag(tags: Any) -> Any:
    """What we planted: an object in what it sends, and a list of pairs in some of its pages."""
    if isinstance(tags, dict):
        return tags.get(ID_KEY)
    for one in entries(tags)[:100]:
        if mapping(one).get("name") == ID_KEY:
            return one.get("value")
    return None
