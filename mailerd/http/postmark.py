"""Postmark: postmarkapp.com/developer/api (email, batch, overview of error codes).

Always `/email/batch`, at most 500 messages and 50 MB a call: it answers 200 with an array in the same order, each with an
`ErrorCode`; those reuse numbers of HTTP with other meanings. Our id is in `Metadata`. No idempotency.

Hazard: a message to several recipients of which some are inactive is accepted, and the answer says so in prose only.
"""

from __future__ import annotations

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
from mailerd.message import Outgoing

__all__ = ["Postmark"]

_FAULTS: Final = {
    10: Fault.ACCOUNT,  # the token
    100: Fault.DOWN,  # maintenance
    300: Fault.MESSAGE,
    400: Fault.RETRY,  # no such sender signature: one sender's matter
    401: Fault.RETRY,  # a signature that is not confirmed
    402: Fault.MESSAGE,
    403: Fault.MESSAGE,
    405: Fault.QUOTA,  # out of credits
    406: Fault.RECIPIENT,
    409: Fault.OURS,
    410: Fault.OURS,  # too many in a batch
    411: Fault.MESSAGE,  # a kind of attachment
    412: Fault.ACCOUNT,  # waits for approval
    413: Fault.ACCOUNT,  # may not send
}
_CATEGORIES: Final = {400: "account", 401: "account", 406: "inactive", 411: "content"}
TAG_LIMIT: Final = 1000


class Postmark:
    """`kind = "postmark"`."""

    batch = 500
    recipients = 50
    octets = 50_000_000
    idempotent = False

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or "https://api.postmarkapp.com").rstrip("/")
        self._headers = {
            "X-Postmark-Server-Token": provider.api_key or "",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        self._more = {"MessageStream": provider.message_stream} if provider.message_stream else {}

    def entry(self, outgoing: Outgoing) -> Entry:
        body = _body(fields(outgoing), ident(outgoing)) | self._more
        if tag := outgoing.job.campaign or next(iter(outgoing.job.tags or ()), ""):
            body["Tag"] = tag[:TAG_LIMIT]
        return Entry(outgoing, encode(body))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        body = b"[" + b",".join([entry.octets for entry in entries]) + b"]"
        return Request(f"{self.url}/email/batch", self._headers, body)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict | list[Verdict]:
        body = response.json()
        if 200 <= response.status < 300:
            if isinstance(body, list) and len(body) == len(entries):
                return [_verdict(mapping(item), response) for item in body]
            return by_status(response)
        code = mapping(body).get("ErrorCode")
        fault = _FAULTS.get(code) if response.status == 422 and isinstance(code, int) else None
        return by_status(response, f"{code or ''} {words(response)}".strip(), fault)


def _verdict(item: dict[str, Any], response: Response) -> Verdict:
    code, id_, text = item.get("ErrorCode"), item.get("MessageID"), str(item.get("Message") or "")
    if not code:  # 0, or none at all where "delivery may be delayed"
        return Verdict(id=id_, text=text) if isinstance(id_, str) and id_ else by_status(response, text)
    if not isinstance(code, int):
        return by_status(response, text)
    return Verdict(_FAULTS.get(code, Fault.MESSAGE), text=f"{code} {text}", category=_CATEGORIES.get(code, ""))


def _listed(mailboxes: Sequence[Mailbox]) -> str:
    return ", ".join([str(one) for one in mailboxes])


def _body(message: Fields, id_: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "From": str(message.sender),
        "To": _listed(message.to),
        "Subject": message.subject,
        "Metadata": {ID_KEY: id_},
    }
    for name, mailboxes in (("Cc", message.cc), ("Bcc", message.bcc), ("ReplyTo", message.reply_to)):
        if mailboxes:
            body[name] = _listed(mailboxes)
    if message.html is not None:
        body["HtmlBody"] = message.html
    if message.text is not None or message.html is None:
        body["TextBody"] = message.text or ""
    if message.headers:
        body["Headers"] = [{"Name": name, "Value": value} for name, value in message.headers]
    if message.files:
        body["Attachments"] = [
            {"Name": file.name, "Content": file.content, "ContentType": file.type}
            | ({"ContentID": f"cid:{file.cid}"} if file.cid else {})
            for file in message.files
        ]
    return body
