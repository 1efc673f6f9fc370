"""What a message must say that was made of a row: read by the standard library, beside a second idea of the row.

`judge` takes the row as it stands in the table. The second idea is simpler than the composer's: it knows nothing of
folding, encoding or size, only what a reader of the mail is to see. Where the standard library reads a field wrongly
although it is right by its RFC, the reason stands beside the exception.
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from email import policy
from email.errors import NonASCIILocalPartDefect
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.parser import Parser
from email.utils import getaddresses
from typing import Any

import idna
import jinja2

from mailerd.message import Outgoing
from mailerd.smtp.envelope import Capabilities, render
from tests.compose.jobs import check_wire, text_of
from tests.fuzz.rows import IDENTITIES, TEMPLATES

__all__ = ["judge"]

Row = Mapping[str, Any]
FULL = Capabilities(pipelining=True, size=0, eight_bit=True, utf8=True)
_IDENTIFIERS = {"message-id", "in-reply-to", "references", "feedback-id", "auto-submitted", "precedence"}
_BODY = {"content-type", "content-transfer-encoding", "content-disposition", "content-id"}


def judge(row: Row, outgoing: Outgoing) -> None:
    """Raises AssertionError where `outgoing` is no good mail, or not the mail that `row` asks for."""
    envelope = render(outgoing, FULL)  # Unfit is an error, too: it was composed to be sent
    assert envelope.bad is None
    commands = envelope.commands.split(b"\r\n")
    assert len(commands) == len(outgoing.recipients) + 3, commands
    assert b"\n" not in b"".join(commands)
    wanted = [row["recipient"], *(row["cc"] or ()), *(row["bcc"] or ())]
    assert [r.address.lower() for r in outgoing.recipients] == list(
        dict.fromkeys(_mailbox(w)[1].lower() for w in wanted)
    )
    if row["raw"] is not None:
        _raw(row["raw"], outgoing)
        return
    check_wire(outgoing)
    message = Parser(policy=policy.SMTPUTF8).parsestr(outgoing.content.decode())
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects, part.defects
    _fields(row, message, outgoing)
    _contents(row, message)


def _raw(raw: bytes, outgoing: Outgoing) -> None:
    content = outgoing.content
    assert content.count(b"\r\n") == content.count(b"\r") == content.count(b"\n")
    assert b"\0" not in content
    assert max(map(len, content.split(b"\r\n"))) <= 998
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert content.split(b"\r\n")[: len(lines)] == lines
    assert outgoing.eight_bit or content.isascii()


def _mailbox(text: str) -> tuple[str, str]:
    """(display name, addr-spec) of a mailbox that was accepted."""
    text = text.strip(" ")
    name, address = "", text
    if text.endswith(">"):
        name, _, address = text[:-1].rpartition("<")
        name = name.strip(" ")
        if len(name) > 1 and name[0] == name[-1] == '"':
            name = _unescaped(name[1:-1])
    local, _, domain = address.rpartition("@")
    if not domain.isascii():
        domain = idna.encode(domain, uts46=True, std3_rules=True).decode()
    return name, f"{unicodedata.normalize('NFC', local)}@{domain}"


def _unescaped(text: str) -> str:
    rest = iter(text)
    return "".join([next(rest, "\\") if c == "\\" else c for c in rest])


def _fields(row: Row, message: EmailMessage, outgoing: Outgoing) -> None:
    asked: Counter[str] = Counter(("from", "to", "date", "message-id", "mime-version", "content-type"))
    own = {name.lower(): value for name, value in json.loads(row["headers"] or "{}").items() if value is not None}
    asked.update(
        {name: len(value) if isinstance(value, list) else 1 for name, value in own.items() if name not in asked}
    )
    if row["cc"]:
        asked["cc"] += 1
    if row["reply_to"] is not None:
        asked["reply-to"] += 1
    if row["thread_key"] is not None and "references" not in own:
        asked["references"] += 1
        asked["in-reply-to"] = asked["in-reply-to"] or 1
    if row["thread_key"] is None and row["stream"] == "transactional":  # of other streams nobody says what they are
        asked["auto-submitted"] = asked["auto-submitted"] or 1
    if row["stream"] == "marketing":
        asked["precedence"] = asked["precedence"] or 1
    subject = _subject(row)
    if subject is not None:
        asked["subject"] += 1
    names = Counter(name.lower() for name in message)
    for name in _BODY - {"content-type"}:
        names.pop(name, None)
    assert names == +asked, (names - asked, asked - names)

    _people(message, "to", [row["recipient"]])
    _people(message, "cc", row["cc"] or [])
    if row["reply_to"] is not None:
        _people(message, "reply-to", [row["reply_to"]])
    sender = row["sender"] if row["sender"] is not None else "ünï" if row["stream"] == "marketing" else "shop"
    _people(message, "from", [IDENTITIES.get(sender, sender)])
    if subject is not None:
        _same("subject", message, [subject])
    for name, value in own.items():
        values = value if isinstance(value, list) else [value]
        if all(isinstance(v, str) for v in values) and name not in (
            "date",
            "sender",
            "errors-to",
            "return-receipt-to",
            "disposition-notification-to",
        ):
            _same(name, message, values)
    assert str(message["message-id"]) == outgoing.message_id


def _same(name: str, message: EmailMessage, values: list[str]) -> None:
    values = [value.strip(" \t") for value in values]
    read = [str(value) for value in message.get_all(name, [])]
    if read == values:
        return
    # policy.default reads `=?` inside a word, and white space between encoded-words, in its own way: the older reader
    # of the standard library is the second witness.
    raw = [value for key, value in message.raw_items() if key.lower() == name]
    if name.startswith("list-") or name in _IDENTIFIERS:  # RFC 2047 §5: no encoded-word is one here
        assert [_unfolded(value) for value in raw] == values, (name, raw, values)
        return
    older = [str(make_header(decode_header(_unfolded(value)))) for value in raw]
    assert older == values, (name, read, older, values)


def _unfolded(value: str) -> str:
    return value.replace("\r\n", "").strip(" \t")


def _people(message: EmailMessage, name: str, texts: list[str]) -> None:
    if not texts:
        assert name not in message
        return
    field = message[name]
    defects = [d for d in field.defects if not isinstance(d, NonASCIILocalPartDefect)]
    assert not defects, (name, defects)
    wanted = [_mailbox(text) for text in texts]
    assert [a.addr_spec for a in field.addresses] == [address for _, address in wanted], name
    names = [_squeezed(name) for name, _ in wanted]
    if [_squeezed(address.display_name) for address in field.addresses] == names:
        return
    # policy.default puts spaces between adjacent encoded-words of a phrase, against RFC 2047 §6.2.
    (raw,) = (_unfolded(value) for key, value in message.raw_items() if key.lower() == name)
    older = [_squeezed(str(make_header(decode_header(phrase)))) for phrase, _ in getaddresses([raw])]
    assert older == names, (name, older, names)


def _squeezed(text: str) -> str:
    """A display name as it is shown: runs of spaces in a phrase are one (RFC 5322 §3.2.2)."""
    return " ".join(text.split())


def _rendered(source: str, row: Row, html: bool = False, subject: bool = False) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=html, keep_trailing_newline=not subject
    )
    return environment.from_string(source).render(json.loads(row["params"] or "{}"))


def _subject(row: Row) -> str | None:
    subject: str | None = row["subject"]
    if row["template"] is not None and subject is None:
        source = TEMPLATES.get(f"{row['template']}/subject.j2")
        return None if source is None else _rendered(source, row, subject=True).strip(" ")
    if subject is not None and (row["template"] is not None or row["params"] is not None):
        return _rendered(subject.strip(" "), row, subject=True).strip(" ")
    return subject


def _texts(row: Row) -> tuple[str | None, str | None]:
    text, html = row["text_body"], row["html_body"]
    if row["template"] is not None:
        folder = row["template"]
        language = (row["locale"] or "").lower().partition("-")[0].partition("_")[0]
        if f"{folder}/{language}/text.j2" in TEMPLATES:
            folder = f"{folder}/{language}"
        text, html = TEMPLATES.get(f"{folder}/text.j2"), TEMPLATES.get(f"{folder}/html.j2")
    if row["template"] is not None or row["params"] is not None:
        text = None if text is None else _rendered(text, row)
        html = None if html is None else _rendered(html, row, html=True)
    return text, html


def _leaves(part: EmailMessage) -> Iterator[EmailMessage]:
    if part.get_content_maintype() == "multipart":
        for inner in part.iter_parts():
            yield from _leaves(inner)
    else:
        yield part


def _contents(row: Row, message: EmailMessage) -> None:
    leaves = list(_leaves(message))
    attachments = json.loads(row["attachments"] or "[]")
    text, html = _texts(row)
    for part in message.walk():
        if part is not message:
            assert {name.lower() for name in part} <= _BODY or part.get_content_maintype() != "multipart"
    if text is not None or html is not None or not attachments:
        part = leaves.pop(0)
        assert part.get_content_type() == "text/plain"
        if text is not None or html is None:
            _same_text(part, text or "")
    if html is not None:
        part = leaves.pop(0)
        assert part.get_content_type() == "text/html"
        _same_text(part, html)
    assert len(leaves) == len(attachments)
    inline = [a for a in attachments if html is not None and _inline(a)]
    for part, wanted in zip(leaves, [*inline, *(a for a in attachments if a not in inline)], strict=True):
        _attachment(part, wanted)


def _same_text(part: EmailMessage, wanted: str) -> None:
    wanted = wanted.replace("\r\n", "\n").replace("\r", "\n")
    assert text_of(part) in (wanted, wanted + "\n"), (text_of(part)[:200], wanted[:200])


def _inline(attachment: Row) -> bool:
    return bool((attachment.get("disposition") or ("inline" if attachment.get("cid") else "attachment")) == "inline")


def _attachment(part: EmailMessage, wanted: Row) -> None:
    assert set(map(str.lower, part.keys())) <= _BODY
    assert part.get_content_disposition() == ("inline" if _inline(wanted) else "attachment")
    # Not get_filename(), which strips it and takes the `name` of the content type instead of none.
    name = part["content-disposition"].params.get("filename", "")
    assert name == (wanted.get("filename") or ""), (name, wanted)
    if (kind := wanted.get("content_type")) is not None:
        assert part.get_content_type() == kind.partition(";")[0].strip(" ").lower()
    if (cid := wanted.get("cid")) is not None:
        assert str(part["content-id"]) == f"<{cid.removeprefix('<').removesuffix('>')}>"
    if part.get_content_maintype() != "message":
        assert part.get_payload(decode=True) == base64.b64decode("".join(wanted["content"].split()))
