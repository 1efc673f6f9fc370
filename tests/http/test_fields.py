"""A composed message taken apart says what it said, by the word of the standard library's own parser."""

from __future__ import annotations

import base64
import json
import time
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.http.fields import Fields, Mailbox, fields
from mailerd.http.head import decoded, mailboxes, read
from mailerd.message import Failure, Outgoing, Recipient
from tests.http.rig import job, message

_letters = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cn", "Co", "Cf"))
_names = st.text(_letters, min_size=1, max_size=40).filter(lambda text: text.strip() == text and '"' not in text)
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=300)


def parsed(outgoing: Outgoing) -> EmailMessage:
    found = message_from_bytes(outgoing.content, policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def part(of: EmailMessage, kind: str) -> str | None:
    found = of.get_body((kind,))
    return None if found is None else found.get_payload(decode=True).decode().replace("\r\n", "\n")  # type: ignore[union-attr]


@settings(deadline=None)
@given(text=st.none() | _texts, html=st.none() | _texts, subject=st.text(_letters, max_size=80), file=st.booleans())
@example("=_x\n--=_y--\n", "<p>ä</p>" * 60, "=?utf-8?q?x?=", False)
def test_texts_and_subject(text: str | None, html: str | None, subject: str, file: bool) -> None:
    attachments = json.dumps([{"filename": "ü.txt", "content": base64.b64encode(b"x\r\n").decode()}]) if file else None
    sent = message(text_body=text, html_body=html, subject=subject, attachments=attachments)
    of, found = parsed(sent), fields(sent)
    assert found.html == part(of, "html")
    assert found.text == part(of, "plain")
    assert found.subject == " ".join(subject.split())
    assert [(one.name, base64.b64decode(one.content)) for one in found.files] == [("ü.txt", b"x\r\n")] * file


@settings(deadline=None)
@given(name=_names, other=_names)
@example("Müller, Ann", "a long name that has to be folded since it is longer than the line, which is short: really")
def test_mailboxes(name: str, other: str) -> None:
    sent = message(f'"{_quoted(name)}" <ann@exämple.org>', cc=[f'"{_quoted(other)}" <c@example.org>', "d@example.org"])
    found = fields(sent)
    assert found.to == (Mailbox(" ".join(name.split()), "ann@xn--exmple-cua.org"),)
    assert found.cc == (Mailbox(" ".join(other.split()), "c@example.org"), Mailbox("", "d@example.org"))


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\")


def test_whoever_was_dealt_with_is_left_out() -> None:
    sent = message("a@example.org", cc=["b@example.org", "c@example.org"], bcc=["d@example.org"])

    def of(*bits: int) -> Fields:
        recipients = tuple(one for one in sent.recipients if one.bit in bits)
        return fields(Outgoing(sent.job, sent.sender, recipients, sent.content))

    def addresses(found: Fields) -> tuple[list[str], ...]:
        return tuple([one.address[0] for one in some] for some in (found.to, found.cc, found.bcc))

    assert addresses(of(0, 1, 2, 3)) == (["a"], ["b", "c"], ["d"])
    assert addresses(of(2, 3)) == (["c"], [], ["d"])
    assert addresses(of(3)) == (["d"], [], [])


RAW = b"""From: =?iso-8859-1?q?J=F6rg?= <j@example.org>
To: undisclosed-recipients:;
Subject: =?utf-8?b?w6TD?= =?utf-8?b?pA==?= and =?x-unknown?q?y?= =?broken
X-Twice: 1
x-twice: 2
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain; charset=latin1

gr\xfc\xdfe
--b
Content-Type: text/plain; name="n.txt"

attached
--b
Content-Type: message/rfc822

Subject: inner

x
--b
Content-Type: image/png
Content-ID: <c@x>

\x89PNG
--b--
""".replace(b"\n", b"\r\n")


def test_a_raw_message_of_somebody_else() -> None:
    found = fields(message("ann@example.org", raw=RAW))
    assert found.sender == Mailbox("Jörg", "j@example.org")
    assert found.to == (Mailbox("", "ann@example.org"),)
    assert found.subject == "ää and y =?broken"
    assert found.text == "grüße"
    assert [(one.name, one.type, one.cid, one.inline) for one in found.files] == [
        ("n.txt", "text/plain", "", False),
        ("attachment-2", "message/rfc822", "", False),
        ("attachment-3", "image/png", "c@x", True),
    ]
    assert base64.b64decode(found.files[1].content) == b"Subject: inner\n\nx"
    with pytest.raises(Failure, match="only once"):
        found.header_map()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"Subject: no From\r\n\r\nx", "exactly one From"),
        (b"From: a@x.example, b@x.example\r\n\r\nx", "exactly one From"),
        (b"From: a@x.example\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n", "signed"),
    ],
)
def test_what_fields_cannot_say(raw: bytes, why: str) -> None:
    with pytest.raises(Failure, match=why):
        fields(message("a@example.org", raw=raw))


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"From: a@b\r\nContent-Type: multipart/mixed; boundary=\r\n\r\n--\r\n")
@example(b"From: a@b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n====\r\n")
@example(b"From: a@b\r\nSubject: =?utf-8?b?====?= =?utf-16?q?=ff?=\r\n\r\n")
def test_any_octets_are_fields_or_a_failure(octets: bytes) -> None:
    row = job(raw=octets)
    for content in (octets, b"From: a@b.example\r\n" + octets):
        try:
            found = fields(Outgoing(row, "", (Recipient(0, "a@example.org"),), content))
        except Failure:
            continue
        json.dumps([found.subject, found.text, found.html, found.headers]).encode()
        for text in (found.subject, *(word for pair in found.headers for word in pair)):
            assert text.isprintable() or not set(text) & set("\r\n\0")
            text.encode()


@settings(deadline=None)
@given(st.text(max_size=60))
def test_heads_never_raise(text: str) -> None:
    decoded(text)
    mailboxes(text)
    read(text.encode("utf-8", "replace"))


HOSTILE = ["(", "<", '"', "a@", "=?", "=?a?q?", "=?utf-8?q?a?= ", "a <", "a@b,", ":;", "[", "@"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_headers_take_no_time(piece: str) -> None:
    text = piece * (600_000 // len(piece))
    begun = time.process_time()
    decoded(text)
    mailboxes(text)
    mailboxes(text[:8_000])
    assert time.process_time() - begun < 2


def test_parts_in_parts_take_no_time() -> None:
    lines = (b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(3000))
    begun = time.process_time()
    with pytest.raises(Failure, match="too many parts"):
        fields(message("a@example.org", raw=b"From: a@b.example\r\n" + b"".join(lines)))
    assert time.process_time() - begun < 0.5


INVITATION = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\nUID:1\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"


@pytest.mark.parametrize("html", [None, "<p>html</p>"])
def test_an_invitation_and_fetched_files_are_files(html: str | None) -> None:
    items = [
        {"content": base64.b64encode(INVITATION.encode()).decode(), "content_type": "text/calendar; method=REQUEST"},
        {"url": "https://files.example/a.pdf"},
        {"path": "logo.png", "cid": "logo"},
    ]
    sent = message(text_body="text", html_body=html, attachments=json.dumps(items), fetched={1: b"PDF", 2: b"PNG"})
    found = fields(sent)
    assert (found.text, found.html) == ("text", html)
    files = {file.name: (file.type, base64.b64decode(file.content), file.cid, file.inline) for file in found.files}
    assert files == {
        "invite.ics": ("text/calendar; method=REQUEST; charset=utf-8", INVITATION.encode(), "", False),
        "a.pdf": ("application/pdf", b"PDF", "", False),
        "logo.png": ("image/png", b"PNG", "logo", True),
    }


def test_an_invitation_alone_is_no_part_of_the_html() -> None:
    items = [
        {"content": base64.b64encode(INVITATION.encode()).decode(), "content_type": "text/calendar; method=REQUEST"}
    ]
    found = fields(message(text_body="text", html_body="<p>html</p>", attachments=json.dumps(items)))
    assert (found.text, found.html, [file.name for file in found.files]) == ("text", "<p>html</p>", ["invite.ics"])
