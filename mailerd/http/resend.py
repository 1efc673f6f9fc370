"""Resend: resend.com/docs/api-reference (emails, batch, errors, rate limit), and its published OpenAPI document.

One message a call to `/emails`, several to `/emails/batch` (at most 100, no attachments), there with permissive
validation, so that one bad message does not refuse its neighbours. `Idempotency-Key` is a digest of what is sent, our
id included, so that the same request again, today or by another instance, is one message (kept for 24 hours).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
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
from mailerd.http.fields import Fields, fields
from mailerd.message import Outgoing

__all__ = ["Resend"]

_FAULTS: Final = {
    "rate_limit_exceeded": Fault.RATE,
    "daily_quota_exceeded": Fault.QUOTA,
    "monthly_quota_exceeded": Fault.QUOTA,
    "missing_api_key": Fault.ACCOUNT,
    "restricted_api_key": Fault.ACCOUNT,
    "invalid_api_key": Fault.ACCOUNT,
    "invalid_from_address": Fault.MESSAGE,
    "validation_error": Fault.MESSAGE,  # but with 403, an unverified domain
    "missing_required_field": Fault.MESSAGE,
    "invalid_attachment": Fault.MESSAGE,
    "invalid_parameter": Fault.MESSAGE,
    "concurrent_idempotent_requests": Fault.DOUBT,  # the first one with this key is still being worked on
    "invalid_idempotent_request": Fault.DOUBT,  # there was one with this key
    "invalid_idempotency_key": Fault.OURS,
    "not_found": Fault.OURS,
    "method_not_allowed": Fault.OURS,
    "internal_server_error": Fault.RETRY,
    "application_error": Fault.RETRY,
}


class Resend:
    """`kind = "resend"`."""

    batch = 100
    recipients = 50
    octets = 20_000_000
    idempotent = True

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or "https://api.resend.com").rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {provider.api_key}",
            "Content-Type": "application/json",
        }

    def entry(self, outgoing: Outgoing) -> Entry:
        message = fields(outgoing)
        return Entry(outgoing, encode(_body(message, ident(outgoing))), alone=bool(message.files))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        single = len(entries) == 1
        body = entries[0].octets if single else b"[" + b",".join(entry.octets for entry in entries) + b"]"
        headers = {**self._headers, "Idempotency-Key": f"mailerd-{blake2b(body, digest_size=20).hexdigest()}"}
        if single:
            return Request(f"{self.url}/emails", headers, body)
        headers["x-batch-validation"] = "permissive"
        return Request(f"{self.url}/emails/batch", headers, body)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict | list[Verdict]:
        body = mapping(response.json())
        if not 200 <= response.status < 300:
            return _refused(response, body)
        if len(entries) == 1:
            return _accepted(body, response)
        data, errors = body.get("data"), body.get("errors") or []
        if not isinstance(data, list) or not isinstance(errors, list):
            return by_status(response)
        refused = {
            index: str(mapping(error).get("message", "refused"))
            for error in errors
            if isinstance(index := mapping(error).get("index"), int) and 0 <= index < len(entries)
        }
        # Either the ids of those accepted, or a place for each.
        if len(data) not in (len(entries), len(entries) - len(refused)):
            unknown = by_status(response)
            return [
                Verdict(Fault.MESSAGE, text=refused[index]) if index in refused else unknown
                for index in range(len(entries))
            ]
        places = iter(data)
        found: list[Verdict] = []
        for index in range(len(entries)):
            place = next(places, None) if len(data) == len(entries) or index not in refused else None
            if index in refused:
                found.append(Verdict(Fault.MESSAGE, text=refused[index]))
            else:
                found.append(_accepted(mapping(place), response))
        return found


def _body(message: Fields, id_: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "from": str(message.sender),
        "to": [str(one) for one in message.to],
        "subject": message.subject,
        "tags": [{"name": ID_KEY, "value": id_}],
    }
    for name, mailboxes in (("cc", message.cc), ("bcc", message.bcc), ("reply_to", message.reply_to)):
        if mailboxes:
            body[name] = [str(one) for one in mailboxes]
    if message.html is not None:
        body["html"] = message.html
    if message.text is not None or message.html is None:
        body["text"] = message.text or ""
    if headers := message.header_map():
        body["headers"] = headers
    if message.files:
        body["attachments"] = [
            {"filename": file.name, "content": file.content, "content_type": file.type}
            | ({"content_id": file.cid} if file.cid else {})
            for file in message.files
        ]
    return body


def _accepted(body: dict[str, Any], response: Response) -> Verdict:
    id_ = body.get("id")
    return Verdict(id=id_, text=f"accepted as {id_}") if isinstance(id_, str) and id_ else by_status(response)


def _refused(response: Response, body: dict[str, Any]) -> Verdict:
    name = body.get("name")
    fault = _FAULTS.get(name) if isinstance(name, str) else None
    if response.status == 403 and fault is Fault.MESSAGE:  # a domain that is not verified: one sender's matter
        return Verdict(Fault.RETRY, text=words(response), category="account")
    if response.status >= 500 and fault is not Fault.RETRY:
        fault = None
    return by_status(response, words(response), fault)
