"""What the returned message, and the report around it, give to find the message by. Pure."""

from __future__ import annotations

import re
from typing import Final

from mailerd.inbound.mime import Fields
from mailerd.inbound.prose import addresses_in
from mailerd.inbound.report import Trace
from mailerd.message import clean

__all__ = ["for_whom", "trace"]

_ID: Final = re.compile(r"<([^<>\s]{1,500})>")
_QUOTED_ID: Final = re.compile(r"message-?id[\"']?\s{0,9}[:=]?\s{0,9}<([^<>\s]{1,500}@[^<>\s]{1,255})>", re.IGNORECASE)
_SENT_TO: Final = ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "to")
_FOR: Final = ("x-hmxmroriginalrecipient", "x-envelope-to", "to", "x-original-to")
_PROVIDERS: Final = {  # header of a message that the provider relayed, or of its notices → its name
    "x-ses-message-id": "ses",
    "x-sg-id": "sendgrid",
    "x-sg-eid": "sendgrid",
    "x-mailgun-sid": "mailgun",
    "x-pm-message-id": "postmark",
    "x-msys-api": "sparkpost",
    "x-mj-mid": "mailjet",
    "x-mailin-eid": "brevo",
}
_SES_HOST: Final = re.compile(r"@(?:[\w-]{1,40}\.)?amazonses\.com$")
_HEADERS: Final = 50


def for_whom(original: Fields) -> list[str]:
    """The recipients of the original: envelope first, then To."""
    for name in _FOR:
        if found := addresses_in(original.get(name)):
            return found
    return []


def trace(mail: Fields, original: Fields, status: Fields, prose: str) -> Trace:
    """`mail`: fields of what came; `original`: of what it returns; `status`: of its report part, about the message."""
    ids = [found[1] for value in original.every("message-id") if (found := _ID.search(value))]
    ids += [
        found[1] for name in ("x-original-message-id", "original-message-id") if (found := _ID.search(status.get(name)))
    ]
    ids += _QUOTED_ID.findall(prose[:65536])[:5]
    for name in ("in-reply-to", "references"):
        ids += _ID.findall(mail.get(name))[-3:]
    known = list(dict.fromkeys(clean(found, 500) for found in ids))
    providers = [f"ses:{found.partition('@')[0]}" for found in known if _SES_HOST.search(found)]
    providers += [f"{who}:{value[:200]}" for name, who in _PROVIDERS.items() if (value := original.get(name))]
    extra = [(name, clean(value, 500)) for name, value in original.all if name.startswith("x-")]
    sender = addresses_in(status.get("original-mail-from")) or addresses_in(original.get("return-path"))
    return Trace(
        message_ids=tuple(known),
        provider_ids=tuple(dict.fromkeys(clean(one) for one in providers)),
        sent_to=tuple(
            dict.fromkeys(a for name in _SENT_TO for value in mail.every(name)[:5] for a in addresses_in(value))
        )[:20],
        feedback_id=clean(original.get("feedback-id"), 500),
        headers=tuple(extra[:_HEADERS]),
        envelope_id=clean(status.get("original-envelope-id"), 500),
        mail_from=sender[0] if sender else "",
        recipients=tuple(for_whom(original)[:20]),
    )
