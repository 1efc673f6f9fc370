"""`kind = "http"`: an API that mailerd does not ship, described in its `[provider.call]`.

One message a call, POST to `endpoint`. The body is made by a Jinja template in the sandbox of templates for mail; it is
given the message as fields and as MIME, and the provider's keys. Headers are made once, of the keys alone, so that no
message can put anything into them. A body that calls itself JSON is read back before it is sent.

The variables of the body: `id`, `from`, `to`, `cc`, `bcc`, `reply_to` (objects with `email` and `name`, all but the first
in lists), `subject`, `text`, `html`, `headers` (object), `attachments` (list of `name`, `type`, `content` in base64, `cid`,
`inline`), `mime`, `mime_base64`, `sender` (envelope), `recipients` (addresses), `campaign`, `tags`, `domain`, `region`,
`api_key`, `secret_key`. Where fields cannot say a message, those are missing, and `mime` is there.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from mailerd.compose.sandbox import Sandbox, start_meter
from mailerd.config import kinds
from mailerd.config.provider import Provider
from mailerd.http.dialect import Entry, Fault, Request, Response, Verdict, by_status, words
from mailerd.http.fields import Fields, Mailbox, fields
from mailerd.message import Failure, Outgoing

__all__ = ["Generic"]

LIMIT = 100_000_000  # characters of a body


class Generic:
    """`kind = "http"`. Raises `Failure` for a body template that cannot be used."""

    batch = 1
    recipients = 1000
    octets = LIMIT

    def __init__(self, provider: Provider) -> None:
        call = provider.call
        self.url = provider.endpoint or ""
        self.idempotent = call.idempotency is not None
        self._idempotency = call.idempotency
        self._type = call.type
        self._json = "json" in call.type
        self._accepted = call.accepted
        self._id = call.id
        self._faults = [kinds.fault(text) for text in call.faults]
        self._keys = {
            "api_key": provider.api_key or "",
            "secret_key": provider.secret_key or "",
            "domain": provider.domain or "",
            "region": provider.region or "",
        }
        sandbox = Sandbox(None, LIMIT, html=False)
        try:
            self._body = sandbox.from_string(Path(call.body or "").read_text("utf-8"))
            self._headers = {"Content-Type": call.type}
            for line in call.headers:
                name, value = kinds.header(line)
                self._headers[name] = sandbox.from_string(value).render(self._keys)
        except Exception as error:  # jinja2 has many, and a file may be anything
            raise Failure(f"provider.{provider.name}.call: {error}", "configuration") from error

    def entry(self, outgoing: Outgoing) -> Entry:
        try:
            said: dict[str, Any] = _named(fields(outgoing))
        except Failure:
            said = {}
        said |= self._keys | {
            "id": str(outgoing.job.id),
            "mime": outgoing.content.decode("utf-8", "replace"),
            "mime_base64": b64encode(outgoing.content).decode("ascii"),
            "sender": outgoing.sender,
            "recipients": [to.address for to in outgoing.recipients],
            "campaign": outgoing.job.campaign,
            "tags": list(outgoing.job.tags or ()),
        }
        start_meter()
        try:
            body = self._body.render(said).encode()
            if self._json:
                msgspec.json.decode(body)
        except Exception as error:
            raise Failure(f"the body of the call cannot be made: {error}"[:300], "template") from error
        if not body:
            raise Failure("the body of the call is empty", "template")
        return Entry(outgoing, body)

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        body = entries[0].octets
        if self._idempotency is None:
            return Request(self.url, self._headers, body)
        key = {self._idempotency: f"mailerd-{blake2b(body, digest_size=20).hexdigest()}"}
        return Request(self.url, self._headers | key, body)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict:
        text = words(response)
        lower = text.lower()
        for status, fault, said in self._faults:
            if kinds.is_status(response.status, status) and said in lower:
                return by_status(response, text, Fault(fault))
        if any(kinds.is_status(response.status, status) for status in self._accepted):
            id_ = self._found(response)
            return Verdict(id=id_, text=f"accepted as {id_}" if id_ else "accepted")
        return by_status(response, text)

    def _found(self, response: Response) -> str:
        kind, _, name = self._id.partition(":")
        if kind == "header":
            return response.headers.get(name.lower(), "")
        value = response.json()
        for step in self._id.split("."):
            if isinstance(value, list) and step.isdecimal() and int(step[:6]) < len(value):
                value = value[int(step[:6])]
            else:
                value = value.get(step) if isinstance(value, dict) else None
        return str(value) if isinstance(value, str | int) else ""


def _mailbox(one: Mailbox) -> dict[str, str]:
    return {"email": one.address, "name": one.name}


def _named(message: Fields) -> dict[str, Any]:
    return {
        "from": _mailbox(message.sender),
        "to": [_mailbox(one) for one in message.to],
        "cc": [_mailbox(one) for one in message.cc],
        "bcc": [_mailbox(one) for one in message.bcc],
        "reply_to": [_mailbox(one) for one in message.reply_to],
        "subject": message.subject,
        "text": message.text,
        "html": message.html,
        "headers": dict(message.headers),
        "attachments": [msgspec.to_builtins(file) for file in message.files],
    }
