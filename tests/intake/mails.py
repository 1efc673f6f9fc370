"""Bounces of one recipient, made to measure."""

from __future__ import annotations


def dsn(
    recipient: str,
    *,
    action: str = "failed",
    status: str = "5.1.1",
    diagnostic: str = "550 5.1.1 user unknown",
    to: str = "bounces@shop.example",
    message_id: str = "",
    returned: str = "",
) -> bytes:
    """RFC 3464, with LF. `returned`: more fields of the message that comes back."""
    identity = f"Message-ID: <{message_id}>\n" if message_id else ""
    return f"""\
From: Mail Delivery System <MAILER-DAEMON@mx.relay.example>
Subject: Undelivered Mail Returned to Sender
To: {to}
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary=part

--part
Content-Type: text/plain

I could not deliver it.

--part
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.relay.example

Final-Recipient: rfc822; {recipient}
Action: {action}
Status: {status}
Diagnostic-Code: smtp; {diagnostic}

--part
Content-Type: message/rfc822

{identity}{returned}From: shop@shop.example
Subject: Spring

Text.
--part--
""".encode()


def arf(kind: str = "abuse", *, message_id: str = "", recipient: str = "") -> bytes:
    """RFC 5965, with LF."""
    whom = f"Original-Rcpt-To: <{recipient}>\n" if recipient else ""
    return f"""\
From: <abuse@isp.example>
To: <fbl@shop.example>
Subject: FW: Spring
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary=part

--part
Content-Type: text/plain

A complaint.

--part
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: loop/1
Version: 1
{whom}
--part
Content-Type: message/rfc822

Message-ID: <{message_id}>
From: shop@shop.example
Subject: Spring

Text.
--part--
""".encode()


AWAY = b"""\
From: Ann <ann@there.example>
To: shop@shop.example
Subject: Out of office: Spring
Auto-Submitted: auto-replied
In-Reply-To: <77@shop.example>

I am on holiday.
"""
