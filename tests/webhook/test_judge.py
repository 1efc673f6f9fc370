"""Who posted: signatures, secrets, topics, times, each against the verifier that the provider itself publishes, if there is one."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mailgun.security import SecurityGuard
from msgspec.structs import replace
from sendgrid.helpers.eventwebhook import EventWebhook
from sns_message_validator import SNSMessageValidator
from standardwebhooks import Webhook as Standard
from standardwebhooks import WebhookVerificationError

from mailerd.config.kinds import HTTP
from mailerd.config.provider import Provider
from mailerd.webhook.dialect import Post
from mailerd.webhook.kinds import WEBHOOKS, webhook
from tests.webhook import keys
from tests.webhook.keys import (
    CERTIFICATE,
    KINDS,
    NOW,
    SECRET,
    TOPIC,
    UNSIGNED,
    certificates,
    make,
    notification,
    octets,
    post,
)

SIGNED = [kind for kind in KINDS if kind not in UNSIGNED]


def judge(kind: str, request: Post, now: float = NOW) -> tuple[int, str]:
    verdict = make(kind).judge(request, now, certificates())
    return verdict.status, verdict.reason


def test_every_api_that_we_speak_has_a_webhook() -> None:
    assert {*WEBHOOKS, "http"} == HTTP.keys()
    assert set(KINDS) == WEBHOOKS.keys()


def test_nothing_is_taken_where_nothing_would_prove_it() -> None:
    assert webhook(Provider(name="a", kind="resend", api_key="x")) is None
    assert webhook(Provider(name="a", kind="smtp")) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_proven_is_accepted(kind: str) -> None:
    assert judge(kind, post(kind, {"event": "x"})) == (200, "")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_proven_is_refused(kind: str) -> None:
    status, reason = judge(kind, Post({}, b'{"event": "x"}'))
    assert (status, bool(reason)) == (401, True)


@pytest.mark.parametrize("kind", ["resend", "sendgrid", "mailersend"])
def test_another_body_is_refused(kind: str) -> None:
    request = post(kind, {"event": "x"})
    assert judge(kind, replace(request, body=request.body + b" ")) == (401, "signature wrong")


@pytest.mark.parametrize("kind", [kind for kind in SIGNED if kind != "mailersend"])
@pytest.mark.parametrize("late", [-4000, 4000])
def test_what_is_too_old_or_from_the_future_is_refused(kind: str, late: int) -> None:
    assert judge(kind, post(kind, {"event": "x"}), NOW + late) == (403, "too old")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ses", "sendgrid", "resend")])
def test_secrets_rotate(kind: str) -> None:
    request = post(kind, {"event": "x"})
    assert make(kind, "another secret, older", SECRET).judge(request, NOW).accepted
    assert make(kind, "another secret, older").judge(request, NOW).status == 401


@pytest.mark.parametrize("kind", UNSIGNED)
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Post({"authorization": f"Bearer {SECRET}"}, b"{}"), 200),
        (Post({"x-webhook-secret": SECRET}, b"{}"), 200),
        (Post({}, b"{}", {"secret": SECRET}), 200),
        (Post({"authorization": "Basic " + b64encode(f"u:{SECRET}".encode()).decode()}, b"{}"), 200),
        (Post({"authorization": "Basic " + b64encode(f"{SECRET}:p".encode()).decode()}, b"{}"), 401),
        (Post({"authorization": "Basic é!"}, b"{}"), 401),
        (Post({"authorization": "Digest x"}, b"{}"), 401),
        (Post({}, b"{}", {"secret": SECRET[:-1]}), 401),
        (Post({}, b"{}", {"secret": "ü\ud800"}), 401),
        (Post({}, SECRET.encode()), 401),
    ],
)
def test_where_a_shared_secret_may_stand(kind: str, request_: Post, status: int) -> None:
    assert make(kind).judge(request_, NOW).status == status


def test_a_name_and_a_password_can_be_the_secret() -> None:
    request = post("postmark", {})
    assert make("postmark", f"mailerd:{SECRET}").judge(request, NOW).accepted
    assert not make("postmark", f"another:{SECRET}").judge(request, NOW).accepted


def test_what_may_come_once_has_a_name() -> None:
    assert {kind: make(kind).judge(post(kind, {"a": 1}), NOW, certificates()).once for kind in SIGNED} == {
        "ses": "11111111-aaaa",
        "resend": "msg_1",
        "sendgrid": "",
        "mailgun": "token-1",
        "mailersend": "",
    }


# -- oracles ------------------------------------------------------------------------------------------------------------

CHANGES = st.sampled_from(["none", "body", "id", "time", "signature", "more", "version"])


@settings(deadline=None, max_examples=80)
@given(body=st.text(max_size=60).filter(str.strip), change=CHANGES, late=st.sampled_from([0, 299, -299, 301, -301]))
def test_resend_as_standard_webhooks_judges(body: str, change: str, late: int) -> None:
    at = int(datetime.now(UTC).timestamp())
    then = datetime.fromtimestamp(at - late, UTC)
    body = json.dumps(body)
    signature = Standard(keys.WHSEC).sign("msg_1", then, body)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(at - late), "webhook-signature": signature}
    if change == "body":
        body = f"[{body}]"
    elif change == "id":
        headers["webhook-id"] = "msg_2"
    elif change == "time":
        headers["webhook-timestamp"] = str(at - late + 1)
    elif change == "signature":
        headers["webhook-signature"] = signature[:-4] + "AAA="
    elif change == "more":
        headers["webhook-signature"] = f"v1,AAAA v1a,xyz {signature}"
    elif change == "version":
        headers["webhook-signature"] = signature.replace("v1,", "v2,")
    try:
        Standard(keys.WHSEC).verify(body, headers)
        theirs = True
    except WebhookVerificationError:
        theirs = False
    verdict = make("resend").judge(Post(headers, body.encode()), at)
    if abs(late) in (299, 301):  # a second may pass between the two clocks
        assert verdict.accepted or change != "none" or abs(late) == 301
    else:
        assert verdict.accepted == theirs


@settings(deadline=None, max_examples=80)
@given(body=st.text(max_size=60), change=CHANGES)
def test_sendgrid_as_its_own_helper_judges(body: str, change: str) -> None:
    request = post("sendgrid", body.encode())
    signature, then = request.headers.values()
    if change == "body":
        body += "\r\n"
    elif change == "time":
        then = str(int(then) + 1)
    elif change == "signature":
        signature = b64encode(b"0" + b64encode(signature.encode())[:60]).decode()
    theirs = EventWebhook(keys._SECRETS["sendgrid"]).verify_signature(body, signature, then)
    headers = dict(zip(request.headers, (signature, then), strict=True))
    assert make("sendgrid").judge(Post(headers, body.encode()), NOW).accepted == theirs


@pytest.mark.parametrize("change", ["", "token", "timestamp", "signature"])
def test_mailgun_as_its_own_client_judges(change: str) -> None:
    found = json.loads(post("mailgun", {"event": "x"}, at=datetime.now(UTC).timestamp()).body)
    if change:
        given = found["signature"][change]
        found["signature"][change] = given[:-1] + ("1" if given[-1] != "1" else "2")
    theirs = SecurityGuard.verify_webhook(SECRET, **found["signature"])
    assert (
        make("mailgun").judge(Post({}, octets(found)), datetime.now(UTC).timestamp()).accepted == theirs == (not change)
    )


@pytest.mark.parametrize("message", [notification("m", version="1"), notification("m", version="1", Subject="s")])
@pytest.mark.parametrize("change", ["", "Message", "TopicArn", "Timestamp"])
def test_sns_as_a_validator_judges(message: dict[str, Any], change: str) -> None:
    if change == "Timestamp":
        message = message | {change: message[change].replace(".000Z", ".001Z")}
    elif change:
        message = message | {change: message[change] + "x"}
    validator = SNSMessageValidator()
    validator._cert_session = SimpleNamespace(get=lambda url: SimpleNamespace(content=keys.certificate()))
    try:
        validator.validate_message(message)
        theirs = True
    except Exception:
        theirs = False
    assert make("ses").judge(Post({}, octets(message)), NOW, certificates()).accepted == theirs == (not change)


# -- SNS ----------------------------------------------------------------------------------------------------------------


def sns(message: dict[str, Any], pem: bytes | None = None, now: float = NOW) -> Any:
    return make("ses").judge(Post({}, octets(message)), now, {CERTIFICATE: pem or keys.certificate()})


def test_a_certificate_is_asked_for_before_anything_is_believed() -> None:
    verdict = make("ses").judge(Post({}, octets(notification("m"))), NOW)
    assert (verdict.certificate, verdict.accepted, verdict.visit) == (CERTIFICATE, False, "")


def test_a_foreign_topic_makes_us_fetch_nothing() -> None:
    verdict = make("ses").judge(Post({}, octets(keys.confirmation(TopicArn=TOPIC + "2"))), NOW)
    assert (verdict.status, verdict.reason, verdict.certificate) == (403, "foreign topic", "")


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-central-1.amazonaws.com.evil.example/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-central-1.amazonaws.com@evil.example/SimpleNotificationService-0123abcd.pem",
        "https://evil.example/sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-central-1.amazonaws.com:8443/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123abcd.pem?x",
        "https://sns.eu-central-1.amazonaws.com/../SimpleNotificationService-0123abcd.pem",
        "https://bucket.s3.amazonaws.com/SimpleNotificationService-0123abcd.pem",
        "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123abcd.pem\n",
        "",
    ],
)
def test_a_certificate_elsewhere_is_not_fetched(url: str) -> None:
    verdict = make("ses").judge(Post({}, octets(notification("m", SigningCertURL=url))), NOW)
    assert (verdict.status, verdict.reason, verdict.certificate) == (401, "certificate elsewhere", "")


def test_the_other_half_of_the_world_has_its_own_hosts() -> None:
    url = "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-0123abcd.pem"
    assert make("ses").judge(Post({}, octets(notification("m", SigningCertURL=url))), NOW).certificate == url


@pytest.mark.parametrize(
    "pem",
    [
        keys.certificate("evil.example"),
        keys.certificate("sns.amazonaws.com.evil.example"),
        keys.certificate(begin=NOW - 864000, days=9),
        keys.certificate(begin=NOW + 864000),
        b"no certificate",
        b"",
        b"x" * 100_000,
    ],
)
def test_a_certificate_that_is_not_theirs_or_not_of_today(pem: bytes) -> None:
    verdict = make("ses").judge(Post({}, octets(notification("m"))), NOW, {CERTIFICATE: pem})
    assert (verdict.status, verdict.reason, verdict.accepted) == (401, "certificate unusable", False)
    assert verdict.certificate == CERTIFICATE  # to be forgotten


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_subscription_is_confirmed_where_it_is_ours(version: str) -> None:
    message = keys.confirmation(version=version)
    verdict = sns(message)
    assert verdict.accepted
    assert (verdict.visit, verdict.empty) == (message["SubscribeURL"], True)
    assert make("ses").read(octets(message), {}) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/?Action=ConfirmSubscription&TopicArn=" + TOPIC,
        "http://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + TOPIC,
        "https://sns.eu-central-1.amazonaws.com/?Action=Unsubscribe&TopicArn=" + TOPIC,
        "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=other",
        None,
    ],
)
def test_a_subscription_elsewhere_is_not_followed(url: str | None) -> None:
    verdict = sns(keys.confirmation(SubscribeURL=url))
    assert (verdict.status, verdict.visit) == (401, "")


def test_the_end_of_a_subscription_is_not_followed() -> None:
    verdict = sns(keys.confirmation(Type="UnsubscribeConfirmation"))
    assert (verdict.accepted, verdict.visit, verdict.empty) == (True, "", True)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"Type": "UnsubscriptionConfirmation"}, (401, "no message of SNS")),
        ({"version": "3"}, (401, "signature version unknown")),
        ({"Timestamp": "yesterday"}, (403, "too old")),
    ],
)
def test_what_sns_would_not_send(changes: dict[str, Any], wrong: tuple[int, str]) -> None:
    verdict = sns(notification("m", **changes))
    assert (verdict.status, verdict.reason) == wrong


def test_raw_delivery_is_refused() -> None:
    assert sns({"eventType": "Bounce", "mail": {}}).reason == "no message of SNS"
