from __future__ import annotations

import base64
import json
import re
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose import mime
from mailerd.message import Failure

from .jobs import text_of

UNIQUE = "abc.def"


def read(octets: bytes) -> EmailMessage:
    assert octets.endswith(b"\r\n")
    assert len({octets.count(b"\r\n"), octets.count(b"\r"), octets.count(b"\n")}) == 1
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert octets.isascii()
    message = BytesParser(policy=policy.default).parsebytes(b"MIME-Version: 1.0\r\n" + octets)
    assert isinstance(message, EmailMessage)
    assert not [d for part in message.walk() for d in part.defects]
    return message


def lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


_text = st.one_of(
    st.text(max_size=300),
    st.text("ab .=_-\n\r\tü", max_size=300),
    st.text("Grüße und mehr ", min_size=70, max_size=400),
    st.lists(st.text(st.characters(max_codepoint=127), max_size=120), max_size=8).map("\n".join),
).filter(lambda s: "\0" not in s)


@given(_text, _text)
@settings(deadline=None, max_examples=200)
@example(".\n..\n.\n", "From me\n.")
@example("trailing \nspace\t\n \n\n", "ends with space ")
@example(f"--=_{UNIQUE}_a--\n--=_{UNIQUE}_a\n", f"\n--=_{UNIQUE}_a--\n")
@example("x" * 10_000, "y" * 10_000)
@example("bare\rreturns\r\nmixed\n", "\r\r\n\n")
@example("\x0b\x0c\x1c\x85\u2028", "\x0b\x0c\x1c\x85\u2028")
@example("", "")
@example("ü " * 20 + "\n" + "x" * 30 + " \n.\n", ("<p a='b'>" + "ü" * 9 + " and some more words\t\n") * 9)
def test_texts_come_back_to_the_character(text: str, html: str) -> None:
    message = read(mime.entity(UNIQUE, text, html))
    assert message.get_content_type() == "multipart/alternative"
    plain, rich = message.iter_parts()
    assert (plain.get_content_type(), rich.get_content_type()) == ("text/plain", "text/html")
    assert text_of(plain) == lf(text)
    assert text_of(rich) == lf(html)
    alone = read(mime.entity(UNIQUE, text, None))
    assert alone.get_content_type() == "text/plain"
    assert text_of(alone) in (lf(text), lf(text) + "\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("short\nlines\n", "7bit"),
        ("", "7bit"),
        pytest.param("x" * 78, "7bit", id="78"),
        pytest.param("x" * 79, "quoted-printable", id="79"),
        ("has =_ in it", "quoted-printable"),
        ("mostly ASCII, but for a ü", "quoted-printable"),
        ("Все буквы другие", "base64"),
    ],
)
def test_transfer_encoding_of_plain_text(text: str, encoding: str) -> None:
    assert read(mime.entity(UNIQUE, text, None))["Content-Transfer-Encoding"] == encoding


def test_transfer_encoding_of_html() -> None:
    for html, encoding in (("<p>" + "x" * 800, "7bit"), ("<p>" + "x" * 900, "quoted-printable")):
        assert read(mime.entity(UNIQUE, None, html))["Content-Transfer-Encoding"] == encoding


@pytest.mark.parametrize("bad", ["a\0b", "\ud800"])
def test_text_that_cannot_be_sent(bad: str) -> None:
    for text, html in ((bad, None), (None, bad)):
        with pytest.raises(Failure) as e:
            mime.entity(UNIQUE, text, html)
        assert e.value.category == "content"


def attach(**fields: Any) -> dict[str, Any]:
    return {"filename": "a.bin", "content": base64.b64encode(b"octets").decode(), **fields}


def parts(*items: Any) -> list[mime.Part]:
    return mime.attachments(json.dumps(items), UNIQUE)


def test_structure() -> None:
    logo = attach(filename="logo.png", cid="logo")
    pdf = attach(filename="bill.pdf")
    message = read(mime.entity(UNIQUE, "text", '<img src="cid:logo">', parts(logo, pdf)))
    assert [p.get_content_type() for p in message.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png", "application/pdf",
    ]  # fmt: skip
    related = list(message.walk())[3]
    assert related.get_param("type") == "text/html"
    image, bill = list(message.walk())[-2:]
    assert (image["Content-ID"], image.get_content_disposition(), image.get_filename()) == (
        "<logo>",
        "inline",
        "logo.png",
    )
    assert (bill["Content-ID"], bill.get_content_disposition(), bill.get_filename()) == (None, "attachment", "bill.pdf")
    boundaries = [p.get_boundary() for p in message.walk() if p.is_multipart()]
    assert len(set(boundaries)) == 3
    assert [p.get_content_type() for p in read(mime.entity(UNIQUE, "text", None, parts(logo))).walk()] == [
        "multipart/mixed", "text/plain", "image/png",
    ]  # fmt: skip
    assert [p.get_content_type() for p in read(mime.entity(UNIQUE, None, None, parts(pdf))).walk()] == [
        "multipart/mixed", "application/pdf",
    ]  # fmt: skip
    assert read(mime.entity(UNIQUE, None, None)).get_content_type() == "text/plain"


@given(
    st.binary(max_size=400),
    st.one_of(st.none(), st.text(min_size=1, max_size=255).filter(lambda s: not re.search("[\x00-\x1f\x7f]", s))),
    st.sampled_from([None, "text/csv; charset=utf-8", 'application/x-y; a="b; c"', "IMAGE/png"]),
)
@settings(deadline=None)
@example(b"", 'quotes " and \\ .txt', None)
@example(b"\r\n.\r\n", "ünïcødé " * 20, None)
@example(b"x", "a" * 255, None)
@example(b"x", "../../etc/passwd", None)
@example(b"x", "=?utf-8?q?x?=", None)
@example(b"x", "<>", None)
def test_attachments_come_back(data: bytes, filename: str | None, content_type: str | None) -> None:
    item = {"content": base64.encodebytes(data).decode(), "filename": filename, "content_type": content_type}
    octets = mime.entity(UNIQUE, "text", None, parts(item))
    for line in octets.split(b"\r\n"):
        assert len(line) <= 78
    part = next(iter(read(octets).iter_attachments()))
    assert part.get_payload(decode=True) == data
    if filename is not None and "=?" not in filename:
        # The oracle strips white space and a pair of angle brackets or quotes from what it reads.
        edges = ' <>"'
        assert (part.get_filename() or "").strip().strip(edges) == filename.strip().strip(edges)
    if content_type is not None:
        assert part.get_content_type() == content_type.partition(";")[0].lower()


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (attach(content="not base64!"), r"\('a.bin'\): content is not base64"),
        (attach(content="YWJ"), "not base64"),
        (attach(content="YW=J"), "not base64"),
        (attach(content="YWJjZA==YWJjZA=="), "not base64"),
        (attach(content="YWJ-_w=="), "not base64"),
        (attach(content="äöü="), "not base64"),
        (attach(content=5), r"\('a.bin'\): Expected `str`, got `int` - at `\$.content`"),
        (attach(content=None), "Expected `str`, got `null`"),
        ({"filename": "x"}, r"\('x'\): Object missing required field `content`"),
        (attach(contents="x"), "unknown field `contents`"),
        ("YWJj", "Expected `object`"),
        (attach(filename="a\r\nb"), "control character U\\+000D in the file name"),
        (attach(filename="a\0"), "control character U\\+0000"),
        (attach(filename="x" * 256), "file name of 256"),
        (attach(content_type="text"), "not a content type"),
        (attach(content_type="text/plain\r\nBcc: x@y"), "not a content type"),
        (attach(content_type="text/plain;\r\n a=b"), "not a content type"),
        (attach(content_type='text/plain; a="b'), "not a content type"),
        (attach(content_type="multipart/mixed"), "multipart"),
        (attach(disposition="form-data"), "disposition"),
        (attach(disposition="inline\r\nX: y"), "disposition"),
        (attach(cid="a b"), "not a content id"),
        (attach(cid="a\r\nX: y"), "not a content id"),
        (attach(cid=""), "not a content id"),
    ],
)
def test_bad_attachments_are_named(item: Any, problem: str) -> None:
    with pytest.raises(Failure, match=problem) as e:
        parts(attach(), item)
    assert e.value.category == "attachment"
    assert e.value.reason.startswith("attachments[1]")
    assert e.value.reason.isprintable()


@pytest.mark.parametrize("source", ["{}", "null", "5", '"x"', "[", "", "[" * 100_000])
def test_attachments_that_are_no_array(source: str) -> None:
    with pytest.raises(Failure, match="attachments: not a JSON array") as e:
        mime.attachments(source, UNIQUE)
    assert e.value.category == "attachment"


def test_message_as_attachment() -> None:
    inner = b"Subject: inner\n\nbody\n"
    item = attach(filename="m.eml", content_type="message/rfc822", content=base64.b64encode(inner).decode())
    message = read(mime.entity(UNIQUE, "text", None, parts(item)))
    attached = next(iter(message.iter_attachments()))
    assert attached["Content-Transfer-Encoding"] == "7bit"
    assert attached.get_content()["Subject"] == "inner"
    for data in (b"8bit \xff", b"x" * 999, b"nul \0", f"\n--=_{UNIQUE}_m--\n".encode()):
        with pytest.raises(Failure, match="must be ASCII"):
            parts(item | {"content": base64.b64encode(data).decode()})


def test_large_attachment_is_wrapped() -> None:
    data = bytes(range(256)) * 4096
    octets = mime.entity(UNIQUE, "text", None, parts(attach(content=base64.b64encode(data).decode())))
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    assert next(iter(read(octets).iter_attachments())).get_payload(decode=True) == data


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 25))
@settings(deadline=None)
def test_lines_fit_agrees_with_counting(lengths: list[int], limit: int) -> None:
    content = b"\r\n".join(b"x" * n for n in lengths)
    assert mime.lines_fit(content, limit) == all(n <= limit for n in lengths)
