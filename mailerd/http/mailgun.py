"""Mailgun: documentation.mailgun.com (sending messages, MIME; errors).

The message goes as it was composed, to `/v3/{domain}/messages.mime`; `to` is the envelope. Our id is the variable
`v:mailerd_id`. One id comes back for all recipients, in angle brackets here and without them in webhooks: kept without.
No idempotency. A 200 that is not JSON is the greeting of the wrong address.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

from msgspec.structs import replace

from mailerd.config.provider import Provider
from mailerd.http.dialect import (
    ID_KEY,
    Entry,
    Fault,
    Request,
    Response,
    Verdict,
    ascii_only,
    by_status,
    ident,
    mapping,
    retry_after,
    words,
)
from mailerd.message import Outgoing

__all__ = ["Mailgun"]

TAGS: Final = 3
_HOSTS: Final = {"eu": "https://api.eu.mailgun.net"}
_domain = re.compile("not allowed to send", re.IGNORECASE).search
_batches = re.compile("large batches", re.IGNORECASE).search
_until = re.compile(r"try again after (\w{3}, [\w :+-]{10,40})", re.IGNORECASE).search


class Mailgun:
    """`kind = "mailgun"`."""

    batch = 1
    recipients = 1000
    octets = 25_000_000
    idempotent = False

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or _HOSTS.get(provider.region or "", "https://api.mailgun.net")).rstrip("/")
        self._url = f"{self.url}/v3/{quote(provider.domain or '', safe='')}/messages.mime"
        self._login = "Basic " + b64encode(f"api:{provider.api_key}".encode()).decode("ascii")

    def entry(self, outgoing: Outgoing) -> Entry:
        ascii_only(outgoing)
        boundary = blake2b(outgoing.content, digest_size=20).hexdigest()
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in _values(outgoing)
        ]
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="message"; filename="message.eml"\r\n'
            "Content-Type: message/rfc822\r\n\r\n"
        )
        octets = ("".join(parts) + head).encode() + outgoing.content + f"\r\n--{boundary}--\r\n".encode()
        return Entry(outgoing, octets, form=f"multipart/form-data; boundary={boundary}")

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        (entry,) = entries
        return Request(self._url, {"Authorization": self._login, "Content-Type": entry.form}, entry.octets)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict:
        body = mapping(response.json())
        text = words(response)
        if 200 <= response.status < 300:
            id_ = body.get("id")
            if isinstance(id_, str) and id_:
                return Verdict(id=id_.strip().removeprefix("<").removesuffix(">"), text=text)
            return by_status(response, text, Fault.OURS if "Mailgun Magnificent" in text else None)
        if response.status == 400 and _domain(text):
            return by_status(response, text, Fault.ACCOUNT)  # a domain not verified or activated, a sandbox
        if response.status == 403 and _batches(text):
            return by_status(response, text, Fault.RATE)
        found = by_status(response, text)
        if response.status == 429 and not found.retry_after and (date := _until(text)):
            wait = retry_after(replace(response, headers={"retry-after": date[1].strip()}))
            return replace(found, retry_after=wait)
        return found


def _values(outgoing: Outgoing) -> Iterator[tuple[str, str]]:
    for to in outgoing.recipients:
        yield "to", to.address
    yield f"v:{ID_KEY}", ident(outgoing)
    for tag in list(outgoing.job.tags or ())[:TAGS]:
        if tag.isascii() and tag.isprintable():
            yield "o:tag", tag
