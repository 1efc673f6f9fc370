"""SendGrid: twilio.com/docs/sendgrid/for-developers/tracking-events (event, security features).

The Signed Event Webhook: ECDSA on P-256 with SHA-256 over the timestamp and the raw body; the public key is given in base64
without PEM lines. Many events a request, as a JSON array; our `custom_args` stand among their fields. `sg_event_id`
names each.

Hazards: the signature covers the line end behind the array, so the body is never trimmed. An asynchronous bounce has no
`sg_message_id`.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailerd.config.provider import Provider
from mailerd.feedback import Feedback
from mailerd.http.dialect import ID_KEY
from mailerd.webhook.dialect import Post, Verdict, accepted, fresh, refused
from mailerd.webhook.event import Reporter, batch, bot, digest, failed, text

__all__ = ["Sendgrid"]

SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"
_LISTED: Final = {  # reasons to drop a message that are about its own list; is the address dead?
    "bounced address": True,
    "invalid": True,
    "unsubscribed address": False,
    "spam reporting address": False,
    "recipient list over package quota": False,
}


class Sendgrid:
    """`kind = "sendgrid"`."""

    keep: tuple[str, ...] = ()

    def __init__(self, provider: Provider) -> None:
        self._keys = [load_der_public_key(b64decode(secret)) for secret in provider.webhook_secret]
        self._reporter = Reporter(provider.name)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        given, then = post.headers.get(SIGNATURE, ""), post.headers.get(TIMESTAMP, "")
        if not given or not then:
            return refused(401, "signature missing")
        try:
            signature = b64decode(given, validate=True)
        except (Error, ValueError):
            return refused(401, "signature wrong")
        signed = then.encode("utf-8", "replace") + post.body
        if len(signature) > 80 or not any(_signs(key, signature, signed) for key in self._keys):
            return refused(401, "signature wrong")
        return accepted() if fresh(then, now) else refused(403, "too old")

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        return [feedback for event in batch(body) if (feedback := self._read(event)) is not None]

    def _read(self, event: dict[str, Any]) -> Feedback | None:
        kind = text(event.get("event"))
        if kind == "processed":  # what we know already
            return None
        reason, status, at = text(event.get("reason")), event.get("status"), event.get("timestamp")
        message = text(event.get("sg_message_id")).partition(".")[0]  # X-Message-Id is what stands before the first dot
        id_ = text(event.get("sg_event_id")) or digest(kind, event.get("email"), at, message, event.get("url"))
        common: dict[str, Any] = {
            "ours": event.get(ID_KEY),
            "message": message,
            "recipient": event.get("email"),
            "header": event.get("smtp-id"),
            "at": at,
        }
        report = self._reporter.report
        match kind:
            case "delivered":
                return report("delivered", id_, **common, detail=event.get("response"))
            case "deferred":
                words = text(event.get("response")) or reason
                means = failed(words, enhanced=status, temporary=True)
                return report("deferred", id_, **common, detail=words, means=means)
            case "bounce":
                soft = False if event.get("type") == "blocked" else None
                more = {"bounce": event.get("type"), "reason": event.get("bounce_classification")}
                invalid = event.get("bounce_classification") == "Invalid Address"
                means = failed(reason, hard=True if invalid and soft is None else soft, enhanced=status)
                return report("bounced", id_, **common, detail=reason, means=means, more=more)
            case "dropped":
                listed = _LISTED.get(reason.lower())
                means = failed("" if listed is not None else reason, hard=listed)
                return report("rejected", id_, **common, detail=reason, means=means)
            case "spamreport":
                return report("complained", id_, **common)
            case "unsubscribe" | "group_unsubscribe":
                return report("unsubscribed", id_, **common, more={"group": event.get("asm_group_id")})
            case "open" | "click":
                agent = event.get("useragent")
                machine = event.get("sg_machine_open") is True or bot(agent)
                more = {"url": event.get("url"), "user_agent": agent}
                return report("opened" if kind == "open" else "clicked", id_, **common, bot=machine, more=more)
        return self._reporter.unknown(event, kind, id_, ours=event.get(ID_KEY), message=message)


def _signs(key: Any, signature: bytes, signed: bytes) -> bool:
    if not isinstance(key, EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, signed, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
