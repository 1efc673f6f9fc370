"""MailerSend: developers.mailersend.com/api/v1/email.

One message a call: its bulk endpoint answers with a job to be asked about, and takes ten calls a minute. Accepted is
202 with the header x-message-id; warnings in its body say which recipients are on its own suppression list. It hands
back neither metadata nor custom headers: our id is a tag, the first of the five that it takes. No idempotency.

Hazard: headers of one's own are for its largest plan, so none are sent but In-Reply-To and References.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from mailerd.config.provider import Provider
from mailerd.http.dialect import (
    ID_KEY,
    Entry,
    Fault,
    Request,
    Response,
    Verdict,
    by_status,
    encode,
    ident,
    mapping,
    words,
)
from mailerd.http.fields import Fields, Mailbox, fields
from mailerd.message import Failure, Outgoing

__all__ = ["Mailersend"]

TAGS: Final = 5
_FAULTS: Final = {
    "MS42901": Fault.QUOTA,
    "MS42903": Fault.RATE,
    "MS42204": Fault.QUOTA,
    "MS42222": Fault.QUOTA,
    "MS42207": Fault.RETRY,  # a domain that is not verified: one sender's matter
    "MS40301": Fault.OURS,  # the token's scope
}
_code = re.compile(r"#(MS\d{5})").search


class Mailersend:
    """`kind = "mailersend"`."""

    batch = 1
    recipients = 50
    octets = 25_000_000
    idempotent = False

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or "https://api.mailersend.com").rstrip("/")
        self._headers = {"Authorization": f"Bearer {provider.api_key}", "Content-Type": "application/json"}

    def entry(self, outgoing: Outgoing) -> Entry:
        body = _body(fields(outgoing))
        body["tags"] = [f"{ID_KEY}-{ident(outgoing)}", *(outgoing.job.tags or ())][:TAGS]
        return Entry(outgoing, encode(body))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        return Request(f"{self.url}/v1/email", self._headers, entries[0].octets)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict:
        if response.status == 202:
            warnings = mapping(response.json()).get("warnings")
            types = [mapping(one).get("type") for one in warnings] if isinstance(warnings, list) else []
            if "ALL_SUPPRESSED" in types:
                return Verdict(Fault.RECIPIENT, text="all recipients are suppressed there", category="inactive")
            id_ = response.headers.get("x-message-id", "")
            text = f"accepted as {id_}" if id_ else "accepted"
            return Verdict(id=id_, text=f"{text}; some recipients are suppressed there" if any(types) else text)
        text = words(response)
        code = _code(text)
        fault = _FAULTS.get(code[1]) if code and 400 <= response.status < 500 else None
        if fault is Fault.RETRY:
            return Verdict(fault, text=text, category="account")
        return by_status(response, text, fault)


def _mailbox(one: Mailbox) -> dict[str, str]:
    return {"email": one.address, "name": one.name} if one.name else {"email": one.address}


def _body(message: Fields) -> dict[str, Any]:
    if len(message.reply_to) > 1:
        raise Failure("reply_to: this provider takes only one", "header")
    body: dict[str, Any] = {
        "from": _mailbox(message.sender),
        "to": [_mailbox(one) for one in message.to],
        "subject": message.subject or " ",
    }
    for name, mailboxes in (("cc", message.cc), ("bcc", message.bcc)):
        if mailboxes:
            body[name] = [_mailbox(one) for one in mailboxes]
    if message.reply_to:
        body["reply_to"] = _mailbox(message.reply_to[0])
    if message.html is not None:
        body["html"] = message.html
    if message.text is not None or message.html is None:
        body["text"] = message.text or " "
    for name, value in message.headers:
        if name.lower() == "in-reply-to":
            body["in_reply_to"] = value
        elif name.lower() == "references":
            body["references"] = value.split()
    if message.files:
        body["attachments"] = [
            {"filename": file.name, "content": file.content, "disposition": "inline" if file.inline else "attachment"}
            | ({"id": file.cid} if file.cid else {})
            for file in message.files
        ]
    return body
