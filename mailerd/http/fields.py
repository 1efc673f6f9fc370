"""A composed message taken apart, for APIs that want fields instead of MIME: one source of truth, read back. Pure.

To and Cc name whom this call is for: those of the envelope that stand in the header; the others of the envelope are
Bcc. An API that must have a To gets the first of the others there.

What our composer writes most (a text, an HTML, both) is cut along its own seams; everything else goes through the
standard library's parser, twenty times as slow. It raises `Failure` and nothing else, also for what fields cannot say:
signed and encrypted messages, a field that may come only once and comes twice.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from typing import Any, Final

import msgspec

from mailerd.compose import address
from mailerd.http.dialect import ascii_only
from mailerd.http.head import Mailbox, decoded, mailboxes, read
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
DEPTH: Final = 100
_SEAM: Final = b"\r\nMIME-Version: 1.0\r\n"  # behind which the composer puts the body with its Content-* fields
_text_part = re.compile(
    rb"Content-Type: text/(plain|html|x-amp-html); charset=utf-8\r\n"
    rb"Content-Transfer-Encoding: (7bit|quoted-printable|base64)\r\n\r\n"
).match
_alternative = re.compile(rb'Content-Type: multipart/alternative;\r\n boundary="(=_[^"\r\n]+)"\r\n\r\n').match


class File(msgspec.Struct, frozen=True):
    """An attachment: `content` is base64 without line breaks; `cid` without angle brackets."""

    name: str
    type: str
    content: str
    cid: str = ""
    inline: bool = False


class Fields(msgspec.Struct, frozen=True):
    """A message as fields. Texts have LF line ends, `amp` (text/x-amp-html) comes with an HTML only; `headers` are those without a field of their own, in order."""

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
    amp: str | None = None

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
        return _fields(outgoing)
    except Failure:
        raise
    except Exception as error:  # the parser has been seen to raise anything for a hostile `raw`
        raise Failure(f"content: cannot be taken apart for this provider: {error!r}"[:300], "content") from error


def _fields(outgoing: Outgoing) -> Fields:
    content = outgoing.content
    end = content.find(b"\r\n\r\n")
    named: dict[str, tuple[Mailbox, ...]] = {"from": (), "to": (), "cc": (), "reply-to": ()}
    subject = ""
    headers: list[tuple[str, str]] = []
    for name, value in read(content if end < 0 else content[: end + 2]):
        lower = name.lower()
        if lower in named:
            named[lower] += mailboxes(value)
        elif lower == "subject":
            subject = decoded(value)
        elif lower not in _STRUCTURE and not lower.startswith("content-"):
            headers.append((name, decoded(value)))
    if len(named["from"]) != 1:
        raise Failure("sender: this provider wants exactly one From", "sender")
    to, cc, bcc = _envelope(outgoing, named["to"], named["cc"])
    text, html, files, amp = _quick(outgoing) or _slow(content)
    sender, reply_to = named["from"][0], named["reply-to"]
    return Fields(sender, to, cc, bcc, reply_to, subject, text, html, tuple(headers), tuple(files), amp)


_Mailboxes = tuple[Mailbox, ...]


def _envelope(outgoing: Outgoing, to: _Mailboxes, cc: _Mailboxes) -> tuple[_Mailboxes, _Mailboxes, _Mailboxes]:
    if len(to) == 1 == len(outgoing.recipients) and to[0].address == outgoing.recipients[0].address:
        return to, (), ()  # nearly every message
    left = {_key(one.address): Mailbox("", one.address) for one in outgoing.recipients}
    here = [[one for one in named if left.pop(_key(one.address), None)] for named in (to, cc)]
    bcc = list(left.values())
    if not here[0]:
        here[0].append((here[1] or bcc).pop(0))
    return tuple(here[0]), tuple(here[1]), tuple(bcc)


def _key(mailbox: str) -> str:
    try:
        return address.normal(mailbox)
    except Failure:
        return mailbox.lower()


# -- the body, as our composer writes it --------------------------------------------------------------------------------

_ORDERS: Final = ((b"plain", b"html"), (b"plain", b"x-amp-html", b"html"))
_Body = tuple[str | None, str | None, list[File], str | None]


def _quick(outgoing: Outgoing) -> _Body | None:
    """The texts of a message that our composer wrote, and that has nothing else; None for any other."""
    content = outgoing.content
    seam = content.find(_SEAM)
    if outgoing.job.raw is not None or seam < 0:
        return None
    start = seam + len(_SEAM)
    several = _alternative(content, start)
    if several is None:
        only = _quick_text(content, start, len(content))
        if only is None:
            return None
        return (only[1], None, [], None) if only[0] == b"plain" else (None, only[1], [], None)
    opening = b"--%b\r\n" % several[1]
    between, closing = b"\r\n" + opening, b"\r\n--%b--\r\n" % several[1]
    start, end = several.end() + len(opening), len(content) - len(closing)
    if not content.startswith(opening, several.end()) or not content.endswith(closing):
        return None
    texts: dict[bytes, str] = {}
    while start < end:
        found = content.find(between, start, end)
        part = _quick_text(content, start, found if found >= 0 else end)
        if part is None:
            return None
        texts[part[0]] = part[1]
        start = found + len(between) if found >= 0 else end
    if tuple(texts) not in _ORDERS:
        return None
    return texts[b"plain"], texts[b"html"], [], texts.get(b"x-amp-html")


def _quick_text(content: bytes, start: int, end: int) -> tuple[bytes, str] | None:
    head = _text_part(content, start)
    if head is None:
        return None
    octets = content[head.end() : end]
    if head[2] == b"base64":
        octets = binascii.a2b_base64(octets)
    elif head[2] == b"quoted-printable":
        octets = binascii.a2b_qp(octets)
    return head[1], octets.replace(b"\r\n", b"\n").decode()


# -- the body, of anybody -----------------------------------------------------------------------------------------------


def _slow(content: bytes) -> _Body:
    if content.count(b"boundary") > DEPTH:  # the parser looks at each line once for each multipart around it
        raise Failure("content: has too many parts in parts for a provider that takes no MIME", "content")
    text: str | None = None
    html: str | None = None
    amp: str | None = None
    files: list[File] = []
    for part in _leaves(message_from_bytes(content)):
        kind = part.get_content_type()
        attached = part.get_content_disposition() == "attachment" or part.get_filename() is not None
        if kind == "text/plain" and text is None and not attached:
            text = _text(part)
        elif kind == "text/html" and html is None and not attached:
            html = _text(part)
        elif kind == "text/x-amp-html" and not attached:
            amp = _text(part)
        else:
            files.append(_file(part, len(files) + 1))
    return text, html, files, amp


def _leaves(part: Message) -> Iterator[Message]:
    if part.get_content_maintype() != "multipart":
        yield part
        return
    if part.get_content_subtype() not in ("mixed", "alternative", "related"):
        raise Failure(f"content: {part.get_content_type()} can only be sent to a provider that takes MIME", "content")
    children: Any = part.get_payload()
    for child in children if isinstance(children, list) else ():
        yield from _leaves(child)


def _text(part: Message) -> str:
    payload: Any = part.get_payload(decode=True)
    try:
        text = payload.decode(str(part.get_content_charset("utf-8")))
    except (LookupError, ValueError):
        text = payload.decode("utf-8", "replace")
    return _lines(str(text))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "") if "\r" in text or "\0" in text else text


def _file(part: Message, number: int) -> File:
    kind = part.get_content_type()
    if part.get_content_maintype() == "message":
        inner: Any = part.get_payload()
        octets = inner[0].as_bytes() if isinstance(inner, list) and inner else b""
    else:
        payload: Any = part.get_payload(decode=True)
        octets = payload or b""
    cid = _plain(str(part.get("Content-ID", ""))).removeprefix("<").removesuffix(">")
    name = _plain(decoded(part.get_filename() or ""))
    if kind == "text/calendar":
        # An alternative has no name; these APIs have no alternatives, and by its method it still is an invitation.
        name = name or "invite.ics"
        if method := part.get_param("method"):
            kind = f"text/calendar; method={_plain(str(method))}; charset=utf-8"
    name = name or f"attachment-{number}"
    inline = bool(cid) and part.get_content_disposition() != "attachment"
    return File(name, _plain(kind), base64.b64encode(octets).decode("ascii"), cid, inline)


def _plain(text: str) -> str:
    """On one line, and text that JSON can carry: octets that were no UTF-8 come out of the parser as surrogates."""
    return " ".join(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "").split())
