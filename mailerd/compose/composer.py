"""Jobs into messages: who sends, who receives, what it says, as octets that any SMTP connection can take.

`Composer.compose` answers with an `Outgoing` or raises `message.Failure`, and nothing else: whatever goes wrong inside
becomes a `Failure` of category `internal`, so that one row never stops its neighbours. It reads no clock and no
database. Date and Message-ID come from the row, so every attempt sends the same octets, which lets receivers drop
what arrives twice. A sender with a DKIM key signs what it sends (`compose.dkim`): an identity with its own keys, a
mailbox that belongs to none with those of whichever identity has one for its domain.

Categories of failure: `address`, `sender`, `header`, `attachment`, `template`, `params`, `content`, `size`, `internal`.

Hazards: To and Cc always list everybody, the envelope only those whose bit is still set. An address that occurs twice
goes by its first bit; the later bit never comes out, so what is left to do must be counted from the recipients that
were given out, not from the bits. Work grows with size (20 MB take about 0.3 s), and a signature takes 0.3 ms: large
messages and signed ones want a thread, and one `Composer` may be used from several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec

from mailerd.config.kinds import HTTP
from mailerd.config.model import Config
from mailerd.message import Failure, Job, Outgoing, Recipient, clean

from . import address, headers, mime
from .address import Mailbox
from .bundle import Library
from .dkim import Key, Keyring, Signer, keys_of, relaxed_fields, split
from .purpose import purposes
from .template import LINK, Content, Params, Templates, decode_params
from .text import html_to_text
from .tokens import derive
from .topics import CONFIRM, Topics
from .track import Trail, trackers
from .verp import ReturnPaths

__all__ = ["Composer"]

RECIPIENTS = 63
SERIES = 200
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_decode_headers = msgspec.json.Decoder(dict[str, str | int | float | bool | list[str] | None]).decode
_raw_message_id = re.compile(
    rb"^Message-ID:[ \t]*(?:\r\n[ \t]+)?(<[!-~]+@[!-~]+>)[ \t]*\r$", re.IGNORECASE | re.MULTILINE
)


class _Sender(msgspec.Struct, frozen=True):
    """A resolved sender: its lines From and Reply-To as text, its domain, the reverse-path, and who signs for it (of a
    complete message: who signs for the From that it has)."""

    lines: str
    domain: str
    return_path: str
    reply_to: str
    utf8: bool
    keys: Keyring
    signer: Signer | None
    paths: ReturnPaths | None = None  # in place of `return_path`

    def path(self, message: int) -> str:
        """The reverse-path of that message."""
        return self.return_path if self.paths is None else self.paths.encode(message)


class Composer:
    """Composes the messages of one configuration; a reload makes a new one. Raises `Failure` for a bad identity or key."""

    def __init__(self, config: Config, library: Library | None = None) -> None:
        self.versions = library
        self._limit = int(config.limits.message_size)
        self._templates = Templates(config.templates.path, self._limit, library)
        self._identities: dict[str, _Sender] = {}
        self._by_address: dict[str, _Sender] = {}
        every: list[Key] = []
        # A message is signed before it is known who sends it.
        rewritten = frozenset[str]().union(*(HTTP[p.kind].rewrites for p in config.provider if p.kind in HTTP))
        verp = [derive(secret, "verp") for secret in config.public.secret]
        for identity in config.identity:
            where = f"identity {identity.name}"
            mailbox = address.parse(identity.sender, f"{where}: from")
            reply_to, utf8 = "", mailbox.utf8
            if identity.reply_to is not None:
                answers = address.parse(identity.reply_to, f"{where}: reply_to")
                reply_to, utf8 = address.field("Reply-To", [answers]), utf8 or answers.utf8
            return_path = mailbox.address
            if identity.return_path is not None:
                return_path = ""  # the null reverse-path (RFC 5321 §4.5.5)
                if identity.return_path not in ("", "<>"):
                    path = address.parse(identity.return_path, f"{where}: return_path")
                    return_path, utf8 = path.address, utf8 or path.utf8
            keys = keys_of(identity)
            every += keys
            ring = Keyring(keys, rewritten)
            signer = ring.signer(mailbox.domain)
            paths = ReturnPaths(return_path.rpartition("@")[2], verp) if identity.verp else None
            sender = _Sender(
                address.field("From", [mailbox]), mailbox.domain, return_path, reply_to, utf8, ring, signer, paths
            )
            self._identities[identity.name] = sender
            self._by_address.setdefault(mailbox.normal, sender)
        first = next(iter(self._identities.values()), None)
        self._streams = {s.name: self._identities.get(s.identity) if s.identity else first for s in config.stream}
        self._first = first
        self._purposes = purposes(config)
        self.topics = Topics(config)
        self._keys = Keyring(every, rewritten)
        self._must_sign = {s.name for s in config.stream if s.require_dkim}
        self._trackers = trackers(config)
        # (stream, template) → messages whose HTML Gmail does not show to its end
        self.clipped: dict[tuple[str, ...], float] = {}
        self._mailbox = lru_cache(4096)(self._resolve_mailbox)

    def compose(self, job: Job) -> Outgoing:
        """The message of `job`, for the recipients still to do. Raises `Failure` with the reason, and nothing else."""
        try:
            topic = self.topics.of(job)
            return self._raw(job, job.raw) if job.raw is not None else self._compose(job, topic.name if topic else "")
        except Failure:
            raise
        except UnicodeEncodeError:
            raise Failure("text that is not valid Unicode (an unpaired surrogate)", "content") from None
        except Exception as e:
            raise Failure(f"internal error: {type(e).__name__}: {clean(str(e), 300)}", "internal") from e

    @property
    def signing(self) -> bool:
        """Is there any key?"""
        return bool(self._keys)

    def signs(self, job: Job) -> bool:
        """Will its message be signed? Then composing it takes long enough to want a thread."""
        if not self._keys:
            return False
        try:
            sender = self._sender(job)
        except Failure:
            return False
        return sender.signer is not None if job.raw is None else bool(sender.keys)

    def addresses(self, job: Job) -> list[tuple[int, str]]:
        """(bit, normal address) of the recipients still to do, each address once; what does not parse is left out."""
        if not job.cc and not job.bcc:
            try:
                return [(0, address.normal(job.recipient))] if job.rcpt & 1 else []
            except Failure:
                return []
        found: dict[str, int] = {}
        for bit, _, text in islice(_columns(job), RECIPIENTS):
            try:
                found.setdefault(address.normal(text), bit)
            except Failure:
                continue
        return [(bit, normal) for normal, bit in found.items() if job.rcpt >> bit & 1]

    def unknown(self, jobs: Sequence[Job]) -> set[str]:
        """The templates that these rows name and nobody here knows yet: they may be stored."""
        names = {job.template for job in jobs if job.template is not None}  # few: each may cost a look into the folder
        return {name for name in names if not self._templates.knows(name)}

    def _compose(self, job: Job, topic: str) -> Outgoing:
        sender = self._sender(job)
        to = address.parse(job.recipient, "recipient")
        utf8 = to.utf8 or sender.utf8
        lines = [sender.lines, address.field("To", (to,))]
        if job.cc or job.bcc:
            parsed = [(bit, column, address.parse(text, column)) for bit, column, text in _columns(job)]
            if cc := [mailbox for _, column, mailbox in parsed if column.startswith("cc")]:
                lines.append(address.field("Cc", cc))
            utf8 = utf8 or any(mailbox.utf8 for _, _, mailbox in parsed)
            recipients = _left(job.rcpt, [(bit, mailbox) for bit, _, mailbox in parsed])
        else:
            recipients = (Recipient(0, to.address),) if job.rcpt & 1 else ()
        if not recipients:
            raise Failure("no recipient is left to send to", "address")
        if job.reply_to is not None:
            reply_to = address.parse(job.reply_to, "reply_to")
            utf8 = utf8 or reply_to.utf8
            lines.append(address.field("Reply-To", (reply_to,)))
        elif sender.reply_to:
            lines.append(sender.reply_to)

        purpose = self._purposes.get(job.stream)
        link = purpose.unsubscribe(job, to.normal, topic) if purpose is not None else None
        tracker = self._trackers.get(job.stream) if not job.cc and not job.bcc else None
        trail = tracker.trail(job.id, job.campaign) if tracker is not None else None
        content = self._content(job, self._links(job, link, to.normal), trail)
        if content.subject is not None:
            lines.append(headers.unstructured("Subject", content.subject))
        created = job.created_at if job.created_at.tzinfo is not None else job.created_at.replace(tzinfo=UTC)
        micros = (created - _EPOCH) // _MICROSECOND
        unique = f"{job.id}.{micros:x}"
        message_id = f"<{unique}@{sender.domain}>"
        if job.send_at is not None and job.send_at > created:
            micros = (job.send_at - _EPOCH) // _MICROSECOND
        own: dict[str, str] = {}
        if job.headers is not None and job.headers != "{}":
            own = self._own_headers(job.headers)
            message_id = own.pop("message-id", message_id)
        if "date" not in own:
            lines.append(_date(micros // 1_000_000))
        # Written unfolded: some servers take no Message-ID but on its field's first line.
        lines.append(f"Message-ID: {message_id}\r\n")
        if job.thread_key is not None:
            lines += self._thread(job.thread_key, sender, own)
        if purpose is not None:
            lines += purpose.fields(job, link, own)
        lines += own.values()
        lines.append("MIME-Version: 1.0\r\n")

        parts: Sequence[mime.Part] = ()
        if job.attachments is not None and job.attachments != "[]":
            parts = mime.attachments(job.attachments, unique, job.fetched)
        text, html = content.text, content.html
        if content.wire is None:
            if tracker is not None:
                text, html = tracker.texts(text, html, job.id, job.campaign)
            if text is None and html is not None:
                text = html_to_text(html)
        elif trail is not None and text is not None:
            text = trail.text(text)
        if mime.clipped(html if html is not None else content.wire or ""):
            key = (job.stream, job.template or "")
            if key in self.clipped or len(self.clipped) < SERIES:  # threads may lose one: it is a sign, not an account
                self.clipped[key] = self.clipped.get(key, 0) + 1
        body = html if content.wire is None else content.wire
        octets = "".join(lines).encode() + mime.entity(unique, text, body, parts, content.amp)
        self._check_size(len(octets))
        signed = self._signed(job, sender.signer, sender.domain, octets)
        return Outgoing(job, sender.path(job.id), recipients, signed, message_id, utf8, utf8, signed is not octets)

    def _raw(self, job: Job, raw: bytes) -> Outgoing:
        """A complete message passes as it is, but for its line ends and a final one."""
        for column in ("subject", "text_body", "html_body", "template", "headers", "attachments", "reply_to"):
            if getattr(job, column) is not None:
                raise Failure(f"raw: is a complete message, {column} cannot be used with it", "content")
        self._check_size(len(raw))
        sender = self._sender(job)
        parsed = [(bit, address.parse(text, column)) for bit, column, text in _columns(job)]
        recipients = _left(job.rcpt, parsed)
        if not recipients:
            raise Failure("no recipient is left to send to", "address")
        if not raw.strip():
            raise Failure("raw: empty message", "content")
        # RFC 5321 §2.3.8: CR and LF only ever together; whichever of them stands alone was meant as a line end.
        content = raw
        if not raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r"):
            content = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        if not content.endswith(b"\r\n"):
            content += b"\r\n"
        if b"\0" in content:
            raise Failure("raw: contains NUL, which no mail may (RFC 5322 §4)", "content")
        if not mime.lines_fit(content):
            raise Failure(f"raw: a line of more than {mime.LINE_LIMIT} octets (RFC 5321 §4.5.3.1.6)", "content")
        self._check_size(len(content))
        eight_bit = not content.isascii()
        utf8 = sender.utf8 or any(mailbox.utf8 for _, mailbox in parsed)
        head = content[: content.find(b"\r\n\r\n") + 2] if b"\r\n\r\n" in content else content
        found = _raw_message_id.search(head)
        signer, domain = None, ""
        if sender.keys or job.stream in self._must_sign:
            domain = _from_domain(content)
            signer = sender.keys.signer(domain)
        signed = self._signed(job, signer, domain, content)
        return Outgoing(
            job,
            sender.path(job.id),
            recipients,
            signed,
            found[1].decode("ascii") if found else "",
            utf8 or (eight_bit and not head.isascii()),
            eight_bit or utf8,
            signed is not content,
        )

    def _signed(self, job: Job, signer: Signer | None, domain: str, content: bytes) -> bytes:
        """`content` with its signatures; the very same where nobody signs and nobody has to."""
        if signer is not None:
            content = signer.sign(content)
            self._check_size(len(content))
        elif job.stream in self._must_sign:
            of = f"From {domain}" if domain else "whose From is not one mailbox"
            raise Failure(
                f"sender: stream {job.stream} requires a DKIM signature, and no key of the sender is for mail {of}",
                "sender",
            )
        return content

    def _check_size(self, octets: int) -> None:
        if octets > self._limit:
            raise Failure(
                f"message of {octets} octets, at most {self._limit} are allowed (limits.message_size)", "size"
            )

    def _sender(self, job: Job) -> _Sender:
        if job.sender is None:
            sender = self._streams.get(job.stream, self._first)
            if sender is None:
                raise Failure("sender: the row names none, and no identity is configured for its stream", "sender")
            return sender
        if found := self._identities.get(job.sender):
            return found
        if "@" not in job.sender:
            known = ", ".join(sorted(self._identities)) or "none"
            raise Failure(f"sender: no identity {clean(job.sender, 80)!a} is configured (there are: {known})", "sender")
        return self._mailbox(job.sender)

    def _resolve_mailbox(self, text: str) -> _Sender:
        """A mailbox as sender. One that belongs to an identity keeps that identity's return path and Reply-To."""
        mailbox = address.parse(text, "sender")
        line = address.field("From", (mailbox,))
        if known := self._by_address.get(mailbox.normal):
            return msgspec.structs.replace(known, lines=line)
        signer = self._keys.signer(mailbox.domain)
        return _Sender(line, mailbox.domain, mailbox.address, "", mailbox.utf8, self._keys, signer)

    def _thread(self, key: str, sender: _Sender, own: Collection[str]) -> list[str]:
        """The fields by which readers put the messages of one `thread_key` together (RFC 5322 §3.6.4), without looking one
        up: all answer a first one that never was. Its id is the same whoever sends, since the two sides of a
        conversation may write under different domains of ours."""
        domain = self._first.domain if self._first is not None else sender.domain
        digest = blake2b(key.encode(), key=domain.encode()[:64], digest_size=16).hexdigest()
        fields = (("in-reply-to", "In-Reply-To"), ("references", "References"))
        return [
            f"{name}: <{digest}@{domain}>\r\n" for lower, name in fields if not ("references" in own or lower in own)
        ]

    def _links(self, job: Job, link: str | None, address: str) -> Params:
        """What templates see of ours: the link to unsubscribe, the links to confirm."""
        links: Params = {} if link is None else {LINK: link}
        if self.topics and (confirm := self.topics.confirmations(job, address)) is not None:
            links[CONFIRM] = confirm
        return links

    def _content(self, job: Job, links: Params, trail: Trail | None) -> Content:
        if job.template is not None:
            if job.text_body is not None or job.html_body is not None:
                raise Failure("template: cannot be used together with text_body or html_body", "content")
            given = decode_params(job.params)
            added = links.keys() - given.keys() if links else ()
            params = {**links, **given} if added else given
            stored = self._templates.stored(
                job.template, job.locale, params, job.subject, job.recipient, added, trail, wire=True
            )
            if stored is not None:
                content, job.variant = stored
                return content
            return self._templates.file(job.template, job.locale, params, job.subject, trail, wire=True)
        if job.text_body is None and job.html_body is None and job.subject is None and job.attachments is None:
            raise Failure("nothing to send: no template, raw, text_body, html_body, subject or attachments", "content")
        if job.params is None:
            return Content(job.subject, job.text_body, job.html_body)
        params = {**links, **decode_params(job.params)}
        return self._templates.inline(job.subject, job.text_body, job.html_body, params)

    def _own_headers(self, source: str) -> dict[str, str]:
        """The row's own headers as finished lines by lower-cased name; of Message-ID the value alone."""
        try:
            given = _decode_headers(source)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as e:
            raise Failure(f"headers: not a JSON object of strings ({e})", "header") from None
        lines: dict[str, str] = {}
        for name, value in given.items():
            kind = headers.kind(name)
            if value is None:
                continue
            values = value if isinstance(value, list) else [_plain(value)]
            if name.lower() in lines or (kind.single and len(values) != 1):
                raise Failure(f"header {name}: may be given only once", "header")
            lines[name.lower()] = "".join([_WRITERS[kind.style](name, v) for v in values])
        return lines


def _from_domain(content: bytes) -> str:
    """The domain of a complete message's From, as DMARC looks at it; '' unless that is one field with one mailbox, or
    where a field in front would be folded into the first line."""
    if content.startswith((b" ", b"\t")):
        return ""
    values = [value for name, value in relaxed_fields(split(content)[0]) if name == b"from"]
    try:
        (value,) = values
        return address.parse(value.decode()).domain
    except (Failure, ValueError):  # UnicodeDecodeError among them
        return ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


_WRITERS: dict[str, Callable[[str, str], str]] = {
    "text": headers.unstructured,
    "identifier": headers.identifier,
    "msg-id": headers.message_id,
    "date": lambda name, value: f"{name}: {headers.date(name, value)}\r\n",
    "mailbox": lambda name, value: address.field(name, (_ascii_mailbox(name, value),)),
}


def _ascii_mailbox(name: str, value: str) -> Mailbox:
    headers.check_text(name, value)
    mailbox = address.parse(value, f"header {name}")
    if mailbox.utf8:
        raise Failure(f"header {name}: only an ASCII address is allowed in it", "header")
    return mailbox


def _columns(job: Job) -> Iterator[tuple[int, str, str]]:
    """(bit, column, text) of every recipient: bit 0 is `recipient`, then come cc and bcc in their order."""
    yield 0, "recipient", job.recipient
    bit = 1
    for column, texts in (("cc", job.cc), ("bcc", job.bcc)):
        for i, text in enumerate(texts or ()):
            if bit >= RECIPIENTS:
                raise Failure(f"cc, bcc: more than {RECIPIENTS} recipients in all", "address")
            yield bit, f"{column}[{i + 1}]", text or ""  # from 1, as Postgres counts
            bit += 1


def _left(bits: int, mailboxes: Sequence[tuple[int, Mailbox]]) -> tuple[Recipient, ...]:
    """The recipients whose bit is set, an address only by the first of its bits."""
    first: dict[str, Recipient] = {}
    for bit, mailbox in mailboxes:
        first.setdefault(mailbox.normal, Recipient(bit, mailbox.address))
    return tuple(recipient for recipient in first.values() if bits >> recipient.bit & 1)


@lru_cache(256)
def _date(second: int) -> str:
    """The field Date of that second of the epoch."""
    d = _EPOCH + timedelta(seconds=second)
    # RFC 5322 §3.3; not strftime, which speaks the locale's language.
    return (
        f"Date: {_DAYS[d.weekday()]}, {d.day:02d} {_MONTHS[d.month - 1]} {d.year:04d}"
        f" {d.hour:02d}:{d.minute:02d}:{d.second:02d} +0000\r\n"
    )
