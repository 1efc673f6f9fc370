"""SendGrid v3: twilio.com/docs/sendgrid/api-reference/mail-send, and its published OpenAPI document (sendgrid-oai).

One message a call: several share one only where they have the same text. Accepted is 202 without a body; the id is in
the header X-Message-Id. Our id is in the `custom_args` of the personalization: those of the message are a text, by the document.
No idempotency, and no envelope sender of our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from mailerd.config.provider import Provider
from mailerd.http.dialect import ID_KEY, Entry, Fault, Request, Response, Verdict, by_status, encode, ident, words
from mailerd.http.fields import Fields, Mailbox, fields
from mailerd.message import Failure, Outgoing

__all__ = ["Sendgrid"]

CATEGORIES: Final = 10
CATEGORY: Final = 255  # characters
_HOSTS: Final = {"eu": "https://api.eu.sendgrid.com"}
# Of the headers that may not be set; the others have fields of their own.
_RESERVED: Final = frozenset({"x-sg-id", "x-sg-eid"})
_identity = re.compile("verified sender identity", re.IGNORECASE).search
_credits = re.compile("maximum credits|exceeded your messaging limits", re.IGNORECASE).search


class Sendgrid:
    """`kind = "sendgrid"`."""

    batch = 1
    recipients = 1000
    octets = 30_000_000
    idempotent = False

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or _HOSTS.get(provider.region or "", "https://api.sendgrid.com")).rstrip("/")
        self._headers = {"Authorization": f"Bearer {provider.api_key}", "Content-Type": "application/json"}

    def entry(self, outgoing: Outgoing) -> Entry:
        body = _body(fields(outgoing), ident(outgoing))
        # A tag too many, or too long, is no reason to refuse the message.
        if tags := [tag for tag in dict.fromkeys(outgoing.job.tags or ()) if 0 < len(tag) <= CATEGORY]:
            body["categories"] = tags[:CATEGORIES]
        return Entry(outgoing, encode(body))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        return Request(f"{self.url}/v3/mail/send", self._headers, entries[0].octets)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict:
        if response.status == 202:
            id_ = response.headers.get("x-message-id", "")
            return Verdict(id=id_, text=f"accepted as {id_}" if id_ else "accepted")
        text = words(response)
        if response.status in (401, 403) and _credits(text):
            return by_status(response, text, Fault.QUOTA)
        if response.status == 403 and _identity(text):
            return Verdict(Fault.RETRY, text=text, category="account")  # one sender's matter
        return by_status(response, text)


def _mailbox(one: Mailbox) -> dict[str, str]:
    # It takes no comma and no semicolon in a name, quoted or not.
    name = " ".join(re.sub("[,;]", " ", one.name).split())
    return {"email": one.address, "name": name} if name else {"email": one.address}


def _body(message: Fields, id_: str) -> dict[str, Any]:
    to: dict[str, Any] = {"to": [_mailbox(one) for one in message.to], "custom_args": {ID_KEY: id_}}
    for name, mailboxes in (("cc", message.cc), ("bcc", message.bcc)):
        if mailboxes:
            to[name] = [_mailbox(one) for one in mailboxes]
    # text/plain goes first, AMP stands between it and text/html, and no content may be empty.
    content = [{"type": "text/plain", "value": message.text or " "}] if message.text or message.html is None else []
    if message.amp is not None:
        content.append({"type": "text/x-amp-html", "value": message.amp})
    if message.html is not None:
        content.append({"type": "text/html", "value": message.html or " "})
    body: dict[str, Any] = {
        "personalizations": [to],
        "from": _mailbox(message.sender),
        "subject": message.subject or " ",
        "content": content,
    }
    if len(message.reply_to) == 1:
        body["reply_to"] = _mailbox(message.reply_to[0])
    elif message.reply_to:
        body["reply_to_list"] = [_mailbox(one) for one in message.reply_to]
    if headers := message.header_map():
        if reserved := [name for name in headers if name.lower() in _RESERVED]:
            raise Failure(f"header {reserved[0]}: this provider keeps it to itself", "header")
        body["headers"] = headers
    if empty := [file for file in message.files if not file.content]:
        raise Failure(f"attachment {empty[0].name}: this provider takes no empty file", "attachment")
    if message.files:
        body["attachments"] = [
            {
                "content": file.content,
                "filename": file.name,
                "type": file.type.partition(";")[0],  # SendGrid takes no parameters there
                "disposition": "inline" if file.inline else "attachment",
            }
            | ({"content_id": file.cid} if file.cid else {})
            for file in message.files
        ]
    return body
