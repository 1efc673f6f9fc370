"""Mail of strangers, from its octets to what Postgres is told: nothing raises, and nothing is said that cannot be stored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose.tokens import derive
from mailerd.compose.verp import ReturnPaths
from mailerd.flow.classify import CATEGORIES
from mailerd.inbound.correlate import clues, feedback, match
from mailerd.inbound.reader import read
from mailerd.store.feedback import Message, decide
from tests.inbound import mails

NOW = datetime(2026, 11, 27, 12, 0, 0, 123456, UTC)
PATHS = ReturnPaths("bounces.shop.example", [derive("a long text that nobody guesses", "verp")])
OURS = PATHS.encode(77).encode()
STAMP = int(NOW.timestamp() * 1_000_000)

# What such mails are made of; whatever is between.
WORDS = st.sampled_from(
    [
        *(line + b"\n" for raw in mails.ALL for line in dict.fromkeys(raw.split(b"\n"))),
        b"\n",
        b"--part\n",
        b"--part--\n",
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=part\n",
        b"Content-Type: message/delivery-status\n",
        b"Content-Type: message/feedback-report\n",
        b"Content-Type: message/rfc822; charset=utf-7\n",
        b"Content-Transfer-Encoding: base64\n",
        b"Content-Transfer-Encoding: quoted-printable\n",
        b"Final-Recipient: rfc822; ",
        b"Original-Recipient: utf-8; ",
        b"Status: 5.1.1 (",
        b"Diagnostic-Code: smtp; 550-5.1.1 ",
        b"Action: failed\n",
        b"Message-ID: <77.%x@shop.example>\n" % STAMP,
        b"Message-ID: <9999999999999999999.ffffffffffffffff@shop.example>\n",
        b"X-Mailgun-Variables: {\"mailerd_id\": \"9223372036854775808\"}\n",
        b"X-PM-Metadata-mailerd_id: 0000000000000000077\n",
        b"Return-Path: <%b>\n" % OURS,
        b"To: %b\n" % OURS,
        b"Subject: =?utf-8?q?=00=ED=A0=80?= =?utf-16?b?ANg=?=\n",
        b"From: =?x-unknown?b?gICA?= <MAILER-DAEMON@x.example>\n",
        b"j\\x{D800}\\x{0}\\x{110000}@gone.example\n",
        "ä٧²\u2028\ufeff@bücher.example\n".encode(),
        b"\xed\xa0\x80\xff\xfe\0\n",
    ]
)  # fmt: skip
MAILS = st.lists(
    WORDS | st.binary(max_size=20) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")), max_size=40
)


def texts(value: object) -> Iterator[str]:
    """All of them, in the JSON that is made of a value: half a character cannot even be encoded."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.json.decode(msgspec.json.encode(value))
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"", *mails.ALL]), st.integers(0, 4000), MAILS)
def test_any_mail_can_be_stored_and_applied(raw: bytes, cut: int, pieces: list[bytes]) -> None:
    report = read(raw[:cut] + b"".join(pieces) + raw[cut:])
    assert not any("\0" in text for text in texts(report)), "jsonb takes none"
    trail = clues(report, ["b-nonsense@bounces.shop.example"], PATHS)
    assert all(0 <= id_ < 1 << 63 for id_ in trail.ids)
    for sent in ({}, {77: (NOW, ("Ann <olga@gone.example>", "not an address"))}):
        found = match(trail, sent)
        for one in feedback(report, found, trail, name="d" * 64, at=NOW, provider="ses"):
            message = Message(id=77, stream="transactional", recipients=("olga@gone.example",)) if found else None
            consequence = decide(one, message, ["marketing"], NOW)
            assert not one.hard or found is not None or one.provider_message_id, "only a proof kills an address"
            if consequence is None:
                continue
            assert consequence.category in (*CATEGORIES, "")
            assert not any("\0" in text for text in texts(consequence))
