"""The receiving side of SMTP and LMTP, by octets."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.inbound.transfer import KEPT, RECIPIENTS, Transfer

ENVELOPE = b"EHLO peer\r\nMAIL FROM:<>\r\nRCPT TO:<a@ours.example>\r\nDATA\r\n"


def transfer(**options: Any) -> Transfer:
    return Transfer(
        **{"lmtp": False, "name": "mx", "limit": 10_000, "accepts": lambda a: a.endswith("@ours.example"), **options}
    )


def codes(replies: bytes) -> list[str]:
    return [line[:3] for line in replies.decode().split("\r\n")[:-1] if line[3:4] != "-"]


def received(content: bytes, sizes: list[int] | None = None, **options: Any) -> bytes:
    """What a mail is taken for whose content, with its end, comes in pieces of these sizes."""
    session = transfer(**options)
    session.feed(ENVELOPE)
    for size in sizes or []:
        session.feed(content[:size])
        content = content[size:]
    session.feed(content)
    assert session.mail is not None
    assert session.mail.size == len(session.mail.kept)
    assert session.mail.hashed == hashlib.sha256(session.mail.kept).digest()
    return bytes(session.mail.kept)


def test_a_mail_is_answered_when_it_is_stored() -> None:
    session = transfer()
    assert session.greeting() == b"220 mx ESMTP\r\n"
    assert codes(session.feed(ENVELOPE)) == ["250", "250", "250", "354"]
    assert session.feed(b"Subject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n") == b""
    assert session.mail is not None
    assert (session.mail.sender, session.mail.recipients) == ("", ["a@ours.example"])
    assert bytes(session.mail.kept) == b"Subject: x\r\n\r\nhi\r\n"
    assert codes(session.answer("250 2.0.0 stored")) == ["250", "221"]
    assert session.closed


def test_lmtp_answers_for_each_recipient() -> None:
    session = transfer(lmtp=True)
    assert codes(session.feed(b"EHLO peer\r\nLHLO peer\r\n")) == ["500", "250"]
    session.feed(b"MAIL FROM:<b@c.example> SIZE=100 BODY=8BITMIME\r\n")
    said = session.feed(
        b"RCPT TO:<a@ours.example>\r\nRCPT TO:<b@other.example>\r\nRCPT TO:<c@ours.example>\r\nDATA\r\n"
    )
    assert codes(said) == ["250", "550", "250", "354"]
    session.feed(b"x\r\n.\r\n")
    assert codes(session.answer("451 4.3.0 later")) == ["451", "451"]
    assert session.refused == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"..a\r\n...b\r\n.\r\n", b".a\r\n..b\r\n"),
        # What is the end of a mail for somebody else is none for us.
        (b"a\n.\r\nMAIL FROM:<x@y.example>\r\n.\r\n", b"a\n.\r\nMAIL FROM:<x@y.example>\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),
        (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\nb\r\n"),
        (b"a\r.\rb\r\n.\r\n", b"a\r.\rb\r\n"),
        (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n"),
        (b"a\r\r\n.\r\n", b"a\r\r\n"),
    ],
)
def test_only_crlf_dot_crlf_ends_a_mail(content: bytes, expected: bytes) -> None:
    assert received(content) == expected
    assert received(content, [1] * len(content)) == expected


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"text"]), max_size=40),
    st.lists(st.integers(1, 7)),
)
def test_content_comes_through_whatever_the_pieces(parts: list[bytes], sizes: list[int]) -> None:
    content = b"".join(parts) + b"\r\n"
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    assert received(stuffed + b".\r\n", sizes) == content


def test_of_a_large_mail_the_start_is_held_and_all_of_it_counted() -> None:
    session = transfer(limit=3 * KEPT)
    session.feed(ENVELOPE)
    line = b"." + b"x" * 98 + b"\r\n"
    digest = hashlib.sha256()
    for _ in range(2 * KEPT // len(line)):
        session.feed(b"." + line)
        digest.update(line)
    session.feed(b".\r\n")
    assert session.mail is not None
    assert session.mail.size == 2 * KEPT // len(line) * len(line)
    assert session.mail.hashed == digest.digest()
    assert KEPT < len(session.mail.kept) <= KEPT + 1


def test_what_is_too_large_is_refused_before_or_after() -> None:
    session = transfer(limit=100)
    assert codes(session.feed(b"EHLO p\r\nMAIL FROM:<> SIZE=101\r\nMAIL FROM:<> SIZE=" + b"9" * 200 + b"\r\n")) == [
        "250",
        "552",
        "552",
    ]
    session.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@ours.example>\r\nDATA\r\n")
    assert codes(session.feed(b"x" * 101 + b"\r\n.\r\nNOOP\r\n")) == ["552", "250"]
    assert session.mail is None


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"RCPT TO:<a@ours.example>", "503"),
        (b"DATA", "503"),
        (b"MAIL FROM:<a b@c.example>", "501"),
        (b"MAIL FROM:a@b.example", "501"),
        (b"MAIL TO:<a@b.example>", "501"),
        (b"MAIL FROM:<\xff@b.example>", "500"),
        (b"MAIL FROM:<" + b"a" * 70 + b"@b.example>", "501"),
        (b"MAIL FROM:<a@b.example> X=1", "555"),
        (b"MAIL FROM:<a@b.example> SIZE=-1", "501"),
        (b"MAIL FROM:<a@b.example> BODY=BINARYMIME", "501"),
        (b"BDAT 10", "500"),
        (b"STARTTLS", "502"),
        (b"LHLO p", "500"),
        (b"EHLO", "501"),
        (b"", "500"),
    ],
)
def test_wrong_commands(line: bytes, code: str) -> None:
    session = transfer()
    session.feed(b"EHLO p\r\n")
    assert codes(session.feed(line + b"\r\n")) == [code]
    assert codes(session.feed(b"RSET\r\nMAIL FROM:<a@b.example>\r\n")) == ["250", "250"]


@pytest.mark.parametrize(
    "address",
    [b"b@other.example", b"a@ours.example.evil.example", b"", b"a%other.example@ours.example2", b"a@b@ours.example"],
)
def test_it_is_no_relay(address: bytes) -> None:
    session = transfer()
    session.feed(b"EHLO p\r\nMAIL FROM:<>\r\n")
    assert codes(session.feed(b"RCPT TO:<" + address + b">\r\nDATA\r\n"))[0] in ("550", "501")
    assert not session.receiving


@pytest.mark.parametrize(
    "octets", [b"EHLO p\n", b"EHLO p\r\r\n", b"EHLO\0p\r\n", b"NOOP\nMAIL FROM:<>\r\n", b"x" * 3000]
)
def test_a_line_that_does_not_end_in_crlf_ends_the_session(octets: bytes) -> None:
    session = transfer()
    assert codes(session.feed(octets)) == ["500"]
    assert session.closed
    assert session.feed(b"EHLO p\r\n") == b""


def test_patience_and_numbers_are_limited() -> None:
    session = transfer()
    session.feed(b"EHLO p\r\nMAIL FROM:<>\r\n")
    said = codes(session.feed(b"RCPT TO:<a@ours.example>\r\n" * (RECIPIENTS + 1)))
    assert said[-2:] == ["250", "452"]
    assert codes(session.feed(b"RCPT TO:<x@other.example>\r\n" * 50))[-1] == "421"
    assert session.closed


def test_who_is_busy_says_so_at_mail() -> None:
    why = ["too much"]
    session = transfer(busy=lambda: why[0])
    assert codes(session.feed(b"EHLO p\r\nMAIL FROM:<>\r\n")) == ["250", "452"]
    why[0] = ""
    assert codes(session.feed(b"MAIL FROM:<>\r\n")) == ["250"]


def test_starttls_forgets_what_was_before_and_takes_nothing_behind_it() -> None:
    session = transfer(tls=True)
    assert b"STARTTLS" in session.feed(b"EHLO p\r\n")
    assert codes(session.feed(b"STARTTLS\r\n")) == ["220"]
    assert session.upgrade
    session.encrypted()
    assert codes(session.feed(b"MAIL FROM:<>\r\n")) == ["503"]
    assert b"STARTTLS" not in session.feed(b"EHLO p\r\n")

    injected = transfer(tls=True)
    assert codes(injected.feed(b"EHLO p\r\nSTARTTLS\r\nMAIL FROM:<>\r\n")) == ["250", "503"]
    assert injected.closed


@given(st.lists(st.binary(max_size=60)))
def test_any_octets(pieces: list[bytes]) -> None:
    session = transfer()
    for piece in pieces:
        session.feed(piece)
        if session.mail is not None:
            session.answer("250 ok")
