"""Bounces that follow no standard: one small mail for each way of putting it."""

from __future__ import annotations

import pytest

from mailerd.inbound.reader import read
from mailerd.inbound.report import Kind

_FROM = "From: Mail Delivery Subsystem <MAILER-DAEMON@mx.example>\nTo: news@shop.example\n"


@pytest.mark.parametrize(
    ("text", "recipient", "status", "hardness"),
    [
        pytest.param(
            "We had trouble delivering your message. Full details follow:\n\n1 error(s):\n\nSMTP Server <mx.gone.example>"
            " rejected recipient <ann@gone.example> (in 550 5.1.1 <ann@gone.example>... User unknown)\n",
            "ann@gone.example",
            "5.1.1",
            "hard",
            id="rejected recipient",
        ),
        pytest.param(
            "Your message could not be sent.\nA transcript of the attempts follows.\nThe number of attempts made: 1\n"
            "Addressed To: ben@gone.example\n\nFailed to send to identified host, 550 5.1.1 no such user\n",
            "ben@gone.example",
            "5.1.1",
            "hard",
            id="addressed to",
        ),
        pytest.param(
            "Unable to deliver message to <cat@full.example>.\n\nSent >>> RCPT TO:<cat@full.example>\n"
            "Received <<< 452 4.2.2 mailbox full\n\nUnable to deliver message to <cat@full.example>.\n",
            "cat@full.example",
            "4.2.2",
            "soft",
            id="gateway's transcript",
        ),
        pytest.param(
            "The following addresses had delivery problems:\n\n<dan@gone.example>   (User unknown dan@gone.example)\n",
            "dan@gone.example",
            "",
            "hard",
            id="delivery problems",
        ),
        pytest.param(
            "Your message\n\n  Subject: Spring\n\nwas not delivered to:\n\n  eva@gone.example\n\nbecause:\n\n"
            "  User eva (eva@gone.example) not listed in Directory\n",
            "eva@gone.example",
            "",
            "hard",
            id="not listed",
        ),
        pytest.param(
            "Delivery has failed to these recipients or groups:\n\nfay@gone.example\nThe e-mail address you entered couldn't be "
            "found.\n\nDiagnostic information for administrators:\n\nGenerating server: mx.example\n\nfay@gone.example\n"
            "#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n",
            "fay@gone.example",
            "5.1.1",
            "hard",
            id="diagnostic for administrators",
        ),
        pytest.param(
            "   ----- The following addresses had permanent fatal errors -----\n<gus@shut.example>\n\n"
            "   ----- Transcript of session follows -----\n... while talking to mx.shut.example.:\n>>> DATA\n"
            "<<< 554 5.7.1 Your message looks like spam\n554 5.0.0 Service unavailable\n",
            "gus@shut.example",
            "5.7.1",
            "sender",
            id="transcript of a session",
        ),
        pytest.param(
            "<hal@nowhere.example>:\nSorry, I couldn't find any host named nowhere.example. (#5.1.2)\n",
            "hal@nowhere.example",
            "5.1.2",
            "hard",
            id="no such host",
        ),
        pytest.param(
            "The message could not be delivered to ida@slow.example for the last 5 days: connection timed out\n",
            "ida@slow.example",
            "",
            "soft",
            id="given up",
        ),
        pytest.param(
            "Your message could not be delivered.\n\n<jon@shut.example>: host mx.shut.example said: 550 5.1.8 Sender address "
            "rejected: domain not found\n",
            "jon@shut.example",
            "5.1.8",
            "sender",
            id="the sender's domain",
        ),
        pytest.param(
            "Your message could not be delivered.\n\n<kim@shut.example>: 504 5.5.2 Helo command rejected: host not found\n",
            "kim@shut.example",
            "5.5.2",
            "sender",
            id="our own name",
        ),
        pytest.param(
            "Your message could not be delivered.\n\n<lea@shut.example>: 550 refused\n",
            "lea@shut.example",
            "",
            "soft",
            id="a bare 550 condemns nobody",
        ),
    ],
)
def test_what_the_text_says(text: str, recipient: str, status: str, hardness: str) -> None:
    raw = f"{_FROM}Subject: Undeliverable mail\n\n{text}\n----- Original message -----\n\nMessage-ID: <m@shop.example>\n\nText."
    report = read(raw.encode())
    assert report.kind is Kind.BOUNCE
    assert [(r.recipient, r.status, str(r.hardness)) for r in report.results] == [(recipient, status, hardness)]
    assert report.trace.message_ids == ("m@shop.example",)


def test_a_returned_mail_names_whom_the_text_does_not() -> None:
    raw = f"{_FROM}Subject: Undeliverable mail\n\nUser unknown.\n\n--- Original message follows.\n\nTo: <max@gone.example>\nMessage-ID: <m@x.example>\n"
    (result,) = read(raw.encode()).results
    assert (result.recipient, result.hardness) == ("max@gone.example", "hard")
