"""Brevo: developers.brevo.com (transactional webhooks, batched webhooks, retry mechanism).

One event a request, or an array where batches are switched on. Our id is what we set as X-Mailin-custom. It signs nothing
(`webhook.shared`); it can be given a login or a bearer token. An event has no name: it is told apart by what it says.

Hazards: a 5xx, and any 4xx but 429, makes it drop the event at once. `date` is in the time zone of the account: only
`ts_epoch` (milliseconds) and `ts_event`, `ts` (seconds) are read. The opposite of what it looks like: `id` is the webhook's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailerd.feedback import Feedback
from mailerd.http.dialect import mapping
from mailerd.webhook.event import batch, bot, digest, failed, text
from mailerd.webhook.shared import Shared

__all__ = ["Brevo"]

_SILENT: Final = frozenset(("request", "sent"))
_OPENED: Final = frozenset(("opened", "unique_opened", "open", "first_opening"))
_PROXY: Final = frozenset(("proxy_open", "unique_proxy_open", "loadedbyproxy"))  # Apple's, before anybody looked
_FAILED: Final = {  # event: our type, and whether the address is dead
    "hard_bounce": ("bounced", True),
    "invalid_email": ("bounced", True),
    "invalid": ("bounced", True),
    "soft_bounce": ("bounced", False),
    "blocked": ("rejected", False),
    "error": ("failed", False),
}


class Brevo(Shared):
    """`kind = "brevo"`."""

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        return [feedback for event in batch(body) if (feedback := self._read(event)) is not None]

    def _read(self, event: dict[str, Any]) -> Feedback | None:
        kind = text(event.get("event"), 100)
        if kind in _SILENT:
            return None
        at = event.get("ts_epoch") or event.get("ts_event") or event.get("ts")
        message, ours = text(event.get("message-id")), event.get("X-Mailin-custom")
        id_ = digest(message, kind, event.get("email"), at, event.get("link"))
        common: dict[str, Any] = {
            "ours": ours,
            "message": message,
            "header": message,
            "recipient": event.get("email"),
            "at": at,
        }
        report, reason = self._reporter.report, text(event.get("reason"))
        if kind in _OPENED or kind in _PROXY or kind == "click":
            agent = event.get("user_agent")
            more = {"url": event.get("link"), "user_agent": agent}
            machine = kind in _PROXY or bot(agent)
            return report("clicked" if kind == "click" else "opened", id_, **common, bot=machine, more=more)
        if kind in _FAILED:
            type_, hard = _FAILED[kind]
            means = failed(reason, hard=hard) if type_ != "failed" else None
            return report(type_, id_, **common, detail=reason, means=means, more={"bounce": kind})
        match kind:
            case "delivered":
                return report("delivered", id_, **common)
            case "deferred":
                return report("deferred", id_, **common, detail=reason, means=failed(reason, temporary=True))
            case "spam" | "complaint":
                return report("complained", id_, **common)
            case "unsubscribe" | "unsubscribed":
                return report("unsubscribed", id_, **common)
        return self._reporter.unknown(mapping(event), kind, id_, ours=ours, message=message)
