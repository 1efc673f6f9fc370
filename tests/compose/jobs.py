"""Jobs and composers for the tests, and the checks that every message must pass whatever it was made of."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

from mailerd.compose.composer import Composer
from mailerd.config.base import Size
from mailerd.config.model import Config, Identity, Limits, Stream, Templates
from mailerd.message import Job, Lease, Outgoing

CREATED = datetime(2026, 11, 5, 10, 20, 30, 123456, UTC)
SHOP = Identity(name="shop", sender="The Shop <shop@shop.example>", reply_to="help@shop.example")
NEWS = Identity(name="news", sender="news@news.example", return_path="bounces@news.example")


def composer(templates: str | None = None, size: int = 1_000_000) -> Composer:
    return Composer(
        Config(
            templates=Templates(path=templates),
            limits=Limits(message_size=Size(size)),
            identity=(SHOP, NEWS),
            stream=(Stream(name="transactional"), Stream(name="marketing", identity="news")),
        )
    )


def job(**fields: Any) -> Job:
    """A row with a subject and a text, unless it is given other content."""
    base: dict[str, Any] = {
        "id": 11_259_375,
        "stream": "transactional",
        "priority": 5,
        "domain": "example.org",
        "campaign": "",
        "lease": Lease(1, 2.0),
        "created_at": CREATED,
        "recipient": "ann@example.org",
    }
    if not {"template", "raw", "text_body", "html_body"} & set(fields):
        base |= {"subject": "Hello", "text_body": "Good day.\n"}
    return Job(**{**base, **fields})


def parse(outgoing: Outgoing) -> EmailMessage:
    """What the standard library makes of it. It must find nothing to complain about."""
    message = BytesParser(policy=policy.default).parsebytes(outgoing.content)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects, part.defects
    return message


def text_of(part: Any) -> str:
    """A text part's content with LF for CRLF."""
    content = part.get_payload(decode=True).decode(part.get_content_charset("utf-8"))
    return content.replace("\r\n", "\n")


def check_wire(outgoing: Outgoing) -> None:
    """RFC 5322 §2.1: CRLF alone ends lines, 998 octets at most, no header line of white space, ASCII unless declared."""
    content = outgoing.content
    assert content.endswith(b"\r\n")
    assert content.count(b"\r\n") == content.count(b"\r") == content.count(b"\n")
    assert b"\0" not in content
    lines = content.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    head = content[: content.index(b"\r\n\r\n") + 2]
    for line in head.split(b"\r\n")[:-1]:
        assert re.match(rb"[!-9;-~]+:|[ \t]+[^ \t]", line), line
    if not outgoing.utf8:
        assert head.isascii()
    if not outgoing.eight_bit:
        assert content.isascii()


def header_lines(outgoing: Outgoing) -> dict[str, str]:
    """Unfolded header lines by lower-cased name, undecoded. Every name must occur once."""
    head = outgoing.content[: outgoing.content.index(b"\r\n\r\n")].decode()
    fields: dict[str, str] = {}
    for line in re.sub(r"\r\n(?=[ \t])", "", head).split("\r\n"):
        name, _, value = line.partition(":")
        assert name.lower() not in fields, f"{name} twice"
        fields[name.lower()] = value.strip(" \t")
    return fields
