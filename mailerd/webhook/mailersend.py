"""MailerSend: developers.mailersend.com/api/v1/webhooks (security, payloads of both versions).

One event a request: `Signature` is HMAC-SHA256 over the raw body, hexadecimal. The older payload nests the e-mail
(`data.email.message.id`), the newer one is flat (`data.message_id`, `data.recipient`, `data.meta`). Neither carries metadata: our
id is one of the tags.

Hazard: nothing signed says when: an old request can be repeated, and is told by its event's id.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from mailerd.config.provider import Provider
from mailerd.feedback import Feedback
from mailerd.http.dialect import ID_KEY, mapping
from mailerd.webhook.dialect import Malformed, Post, Verdict, accepted, refused, same
from mailerd.webhook.event import Reporter, bot, digest, entries, failed, load, text

__all__ = ["Mailersend"]

_SILENT: Final = frozenset(("sent", "queued"))
_REASONS: Final = (
    "readable_reason",
    "reason",
    "bounce_reason",
    "reject_reason",
    "suppression_reason",
    "unsubscribe_reason",
)
_PLAIN: Final = {
    "delivered": "delivered",
    "spam_complaint": "complained",
    "spam_complaints": "complained",
    "unsubscribed": "unsubscribed",
}


class Mailersend:
    """`kind = "mailersend"`."""

    keep: tuple[str, ...] = ()

    def __init__(self, provider: Provider) -> None:
        self._keys = [secret.encode() for secret in provider.webhook_secret]
        self._reporter = Reporter(provider.name)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        given = post.headers.get("signature", "")
        if not given:
            return refused(401, "signature missing")
        if not any(same(hmac.digest(key, post.body, sha256).hex(), given) for key in self._keys):
            return refused(401, "signature wrong")
        return accepted()

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        event = load(body)
        if not isinstance(event, dict):
            raise Malformed("no event: a JSON object is due")
        name = text(event.get("type"), 100)
        if name == "webhook.test":
            return []
        data = mapping(event.get("data"))
        kind = text(data.get("type"), 100) or name.removeprefix("activity.")
        if kind in _SILENT:
            return []
        email, meta = mapping(data.get("email")), mapping(data.get("morph")) or mapping(data.get("meta"))
        recipient = mapping(email.get("recipient")).get("email") or data.get("recipient")
        message = mapping(email.get("message")).get("id") or data.get("message_id")
        at = data.get("created_at") or event.get("created_at")
        id_ = text(data.get("id"), 100) or digest(kind, message, recipient, at)
        ours = _tag(email.get("tags")) or _tag(data.get("tags"))
        common: dict[str, Any] = {"ours": ours, "message": message, "recipient": recipient, "at": at}
        report = self._reporter.report
        reason = next((said for key in _REASONS if (said := text(meta.get(key)))), "")
        if kind in _PLAIN:
            return [report(_PLAIN[kind], id_, **common, detail=reason)]
        match kind.removesuffix("_unique"):
            case "deferred":
                return [report("deferred", id_, **common, detail=reason, means=failed(reason, temporary=True))]
            case "soft_bounced" | "hard_bounced":
                means = failed(reason, hard=kind == "hard_bounced", code=meta.get("bounce_code") or 0)
                return [report("bounced", id_, **common, detail=reason, means=means, more={"bounce": kind})]
            case "suppressed":
                return [report("rejected", id_, **common, detail=reason, means=failed(reason, hard=False))]
            case "opened" | "clicked":
                agent = meta.get("user_agent")
                more = {"url": meta.get("url"), "user_agent": agent}
                return [report(kind.removesuffix("_unique"), id_, **common, bot=bot(agent), more=more)]
        return [self._reporter.unknown(event, name, id_, ours=ours, message=text(message))]


def _tag(tags: Any) -> str:
    """What we planted among the tags."""
    for one in entries(tags)[:100]:
        if isinstance(one, str) and one.startswith(f"{ID_KEY}-"):
            return one.removeprefix(f"{ID_KEY}-")
    return ""
