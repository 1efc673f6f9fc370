"""Mailjet: dev.mailjet.com/email/guides/webhooks, and the source of that guide.

A bare object, or an array where events are grouped ("version 2"). Our id is `CustomID`. It signs nothing (`webhook.shared`):
basic authentication goes into the URL that it is given. An event has no name: it is told apart by what it says.

Hazards: `sent` is what others call delivered: the receiver's server took it. `MessageID` exceeds 2^53, and is text beside as
`mj_message_id`. What does not answer 200 is asked every 30 seconds for a day, and then never again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailerd.feedback import Feedback
from mailerd.webhook.event import batch, bot, digest, failed, text
from mailerd.webhook.shared import Shared

__all__ = ["Mailjet"]

_GONE: Final = frozenset(("user unknown", "mailbox inactive", "invalid domain", "no mail host"))


class Mailjet(Shared):
    """`kind = "mailjet"`."""

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        return [self._read(event) for event in batch(body)]

    def _read(self, event: dict[str, Any]) -> Feedback:
        kind, at = text(event.get("event"), 100), event.get("time")
        message = text(event.get("mj_message_id")) or text(event.get("MessageID"))
        ours = event.get("CustomID")
        id_ = digest(kind, message, event.get("email"), at, event.get("url"), event.get("error"))
        common: dict[str, Any] = {"ours": ours, "message": message, "recipient": event.get("email"), "at": at}
        report = self._reporter.report
        error, comment = text(event.get("error")), text(event.get("comment"))
        words = " ".join(part for part in (error, comment) if part)
        more = {"reason": error, "about": event.get("error_related_to")}
        match kind:
            case "sent":
                return report("delivered", id_, **common, detail=event.get("smtp_reply"))
            case "bounce" if error == "greylisted":
                return report("deferred", id_, **common, detail=words, means=failed(words, temporary=True), more=more)
            case "bounce":
                hard = event.get("hard_bounce") is True
                means = failed(comment or error, hard=hard)
                return report("bounced", id_, **common, detail=words, means=means, more=more)
            case "blocked":  # not sent at all: its own list, its filters, an address that it knows to be dead
                means = failed(comment or error, hard=error in _GONE)
                return report("rejected", id_, **common, detail=words, means=means, more=more)
            case "spam":
                return report("complained", id_, **common, more={"complaint": event.get("source")})
            case "unsub":
                return report("unsubscribed", id_, **common, more={"group": event.get("mj_list_id")})
            case "open" | "click":
                agent = event.get("agent")
                more = {"url": event.get("url"), "user_agent": agent}
                return report("opened" if kind == "open" else "clicked", id_, **common, bot=bot(agent), more=more)
        return self._reporter.unknown(event, kind, id_, ours=ours, message=message)
