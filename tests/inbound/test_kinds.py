"""Kinds of bounces that follow no standard, or follow one badly: made up, each for one way in which a reader goes wrong."""

from __future__ import annotations

import pytest

from mailerd.inbound.reader import read
from mailerd.inbound.report import Hardness, Kind

DAEMON = "From: Mail Delivery System <MAILER-DAEMON@mx.example>\nSubject: Undelivered Mail\nTo: b@shop.example\n\n"


def recipients(text: str) -> list[str]:
    report = read(text.encode())
    assert report.kind is Kind.BOUNCE, report.kind
    return [result.recipient for result in report.results]


@pytest.mark.parametrize(
    "line",
    [
        "The address {}, did not match anybody.",
        "User's mailbox is full: <{}>",
        "Delivery failed 20 attempts: {}",
        "Invalid final delivery userid: {}",
        "Your mail to {} was rejected: no such account",
        "    (generated from {})",
        "c=US;a= ;p=SHOP;dda:SMTP={}; on Fri, 4 Oct 2002",
        "'{}' could not be found: unknown user",
    ],
)
@pytest.mark.parametrize(
    "address", ["user1@there.example", "mailbox2@there.example", "pat.o'neil@there.example", "tom@there.example"]
)
def test_an_address_is_whole_whatever_its_local_part_begins_with(line: str, address: str) -> None:
    assert recipients(DAEMON + line.format(address) + "\n\nPermanent error: the message was rejected.\n") == [address]


def test_what_an_alias_was_expanded_from_is_told() -> None:
    text = "----- The following addresses had permanent fatal errors -----\nreal@inner.example\n    (expanded from: <ann@there.example>)\n"
    (result,) = read((DAEMON + text).encode()).results
    assert (result.recipient, result.original_recipient) == ("real@inner.example", "ann@there.example")


def test_a_bounce_inside_another_mail_is_read_by_its_fields() -> None:
    inner = """\
From: postmaster@inner.example
To: b@shop.example
Subject: Delivery Status Notification (Failure)
Content-Type: multipart/report; report-type=delivery-status; boundary=in

--in
Content-Type: text/plain

Delivery failed.

--in
Content-Type: message/delivery-status

Reporting-MTA: dns; inner.example

Final-Recipient: rfc822; ann@there.example
Action: failed
Status: 5.1.1

--in--
"""
    outer = f"""\
From: postmaster@outer.example
To: b-77@bounces.shop.example
Subject: Delivery Status Notification (Failure)
Content-Type: multipart/mixed; boundary=out

--out
Content-Type: message/rfc822

{inner}
--out--
"""
    report = read(outer.encode())
    assert (report.kind, report.standard) == (Kind.BOUNCE, True)
    assert [result.recipient for result in report.results] == ["ann@there.example"]
    assert report.trace.sent_to[0] == "b-77@bounces.shop.example"
    forwarded = outer.replace("postmaster@outer", "ann@outer").replace(
        "Delivery Status Notification (Failure)", "look", 1
    )
    assert read(forwarded.encode()).kind is Kind.OTHER


MDN = """\
From: Mail Delivery Subsystem <postmaster@there.example>
Subject: Automatically rejected mail
Auto-Submitted: auto-replied (rejected)
Content-Type: multipart/report; report-type=disposition-notification; boundary=p

--p
Content-Type: text/plain

Your message to <ann@there.example> was automatically rejected:
Quota exceeded

--p
Content-Type: message/disposition-notification

Final-Recipient: rfc822; ann@there.example
Disposition: automatic-action/MDN-sent-automatically; deleted

--p--
"""


def test_a_filter_that_rejects_with_a_receipt() -> None:
    report = read(MDN.encode())
    assert report.kind is Kind.BOUNCE
    (result,) = report.results
    assert (result.recipient, result.category, result.hardness) == ("ann@there.example", "mailbox_full", Hardness.SOFT)


def test_a_receipt_that_somebody_sent_is_none() -> None:
    by_hand = MDN.replace("automatic-action", "manual-action").replace(
        "was automatically rejected:\nQuota exceeded", "was deleted without being read"
    )
    assert read(by_hand.encode()).kind is Kind.AUTO_REPLY


def test_a_report_part_that_cannot_be_read_is_still_a_report() -> None:
    text = """\
From: filtre@there.example
Subject: Utilisateur inconnu
Content-Type: multipart/report; report-type=delivery-status; boundary=p

--p
Content-Type: text/plain

A message could not be delivered to:
ann@there.example

--p
Content-Type: message/delivery-status
Reporting-MTA: there.example

--p--
"""
    assert recipients(text) == ["ann@there.example"]


def test_without_a_daemon_a_quoted_message_is_a_witness_but_not_in_an_answer() -> None:
    text = """\
From: E500_Service@there.example
Subject: Returned Mail - Error During Delivery

<ann@there.example>: mailbox unavailable, it could not be delivered
-------- Returned Mail --------

Received: by there.example
From: shop@shop.example
To: ann@there.example
Message-ID: <77@shop.example>
"""
    assert recipients(text) == ["ann@there.example"]
    assert read(text.replace("Subject: ", "Subject: Re: ").encode()).kind is Kind.OTHER
    assert read(text.replace("Subject: ", "In-Reply-To: <7@shop.example>\nSubject: ").encode()).kind is Kind.OTHER


def test_the_words_of_a_person_are_no_bounce() -> None:
    text = "From: ann@there.example\nSubject: Parcel not delivered\n\nHello, my parcel could not be delivered. Please help.\n"
    assert read(text.encode()).kind is Kind.OTHER


def test_gateways_and_warnings() -> None:
    text = """\
From: Some_AntiVirus_for_SMTP_Gateways@there.example
Subject: Delivery failure notification

Your message could not be delivered to the following recipients:

Ann@there.example

Delivery attempts will continue to be made for 5 day(s).
"""
    (result,) = read(text.encode()).results
    assert (result.recipient, result.action, result.hardness) == ("Ann@there.example", "delayed", Hardness.SOFT)


@pytest.mark.parametrize(
    ("says", "category", "hardness"),
    [
        ("L'adresse ann@there.example n'existe pas.", "recipient", "hard"),
        ("El usuario ann@there.example no existe", "recipient", "hard"),
        ("Das Postfach von ann@there.example ist voll", "mailbox_full", "soft"),
        ("Почтовый ящик ann@there.example переполнен", "mailbox_full", "soft"),
        ("ann@there.example: this message has exceeded the maximum message size", "size", "soft"),
        ("ann@there.example: mail box space not enough", "mailbox_full", "soft"),
        ("ann@there.example: Message looping", "routing", "soft"),
    ],
)
def test_what_is_said_in_other_words(says: str, category: str, hardness: str) -> None:
    (result,) = read((DAEMON + says + "\n").encode()).results
    assert (result.category, result.hardness) == (category, hardness)


def test_the_number_of_a_version_is_no_status() -> None:
    (result,) = read((DAEMON + "<ann@there.example>: refused by Gateway 2.0.12\n").encode()).results
    assert (result.action, result.status) == ("failed", "")


def test_a_list_that_takes_mail_of_members_only() -> None:
    text = """\
Return-Path: <cats-admin@there.example>
From: cats-admin@there.example
Subject: You shop@shop.example are not member (cats ML)
X-MLServer: fml [fml 4.0.3 release]
References: <77@shop.example>

You are not a member of this mailing list <cats@there.example>.
"""
    assert recipients(text) == ["cats@there.example"]
    assert read(text.replace("X-MLServer", "X-Other").encode()).kind is Kind.OTHER
