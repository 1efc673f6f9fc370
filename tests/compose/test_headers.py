from __future__ import annotations

import re
from email import policy
from email.header import decode_header, make_header
from email.parser import BytesParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose import headers
from mailerd.message import Failure

_clean = st.text(max_size=400).filter(lambda s: not re.search("[\x00-\x08\x0a-\x1f\x7f]", s))


def unfold(line: str) -> str:
    assert line.endswith("\r\n")
    return re.sub(r"\r\n(?=[ \t])", "", line[:-2])


def check_lines(line: str) -> None:
    assert line.isascii()
    for i, physical in enumerate(line[:-2].split("\r\n")):
        assert len(physical) <= 998
        assert physical.strip(" \t")
        assert i == 0 or physical[0] in " \t"
        assert len(physical) <= 76 or not re.search(r"[^ \t][ \t]+[^ \t]", physical.partition(": ")[2] or physical)


@given(_clean)
@settings(deadline=None, max_examples=200)
@example("=?utf-8?q?looks_encoded?=")
@example("a" * 300)
@example("a" * 1200)
@example("x " * 400)
@example("tab\tand  two spaces   " * 10 + "end")
@example("ü" * 300)
@example("𝔘" * 100)
@example("ру" * 100 + " " * 100 + "x")
def test_unstructured_comes_back(value: str) -> None:
    line = headers.unstructured("Subject", value)
    check_lines(line)
    raw = unfold(line)
    assert raw.startswith("Subject: ")
    wanted = value.strip(" \t")
    words = re.findall(r"=\?[^ ]*\?=", raw)
    assert all(len(word) <= 75 for word in words)
    for physical in line.split("\r\n"):
        assert len(physical) <= 76 or "=?" not in physical
    shown = str(make_header(decode_header(raw[len("Subject: ") :]))) if words else raw[len("Subject: ") :]
    assert shown == wanted
    if wanted.isascii() and "=?" not in wanted and len(wanted) < 900:
        assert not words


@given(_clean.filter(lambda s: s.strip() == s))
@settings(deadline=None)
def test_encoded_words_split_between_characters(value: str) -> None:
    for word in headers.encoded_words(value, 40):
        assert len(word) <= 75
        ((data, charset),) = decode_header(word)
        if isinstance(data, bytes):
            data.decode(charset or "ascii")  # each by itself (RFC 2047 §5)


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\r\nBcc: x@example.org", "a\0b", "\n", "a\x0bb", "\x7f", "a\x1bb"])
def test_controls_are_refused(bad: str) -> None:
    for write in (headers.unstructured, headers.identifier, headers.date, headers.message_id):
        with pytest.raises(Failure, match="header X-Thing") as e:
            write("X-Thing", bad)
        assert e.value.category == "header"


def test_identifiers_are_never_encoded() -> None:
    url = "<https://shop.example/u/" + "x" * 400 + ">"
    line = headers.identifier("List-Unsubscribe", f"{url}, <mailto:u@shop.example?subject=stop>")
    assert line == f"List-Unsubscribe: {url},\r\n <mailto:u@shop.example?subject=stop>\r\n"
    assert headers.identifier("X-Odd", "=?utf-8?q?x?=") == "X-Odd: =?utf-8?q?x?=\r\n"
    ids = " ".join(f"<{i}.abcdefghijklmnop@example.org>" for i in range(40))
    folded = headers.identifier("References", ids)
    check_lines(folded)
    assert unfold(folded) == f"References: {ids}"
    with pytest.raises(Failure, match="only ASCII"):
        headers.identifier("List-Id", "Grüße <list.example.org>")
    with pytest.raises(Failure, match="longer than a line"):
        headers.identifier("List-Unsubscribe", "<https://shop.example/" + "x" * 1000 + ">")


@given(st.text("abc<>@.:/,= \t", max_size=300))
@settings(deadline=None)
def test_identifiers_come_back(value: str) -> None:
    line = headers.identifier("References", value)
    check_lines(line)
    assert unfold(line) == f"References: {value.strip()}"
    BytesParser(policy=policy.default).parsebytes(line.encode() + b"\r\n")


@pytest.mark.parametrize("name", ["", "X Thing", "X:Thing", "X-Thïng", "X\r\nBcc", "X\0", "x" * 77])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(Failure, match="is not a header name"):
        headers.kind(name)


@pytest.mark.parametrize(
    "name",
    ["From", "to", "CC", "Bcc", "Reply-To", "Subject", "MIME-Version", "Content-Type", "content-transfer-encoding",
     "DKIM-Signature", "Return-Path", "Received", "Resent-Bcc", "ARC-Seal", "Authentication-Results"],
)  # fmt: skip
def test_what_a_row_may_not_set(name: str) -> None:
    with pytest.raises(Failure, match=f"header {name}: may not be set by a row") as e:
        headers.kind(name)
    assert e.value.category == "header"


@pytest.mark.parametrize("value", ["x", "<x>", "<a@b", "<a b@c>", "<a@b> <c@d>", "<ä@b>", "<" + "x" * 990 + "@b>", ""])
def test_message_ids(value: str) -> None:
    with pytest.raises(Failure, match="not a message id"):
        headers.message_id("Message-ID", value)
    assert headers.message_id("Message-ID", " <a.b@c> ") == "<a.b@c>"


def test_dates() -> None:
    assert headers.date("Date", "Thu, 05 Nov 2026 10:20:30 +0100") == "Thu, 05 Nov 2026 10:20:30 +0100"
    for bad in (
        "tomorrow",
        "",
        "2026-11-05T10:00:00Z",
        "Thu, 99 Nov 2026 10:20:30 +0000",
        "Thü, 05 Nov 2026 10:20:30 +0100",
    ):
        with pytest.raises(Failure, match="not a date"):
            headers.date("Date", bad)
