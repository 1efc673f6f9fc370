"""Postmark: postmarkapp.com/developer/webhooks (bounce, delivery, open, click, spam complaint, subscription change).

One event a request, in JSON; our id is in `Metadata`. It signs nothing (`webhook.shared`); custom headers can be configured
there. A bounce has an id of its own, everything else is named by what it says.

Hazard: a 403 makes it stop for good, so what is not proven is a 401.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailerd.feedback import Feedback
from mailerd.http.dialect import ID_KEY, mapping
from mailerd.webhook.dialect import Malformed
from mailerd.webhook.event import bot, digest, failed, load, text
from mailerd.webhook.shared import Shared

__all__ = ["Postmark"]

_BOUNCES: Final = {  # Type of a bounce: our type, and whether it says that the address is dead
    "HardBounce": ("bounced", True),
    "BadEmailAddress": ("bounced", True),
    "SoftBounce": ("bounced", False),
    "Undeliverable": ("bounced", None),
    "Unknown": ("bounced", None),
    "Transient": ("deferred", False),
    "DnsError": ("deferred", False),
    "Blocked": ("bounced", None),
    "DMARCPolicy": ("rejected", False),
    "VirusNotification": ("rejected", False),
    "ManuallyDeactivated": ("rejected", False),
    "InboundError": ("failed", False),
    "SMTPApiError": ("failed", False),
    "TemplateRenderingFailed": ("failed", False),
    "SpamNotification": ("complained", False),
    "SpamComplaint": ("complained", False),
    "Unsubscribe": ("unsubscribed", False),
}


class Postmark(Shared):
    """`kind = "postmark"`."""

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        event = load(body)
        if not isinstance(event, dict):
            raise Malformed("no event: a JSON object is due")
        kind, message = text(event.get("RecordType")), text(event.get("MessageID"))
        at = next((event[key] for key in ("BouncedAt", "DeliveredAt", "ReceivedAt", "ChangedAt") if key in event), None)
        to = event.get("Recipient") or event.get("Email")
        id_ = text(event.get("ID"), 100) if kind in ("Bounce", "SpamComplaint") else ""
        id_ = f"{kind}-{id_}" if id_ else digest(kind, message, to, at, event.get("OriginalLink"), event.get("Origin"))
        ours = mapping(event.get("Metadata")).get(ID_KEY)
        common: dict[str, Any] = {"ours": ours, "message": message, "recipient": to, "at": at}
        report = self._reporter.report
        match kind:
            case "Delivery":
                return [report("delivered", id_, **common, detail=event.get("Details"))]
            case "SpamComplaint":
                return [report("complained", id_, **common, detail=event.get("Details"))]
            case "Open" | "Click":
                agent = event.get("UserAgent")
                more = {"url": event.get("OriginalLink"), "user_agent": agent}
                client = text(mapping(event.get("Client")).get("Name"))
                machine = bot(agent) or bot(client)
                return [report("opened" if kind == "Open" else "clicked", id_, **common, bot=machine, more=more)]
            case "Bounce":
                found = _BOUNCES.get(text(event.get("Type")))
                if found is not None:
                    words = text(event.get("Details")) or text(event.get("Description"))
                    means = None
                    if found[0] not in ("complained", "unsubscribed"):
                        means = failed(words, hard=found[1], temporary=found[0] == "deferred")
                    more = {"bounce": event.get("Type")}
                    return [report(found[0], id_, **common, detail=words, means=means, more=more)]
            case "SubscriptionChange":
                if event.get("SuppressSending") is False:
                    return [self._reporter.unknown(event, kind, id_, ours=ours, message=message)]
                reason = text(event.get("SuppressionReason"))
                more = {"reason": reason, "origin": event.get("Origin")}
                # A bounce or a complaint tells this too, under its own name: it counts there.
                if reason == "HardBounce":
                    return [report("rejected", id_, **common, detail=reason, means=failed("", hard=True), more=more)]
                if reason == "SpamComplaint":
                    return [report("rejected", id_, **common, detail=reason, more=more)]
                return [report("unsubscribed", id_, **common, detail=reason, more=more)]
        return [self._reporter.unknown(event, kind, id_, ours=ours, message=message)]
