"""The reader of inbound mail: the standard forms, the others, and whatever somebody may send."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.inbound.reader import read
from mailerd.inbound.report import Hardness, Kind, Report
from tests.inbound import mails


def by_recipient(report: Report) -> dict[str, tuple[str, str, str]]:
    return {r.recipient: (r.action, r.status, str(r.hardness)) for r in report.results}


def test_a_delivery_status_speaks_of_each_recipient() -> None:
    report = read(mails.DSN)
    assert report.kind is Kind.BOUNCE
    assert report.standard
    assert by_recipient(report) == {
        "olga@gone.example": ("failed", "5.1.1", "hard"),
        "paul@full.example": ("failed", "5.2.2", "soft"),
        "rita@slow.example": ("delayed", "4.4.1", "soft"),
        "sven@there.example": ("relayed", "2.0.0", ""),
    }
    first, _, third, last = report.results
    assert (first.original_recipient, first.code, first.category) == ("Olga@Shop-Customers.example", 550, "recipient")
    assert first.remote_mta == "mx.gone.example"
    assert (first.failed, third.failed, last.failed) == (True, False, False)
    assert report.reporting_mta == "mx.relay.example"
    assert report.arrival_date == "Mon, 2 Mar 2026 10:00:00 +0000"


def test_what_the_message_is_found_by() -> None:
    trace = read(mails.DSN).trace
    assert trace.message_ids == ("m1077@shop.example",)
    assert trace.provider_ids == ("sendgrid:c2Vw",)
    assert trace.sent_to == ("b-1077abc@bounces.shop.example",)
    assert trace.feedback_id == "12:news:shop"
    assert ("x-campaign", "spring") in trace.headers
    assert trace.envelope_id == "env-77"
    assert trace.mail_from == "b-1077abc@bounces.shop.example"
    assert trace.recipients == ("olga@gone.example",)


def test_ses_gave_it_another_message_id() -> None:
    raw = mails.DSN.replace(b"<m1077@shop.example>", b"<0100-5@eu-west-1.amazonses.com>")
    assert "ses:0100-5" in read(raw).trace.provider_ids


def test_a_success_is_no_bounce() -> None:
    raw = mails.DSN.replace(b"Action: failed", b"Action: delivered").replace(b"Action: delayed", b"Action: expanded")
    report = read(raw)
    assert report.kind is Kind.DELIVERED
    assert {r.hardness for r in report.results} == {Hardness.NONE}


@pytest.mark.parametrize(
    ("field", "recipient"),
    [
        (b"utf-8; j\\x{00F6}rg@gone.example", "jörg@gone.example"),
        ("utf-8; jörg@gone.example".encode(), "jörg@gone.example"),
        (b"utf-8; j\\x{D800}@gone.example", "j\\x{D800}@gone.example"),
        (b"rfc822; ann+40gone.example", "ann@gone.example"),
        (b"rfc822; ann+news@gone.example", "ann+news@gone.example"),
        (b"RFC822;<ann@gone.example>", "ann@gone.example"),
        (b"ann@gone.example", "ann@gone.example"),
        (b"rfc822; |/bin/filter ann@gone.example", "ann@gone.example"),
        (b"rfc822; @relay.example:ann@gone.example", "ann@gone.example"),
        (b"rfc822; unknown", "Olga@Shop-Customers.example"),
    ],
)
def test_addresses_of_recipients(field: bytes, recipient: str) -> None:
    report = read(mails.DSN.replace(b"rfc822; olga@gone.example", field))
    assert report.results[0].recipient == recipient


def test_a_vague_status_gives_way_to_the_reply() -> None:
    raw = mails.DSN.replace(b"Status: 5.1.1", b"Status: 5.0.0")
    assert read(raw).results[0].status == "5.1.1"


def test_a_complaint() -> None:
    report = read(mails.ARF)
    assert (report.kind, report.feedback_type, report.source_ip) == (Kind.COMPLAINT, "abuse", "192.0.2.44")
    assert [r.recipient for r in report.results] == ["tom@isp.example"]
    assert report.results[0].hardness is Hardness.NONE
    assert report.trace.mail_from == "b-12@bounces.shop.example"
    assert report.trace.message_ids == ("m12@shop.example",)


def test_prose_of_qmail() -> None:
    report = read(mails.QMAIL)
    assert not report.standard
    assert by_recipient(report) == {
        "una@gone.example": ("failed", "5.1.1", "hard"),
        "vito@full.example": ("failed", "5.2.2", "soft"),
        "wim@wary.example": ("failed", "5.7.1", "sender"),
    }
    assert report.trace.message_ids == ("m5@shop.example",)


def test_refused_before_anybody_was_named_is_not_the_recipients() -> None:
    (result,) = read(mails.EXIM).results
    assert (result.recipient, result.hardness) == ("xena@closed.example", Hardness.SENDER)
    (result,) = read(
        mails.EXIM.replace(b"after MAIL FROM:<news@shop.example>", b"after RCPT TO:<xena@closed.example>")
    ).results
    assert result.hardness is Hardness.HARD


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (mails.AWAY, Kind.AUTO_REPLY),
        (mails.AWAY.replace(b"Automatic reply: Spring", b"Spring"), Kind.AUTO_REPLY),
        (mails.AWAY.replace(b"Automatic reply: ", b"=?utf-8?q?Abwesend=3A_?="), Kind.AUTO_REPLY),
        (mails.CHALLENGE, Kind.CHALLENGE),
        (mails.PERSON, Kind.OTHER),
        (mails.RECEIPT, Kind.AUTO_REPLY),
        (mails.PHISHING, Kind.OTHER),
        (mails.AWAY.replace(b"yara@office.example>", b"postmaster@office.example>"), Kind.AUTO_REPLY),
        (b"", Kind.OTHER),
    ],
)
def test_what_is_no_bounce(raw: bytes, kind: Kind) -> None:
    report = read(raw)
    assert report.kind is kind
    assert report.results == ()


def test_a_notice_of_ses() -> None:
    report = read(mails.SES_NOTICE)
    assert by_recipient(report) == {"bea@gone.example": ("failed", "5.1.1", "hard")}
    assert report.trace.provider_ids == ("ses:0100-77",)
    assert report.trace.message_ids == ("m8@shop.example",)


def test_a_delay_warning_is_soft() -> None:
    raw = mails.QMAIL.replace(b"I'm afraid", b"THIS IS A WARNING MESSAGE ONLY. I'm afraid")
    assert {(r.action, r.hardness) for r in read(raw).results} == {("delayed", Hardness.SOFT)}


@pytest.mark.parametrize("raw", mails.ALL)
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_ends_of_line(raw: bytes, end: bytes) -> None:
    assert read(raw.replace(b"\n", end)) == read(raw)
    assert read(b"From somebody Mon Mar  2 10:00:05 2026\n" + raw) == read(raw)


@pytest.mark.parametrize(
    "kept", range(len(mails.DSN.partition(b"Final-Recipient: rfc822; paul")[0]), len(mails.DSN), 40)
)
def test_a_truncated_report_is_read_as_far_as_it_goes(kept: int) -> None:
    report = read(mails.DSN[:kept])
    assert report.kind is Kind.BOUNCE
    assert by_recipient(report)["olga@gone.example"] == ("failed", "5.1.1", "hard")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_octets_never_raise(raw: bytes) -> None:
    assert read(raw).kind in Kind


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(mails.ALL), st.randoms(use_true_random=False))
def test_mutated_mails_never_raise(raw: bytes, chance: random.Random) -> None:
    octets = bytearray(raw)
    for _ in range(chance.randrange(1, 40)):
        place = chance.randrange(len(octets))
        match chance.randrange(4):
            case 0:
                octets[place] = chance.randrange(256)
            case 1:
                del octets[place : place + chance.randrange(60)]
            case 2:
                octets[place:place] = octets[chance.randrange(len(octets)) :][:200]
            case _:
                octets[place:place] = chance.choice(
                    [b"\0", b"\r", b"\n\n", b"=?utf-8?b?", b";", b"--", b"\xff" * 9, b"=?x?q?=?="]
                )
        octets = octets or bytearray(b"x")
    for result in read(bytes(octets)).results:
        assert "\0" not in result.recipient + result.reason
        assert len(result.recipient) <= 320


_HEAD = b"From: MAILER-DAEMON@x.example\nSubject: failure notice\n"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(_HEAD + b"\n" + b"x" * 25_000_000, id="25 MB"),
        pytest.param(_HEAD + b"\n" + b"a@" * 500_000, id="a line of @"),
        pytest.param(_HEAD + b"\n" + b"550 a@b.example user unknown\n" * 40_000, id="recipients"),
        pytest.param(b"X: y\n" + b" z\n" * 300_000, id="a folded field"),
        pytest.param(b"X: y\n" * 200_000, id="fields"),
        pytest.param(_HEAD + b"Content-Type: a" + b';a="\\' * 200_000, id="parameters"),
        pytest.param(_HEAD + b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 200_000, id="parts"),
        pytest.param(
            _HEAD + b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(9000)),
            id="nested",
        ),
        pytest.param(_HEAD + b"\n" + b"Final-Recipient: rfc822; a@b.example\n" * 28_000, id="fields in prose"),
        pytest.param(_HEAD + b'\n{"notificationType":"Bounce","x":' + b"[" * 60_000, id="JSON"),
        pytest.param(b"Subject: " + b"=?utf-8?q?" * 80_000, id="encoded-words"),
    ],
)
def test_hostile_mails_take_no_longer(raw: bytes) -> None:
    begun = time.process_time()
    report = read(raw)
    assert time.process_time() - begun < 1.5  # a tenth of it here; quadratic work would take minutes
    assert len(report.results) <= 1001
