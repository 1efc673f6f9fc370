"""Brevo: developers.brevo.com (send a transactional email, limit headers, idempotency, error codes).

One message a call: `messageVersions` share one text, with placeholders of Brevo's own. Our id is in the header
X-Mailin-custom, which webhooks hand back. `headers.idempotencyKey` is a UUID, made of what is sent; it is remembered for
some 15 minutes, so a lost answer is safe to repeat at once.

Hazards: it must have HTML, so a text alone is sent as `<pre>`; its custom headers must be ASCII; no inline images.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

from mailerd.config.provider import Provider
from mailerd.http.dialect import Entry, Request, Response, Verdict, by_status, encode, ident, mapping
from mailerd.http.fields import Fields, Mailbox, fields
from mailerd.message import Failure, Outgoing

__all__ = ["Brevo"]


class Brevo:
    """`kind = "brevo"`."""

    batch = 1
    recipients = 99
    octets = 20_000_000
    idempotent = True

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or "https://api.brevo.com").rstrip("/")
        self._headers = {"api-key": provider.api_key or "", "Content-Type": "application/json"}

    def entry(self, outgoing: Outgoing) -> Entry:
        body = _body(fields(outgoing), ident(outgoing))
        if outgoing.job.tags:
            body["tags"] = list(outgoing.job.tags)
        key = UUID(bytes=blake2b(encode(body), digest_size=16).digest(), version=4)
        body["headers"]["idempotencyKey"] = str(key)
        return Entry(outgoing, encode(body))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        return Request(f"{self.url}/v3/smtp/email", self._headers, entries[0].octets)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict:
        if 200 <= response.status < 300:
            id_ = mapping(response.json()).get("messageId")
            if isinstance(id_, str) and id_:
                return Verdict(id=id_.removeprefix("<").removesuffix(">"), text=f"accepted as {id_}")
        return by_status(response)


def _mailbox(one: Mailbox) -> dict[str, str]:
    return {"email": one.address, "name": one.name} if one.name else {"email": one.address}


def _body(message: Fields, id_: str) -> dict[str, Any]:
    if len(message.reply_to) > 1:
        raise Failure("reply_to: this provider takes only one", "header")
    headers = message.header_map()
    for name, value in headers.items():
        if not value.isascii():
            raise Failure(f"header {name}: this provider takes only ASCII", "header")
    body: dict[str, Any] = {
        "sender": _mailbox(message.sender),
        "to": [_mailbox(one) for one in message.to],
        "subject": message.subject or " ",
        "htmlContent": message.html or f"<pre>{html.escape(message.text or ' ')}</pre>",
        "headers": {**headers, "X-Mailin-custom": id_},
    }
    for name, mailboxes in (("cc", message.cc), ("bcc", message.bcc)):
        if mailboxes:
            body[name] = [_mailbox(one) for one in mailboxes]
    if message.reply_to:
        body["replyTo"] = _mailbox(message.reply_to[0])
    if message.text:
        body["textContent"] = message.text
    if message.files:
        body["attachment"] = [{"name": file.name, "content": file.content} for file in message.files]
    return body
