"""Whole messages, to the octet. A change here is a change of what every recipient gets: look at it twice."""

from __future__ import annotations

import json

from .jobs import composer, job

PLAIN = """\
From: The Shop <shop@shop.example>
To: Ann Lee <ann@example.org>
Reply-To: help@shop.example
Subject: Your order 4711
Date: Thu, 05 Nov 2026 10:20:30 +0000
Message-ID: <11259375.{t}@shop.example>
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 7bit

Dear Ann,

.
it is on its way.
"""

FULL = """\
From: The Shop <shop@shop.example>
To: =?utf-8?q?J=C3=BCrgen?= <ann@example.org>
Cc: "Doe, Bob" <bob@example.org>,
 =?utf-8?b?0JDQvdC90LAg0J/QtdGC0YDQvtCy0L3QsA==?=
 <anna@xn--bcher-kva.example>
Reply-To: help@shop.example
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln=3A_Ihre_Bestellung_Nummer?=
 =?utf-8?q?_4711_ist_heute_Nachmittag_unterwegs_zu_Ihnen?=
Date: Thu, 05 Nov 2026 10:20:30 +0000
Message-ID: <11259375.{t}@shop.example>
In-Reply-To: <{thread}@shop.example>
References: <{thread}@shop.example>
List-Unsubscribe: <https://shop.example/u?id=0123456789012345678901234567890123456789>,
 <mailto:stop@shop.example>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
MIME-Version: 1.0
Content-Type: multipart/mixed;
 boundary="=_11259375.{t}_m"

--=_11259375.{t}_m
Content-Type: multipart/alternative;
 boundary="=_11259375.{t}_a"

--=_11259375.{t}_a
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Gr=C3=BC=C3=9Fe aus dem Laden!

--=_11259375.{t}_a
Content-Type: multipart/related; type="text/html";
 boundary="=_11259375.{t}_r"

--=_11259375.{t}_r
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: 7bit

<p>Hello <img src="cid:logo"></p>
--=_11259375.{t}_r
Content-Type: image/png
Content-Disposition: inline;
 filename="logo.png"
Content-ID: <logo>
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--=_11259375.{t}_r--
--=_11259375.{t}_a--
--=_11259375.{t}_m
Content-Type: application/pdf
Content-Disposition: attachment;
 filename*=utf-8''Rechnung%20M%C3%A4rz.pdf
Content-Transfer-Encoding: base64

JVBERi0xLjQ=
--=_11259375.{t}_m--
"""


def wire(golden: str) -> bytes:
    return golden.format(t="65f84d85659c0", thread="2a3cbb7e0712348e95e1e67c175dab1f").replace("\n", "\r\n").encode()


def test_plain() -> None:
    row = job(
        recipient="Ann Lee <ann@example.org>",
        subject="Your order 4711",
        text_body="Dear Ann,\n\n.\nit is on its way.\n",
    )
    assert composer().compose(row).content == wire(PLAIN)


def test_everything() -> None:
    row = job(
        recipient="Jürgen <ann@example.org>",
        cc=["Doe, Bob <bob@example.org>", "Анна Петровна <anna@bücher.example>"],
        bcc=["eve@example.org"],
        subject="Grüße aus Köln: Ihre Bestellung Nummer 4711 ist heute Nachmittag unterwegs zu Ihnen",
        text_body="Grüße aus dem Laden!\n",
        html_body='<p>Hello <img src="cid:logo"></p>',
        thread_key="order-4711",
        headers=json.dumps(
            {
                "List-Unsubscribe": "<https://shop.example/u?id=0123456789012345678901234567890123456789>, "
                "<mailto:stop@shop.example>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            }
        ),
        attachments=json.dumps(
            [
                {"filename": "Rechnung März.pdf", "content": "JVBERi0xLjQ="},
                {"filename": "logo.png", "content": "iVBORw0K\nGgo=", "cid": "logo"},
            ]
        ),
    )
    assert composer().compose(row).content == wire(FULL)
