"""What happened: events as each provider writes them, and what is made of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mailerd.flow.classify import CATEGORIES
from tests.webhook.keys import read

AT = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)
STAMP = int(AT.timestamp())
ISO = "2026-09-21T14:13:20Z"
ANN = "ann@example.org"
GONE = "550 5.1.1 <ann@example.org>: Recipient address rejected: User unknown"
BLOCKED = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"
FULL = "552 5.2.2 mailbox full"
DEAD = {"category": "recipient", "hard": True, "code": 550, "enhanced": "5.1.1"}


def only(kind: str, body: Any) -> dict[str, Any]:
    (found,) = read(kind, body)
    assert (found.pop("provider"), found.pop("source")) == ("esp", "webhook:esp")
    assert found.pop("source_id")
    assert found.get("category", "other") in CATEGORIES
    return found


# Everything that a report says besides its type; `ours` is planted in each.
def common(message: str, **more: Any) -> dict[str, Any]:
    return {"message_id": 7, "rcpt": 1, "recipient": ANN, "provider_message_id": message, "at": AT, **more}


# -- SES ----------------------------------------------------------------------------------------------------------------

MAIL = {
    "timestamp": "2026-09-21T14:00:00.000Z",
    "messageId": "0102-ses",
    "source": "shop@shop.example",
    "destination": [ANN],
    "tags": {"mailerd_id": ["7-1"], "ses:configuration-set": ["mailerd"]},
    "commonHeaders": {"messageId": "<ours@shop.example>", "subject": "Hello"},
}


def ses(kind: str, key: str = "", mail: dict[str, Any] | None = None, **said: Any) -> dict[str, Any]:
    return {"eventType": kind, "mail": MAIL | (mail or {}), key or kind.lower(): {"timestamp": ISO} | said}


def bounce(kind: str, sub: str, words: str = "", status: str = "") -> dict[str, Any]:
    each = {"emailAddress": ANN} | ({"diagnosticCode": words} if words else {}) | ({"status": status} if status else {})
    return ses("Bounce", bounceType=kind, bounceSubType=sub, bouncedRecipients=[each], feedbackId="f-1")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ses("Delivery", recipients=[ANN], smtpResponse="250 ok"), {"type": "delivered", "detail": "250 ok"}),
        (
            bounce("Permanent", "General", f"smtp; {GONE}", "5.1.1"),
            {
                "type": "bounced",
                "detail": f"smtp; {GONE}",
                "metadata": {"bounce": "Permanent", "reason": "General"},
                **DEAD,
            },
        ),
        (
            bounce("Permanent", "NoEmail"),
            {
                "type": "bounced",
                "detail": "NoEmail",
                "category": "recipient",
                "hard": True,
                "metadata": {"bounce": "Permanent", "reason": "NoEmail"},
            },
        ),
        (
            bounce("Permanent", "General", BLOCKED, "5.7.1"),
            {
                "type": "bounced",
                "detail": BLOCKED,
                "category": "reputation",
                "code": 554,
                "enhanced": "5.7.1",
                "metadata": {"bounce": "Permanent", "reason": "General"},
            },
        ),
        (
            bounce("Transient", "MailboxFull", FULL),
            {
                "type": "bounced",
                "detail": FULL,
                "category": "mailbox_full",
                "code": 552,
                "enhanced": "5.2.2",
                "metadata": {"bounce": "Transient", "reason": "MailboxFull"},
            },
        ),
        (
            bounce("Permanent", "OnAccountSuppressionList"),
            {
                "type": "rejected",
                "detail": "OnAccountSuppressionList",
                "category": "recipient",
                "hard": True,
                "metadata": {"bounce": "Permanent", "reason": "OnAccountSuppressionList"},
            },
        ),
        (
            ses(
                "Complaint", complainedRecipients=[{"emailAddress": ANN}], complaintFeedbackType="abuse", feedbackId="f"
            ),
            {"type": "complained", "metadata": {"complaint": "abuse"}},
        ),
        (
            ses(
                "DeliveryDelay",
                "deliveryDelay",
                delayType="MailboxFull",
                delayedRecipients=[{"emailAddress": ANN, "status": "4.2.2", "diagnosticCode": "452 4.2.2 full"}],
            ),
            {
                "type": "deferred",
                "detail": "452 4.2.2 full",
                "category": "mailbox_full",
                "code": 452,
                "enhanced": "4.2.2",
                "metadata": {"reason": "MailboxFull"},
            },
        ),
        (ses("Reject", reason="Bad content"), {"type": "rejected", "detail": "Bad content", "category": "content"}),
        (
            ses("Rendering Failure", "failure", errorMessage="no value for x"),
            {"type": "failed", "detail": "no value for x"},
        ),
        (
            ses("Open", userAgent="Mozilla/5.0", ipAddress="192.0.2.1"),
            {"type": "opened", "metadata": {"user_agent": "Mozilla/5.0"}},
        ),
        (
            ses("Open", userAgent="Mozilla/5.0 (via ggpht.com GoogleImageProxy)"),
            {"type": "opened", "bot": True, "metadata": {"user_agent": "Mozilla/5.0 (via ggpht.com GoogleImageProxy)"}},
        ),
        (
            ses("Click", link="https://shop.example/a", userAgent="Mozilla/5.0"),
            {"type": "clicked", "metadata": {"url": "https://shop.example/a", "user_agent": "Mozilla/5.0"}},
        ),
        (
            ses("Subscription", contactList="news", newTopicPreferences={"unsubscribeAll": True}),
            {"type": "unsubscribed", "metadata": {"list": "news"}},
        ),
    ],
)
def test_ses(event: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only("ses", event) == common("0102-ses", header_ids=("ours@shop.example",)) | expected


def test_ses_knows_that_somebody_left_and_is_not_dead() -> None:
    found = only("ses", bounce("Permanent", "UnsubscribedRecipient"))
    assert (found["type"], found.get("hard")) == ("rejected", None)


def test_ses_as_its_older_notifications_say_it() -> None:
    event = bounce("Permanent", "General", GONE)
    event["notificationType"] = event.pop("eventType")
    event["mail"] = {key: value for key, value in MAIL.items() if key not in ("tags", "commonHeaders")}
    found = only("ses", event)
    assert (found["type"], found["hard"], found["recipient"], found["provider_message_id"]) == (
        "bounced",
        True,
        ANN,
        "0102-ses",
    )
    assert not {"message_id", "rcpt", "header_ids"} & found.keys()


def test_ses_says_one_bounce_twice_under_one_name() -> None:
    event = bounce("Permanent", "General", GONE)
    older = {"notificationType": "Bounce"} | {key: value for key, value in event.items() if key != "eventType"}
    assert {read("ses", one)[0]["source_id"] for one in (event, older)} == {"f-1"}


def test_ses_tells_of_several_recipients() -> None:
    event = ses("Delivery", mail={"destination": [ANN, "bob@example.org"]}, recipients=[ANN, "bob@example.org"])
    found = read("ses", event)
    assert [one["recipient"] for one in found] == [ANN, "bob@example.org"]
    assert len({one["source_id"] for one in found}) == 2


def test_ses_does_not_say_who_of_several_opened_it() -> None:
    event = ses("Open", mail={"destination": [ANN, "bob@example.org"], "tags": {"mailerd_id": ["7"]}})
    found = only("ses", event)
    assert (found["type"], found["message_id"]) == ("opened", 7)
    assert not {"recipient", "rcpt"} & found.keys()


def test_ses_says_what_we_know_already_or_nothing_at_all() -> None:
    assert read("ses", ses("Send")) == []
    assert read("ses", "Successfully validated SNS topic for Amazon SES event publishing.") == []
    assert only("ses", "hello") == {"type": "unknown", "detail": "text", "metadata": {"raw": '"hello"'}}
    assert only("ses", ses("Complaint", complaintFeedbackType="not-spam"))["type"] == "unknown"


# -- Resend -------------------------------------------------------------------------------------------------------------


def resend(kind: str, **said: Any) -> dict[str, Any]:
    data = {"email_id": "re-1", "to": [ANN], "tags": {"mailerd_id": "7-1", "x": "y"}, "subject": "Hello"} | said
    return {"type": kind, "created_at": ISO, "data": data}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (resend("email.delivered"), {"type": "delivered"}),
        (resend("email.delivery_delayed"), {"type": "deferred"}),
        (resend("email.complained"), {"type": "complained"}),
        (resend("email.opened"), {"type": "opened"}),
        (
            resend("email.clicked", click={"link": "https://shop.example/", "userAgent": "curl/8", "ipAddress": "::1"}),
            {"type": "clicked", "bot": True, "metadata": {"url": "https://shop.example/", "user_agent": "curl/8"}},
        ),
        (
            resend(
                "email.bounced", bounce={"type": "Permanent", "subType": "General", "diagnosticCode": [f"smtp; {GONE}"]}
            ),
            {
                "type": "bounced",
                "detail": f"smtp; {GONE}",
                "metadata": {"bounce": "Permanent", "reason": "General"},
                **DEAD,
            },
        ),
        (
            resend("email.bounced", bounce={"type": "Transient", "subType": "General", "message": "later"}),
            {
                "type": "bounced",
                "detail": "later",
                "category": "other",
                "metadata": {"bounce": "Transient", "reason": "General"},
            },
        ),
        (
            resend("email.suppressed", suppressed={"reason": "previous_bounce", "message": "it bounced before"}),
            {"type": "rejected", "detail": "it bounced before", "category": "recipient", "hard": True},
        ),
        (
            resend("email.suppressed", suppressed={"reason": "previous_complaint"}),
            {"type": "rejected", "detail": "previous_complaint", "category": "other"},
        ),
        (
            resend("email.failed", failed={"reason": "reached_daily_quota"}),
            {"type": "failed", "detail": "reached_daily_quota"},
        ),
    ],
)
def test_resend(event: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only("resend", event) == common("re-1") | expected


def test_resend_with_tags_as_pairs_and_several_recipients() -> None:
    event = resend("email.delivered", tags=[{"name": "mailerd_id", "value": "7"}], to=[ANN, "bob@example.org"])
    assert only("resend", event) == {"type": "delivered", "message_id": 7, "provider_message_id": "re-1", "at": AT}
    assert read("resend", event)[0]["source_id"] == "msg_1"


def test_resend_of_contacts_and_of_what_we_know_already() -> None:
    assert read("resend", resend("email.sent")) == []
    assert only("resend", {"type": "contact.created", "data": {}})["type"] == "unknown"


# -- SendGrid -----------------------------------------------------------------------------------------------------------


def sendgrid(kind: str, **said: Any) -> dict[str, Any]:
    return {
        "email": ANN,
        "timestamp": STAMP,
        "event": kind,
        "sg_event_id": f"ev-{kind}",
        "sg_message_id": "sg-1.recvd-5f-2.0",
        "smtp-id": "<x@ismtpd>",
        "mailerd_id": "7-1",
    } | said


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (sendgrid("delivered", response="250 OK"), {"type": "delivered", "detail": "250 OK"}),
        (
            sendgrid("deferred", response="451 4.7.1 try later", attempt="5"),
            {
                "type": "deferred",
                "detail": "451 4.7.1 try later",
                "category": "policy",
                "code": 451,
                "enhanced": "4.7.1",
            },
        ),
        (
            sendgrid("bounce", type="bounce", status="5.1.1", reason=GONE, bounce_classification="Invalid Address"),
            {"type": "bounced", "detail": GONE, "metadata": {"bounce": "bounce", "reason": "Invalid Address"}, **DEAD},
        ),
        (
            sendgrid("bounce", type="blocked", status="5.1.1", reason=GONE),
            {
                "type": "bounced",
                "detail": GONE,
                "category": "recipient",
                "code": 550,
                "enhanced": "5.1.1",
                "metadata": {"bounce": "blocked"},
            },
        ),
        (
            sendgrid("bounce", type="bounce", status="5.7.1", reason=BLOCKED),
            {
                "type": "bounced",
                "detail": BLOCKED,
                "category": "reputation",
                "code": 554,
                "enhanced": "5.7.1",
                "metadata": {"bounce": "bounce"},
            },
        ),
        (
            sendgrid("dropped", reason="Bounced Address"),
            {"type": "rejected", "detail": "Bounced Address", "category": "recipient", "hard": True},
        ),
        (
            sendgrid("dropped", reason="Unsubscribed Address"),
            {"type": "rejected", "detail": "Unsubscribed Address", "category": "other"},
        ),
        (sendgrid("spamreport"), {"type": "complained"}),
        (sendgrid("group_unsubscribe", asm_group_id=12), {"type": "unsubscribed", "metadata": {"group": "12"}}),
        (sendgrid("open", sg_machine_open=True), {"type": "opened", "bot": True}),
        (
            sendgrid("click", url="https://shop.example/", useragent="Mozilla/5.0"),
            {"type": "clicked", "metadata": {"url": "https://shop.example/", "user_agent": "Mozilla/5.0"}},
        ),
    ],
)
def test_sendgrid(event: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only("sendgrid", [event]) == common("sg-1", header_ids=("x@ismtpd",)) | expected


def test_sendgrid_in_a_batch_where_one_is_not_understood() -> None:
    found = read("sendgrid", [sendgrid("processed"), sendgrid("delivered"), sendgrid("group_resubscribe"), {}])
    assert [one["type"] for one in found] == ["delivered", "unknown", "unknown"]
    assert found[0]["source_id"] == "ev-delivered"
    assert '"group_resubscribe"' in found[1]["metadata"]["raw"]
    assert (found[1]["message_id"], found[1]["source_id"]) == (7, "ev-group_resubscribe")


# -- Mailgun ------------------------------------------------------------------------------------------------------------


def mailgun(kind: str, **said: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "id": "ev_1",
        "timestamp": float(STAMP),
        "recipient": ANN,
        "user-variables": {"mailerd_id": "7-1"},
        "message": {"headers": {"message-id": "2026.1@mg.example.org"}},
    } | said


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            mailgun("delivered", **{"delivery-status": {"message": "OK", "code": 250}}),
            {"type": "delivered", "detail": "OK"},
        ),
        (
            mailgun(
                "failed", severity="permanent", reason="bounce", **{"delivery-status": {"message": GONE, "code": 550}}
            ),
            {"type": "bounced", "detail": GONE, "metadata": {"reason": "bounce"}, **DEAD},
        ),
        (
            mailgun(
                "failed",
                severity="permanent",
                reason="generic",
                **{"delivery-status": {"description": "Too many hops", "code": 550, "bounce-type": "soft"}},
            ),
            {
                "type": "bounced",
                "detail": "Too many hops",
                "category": "routing",
                "code": 550,
                "metadata": {"reason": "generic", "bounce": "soft"},
            },
        ),
        (
            mailgun(
                "failed",
                severity="temporary",
                reason="generic",
                **{"delivery-status": {"message": "mailbox is full", "code": 452, "enhanced-code": "4.2.2"}},
            ),
            {
                "type": "deferred",
                "detail": "mailbox is full",
                "category": "mailbox_full",
                "code": 452,
                "enhanced": "4.2.2",
                "metadata": {"reason": "generic"},
            },
        ),
        (
            mailgun("failed", severity="permanent", reason="suppress-bounce", **{"delivery-status": {"code": 605}}),
            {
                "type": "rejected",
                "detail": "suppress-bounce",
                "category": "recipient",
                "hard": True,
                "metadata": {"reason": "suppress-bounce"},
            },
        ),
        (
            mailgun("failed", severity="permanent", reason="suppress-complaint", **{"delivery-status": {"code": 607}}),
            {
                "type": "rejected",
                "detail": "suppress-complaint",
                "category": "other",
                "metadata": {"reason": "suppress-complaint"},
            },
        ),
        (mailgun("complained"), {"type": "complained"}),
        (mailgun("unsubscribed"), {"type": "unsubscribed"}),
        (
            mailgun("opened", **{"client-info": {"bot": "apple", "user-agent": "Mozilla/5.0"}}),
            {"type": "opened", "bot": True, "metadata": {"user_agent": "Mozilla/5.0", "bot": "apple"}},
        ),
        (
            mailgun(
                "clicked", url="https://shop.example/", **{"client-info": {"bot": "", "user-agent": "Mozilla/5.0"}}
            ),
            {"type": "clicked", "metadata": {"url": "https://shop.example/", "user_agent": "Mozilla/5.0"}},
        ),
        (
            mailgun("rejected", reject={"reason": "virus found"}),
            {"type": "rejected", "detail": "virus found", "category": "content"},
        ),
    ],
)
def test_mailgun(event: dict[str, Any], expected: dict[str, Any]) -> None:
    known = common("2026.1@mg.example.org", header_ids=("2026.1@mg.example.org",))
    assert only("mailgun", event) == known | expected


def test_mailgun_names_are_unique_within_a_day() -> None:
    first, second = (
        read("mailgun", mailgun("delivered", timestamp=STAMP + late))[0]["source_id"] for late in (0, 86400)
    )
    assert (first, second) == ("20260921-ev_1", "20260922-ev_1")


# -- Postmark -----------------------------------------------------------------------------------------------------------


def postmark(kind: str, **said: Any) -> dict[str, Any]:
    to = "Email" if kind in ("Bounce", "SpamComplaint") else "Recipient"
    at = {"Delivery": "DeliveredAt", "Open": "ReceivedAt", "Click": "ReceivedAt", "SubscriptionChange": "ChangedAt"}
    return {
        "RecordType": kind,
        "MessageID": "pm-1",
        to: ANN,
        "Metadata": {"mailerd_id": "7-1"},
        at.get(kind, "BouncedAt"): "2026-09-21T14:13:20.0000000Z",
    } | said


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (postmark("Delivery", Details="250 ok"), {"type": "delivered", "detail": "250 ok"}),
        (
            postmark("Bounce", ID=42, Type="HardBounce", Details=GONE),
            {"type": "bounced", "detail": GONE, "metadata": {"bounce": "HardBounce"}, **DEAD},
        ),
        (
            postmark("Bounce", ID=42, Type="SoftBounce", Details=GONE),
            {
                "type": "bounced",
                "detail": GONE,
                "category": "recipient",
                "code": 550,
                "enhanced": "5.1.1",
                "metadata": {"bounce": "SoftBounce"},
            },
        ),
        (
            postmark("Bounce", ID=42, Type="Blocked", Details=BLOCKED),
            {
                "type": "bounced",
                "detail": BLOCKED,
                "category": "reputation",
                "code": 554,
                "enhanced": "5.7.1",
                "metadata": {"bounce": "Blocked"},
            },
        ),
        (
            postmark("Bounce", ID=42, Type="Transient", Description="later"),
            {"type": "deferred", "detail": "later", "category": "other", "metadata": {"bounce": "Transient"}},
        ),
        (
            postmark("Bounce", ID=42, Type="SpamNotification", Details="spam"),
            {"type": "complained", "detail": "spam", "metadata": {"bounce": "SpamNotification"}},
        ),
        (postmark("SpamComplaint", ID=42), {"type": "complained"}),
        (
            postmark("Open", UserAgent="Mozilla/5.0", FirstOpen=True),
            {"type": "opened", "metadata": {"user_agent": "Mozilla/5.0"}},
        ),
        (
            postmark("Click", OriginalLink="https://shop.example/", UserAgent="Barracuda Sentinel"),
            {
                "type": "clicked",
                "bot": True,
                "metadata": {"url": "https://shop.example/", "user_agent": "Barracuda Sentinel"},
            },
        ),
        (
            postmark(
                "SubscriptionChange", SuppressSending=True, SuppressionReason="ManualSuppression", Origin="Recipient"
            ),
            {
                "type": "unsubscribed",
                "detail": "ManualSuppression",
                "metadata": {"reason": "ManualSuppression", "origin": "Recipient"},
            },
        ),
        (
            postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="HardBounce", Origin="Recipient"),
            {
                "type": "rejected",
                "detail": "HardBounce",
                "category": "recipient",
                "hard": True,
                "metadata": {"reason": "HardBounce", "origin": "Recipient"},
            },
        ),
    ],
)
def test_postmark(event: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only("postmark", event) == common("pm-1") | expected


def test_postmark_when_somebody_may_be_written_to_again() -> None:
    assert only("postmark", postmark("SubscriptionChange", SuppressSending=False))["type"] == "unknown"
    assert read("postmark", postmark("Bounce", ID=42, Type="Quux"))[0]["source_id"] == "Bounce-42"


# -- SparkPost ----------------------------------------------------------------------------------------------------------


def sparkpost(class_: str, kind: str, **said: Any) -> dict[str, Any]:
    event = {
        "type": kind,
        "event_id": f"ev-{kind}",
        "timestamp": str(STAMP),
        "transmission_id": "tr-1",
        "message_id": "another",
        "rcpt_to": ANN,
        "rcpt_meta": {"mailerd_id": "7-1"},
    }
    return {"msys": {class_: event | said}}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (sparkpost("message_event", "delivery"), {"type": "delivered"}),
        (
            sparkpost("message_event", "bounce", bounce_class="10", raw_reason=GONE, error_code="550"),
            {"type": "bounced", "detail": GONE, "metadata": {"bounce": "10"}, **DEAD},
        ),
        (
            sparkpost("message_event", "out_of_band", bounce_class="51", raw_reason=BLOCKED, error_code="554"),
            {
                "type": "bounced",
                "detail": BLOCKED,
                "category": "reputation",
                "code": 554,
                "enhanced": "5.7.1",
                "metadata": {"bounce": "51"},
            },
        ),
        (
            sparkpost("message_event", "bounce", bounce_class="25", raw_reason="recipient on suppression list"),
            {
                "type": "rejected",
                "detail": "recipient on suppression list",
                "category": "other",
                "metadata": {"bounce": "25"},
            },
        ),
        (
            sparkpost("message_event", "delay", raw_reason="452 4.2.2 mailbox full", error_code="452"),
            {
                "type": "deferred",
                "detail": "452 4.2.2 mailbox full",
                "category": "mailbox_full",
                "code": 452,
                "enhanced": "4.2.2",
            },
        ),
        (
            sparkpost("message_event", "spam_complaint", fbtype="abuse"),
            {"type": "complained", "metadata": {"complaint": "abuse"}},
        ),
        (
            sparkpost("track_event", "initial_open", user_agent="x", user_agent_parsed={"is_prefetched": True}),
            {"type": "opened", "bot": True, "metadata": {"user_agent": "x"}},
        ),
        (
            sparkpost("track_event", "click", target_link_url="https://shop.example/"),
            {"type": "clicked", "metadata": {"url": "https://shop.example/"}},
        ),
        (sparkpost("unsubscribe_event", "link_unsubscribe"), {"type": "unsubscribed"}),
        (sparkpost("gen_event", "generation_failure", reason="no such template"), {"type": "failed", "detail": "no such template"}),
        (
            sparkpost("message_event", "policy_rejection", reason="virus", error_code="550"),
            {"type": "rejected", "detail": "virus", "category": "content", "code": 550},
        ),
    ],
)  # fmt: skip
def test_sparkpost(event: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only("sparkpost", [event]) == common("tr-1") | expected


@pytest.mark.parametrize(("class_", "type_"), [("60", "unknown"), ("100", "unknown"), ("90", "unsubscribed")])
def test_sparkpost_of_mail_that_came_back_and_is_no_bounce(class_: str, type_: str) -> None:
    event = sparkpost("message_event", "out_of_band", bounce_class=class_, raw_reason="I am away")
    found = only("sparkpost", [event])
    assert (found["type"], found.get("hard")) == (type_, None)


def test_sparkpost_with_a_ping_and_what_is_not_spam() -> None:
    assert read("sparkpost", [{"msys": {}}]) == []
    found = read("sparkpost", [{"msys": {}}, sparkpost("message_event", "spam_complaint", fbtype="not-spam")])
    assert [one["type"] for one in found] == ["unknown"]


# -- Brevo --------------------------------------------------------------------------------------------------------------


def brevo(kind: str, **said: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "email": ANN,
        "id": 26224,
        "date": "2026-09-21 16:13:20",
        "ts_epoch": STAMP * 1000,
        "message-id": "<br-1@smtp-relay>",
        "X-Mailin-custom": "7-1",
    } | said


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (brevo("delivered"), {"type": "delivered"}),
        (
            brevo("hard_bounce", reason=GONE),
            {"type": "bounced", "detail": GONE, "metadata": {"bounce": "hard_bounce"}, **DEAD},
        ),
        (
            brevo("soft_bounce", reason=FULL),
            {
                "type": "bounced",
                "detail": FULL,
                "category": "mailbox_full",
                "code": 552,
                "enhanced": "5.2.2",
                "metadata": {"bounce": "soft_bounce"},
            },
        ),
        (
            brevo("invalid_email"),
            {"type": "bounced", "category": "recipient", "hard": True, "metadata": {"bounce": "invalid_email"}},
        ),
        (brevo("blocked"), {"type": "rejected", "category": "other", "metadata": {"bounce": "blocked"}}),
        (brevo("error", reason="x"), {"type": "failed", "detail": "x", "metadata": {"bounce": "error"}}),
        (brevo("deferred", reason="later"), {"type": "deferred", "detail": "later", "category": "other"}),
        (brevo("spam"), {"type": "complained"}),
        (brevo("unsubscribe"), {"type": "unsubscribed"}),
        (brevo("unique_opened"), {"type": "opened"}),
        (brevo("proxy_open"), {"type": "opened", "bot": True}),
        (
            brevo("click", link="https://shop.example/"),
            {"type": "clicked", "metadata": {"url": "https://shop.example/"}},
        ),
    ],
)
def test_brevo(event: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only("brevo", event) == common("br-1@smtp-relay", header_ids=("br-1@smtp-relay",)) | expected


def test_brevo_in_a_batch() -> None:
    found = read(
        "brevo", [brevo("request"), brevo("delivered"), brevo("delivered"), brevo("delivered", ts_epoch=STAMP)]
    )
    assert len(found) == 3
    assert len({one["source_id"] for one in found}) == 2


# -- Mailjet ------------------------------------------------------------------------------------------------------------


def mailjet(kind: str, **said: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "time": STAMP,
        "email": ANN,
        "MessageID": 2**60 + 1,
        "mj_message_id": str(2**60 + 1),
        "CustomID": "7-1",
    } | said


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (mailjet("sent", smtp_reply="sent (250 2.0.0 OK)"), {"type": "delivered", "detail": "sent (250 2.0.0 OK)"}),
        (
            mailjet("bounce", hard_bounce=True, error_related_to="recipient", error="user unknown", comment=GONE),
            {
                "type": "bounced",
                "detail": f"user unknown {GONE}",
                "metadata": {"reason": "user unknown", "about": "recipient"},
                **DEAD,
            },
        ),
        (
            mailjet("bounce", hard_bounce=False, error="quota exceeded"),
            {
                "type": "bounced",
                "detail": "quota exceeded",
                "category": "mailbox_full",
                "metadata": {"reason": "quota exceeded"},
            },
        ),
        (
            mailjet("bounce", error="greylisted"),
            {
                "type": "deferred",
                "detail": "greylisted",
                "category": "greylist",
                "metadata": {"reason": "greylisted"},
            },
        ),
        (
            mailjet("blocked", error_related_to="mailjet", error="preblocked"),
            {
                "type": "rejected",
                "detail": "preblocked",
                "category": "other",
                "metadata": {"reason": "preblocked", "about": "mailjet"},
            },
        ),
        (mailjet("spam", source="JMRPP"), {"type": "complained", "metadata": {"complaint": "JMRPP"}}),
        (mailjet("unsub", mj_list_id=3), {"type": "unsubscribed", "metadata": {"group": "3"}}),
        (
            mailjet("click", url="https://shop.example/", agent="Mozilla/5.0"),
            {"type": "clicked", "metadata": {"url": "https://shop.example/", "user_agent": "Mozilla/5.0"}},
        ),
    ],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_mailjet(event: dict[str, Any], expected: dict[str, Any], grouped: bool) -> None:
    assert only("mailjet", [event] if grouped else event) == common(str(2**60 + 1)) | expected


# -- MailerSend ---------------------------------------------------------------------------------------------------------


def mailersend(kind: str, morph: dict[str, Any] | None = None, *, flat: bool = False) -> dict[str, Any]:
    data: dict[str, Any] = {"id": "act-1", "type": kind, "created_at": "2026-09-21T14:13:20.000000Z"}
    tags = ["welcome", "mailerd_id-7-1"]
    if flat:
        data |= {"message_id": "ms-1", "recipient": ANN, "tags": tags, "meta": morph or []}
    else:
        data["morph"] = morph
        data["email"] = {"id": "e-1", "tags": tags, "message": {"id": "ms-1"}, "recipient": {"email": ANN}}
    return {"type": f"activity.{kind}", "created_at": ISO, "data": data}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (mailersend("delivered"), {"type": "delivered"}),
        (mailersend("delivered", flat=True), {"type": "delivered"}),
        (
            mailersend("hard_bounced", {"object": "recipient_bounce", "reason": GONE}),
            {"type": "bounced", "detail": GONE, "metadata": {"bounce": "hard_bounced"}, **DEAD},
        ),
        (
            mailersend("hard_bounced", {"bounce_code": 550, "bounce_reason": "user unknown"}, flat=True),
            {
                "type": "bounced",
                "detail": "user unknown",
                "category": "recipient",
                "hard": True,
                "code": 550,
                "metadata": {"bounce": "hard_bounced"},
            },
        ),
        (
            mailersend("soft_bounced", {"readable_reason": "mailbox full"}),
            {
                "type": "bounced",
                "detail": "mailbox full",
                "category": "mailbox_full",
                "metadata": {"bounce": "soft_bounced"},
            },
        ),
        (mailersend("spam_complaint"), {"type": "complained"}),
        (mailersend("spam_complaints", flat=True), {"type": "complained"}),
        (mailersend("unsubscribed"), {"type": "unsubscribed"}),
        (mailersend("deferred"), {"type": "deferred", "category": "other"}),
        (
            mailersend("suppressed", {"suppression_reason": "on the list"}, flat=True),
            {"type": "rejected", "detail": "on the list", "category": "other"},
        ),
        (mailersend("opened_unique", {"object": "open", "ip": "192.0.2.1"}), {"type": "opened"}),
        (
            mailersend("clicked", {"object": "click", "url": "https://shop.example/"}),
            {"type": "clicked", "metadata": {"url": "https://shop.example/"}},
        ),
    ],
)
def test_mailersend(event: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only("mailersend", event) == common("ms-1") | expected
    assert read("mailersend", event)[0]["source_id"] == "act-1"


def test_mailersend_of_what_we_know_already() -> None:
    assert read("mailersend", mailersend("sent")) == []
    assert read("mailersend", {"type": "webhook.test", "data": {}}) == []
