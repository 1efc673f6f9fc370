from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose.composer import Composer
from mailerd.config.model import Config, Identity
from mailerd.message import Failure, Recipient

from .jobs import CREATED, check_wire, composer, header_lines, job, parse, text_of

COMPOSER = composer()


def headers_of(**fields: Any) -> dict[str, str]:
    return header_lines(COMPOSER.compose(job(**fields)))


def failure_of(composer: Composer = COMPOSER, **fields: Any) -> Failure:
    with pytest.raises(Failure) as e:
        composer.compose(job(**fields))
    return e.value


def test_a_message() -> None:
    outgoing = COMPOSER.compose(job(html_body="<p>Grüße</p>", text_body="Grüße", subject="Grüße"))
    check_wire(outgoing)
    message = parse(outgoing)
    assert message["From"] == "The Shop <shop@shop.example>"
    assert message["To"] == "ann@example.org"
    assert message["Reply-To"] == "help@shop.example"
    assert message["Subject"] == "Grüße"
    assert message["Date"].datetime == datetime(2026, 11, 5, 10, 20, 30, tzinfo=UTC)
    assert (
        message["Message-ID"]
        == outgoing.message_id
        == "<11259375.642d5b7e9a440@shop.example>".replace(
            "642d5b7e9a440", f"{int(CREATED.timestamp()) * 1_000_000 + 123456:x}"
        )
    )
    assert message["Bcc"] is None
    assert [text_of(p) for p in message.iter_parts()] == ["Grüße", "<p>Grüße</p>"]
    assert outgoing.sender == "shop@shop.example"
    assert outgoing.recipients == (Recipient(0, "ann@example.org"),)
    assert (outgoing.utf8, outgoing.eight_bit) == (False, False)


def test_octets_are_the_same_at_every_attempt() -> None:
    first = COMPOSER.compose(job(html_body="<p>x</p>"))
    again = composer().compose(job(html_body="<p>x</p>", attempt=3, leases=4))
    assert first.content == again.content
    other = COMPOSER.compose(job(html_body="<p>x</p>", id=11259376))
    assert other.message_id != first.message_id


def test_html_alone_gets_a_text() -> None:
    message = parse(COMPOSER.compose(job(html_body='<p>Hello <a href="https://x.example/">you</a></p>')))
    assert [(p.get_content_type(), text_of(p)) for p in message.iter_parts()] == [
        ("text/plain", "Hello you <https://x.example/>"),
        ("text/html", '<p>Hello <a href="https://x.example/">you</a></p>'),
    ]


@pytest.mark.parametrize(
    ("stream", "sender", "line", "path", "reply_to"),
    [
        ("transactional", None, "The Shop <shop@shop.example>", "shop@shop.example", "help@shop.example"),
        ("marketing", None, "news@news.example", "bounces@news.example", None),
        ("unlisted", None, "The Shop <shop@shop.example>", "shop@shop.example", "help@shop.example"),
        ("transactional", "news", "news@news.example", "bounces@news.example", None),
        ("transactional", "Bob <bob@x.example>", "Bob <bob@x.example>", "bob@x.example", None),
        ("transactional", "Editors <News@news.example>", "Editors <News@news.example>", "bounces@news.example", None),
    ],
)
def test_sender(stream: str, sender: str | None, line: str, path: str, reply_to: str | None) -> None:
    outgoing = COMPOSER.compose(job(stream=stream, sender=sender))
    fields = header_lines(outgoing)
    assert (fields["from"], outgoing.sender, fields.get("reply-to")) == (line, path, reply_to)
    assert outgoing.message_id.endswith("@" + line.rpartition("@")[2].rstrip(">") + ">")


def test_senders_that_are_not() -> None:
    assert "no identity 'sales' is configured (there are: news, shop)" in failure_of(sender="sales").reason
    assert failure_of(sender="sales").category == "sender"
    assert failure_of(sender="a@b@c").category == "address"
    assert "names none" in failure_of(Composer(Config())).reason
    with pytest.raises(Failure, match="identity x: from: no @"):
        Composer(Config(identity=(Identity(name="x", sender="nobody"),)))
    with pytest.raises(Failure, match="identity x: return_path"):
        Composer(Config(identity=(Identity(name="x", sender="a@b.example", return_path="a@"),)))


def test_null_return_path() -> None:
    outgoing = Composer(Config(identity=(Identity(name="x", sender="a@b.example", return_path=""),))).compose(job())
    assert outgoing.sender == ""


def test_reply_to_of_the_row() -> None:
    assert headers_of(reply_to="Bob <bob@x.example>")["reply-to"] == "Bob <bob@x.example>"


def test_recipients() -> None:
    fields = {"cc": ["Bob <bob@x.example>", "ANN@example.org"], "bcc": ["eve@x.example", "bob@X.example"]}
    outgoing = COMPOSER.compose(job(**fields))
    lines = header_lines(outgoing)
    assert lines["to"] == "ann@example.org"
    assert lines["cc"] == "Bob <bob@x.example>, ANN@example.org"
    assert "bcc" not in lines
    assert b"eve@" not in outgoing.content
    assert outgoing.recipients == (
        Recipient(0, "ann@example.org"), Recipient(1, "bob@x.example"), Recipient(3, "eve@x.example"),
    )  # fmt: skip
    assert COMPOSER.addresses(job(**fields)) == [(0, "ann@example.org"), (1, "bob@x.example"), (3, "eve@x.example")]


@pytest.mark.parametrize("bits", [1, 2, 8, 9, 10, 11, 15])
def test_only_those_still_to_do(bits: int) -> None:
    fields = {"cc": ["bob@x.example", "ANN@example.org"], "bcc": ["eve@x.example"], "rcpt": bits}
    outgoing = COMPOSER.compose(job(**fields))
    wanted = [bit for bit in (0, 1, 3) if bits >> bit & 1]
    assert [r.bit for r in outgoing.recipients] == wanted
    assert [bit for bit, _ in COMPOSER.addresses(job(**fields))] == wanted
    assert header_lines(outgoing)["cc"] == "bob@x.example, ANN@example.org"


def test_nobody_left() -> None:
    for fields in ({"rcpt": 0}, {"rcpt": 4, "cc": ["bob@x.example", "ann@example.org"]}):
        assert failure_of(**fields).reason == "no recipient is left to send to"
        assert COMPOSER.addresses(job(**fields)) == []


def test_addresses_leaves_out_what_does_not_parse() -> None:
    assert COMPOSER.addresses(job(recipient="ann")) == []
    assert COMPOSER.addresses(job(cc=["bob", "Eve <EVE@x.example>"])) == [(0, "ann@example.org"), (2, "eve@x.example")]
    assert len(COMPOSER.addresses(job(cc=[f"u{i}@x.example" for i in range(100)]))) == 63
    assert "more than 63" in failure_of(cc=[f"u{i}@x.example" for i in range(63)]).reason


def test_unicode_addresses() -> None:
    plain = COMPOSER.compose(job(recipient="Jürgen <j@bücher.example>"))
    assert plain.recipients == (Recipient(0, "j@xn--bcher-kva.example"),)
    assert not plain.utf8
    check_wire(plain)
    for fields in ({"recipient": "jürgen@x.example"}, {"cc": ["jürgen@x.example"]}, {"bcc": ["jürgen@x.example"]},
                   {"sender": "jürgen@x.example"}, {"reply_to": "jürgen@x.example"}):  # fmt: skip
        outgoing = COMPOSER.compose(job(**fields))
        assert outgoing.utf8
        assert outgoing.eight_bit
        check_wire(outgoing)


def test_date() -> None:
    tokyo = datetime(2026, 3, 1, 8, 5, 9, tzinfo=timezone(timedelta(hours=9)))
    assert headers_of(created_at=tokyo)["date"] == "Sat, 28 Feb 2026 23:05:09 +0000"
    assert headers_of(send_at=CREATED + timedelta(days=2))["date"] == "Sat, 07 Nov 2026 10:20:30 +0000"
    assert headers_of(send_at=CREATED - timedelta(days=2))["date"] == "Thu, 05 Nov 2026 10:20:30 +0000"


def test_thread_key() -> None:
    one, two = (headers_of(thread_key="order-1", id=i)["references"] for i in (1, 2))
    assert one == two
    assert one.endswith("@shop.example>")
    assert headers_of(thread_key="order-2")["references"] != one
    # The two sides of a conversation may be written to under different domains.
    assert headers_of(thread_key="order-1", sender="news")["references"] == one
    assert headers_of(thread_key="order-1")["in-reply-to"] == one
    assert headers_of(thread_key="x", headers='{"References": "<a@b>"}')["references"] == "<a@b>"


def test_own_headers() -> None:
    given_ = {
        "X-Campaign": "Grüße",
        "X-Number": 5,
        "X-Flag": True,
        "X-Gone": None,
        "List-Unsubscribe": "<https://shop.example/u/" + "x" * 100 + ">, <mailto:u@shop.example>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "Feedback-ID": "a:b:c:shop",
        "Sender": "Robot <robot@shop.example>",
        "In-Reply-To": "<a@b>",
        "Message-ID": " <mine@shop.example> ",
        "Date": "Thu, 05 Nov 2026 10:20:30 +0100",
    }
    outgoing = COMPOSER.compose(job(headers=json.dumps(given_)))
    check_wire(outgoing)
    lines = header_lines(outgoing)
    assert lines["list-unsubscribe"] == given_["List-Unsubscribe"]
    assert lines["message-id"] == outgoing.message_id == "<mine@shop.example>"
    assert lines["date"] == given_["Date"]
    assert (lines["x-number"], lines["x-flag"]) == ("5", "true")
    assert "x-gone" not in lines
    assert parse(outgoing)["X-Campaign"] == "Grüße"
    for name in ("List-Unsubscribe-Post", "Feedback-ID", "Sender", "In-Reply-To"):
        assert lines[name.lower()] == given_[name]
    repeated = COMPOSER.compose(job(headers='{"Comments": ["one", "two"]}'))
    assert parse(repeated).get_all("Comments") == ["one", "two"]


@pytest.mark.parametrize(
    ("given_", "problem"),
    [
        ({"X-A": "a\r\nBcc: eve@x.example"}, "header X-A: line break"),
        ({"X-A": "a\0"}, "header X-A: NUL"),
        ({"X-A\r\nBcc": "x"}, "is not a header name"),
        ({"": "x"}, "is not a header name"),
        ({"Bcc": "eve@x.example"}, "header Bcc: may not be set by a row: use the column bcc"),
        ({"Content-Type": "text/html"}, "header Content-Type: may not be set"),
        ({"Message-ID": "x"}, "header Message-ID: not a message id"),
        ({"Message-ID": ["<a@b>", "<c@d>"]}, "header Message-ID: may be given only once"),
        ({"X-A": "1", "x-a": "2"}, "header x-a: may be given only once"),
        ({"List-Id": "Grüße"}, "header List-Id: only ASCII"),
        ({"Sender": "jürgen@x.example"}, "header Sender: only an ASCII address"),
        ({"Sender": "a@b\r\nBcc: x@y"}, "header Sender: line break"),
        ({"X-A": {"b": 1}}, "headers: not a JSON object of strings"),
        ({"X-A": [1]}, "headers: not a JSON object of strings"),
        (["X-A"], "headers: not a JSON object of strings"),
    ],
)
def test_own_headers_that_are_refused(given_: Any, problem: str) -> None:
    failure = failure_of(headers=json.dumps(given_))
    assert problem in failure.reason
    assert failure.category in ("header", "address")


@pytest.mark.parametrize(
    ("fields", "problem", "category"),
    [
        ({"recipient": ""}, "recipient: empty address", "address"),
        ({"recipient": "a" * 300 + "@example.org"}, "recipient: local part of 300 octets", "address"),
        ({"recipient": "a@b@c.example"}, "recipient: more than one @", "address"),
        ({"recipient": "ann@example.org\r\nRCPT TO:<x@y>"}, "recipient: control character U+000D", "address"),
        ({"cc": ["ok@x.example", "bad"]}, "cc[2]: no @", "address"),
        ({"bcc": ["bad\n@x.example"]}, "bcc[1]: control character", "address"),
        ({"bcc": [None]}, "bcc[1]: empty address", "address"),
        ({"reply_to": "x"}, "reply_to: no @", "address"),
        ({"subject": "a\r\nBcc: eve@x.example"}, "header Subject: line break", "header"),
        ({"subject": "a\0"}, "header Subject: NUL", "header"),
        ({"subject": "\ud800"}, "unpaired surrogate", "content"),
        ({"text_body": "a\0b"}, "the plain text contains NUL", "content"),
        ({"html_body": "a\0b"}, "the html text contains NUL", "content"),
        ({"thread_key": "\ud800"}, "unpaired surrogate", "content"),
        ({"text_body": "x" * 2_000_000}, "at most 1000000 are allowed (limits.message_size)", "size"),
        ({"params": "[]", "text_body": "x"}, "params: not a JSON object", "params"),
        ({"params": "{}", "text_body": "{{ x }}"}, "text_body, line 1: 'x' is undefined", "template"),
        ({"params": '{"x": "a\\nb"}', "subject": "{{ x }}", "text_body": ""}, "subject: a line break", "header"),
        ({"params": '{"x": "a\\u0000b"}', "subject": "{{ x }}", "text_body": ""}, "header Subject: NUL", "header"),
        ({"params": '{"x": "a\\u0000b"}', "text_body": "{{ x }}"}, "the plain text contains NUL", "content"),
        ({"template": "x"}, "templates.path is not configured", "template"),
        ({"template": "x", "html_body": "y"}, "template: cannot be used together", "content"),
        ({"attachments": '[{"content": "!", "filename": "a.pdf"}]'}, "attachments[0] ('a.pdf'): content", "attachment"),
        ({"text_body": None}, "nothing to send", "content"),
    ],
)  # fmt: skip
def test_bad_rows_fail_with_the_reason(fields: dict[str, Any], problem: str, category: str) -> None:
    failure = failure_of(**fields)
    assert problem in failure.reason
    assert failure.category == category


def test_whatever_breaks_inside_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = composer()

    def broken(*_: object) -> None:
        raise ValueError("unforeseen")

    monkeypatch.setattr(instance._templates, "inline", broken)
    failure = failure_of(instance, text_body="x", params="{}")
    assert failure.reason == "internal error: ValueError: unforeseen"
    assert failure.category == "internal"


def test_inline_texts_are_literal_without_params() -> None:
    outgoing = COMPOSER.compose(job(text_body="{{ x }} {% y", subject="{{ z }}"))
    assert text_of(parse(outgoing)) == "{{ x }} {% y\n"
    rendered = parse(COMPOSER.compose(job(text_body="{{ x }}\n", subject="{{ x }}", params='{"x": "<ü>"}')))
    assert (text_of(rendered), rendered["Subject"]) == ("<ü>\n", "<ü>")


def test_file_template(tmp_path: Path) -> None:
    (tmp_path / "hi").mkdir()
    (tmp_path / "hi/subject.j2").write_text("Hi {{ name }}")
    (tmp_path / "hi/html.j2").write_text("<p>Hi {{ name }}</p>")
    with_templates = composer(str(tmp_path))
    message = parse(with_templates.compose(job(template="hi", params='{"name": "A & B"}')))
    assert message["Subject"] == "Hi A & B"
    assert [text_of(p) for p in message.iter_parts()] == ["Hi A & B", "<p>Hi A &amp; B</p>"]
    assert parse(with_templates.compose(job(template="hi", params='{"name": ""}', subject="Own")))["Subject"] == "Own"
    assert "'name' is undefined" in failure_of(with_templates, template="hi").reason


def test_attachments() -> None:
    items = [
        {"filename": "Rechnung März.pdf", "content": base64.b64encode(b"%PDF").decode()},
        {"filename": "logo.png", "content": base64.b64encode(b"\x89PNG").decode(), "cid": "logo"},
    ]
    outgoing = COMPOSER.compose(job(text_body="t", html_body="<img src=cid:logo>", attachments=json.dumps(items)))
    check_wire(outgoing)
    found = {p.get_filename(): p.get_payload(decode=True) for p in parse(outgoing).walk() if p.get_filename()}
    assert found == {"Rechnung März.pdf": b"%PDF", "logo.png": b"\x89PNG"}


_any = st.one_of(st.none(), st.text(max_size=40), st.text('a@<>" \r\n:,ü=?._-', max_size=40))
_some = st.one_of(st.none(), st.lists(st.text('a@.b<>\r\n "', max_size=20), max_size=3))
_ours = {
    "from", "to", "cc", "reply-to", "subject", "date", "message-id", "references", "mime-version", "content-type",
    "content-transfer-encoding", "auto-submitted", "precedence", "in-reply-to",
}  # fmt: skip


@given(
    recipient=st.one_of(st.just("ann@example.org"), st.text(max_size=30)), sender=_any, cc=_some, bcc=_some, reply_to=_any,
    subject=_any, text_body=_any, html_body=_any, params=st.one_of(st.none(), st.just("{}"), st.text(max_size=10)),
    headers=st.one_of(st.none(), st.dictionaries(st.sampled_from(["X-A", "List-Id", "Date", "A b", "Bcc"]), _any).map(json.dumps)),
    thread_key=_any, template=_any, locale=_any,
    attachments=st.one_of(st.none(), st.lists(st.fixed_dictionaries({"content": _any, "filename": _any, "cid": _any})).map(json.dumps)),
)  # fmt: skip
@settings(deadline=None, max_examples=400)
def test_no_field_can_inject_anything(**fields: Any) -> None:
    """Whatever a row holds, it is refused with a reason or gives one well-formed message with our headers alone."""
    row = job(**fields)
    for bit, address in COMPOSER.addresses(row):
        assert bit >= 0
        assert "@" in address
    try:
        outgoing = COMPOSER.compose(row)
    except Failure as failure:
        refused = failure
    else:
        refused = None
    if refused is not None:
        assert refused.reason
        assert refused.category != "internal", refused.reason
        return
    check_wire(outgoing)
    assert set(header_lines(outgoing)) <= _ours | {"x-a", "list-id"}
    for recipient in outgoing.recipients:
        assert not set(recipient.address) & set("\r\n \t<>\0")
    assert not set(outgoing.sender) & set("\r\n \t<>\0")
    parse(outgoing)


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=60))
@settings(deadline=None, max_examples=200)
def test_unicode_comes_back(subject: str, text: str, name: str) -> None:
    try:
        outgoing = COMPOSER.compose(job(subject=subject, text_body=text, recipient=f'"{name}" <ann@example.org>'))
    except Failure:
        assert any(c < " " or c == "\x7f" for c in subject + name) or "\0" in text
        return
    check_wire(outgoing)
    message = parse(outgoing)
    wanted = text.replace("\r\n", "\n").replace("\r", "\n")
    assert text_of(message) in (wanted, wanted + "\n")
    assert "".join(message["Subject"].split()) == "".join(subject.split())
