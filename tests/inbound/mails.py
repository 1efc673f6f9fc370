"""Mails that came back, made up: what each kind of program writes, with names that are nobody's."""

from __future__ import annotations

DSN = b"""\
Return-Path: <>
Delivered-To: b-1077abc@bounces.shop.example
Date: Mon, 2 Mar 2026 10:00:05 +0000
From: Mail Delivery System <MAILER-DAEMON@mx.relay.example>
Subject: Undelivered Mail Returned to Sender
To: b-1077abc@bounces.shop.example
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="4Q.1/mx.relay.example"

This is a MIME-encapsulated message.

--4Q.1/mx.relay.example
Content-Type: text/plain; charset=us-ascii

<olga@gone.example>: host mx.gone.example[192.0.2.9] said: 550 5.1.1
    <olga@gone.example>: user unknown (in reply to RCPT TO command)

--4Q.1/mx.relay.example
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.relay.example
Original-Envelope-Id: env-77
Arrival-Date: Mon, 2 Mar 2026 10:00:00 +0000

Final-Recipient: rfc822; olga@gone.example
Original-Recipient: rfc822;Olga@Shop-Customers.example
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.gone.example
Diagnostic-Code: smtp; 550 5.1.1 <olga@gone.example>: user unknown

Final-Recipient: rfc822; paul@full.example
Action: failed
Status: 5.2.2
Diagnostic-Code: smtp; 552 5.2.2 mailbox is full

Final-Recipient: rfc822; rita@slow.example
Action: delayed
Status: 4.4.1
Diagnostic-Code: x-relay; connect to mx.slow.example: Connection timed out

Final-Recipient: rfc822; sven@there.example
Action: relayed
Status: 2.0.0
Diagnostic-Code: smtp; 250 2.0.0 Ok: queued

--4Q.1/mx.relay.example
Content-Type: message/rfc822

Return-Path: <b-1077abc@bounces.shop.example>
Feedback-ID: 12:news:shop
X-Campaign: spring
X-SG-EID: c2Vw
Message-ID: <m1077@shop.example>
From: Shop <news@shop.example>
To: olga@gone.example
Subject: Spring

Text.

--4Q.1/mx.relay.example--
"""

ARF = b"""\
From: <abuse@isp.example>
To: <fbl@shop.example>
Subject: FW: Spring
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary=part

--part
Content-Type: text/plain

This is an email abuse report.

--part
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: Feedback/1
Version: 1
Original-Mail-From: <b-12@bounces.shop.example>
Original-Rcpt-To: <tom@isp.example>
Arrival-Date: Mon, 2 Mar 2026 11:00:00 +0000
Source-IP: 192.0.2.44
Reporting-MTA: dns; mx.isp.example

--part
Content-Type: message/rfc822

Message-ID: <m12@shop.example>
To: tom@isp.example
Subject: Spring

Text.
--part--
"""

QMAIL = b"""\
Return-Path: <>
From: MAILER-DAEMON@old.example
To: news@shop.example
Subject: failure notice

Hi. This is the qmail-send program at old.example.
I'm afraid I wasn't able to deliver your message to the following addresses.

<una@gone.example>:
192.0.2.7 does not like recipient.
Remote host said: 550 5.1.1 <una@gone.example>... User unknown
Giving up on 192.0.2.7.

<vito@full.example>:
192.0.2.8 failed after I sent the message.
Remote host said: 552 mailbox vito over quota (#5.2.2)

<wim@wary.example>:
192.0.2.9 does not like recipient.
Remote host said: 554 5.7.1 Client host [192.0.2.1] blocked using a block list
Giving up on 192.0.2.9.

--- Below this line is a copy of the message.

Return-Path: <news@shop.example>
Message-ID: <m5@shop.example>
To: una@gone.example
Subject: Spring

Text with another@address.example in it.
"""

EXIM = b"""\
Return-path: <>
X-Failed-Recipients: xena@closed.example
Auto-Submitted: auto-replied
From: Mail Delivery System <Mailer-Daemon@exim.example>
To: news@shop.example
Subject: Mail delivery failed: returning message to sender

This message was created automatically by mail delivery software.
A message that you sent could not be delivered. The following address(es) failed:

  xena@closed.example
    SMTP error from remote mail server after MAIL FROM:<news@shop.example>:
    host mx.closed.example [192.0.2.3]: 550 unknown user or domain

------ This is a copy of the message, including all the headers. ------

Message-Id: <m6@shop.example>
To: xena@closed.example

Text.
"""

AWAY = b"""\
Return-Path: <>
From: Yara <yara@office.example>
To: news@shop.example
Subject: Automatic reply: Spring
Auto-Submitted: auto-replied
In-Reply-To: <m7@shop.example>

I am out of the office until Monday. Mail to my old address yara@gone.example
could not be delivered any more.
"""

CHALLENGE = b"""\
From: Zoe <zoe@guarded.example>
To: news@shop.example
Subject: Please confirm your message

I use a filter. Please click the link below so that your message is delivered to me:
https://guarded.example/confirm/1
"""

PERSON = b"""\
From: Adam <adam@home.example>
To: help@shop.example
Subject: Re: Delivery failed

My parcel could not be delivered, the courier says that the address is unknown. Where is it?
"""

PHISHING = b"""\
From: Mail Administrator <admin@shady.example>
To: news@shop.example
Subject: Your mailbox

The mailbox news@shop.example has been disabled because the account is full. Log in to keep it.
"""

RECEIPT = b"""\
From: Cleo <cleo@office.example>
To: news@shop.example
Subject: Not read: Delivery failed
Content-Type: multipart/report; report-type=disposition-notification; boundary=part

--part

Your message could not be delivered to the eyes of cleo@office.example: it was deleted unread.
--part
Content-Type: message/disposition-notification

Final-Recipient: rfc822;cleo@office.example
Disposition: automatic-action/MDN-sent-automatically; deleted
--part--
"""

SES_NOTICE = b"""\
From: Notices <no-reply@sns.amazonaws.com>
To: ops@shop.example
Subject: AWS Notification Message

{"notificationType":"Bounce","bounce":{"bounceType":"Permanent","bouncedRecipients":[{"emailAddress":"bea@gone.example",\
"action":"failed","status":"5.1.1","diagnosticCode":"smtp; 550 5.1.1 user unknown"}],"reportingMTA":"dns; out.example"},\
"mail":{"messageId":"0100-77","headers":[{"name":"Message-ID","value":"<m8@shop.example>"}]}}
"""

ALL = (DSN, ARF, QMAIL, EXIM, AWAY, CHALLENGE, PERSON, PHISHING, RECEIPT, SES_NOTICE)
