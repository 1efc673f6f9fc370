"""Bodies and headers of strangers: nothing raises but `Malformed`, nothing grows, nothing takes longer than it is long."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.feedback import TYPES, Feedback
from mailerd.flow.classify import CATEGORIES
from mailerd.webhook.dialect import LIMIT, Malformed, Post, Webhook
from mailerd.webhook.event import RAW, TEXT, digest, failed, instant, planted, text
from tests.webhook.keys import (
    CERTIFICATE,
    KINDS,
    NOW,
    SECRET,
    certificate,
    certificates,
    make,
    notification,
    octets,
    post,
)

WORDS = [
    "event",
    "eventType",
    "notificationType",
    "type",
    "RecordType",
    "mail",
    "bounce",
    "complaint",
    "delivery",
    "deliveryDelay",
    "reject",
    "failure",
    "open",
    "click",
    "subscription",
    "bouncedRecipients",
    "complainedRecipients",
    "delayedRecipients",
    "recipients",
    "destination",
    "emailAddress",
    "tags",
    "mailerd_id",
    "messageId",
    "timestamp",
    "feedbackId",
    "event-data",
    "user-variables",
    "message",
    "headers",
    "message-id",
    "delivery-status",
    "code",
    "severity",
    "reason",
    "client-info",
    "Metadata",
    "ID",
    "Type",
    "Details",
    "BouncedAt",
    "msys",
    "message_event",
    "rcpt_meta",
    "event_id",
    "bounce_class",
    "raw_reason",
    "error_code",
    "X-Mailin-custom",
    "ts_epoch",
    "email",
    "link",
    "user_agent",
    "CustomID",
    "time",
    "mj_message_id",
    "MessageID",
    "data",
    "morph",
    "meta",
    "created_at",
    "to",
    "diagnosticCode",
    "suppressed",
    "failed",
    "sg_event_id",
    "sg_message_id",
    "status",
    "response",
    "smtp-id",
    "url",
    "useragent",
]
NAMES = [
    "Bounce",
    "Complaint",
    "Delivery",
    "DeliveryDelay",
    "Reject",
    "Open",
    "Click",
    "Subscription",
    "email.bounced",
    "email.opened",
    "email.suppressed",
    "email.failed",
    "bounce",
    "dropped",
    "deferred",
    "delivered",
    "open",
    "click",
    "failed",
    "rejected",
    "opened",
    "hard_bounce",
    "soft_bounce",
    "blocked",
    "sent",
    "spam",
    "unsub",
    "SpamComplaint",
    "SubscriptionChange",
    "out_of_band",
    "delay",
    "spam_complaint",
    "policy_rejection",
    "hard_bounced",
    "suppressed",
    "Permanent",
    "Transient",
    "7-1",
    "10",
    "25",
    "51",
    "temporary",
    "permanent",
    "suppress-bounce",
    "\x00",
    "�",
    "2026-09-21T14:13:20Z",
    "1e999",
    "1790000000",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(NAMES)
    | st.sampled_from([10**400, -1, 0, 2**63, "550 5.1.1 no such user", "9" * 5000])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def fine(found: list[Feedback]) -> None:
    for one in found:
        assert one.type in TYPES
        assert one.category in (*CATEGORIES, "")
        assert one.source_id
        assert not one.hard or one.type in ("bounced", "rejected")
        assert one.type != "unknown" or not (one.hard or one.code)
        said = [one.detail, one.recipient, one.provider_message_id, one.source_id, one.enhanced, *one.header_ids]
        said += [one.metadata[name] for name in one.metadata]
        assert all(isinstance(words, str) and "\0" not in words and len(words) <= RAW for words in said)
        json.dumps(msgspec.to_builtins(one)).encode("utf-8")


def try_read(made: Webhook, body: bytes) -> None:
    try:
        found = made.read(body, {"svix-id": "a\0b"})
    except Malformed as wrong:
        assert str(wrong)  # noqa: PT017
    else:
        fine(found)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(value=VALUES, batch=st.booleans())
def test_any_json_is_read(kind: str, value: Any, batch: bool) -> None:
    body = encoded(value)
    if kind == "ses":
        body = encoded(notification("x") | {"Message": body.decode("utf-8", "replace")})
    elif kind == "mailgun":
        body = b'{"event-data": ' + body + b"}"
    elif kind == "sparkpost":
        body = b'[{"msys": {"message_event": ' + body + b"}}]"
    elif batch:
        body = b"[" + body + b"]"
    try_read(make(kind), body)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_events_with_anything_in_their_fields_are_read(kind: str, data: st.DataObject) -> None:
    value = data.draw(st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=12))
    for key in ("event", "eventType", "type", "RecordType"):
        value[key] = data.draw(st.sampled_from(NAMES) | LEAVES)
    body = encoded(value)
    if kind == "ses":
        body = encoded(notification("x") | {"Message": body.decode("utf-8", "replace")})
    elif kind == "mailgun":
        body = b'{"event-data": ' + body + b"}"
    elif kind == "sparkpost":
        body = b'[{"msys": {"message_event": ' + body + b"}}]"
    try_read(make(kind), body)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                "authorization",
                "signature",
                "svix-id",
                "svix-timestamp",
                "svix-signature",
                "x-webhook-secret",
                "webhook-id",
                "x-twilio-email-event-webhook-signature",
                "x-twilio-email-event-webhook-timestamp",
            ]
        ),
        st.text(max_size=40) | st.sampled_from(["v1,", "Basic ", "Bearer", "1790000000", "9" * 400, "²"]),
    ),
    body=st.binary(max_size=60) | VALUES.map(encoded),
    secret=st.text(max_size=30),
)
def test_no_stranger_is_let_in_and_none_makes_it_raise(
    kind: str, headers: dict[str, str], body: bytes, secret: str
) -> None:
    verdict = make(kind).judge(Post(headers, body, {"secret": secret}), NOW, certificates())
    assert verdict.status in (401, 403)
    assert not verdict.accepted
    assert (verdict.once, verdict.visit, verdict.certificate) == ("", "", "")
    assert verdict.reason.isascii()


@settings(deadline=None, max_examples=50)
@given(
    changes=st.dictionaries(
        st.sampled_from([*notification("m"), "Token", "SubscribeURL"]), LEAVES, min_size=1, max_size=4
    )
)
def test_sns_with_anything_in_its_fields(changes: dict[str, Any]) -> None:
    message = notification("m")
    verdict = make("ses").judge(Post({}, encoded(message | changes)), NOW, {CERTIFICATE: certificate()})
    assert not verdict.accepted or all(
        message.get(name) == value or name in ("UnsubscribeURL", "Token", "SubscribeURL") or value is None
        for name, value in changes.items()
    )


DEEP = [b"[" * 1_000_000, b'{"a":' * 500_000, b"[" * 900 + b"]" * 900, b'{"data":' * 900 + b"1" + b"}" * 900]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [*DEEP, b"", b"\xff", b"null", b"1", b'"x"', b"[[]]", b"[1]"])
def test_what_is_nested_or_no_json_or_of_another_shape(kind: str, body: bytes) -> None:
    try_read(make(kind), body)
    make(kind).judge(Post({}, body), NOW)


LONG = "a@" * 200_000
MANY = {
    "ses": {"eventType": "Bounce", "bounce": {"bouncedRecipients": [{"emailAddress": "a@b", "diagnosticCode": LONG[:50]}] * 20_000}},
    "resend": {"type": "email.bounced", "data": {"bounce": {"diagnosticCode": [LONG] * 8}}},
    "sendgrid": [{"event": "bounce", "reason": LONG[: 100 + n]} for n in range(900)],
    "mailgun": {"event": "failed", "delivery-status": {"message": LONG * 4}},
    "postmark": {"RecordType": "Bounce", "Type": "HardBounce", "Details": LONG * 4},
    "sparkpost": [{"msys": {"message_event": {"type": "bounce", "raw_reason": LONG[: 100 + n]}}} for n in range(900)],
    "brevo": [{"event": "hard_bounce", "reason": LONG[: 100 + n]} for n in range(900)],
    "mailjet": [{"event": "bounce", "comment": LONG[: 100 + n]} for n in range(900)],
    "mailersend": {"data": {"type": "hard_bounced", "morph": {"reason": LONG * 4}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_of_the_largest_size_takes_no_time_to_speak_of(kind: str) -> None:
    request = post(kind, MANY[kind])
    assert 500_000 < len(request.body) < LIMIT * 1.5
    begin = time.process_time()
    made = make(kind)
    assert made.judge(request, NOW, certificates()).accepted
    fine(made.read(request.body, {"svix-id": "x"}))
    assert time.process_time() - begin < 5  # a second for two megabytes, and room for a slow machine


# -- the parts ----------------------------------------------------------------------------------------------------------


@given(LEAVES)
def test_parts_take_anything(value: Any) -> None:
    assert len(text(value)) <= TEXT
    then = instant(value)
    assert then is None or 2000 <= then.year <= 2100
    id_, bit = planted(value)
    assert id_ is None or 0 <= id_ < 1 << 63
    assert bit is None or id_ is not None
    assert len(digest(value)) == 32
    assert failed(text(value), code=value, enhanced=value).category in CATEGORIES


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7-1", (7, 1)),
        ("7", (7, None)),
        (7, (7, None)),
        (str(2**63), (None, None)),
        ("-7", (None, None)),
        ("7-", (None, None)),
        (" 7", (None, None)),
        ("7\n", (None, None)),
        ("٧", (None, None)),
        (None, (None, None)),
        (True, (None, None)),
    ],
)
def test_what_was_planted(value: Any, expected: tuple[int | None, int | None]) -> None:
    assert planted(value) == expected


@pytest.mark.parametrize(
    "value",
    [1790000000, 1790000000.0, "1790000000", 1790000000000, "2026-09-21T14:13:20Z", "2026-09-21T16:13:20+02:00",
     "2026-09-21T14:13:20.0000000Z", "2026-09-21 14:13:20"],
)  # fmt: skip
def test_a_time_as_providers_write_it(value: Any) -> None:
    then = instant(value)
    assert then is not None
    assert then.timestamp() == 1790000000


def test_temporary_or_soft_is_never_hard() -> None:
    words = "550 5.1.1 no such user"
    assert failed(words).hard
    assert not failed(words, temporary=True).hard
    assert not failed(words, hard=False).hard


def test_a_refusal_of_us_is_never_hard_whatever_is_claimed() -> None:
    for words in ("554 5.7.1 blocked using zen.spamhaus.org", "550 5.7.26 DMARC failed", "552 5.2.2 mailbox full"):
        assert not failed(words, hard=True).hard


def test_a_secret_stands_in_no_reason() -> None:
    for kind in KINDS:
        verdict = make(kind).judge(Post({"authorization": f"Bearer {SECRET}x"}, octets({"secret": SECRET})), NOW)
        assert SECRET not in verdict.reason
