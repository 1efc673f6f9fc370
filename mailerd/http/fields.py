"""A composed message taken apart, for APIs that want fields instead of MIME: one source of truth, read back. Pure.

What the composer wrote, or an application gave as `raw`, is parsed by the standard library; nothing is composed twice.
To and Cc name whom this call is for: those of the envelope that stand in the header; the others of the envelope are
Bcc. An API that must have a To gets the first of the others there.

It raises `Failure` and nothing else, also for what fields cannot say: signed and encrypted messages, a header that may
come only once and comes twice. Hazard: it costs more than composing did; large messages want a thread.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import formataddr
from typing import Any, Final

import msgspec

from mailerd.compose import address
from mailerd.http.dialect import ascii_only
from mailerd.message import Failure, Outgoing

__all__ = ["Fields", "File", "Mailbox", "fields"]

# What has a field of its own, or is the provider's to write.
_STRUCTURE: Final = frozenset(
    (
        "from",
        "to",
        "cc",
        "bcc",
        "reply-to",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "sender",
        "return-path",
        "received",
        "dkim-signature",
    )
)


class Mailbox(msgspec.Struct, frozen=True):
    """A name, or '', and an address."""

    name: str
    address: str

    def __str__(self) -> str:
        """As a header has it; a name that is not ASCII stays as it is, quoted where it must be."""
        if not self.name:
            return self.address
        if self.name.isascii():
            return formataddr((self.name, self.address))
        quoted = self.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{self.address}>'


class File(msgspec.Struct, frozen=True):
    """An attachment: `content` is base64 without line breaks; `cid` without angle brackets."""

    name: str
    type: str
    content: str
    cid: str = ""
    inline: bool = False


class Fields(msgspec.Struct, frozen=True):
    """A message as fields. Texts have LF line ends; `headers` are those without a field of their own, in order."""

    sender: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str
    text: str | None
    html: str | None
    headers: tuple[tuple[str, str], ...]
    files: tuple[File, ...]

    def header_map(self) -> dict[str, str]:
        """`headers` by name, for APIs that take each once. Raises `Failure` for one that comes twice."""
        found: dict[str, str] = {}
        seen: set[str] = set()
        for name, value in self.headers:
            if name.lower() in seen:
                raise Failure(f"header {name}: this provider takes it only once", "header")
            seen.add(name.lower())
            found[name] = value
        return found


def fields(outgoing: Outgoing) -> Fields:
    """The message as fields, for the recipients in its envelope."""
    ascii_only(outgoing)
    try:
        message = message_from_bytes(outgoing.content, policy=policy.SMTP)
        assert isinstance(message, EmailMessage)
        return _fields(message, outgoing)
    except Failure:
        raise
    except Exception as error:  # the parser has been seen to raise anything for a hostile `raw`
        raise Failure(f"content: cannot be taken apart for this provider: {error!r}"[:300], "content") from error


def _fields(message: EmailMessage, outgoing: Outgoing) -> Fields:
    senders = _mailboxes(message, "From")
    if len(senders) != 1:
        raise Failure("sender: this provider wants exactly one From", "sender")
    envelope = {_key(to.address): Mailbox("", to.address) for to in outgoing.recipients}
    to = [envelope.pop(_key(one.address)) and one for one in _mailboxes(message, "To") if _key(one.address) in envelope]
    cc = [envelope.pop(_key(one.address)) and one for one in _mailboxes(message, "Cc") if _key(one.address) in envelope]
    bcc = list(envelope.values())
    if not to:
        to.append((cc or bcc).pop(0))
    text, html, files = _body(message)
    return Fields(
        senders[0],
        tuple(to),
        tuple(cc),
        tuple(bcc),
        tuple(_mailboxes(message, "Reply-To")),
        _plain(str(message.get("Subject", ""))),
        text,
        html,
        tuple(
            (name, _plain(str(value)))
            for name, value in message.items()
            if name.lower() not in _STRUCTURE and not name.lower().startswith("content-")
        ),
        tuple(files),
    )


def _key(mailbox: str) -> str:
    try:
        return address.normal(mailbox)
    except Failure:
        return mailbox.lower()


def _mailboxes(message: EmailMessage, name: str) -> list[Mailbox]:
    found: list[Mailbox] = []
    for header in message.get_all(name, []):
        found += [Mailbox(_plain(one.display_name), _plain(one.addr_spec)) for one in header.addresses if one.addr_spec]
    return found


def _plain(text: str | None) -> str:
    """On one line, and text that JSON can carry: octets that were no UTF-8 come out of the parser as surrogates."""
    return " ".join(
        (text or "").encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "").split()
    )


def _body(message: EmailMessage) -> tuple[str | None, str | None, list[File]]:
    text: str | None = None
    html: str | None = None
    files: list[File] = []
    for part in _leaves(message):
        kind = part.get_content_type()
        attached = part.get_content_disposition() == "attachment" or part.get_filename() is not None
        if kind == "text/plain" and text is None and not attached:
            text = _text(part)
        elif kind == "text/html" and html is None and not attached:
            html = _text(part)
        else:
            files.append(_file(part, len(files) + 1))
    return text, html, files


def _leaves(part: EmailMessage) -> Iterator[EmailMessage]:
    if part.get_content_maintype() != "multipart":
        yield part
        return
    if part.get_content_subtype() not in ("mixed", "alternative", "related"):
        raise Failure(f"content: {part.get_content_type()} can only be sent to a provider that takes MIME", "content")
    for child in part.iter_parts():
        assert isinstance(child, EmailMessage)
        yield from _leaves(child)


def _text(part: EmailMessage) -> str:
    payload: Any = part.get_payload(decode=True)
    try:
        text = payload.decode(part.get_content_charset("utf-8"))
    except (LookupError, ValueError):
        text = payload.decode("utf-8", "replace")
    return str(text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _file(part: EmailMessage, number: int) -> File:
    kind = part.get_content_type()
    if part.get_content_maintype() == "message":
        inner: Any = part.get_payload()
        octets = inner[0].as_bytes() if isinstance(inner, list) and inner else b""
    else:
        payload: Any = part.get_payload(decode=True)
        octets = payload or b""
    cid = _plain(str(part.get("Content-ID", ""))).removeprefix("<").removesuffix(">")
    name = _plain(part.get_filename()) or f"attachment-{number}"
    inline = bool(cid) and part.get_content_disposition() != "attachment"
    return File(name, kind, base64.b64encode(octets).decode("ascii"), cid, inline)
