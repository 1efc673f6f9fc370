"""Mailjet, Send API v3.1: dev.mailjet.com/email/guides/send-api-v31, and the source of that guide.

At most 50 messages a call, each with a result of its own, also where the status of the whole is 4xx: the body is read
before the status. Our id is `CustomID`. Ids of theirs exceed 2^53 and are kept as text. No idempotency; basic
authentication with both halves of the key.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from mailerd.config.provider import Provider
from mailerd.http.dialect import Entry, Fault, Request, Response, Verdict, by_status, encode, ident, mapping
from mailerd.http.fields import Fields, Mailbox, fields
from mailerd.message import Failure, Outgoing

__all__ = ["Mailjet"]

_FAULTS: Final = {
    "mj-0001": Fault.ACCOUNT,  # suspended
    "mj-0002": Fault.OURS,
    "mj-0015": Fault.ACCOUNT,
    "send-0006": Fault.RETRY,  # this and the next two: a sender that is not validated: one sender's matter
    "send-0007": Fault.RETRY,
    "send-0008": Fault.RETRY,
}


class Mailjet:
    """`kind = "mailjet"`."""

    batch = 50
    recipients = 50
    octets = 15_000_000
    idempotent = False

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or "https://api.mailjet.com").rstrip("/")
        login = b64encode(f"{provider.api_key}:{provider.secret_key}".encode()).decode("ascii")
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}

    def entry(self, outgoing: Outgoing) -> Entry:
        body = _body(fields(outgoing), ident(outgoing))
        if outgoing.job.campaign:
            body["CustomCampaign"] = outgoing.job.campaign
        return Entry(outgoing, encode(body))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        body = b'{"Messages":[' + b",".join([entry.octets for entry in entries]) + b"]}"
        return Request(f"{self.url}/v3.1/send", self._headers, body)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict | list[Verdict]:
        body = mapping(response.json())
        messages = body.get("Messages")
        if response.status < 500 and isinstance(messages, list) and len(messages) == len(entries):
            return [_verdict(mapping(item), response) for item in messages]
        code = str(body.get("ErrorCode") or "")
        said = " ".join(str(body[key]) for key in ("ErrorCode", "ErrorMessage") if body.get(key))
        return by_status(response, said, _FAULTS.get(code) if 400 <= response.status < 500 else None)


def _verdict(item: dict[str, Any], response: Response) -> Verdict:
    if item.get("Status") == "success" and 200 <= response.status < 500:
        to = item.get("To")
        id_ = mapping(to[0]).get("MessageID") if isinstance(to, list) and to else None
        return Verdict(id=str(id_), text=f"accepted as {id_}") if id_ else Verdict(text="accepted")
    errors = item.get("Errors")
    error = mapping(errors[0]) if isinstance(errors, list) and errors else {}
    if item.get("Status") != "error" or not error:
        return by_status(response)
    code = str(error.get("ErrorCode") or "")
    fault = _FAULTS.get(code, Fault.MESSAGE)
    return Verdict(
        fault,
        text=" ".join(str(error[key]) for key in ("ErrorCode", "ErrorMessage") if error.get(key)),
        category="account" if fault is Fault.RETRY else "",
    )


def _mailbox(one: Mailbox) -> dict[str, str]:
    return {"Email": one.address, "Name": one.name} if one.name else {"Email": one.address}


def _body(message: Fields, id_: str) -> dict[str, Any]:
    if len(message.reply_to) > 1:
        raise Failure("reply_to: this provider takes only one", "header")
    body: dict[str, Any] = {
        "From": _mailbox(message.sender),
        "To": [_mailbox(one) for one in message.to],
        "Subject": message.subject,
        "CustomID": id_,
    }
    for name, mailboxes in (("Cc", message.cc), ("Bcc", message.bcc)):
        if mailboxes:
            body[name] = [_mailbox(one) for one in mailboxes]
    if message.reply_to:
        body["ReplyTo"] = _mailbox(message.reply_to[0])
    if message.html is not None:
        body["HTMLPart"] = message.html
    if message.text is not None or message.html is None:
        body["TextPart"] = message.text or " "
    if headers := message.header_map():
        body["Headers"] = headers
    for key, inline in (("Attachments", False), ("InlinedAttachments", True)):
        files = [
            {"ContentType": file.type, "Filename": file.name, "Base64Content": file.content}
            | ({"ContentID": file.cid} if inline else {})
            for file in message.files
            if file.inline is inline
        ]
        if files:
            body[key] = files
    return body
