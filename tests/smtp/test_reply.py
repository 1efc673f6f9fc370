"""The reply reader: strict syntax, bounds, enhanced codes, and what is kept of a peer's words."""

from __future__ import annotations

import pytest

from mailerd.smtp.envelope import capabilities
from mailerd.smtp.reply import LINE_LIMIT, REPLY_LIMIT, Malformed, ReplyReader, split_enhanced, text_of, tidy


def read(*lines: bytes) -> object:
    reader = ReplyReader()
    answers = [reader.line(line) for line in lines]
    assert all(answer is None for answer in answers[:-1])
    return answers[-1]


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        ([b"250 ok\r"], (250, [b"ok"])),
        ([b"250 ok"], (250, [b"ok"])),
        ([b"250\r"], (250, [b""])),
        ([b"250 \r"], (250, [b""])),
        ([b"250-\r", b"250\r"], (250, [b"", b""])),
        ([b"250-a\r", b"250-b\r", b"250 c\r"], (250, [b"a", b"b", b"c"])),
        ([b"571 no\r"], (571, [b"no"])),
        ([b"250 " + b"x" * (LINE_LIMIT - 4) + b"\r"], (250, [b"x" * (LINE_LIMIT - 4)])),
    ],
)
def test_replies(lines: list[bytes], answer: object) -> None:
    assert read(*lines) == answer


@pytest.mark.parametrize(
    "lines",
    [
        [b"\r"],
        [b"25 ok\r"],
        [b"2500 ok\r"],
        [b"250ok\r"],
        [b"250_ok\r"],
        [b" 250 ok\r"],
        [b"150 ok\r"],
        [b"650 ok\r"],
        [b"\xb2\xb5\xb0 ok\r"],
        [b"HTTP/1.1 400 Bad Request\r"],
        [b"250-a\r", b"251 b\r"],
        [b"250-a\r", b"b\r"],
        [b"250 " + b"x" * (LINE_LIMIT - 3) + b"\r"],
        [b"250-" + b"x" * 1000 + b"\r"] * (REPLY_LIMIT // 1000 + 1),
    ],
)
def test_malformed(lines: list[bytes]) -> None:
    with pytest.raises(Malformed):
        read(*lines)


@pytest.mark.parametrize(
    ("code", "text", "split"),
    [
        (550, "5.1.1 no such user", ("5.1.1", "no such user")),
        (250, "2.0.0", ("2.0.0", "")),
        (550, "5.7.515 denied", ("5.7.515", "denied")),
        (550, "4.1.1 not of this class", ("", "4.1.1 not of this class")),
        (550, "5.1.1.1 an address", ("", "5.1.1.1 an address")),
        (550, "5.1 short", ("", "5.1 short")),
        (550, "5.1.1no space", ("", "5.1.1no space")),
        (550, "5.1234.1 long", ("", "5.1234.1 long")),
        (550, "", ("", "")),
        (354, "3.0.0 there is no class 3", ("", "3.0.0 there is no class 3")),
    ],
)
def test_enhanced_codes_only_where_plausible(code: int, text: str, split: tuple[str, str]) -> None:
    assert split_enhanced(code, text) == split


def test_multiline_text() -> None:
    reply = text_of((550, [b"5.7.26 first", b"5.7.26 second", b"third"]))
    assert (reply.code, reply.enhanced, reply.text) == (550, "5.7.26", "first\nsecond\nthird")
    assert str(reply) == "550 5.7.26 first\nsecond\nthird"


def test_text_is_fit_to_store_and_to_show() -> None:
    text = tidy(b"a\0b \x1b[31mred\x07 \xff\xfe caf\xc3\xa9 " + b"x" * 5000)
    assert "\0" not in text
    assert "\x1b" not in text
    assert "\\xff" in text
    assert "café" in text
    assert len(text) <= 1024
    text.encode()


def test_capabilities() -> None:
    can = capabilities(
        [b"PIPELINING is my name", b"pipelining", b"SIZE 1000", b"AUTH PLAIN LOGIN", b"AUTH=LOGIN X", b"STARTTLS"]
    )
    assert can.pipelining
    assert can.size == 1000
    assert can.auth == ("PLAIN", "LOGIN", "X")
    assert can.starttls
    assert not can.eight_bit
    assert not capabilities([b"PIPELINING"]).pipelining  # the greeting line is no keyword


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"SIZE", 0),
        (b"SIZE 0", 0),
        (b"SIZE 10", 10),
        (b"SIZE -1", 0),
        (b"SIZE x", 0),
        (b"SIZE " + b"9" * 5000, 0),
        (b"X", None),
    ],
)
def test_size(line: bytes, size: int | None) -> None:
    assert capabilities([b"mx", line]).size == size
