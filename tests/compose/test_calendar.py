"""Calendar invitations: a part of multipart/alternative with the object's own METHOD (RFC 6047)."""

from __future__ import annotations

import base64
import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose import calendar, mime
from mailerd.message import Failure
from tests.compose.jobs import check_wire, composer, job, parse

INVITATION = """BEGIN:VCALENDAR
PRODID:-//Example Shop//EN
VERSION:2.0
METHOD:REQUEST
BEGIN:VEVENT
UID:42@shop.example
DTSTAMP:20261105T102030Z
DTSTART:20261201T090000Z
DTEND:20261201T093000Z
ORGANIZER:mailto:shop@shop.example
ATTENDEE;RSVP=TRUE:mailto:ann@example.org
SUMMARY:Fitting
END:VEVENT
END:VCALENDAR
"""
REQUEST = "text/calendar; method=REQUEST"


def item(text: str = INVITATION, **fields: str) -> dict[str, str]:
    return {"content": base64.b64encode(text.encode()).decode(), "content_type": "text/calendar", **fields}


def composed(*items: dict[str, str], **fields: Any) -> EmailMessage:
    outgoing = composer().compose(job(attachments=json.dumps(items), **{"text_body": "text", **fields}))
    check_wire(outgoing)
    return parse(outgoing)


def types(message: EmailMessage) -> list[str]:
    return [part.get_content_type() for part in message.walk()]


@pytest.mark.parametrize("way", [{"disposition": "alternative"}, {"content_type": REQUEST}])
def test_an_invitation_is_the_last_alternative(way: dict[str, str]) -> None:
    message = composed(item(**way), html_body="<p>html</p>")
    assert types(message) == ["multipart/alternative", "text/plain", "text/html", "text/calendar"]
    invitation = list(message.walk())[-1]
    assert (invitation.get_param("charset"), invitation.get_param("method")) == ("utf-8", "REQUEST")
    assert invitation["Content-Disposition"] is None
    assert invitation["Content-Transfer-Encoding"] == "7bit"
    assert invitation.get_content().replace("\r\n", "\n") == INVITATION


def test_beside_other_files() -> None:
    pdf, logo = {"content": "", "filename": "a.pdf"}, {"content": "", "content_type": "image/png", "cid": "logo"}
    message = composed(pdf, item(disposition="alternative"), logo, html_body="<img src='cid:logo'>")
    assert types(message) == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "text/calendar", "application/pdf",
    ]  # fmt: skip
    assert types(composed(item(disposition="alternative"))) == ["multipart/alternative", "text/plain", "text/calendar"]
    # The same once more as a file, as some calendars want it.
    both = composed(item(disposition="alternative"), item(filename="invite.ics"))
    assert types(both) == ["multipart/mixed", "multipart/alternative", "text/plain", "text/calendar", "text/calendar"]
    assert [part.get_filename() for part in both.iter_attachments()] == ["invite.ics"]


def test_beside_amp() -> None:
    (invitation,) = mime.attachments(json.dumps([item(disposition="alternative")]), "x")
    message = message_from_bytes(mime.entity("x", "text", "<p>html</p>", [invitation], "<html amp4email>"))
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/alternative", "text/plain", "text/x-amp-html", "text/html", "text/calendar",
    ]  # fmt: skip


def test_without_texts() -> None:
    (invitation,) = mime.attachments(json.dumps([item(disposition="alternative")]), "x")
    pdf = mime.Part(b"Content-Type: application/pdf\r\n\r\n", inline=False)
    for text, html, parts, expected in (
        (None, "<p>", [invitation], ["multipart/alternative", "text/html", "text/calendar"]),
        (None, None, [invitation], ["multipart/alternative", "text/plain", "text/calendar"]),
        (
            None,
            None,
            [pdf, invitation],
            ["multipart/mixed", "multipart/alternative", "text/calendar", "application/pdf"],
        ),
    ):
        message = message_from_bytes(mime.entity("x", text, html, parts), policy=policy.default)
        assert isinstance(message, EmailMessage)
        assert types(message) == expected


def test_by_reference() -> None:
    row = job(
        attachments=json.dumps([{"path": "a.ics", "disposition": "alternative"}]), fetched={0: INVITATION.encode()}
    )
    assert types(parse(composer().compose(row))) == ["multipart/alternative", "text/plain", "text/calendar"]


def test_a_mere_file_stays_one() -> None:
    message = composed(item(filename="holidays.ics"))
    assert types(message) == ["multipart/mixed", "text/plain", "text/calendar"]
    attached = composed(item(content_type=REQUEST, disposition="attachment", filename="invite.ics"))
    assert types(attached) == ["multipart/mixed", "text/plain", "text/calendar"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=120), st.booleans())
@settings(deadline=None, max_examples=30)
def test_its_text_comes_back(summary: str, crlf: bool) -> None:
    text = INVITATION.replace("Fitting", summary).replace("\n", "\r\n" if crlf else "\n")
    octets = b"\xef\xbb\xbf" * crlf + text.encode()
    part = calendar.part(octets, "text/calendar", "it")
    head, _, body = part.partition(b"\r\n\r\n")
    back = body if b"7bit" in head else base64.b64decode(body)
    assert back.decode() == text.replace("\r\n", "\n").replace("\n", "\r\n")
    assert max(map(len, part.split(b"\r\n"))) <= 78


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", "text/calendar", "not a calendar"),
        ("BEGIN:VCALENDAR\n", "text/calendar", "not a calendar"),
        (INVITATION.replace("METHOD:REQUEST\n", ""), "text/calendar", "the calendar has no METHOD"),
        (INVITATION.replace("METHOD:", "METHOD:REPLY\nMETHOD:"), "text/calendar", "more than one METHOD"),
        (INVITATION.replace(":REQUEST", ":INVITE"), "text/calendar", "METHOD:INVITE is none of PUBLISH, REQUEST"),
        (INVITATION, "text/calendar; method=CANCEL", "method=CANCEL in content_type, METHOD:REQUEST in the calendar"),
        (INVITATION.replace("Fitting", "\0"), "text/calendar", "control character U+0000 in the calendar"),
        (INVITATION, "text/plain", "only text/calendar can be an alternative, not 'text/plain'"),
    ],
)
def test_what_is_no_invitation_is_not_sent(text: str, kind: str, words: str) -> None:
    with pytest.raises(Failure) as failure:
        composed(item(text, content_type=kind, disposition="alternative"))
    assert failure.value.category == "attachment"
    assert failure.value.reason.startswith("attachments[0]: ")
    assert words in failure.value.reason


def test_neither_are_other_octets_and_two_of_them() -> None:
    latin = {"content": base64.b64encode(INVITATION.replace("Fitting", "é").encode("latin-1")).decode()}
    with pytest.raises(Failure, match=r"attachments\[0\]: the calendar is not UTF-8"):
        composed(item(disposition="alternative") | latin)
    with pytest.raises(Failure, match="attachments: more than one with the disposition alternative"):
        composed(item(disposition="alternative"), item(content_type=REQUEST))


def test_a_folded_line_is_no_method() -> None:
    text = INVITATION.replace("SUMMARY:Fitting", "SUMMARY:Fitting\n METHOD:CANCEL\nDESCRIPTION:METHOD:CANCEL")
    assert b"method=REQUEST" in calendar.part(text.encode(), "text/calendar", "it")
