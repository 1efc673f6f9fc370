from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.message import Failure, Recipient

from .jobs import composer, job

COMPOSER = composer()
RAW = b"From: x@y.example\r\nSubject: hi\r\nMessage-ID: <m@y.example>\r\n\r\nbody\r\n"


def content(raw: bytes) -> bytes:
    return COMPOSER.compose(job(raw=raw)).content


def test_passes_unchanged() -> None:
    outgoing = COMPOSER.compose(job(raw=RAW, bcc=["eve@x.example"], sender="news"))
    assert outgoing.content is RAW
    assert outgoing.message_id == "<m@y.example>"
    assert outgoing.sender == "bounces@news.example"
    assert outgoing.recipients == (Recipient(0, "ann@example.org"), Recipient(1, "eve@x.example"))
    assert (outgoing.utf8, outgoing.eight_bit) == (False, False)


@pytest.mark.parametrize(
    ("raw", "wire"),
    [
        (b"A: b\n\nx\n", b"A: b\r\n\r\nx\r\n"),
        (b"A: b\r\rx\r", b"A: b\r\n\r\nx\r\n"),
        (b"A: b\r\n\r\nx", b"A: b\r\n\r\nx\r\n"),
        (b"A: b\n\r\n\rx\r\n\n", b"A: b\r\n\r\n\r\nx\r\n\r\n"),
        (b"A: b\r\n\r\n.\r\n..\r\n.x\r\n", b"A: b\r\n\r\n.\r\n..\r\n.x\r\n"),
        (b"A: b\r\n\r\nx\n.\nMAIL FROM:<a@b>\n", b"A: b\r\n\r\nx\r\n.\r\nMAIL FROM:<a@b>\r\n"),
    ],
)
def test_line_ends(raw: bytes, wire: bytes) -> None:
    assert content(raw) == wire


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"x", b": "]), min_size=1, max_size=30).map(b"".join))
@settings(deadline=None)
def test_no_bare_line_end_leaves(raw: bytes) -> None:
    try:
        wire = content(raw)
    except Failure:
        assert not raw.strip()
        return
    assert wire.endswith(b"\r\n")
    assert wire.count(b"\r\n") == wire.count(b"\r") == wire.count(b"\n")
    assert wire.replace(b"\r\n", b"") == raw.replace(b"\r", b"").replace(b"\n", b"")


def test_what_it_asks_of_the_server() -> None:
    eight = COMPOSER.compose(job(raw=b"Subject: x\r\n\r\n\xc3\xa4\r\n"))
    assert (eight.utf8, eight.eight_bit) == (False, True)
    utf8 = COMPOSER.compose(job(raw="Subject: ä\n\nx\n".encode()))
    assert (utf8.utf8, utf8.eight_bit) == (True, True)
    local = COMPOSER.compose(job(raw=RAW, recipient="jürgen@x.example"))
    assert local.utf8


@pytest.mark.parametrize(
    ("raw", "message_id"),
    [
        (b"A: b\n\nMessage-ID: <body@x>\n", ""),
        (b"message-id:\n <folded@x>\n\nx\n", "<folded@x>"),
        (b"Message-ID: nonsense\n\nx\n", ""),
        (b"A: b\n", ""),
    ],
)
def test_message_id(raw: bytes, message_id: str) -> None:
    assert COMPOSER.compose(job(raw=raw)).message_id == message_id


@pytest.mark.parametrize(
    ("fields", "problem", "category"),
    [
        ({"raw": b""}, "raw: empty", "content"),
        ({"raw": b"\r\n \r\n"}, "raw: empty", "content"),
        ({"raw": RAW + b"\0"}, "raw: contains NUL", "content"),
        ({"raw": RAW + b"x" * 999}, "raw: a line of more than 998", "content"),
        ({"raw": RAW + b"x" * 10_000 + b"\n"}, "raw: a line of more than 998", "content"),
        ({"raw": RAW + b"x\r\n" * 400_000}, "at most 1000000", "size"),
        ({"raw": RAW + b"x\n" * 400_000}, "at most 1000000", "size"),
        ({"raw": RAW, "subject": "x"}, "raw: is a complete message, subject", "content"),
        ({"raw": RAW, "attachments": "[]"}, "raw: is a complete message, attachments", "content"),
        ({"raw": RAW, "recipient": "x"}, "recipient: no @", "address"),
        ({"raw": RAW, "rcpt": 0}, "no recipient is left", "address"),
        ({"raw": RAW, "sender": "sales"}, "no identity 'sales'", "sender"),
    ],
)
def test_refused(fields: dict[str, Any], problem: str, category: str) -> None:
    with pytest.raises(Failure) as e:
        COMPOSER.compose(job(**fields))
    assert problem in e.value.reason
    assert e.value.category == category


def test_longest_line_passes() -> None:
    raw = RAW + b"x" * 998 + b"\r\n"
    assert content(raw) == raw
