"""The dialects of Brevo, Mailjet and MailerSend."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from mailerd.http import flight
from mailerd.message import Outgoing
from tests.http.rig import Seen, api, message, reply, rig

BREVO = {"api_key": "xkeysib"}
MAILJET = {"api_key": "public", "secret_key": "private"}
MAILERSEND = {"api_key": "mlsn"}


def full(**columns: Any) -> Outgoing:
    picture = {"filename": "l.png", "content": base64.b64encode(b"abc").decode(), "content_type": "image/png"}
    return message(
        "Ann Müller <ann@example.org>",
        subject="Grüße",
        text_body="Hallo",
        html_body="<p>Hallo</p>",
        cc=["carl@example.org"],
        bcc=["bob@example.net"],
        tags=["welcome"],
        attachments=json.dumps([picture | {"filename": "a.png"}, picture | {"cid": "logo"}]),
        **columns,
    )


async def test_brevo_in_full() -> None:
    sent = full(headers=json.dumps({"X-Order": "42"}))
    async with (
        api(lambda seen: reply({"messageId": "<2026.1@smtp-relay>"}, 201)) as server,
        rig("brevo", server.url, sent, **BREVO) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.path, seen.headers["api-key"]) == ("/v3/smtp/email", "xkeysib")
    key = seen.json["headers"].pop("idempotencyKey")
    assert str(UUID(key)) == key
    assert seen.json | {"headers": {}} == {
        "sender": {"email": "shop@shop.example", "name": "The Shop"},
        "to": [{"email": "ann@example.org", "name": "Ann Müller"}],
        "cc": [{"email": "carl@example.org"}],
        "bcc": [{"email": "bob@example.net"}],
        "replyTo": {"email": "help@shop.example"},
        "subject": "Grüße",
        "htmlContent": "<p>Hallo</p>",
        "textContent": "Hallo",
        "headers": {},
        "tags": ["welcome"],
        "attachment": [{"name": "l.png", "content": "YWJj"}, {"name": "a.png", "content": "YWJj"}],
    }
    assert seen.json["headers"] == {
        "X-Order": "42",
        "X-Mailin-custom": str(sent.job.id),
        "idempotencyKey": key,
    }
    assert run.source.results[sent.job.id][0].provider_message_id == "2026.1@smtp-relay"


async def test_brevo_gets_html_of_a_text_and_the_same_key_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "REPEAT_WAIT", 0.01)
    sent = message(text_body="a < b")

    def answer(seen: Seen) -> web.Response:
        if len(server.seen) == 1:
            assert seen.transport is not None
            seen.transport.close()
        return reply({"messageId": "x"}, 201)

    async with api(answer) as server, rig("brevo", server.url, sent, **BREVO) as run:
        await run.settled(sent)
        assert run.source.outcome(sent).kind == "sent"
    assert server.seen[0].json["htmlContent"] == "<pre>a &lt; b\n</pre>"
    assert server.seen[0].body == server.seen[1].body


async def test_what_brevo_cannot_say() -> None:
    umlaut = message(headers=json.dumps({"X-Name": "Müller"}))
    good = message()
    async with (
        api(lambda seen: reply({"messageId": "x"}, 201)) as server,
        rig("brevo", server.url, umlaut, good, **BREVO) as run,
    ):
        await run.settled(umlaut, good)
        assert (run.source.outcome(umlaut).kind, run.source.outcome(good).kind) == ("failed", "sent")


async def test_mailjet_in_full() -> None:
    sent = full(headers=json.dumps({"X-Order": "42"}))
    to = [{"Email": "ann@example.org", "MessageUUID": "u", "MessageID": 2**60 + 1, "MessageHref": "h"}]
    async with (
        api(lambda seen: reply({"Messages": [{"Status": "success", "To": to}]})) as server,
        rig("mailjet", server.url, sent, **MAILJET) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert seen.path == "/v3.1/send"
    assert seen.headers["authorization"] == "Basic " + base64.b64encode(b"public:private").decode()
    assert seen.json == {
        "Messages": [
            {
                "From": {"Email": "shop@shop.example", "Name": "The Shop"},
                "To": [{"Email": "ann@example.org", "Name": "Ann Müller"}],
                "Cc": [{"Email": "carl@example.org"}],
                "Bcc": [{"Email": "bob@example.net"}],
                "ReplyTo": {"Email": "help@shop.example"},
                "Subject": "Grüße",
                "CustomID": str(sent.job.id),
                "HTMLPart": "<p>Hallo</p>",
                "TextPart": "Hallo",
                "Headers": {"X-Order": "42"},
                "Attachments": [{"ContentType": "image/png", "Filename": "a.png", "Base64Content": "YWJj"}],
                "InlinedAttachments": [
                    {"ContentType": "image/png", "Filename": "l.png", "Base64Content": "YWJj", "ContentID": "logo"}
                ],
            }
        ]
    }
    assert run.source.results[sent.job.id][0].provider_message_id == str(2**60 + 1)


def error(code: str) -> dict[str, Any]:
    return {"Status": "error", "Errors": [{"ErrorCode": code, "StatusCode": 400, "ErrorMessage": "words"}]}


async def test_mailjet_tells_of_each_message_with_a_status_of_400() -> None:
    answers = [
        ({"Status": "success", "To": [{"MessageID": 5}]}, "sent", ""),
        (error("mj-0013"), "rejected", ""),
        (error("send-0008"), "deferred", "account"),
        ({"Status": "odd"}, "rejected", ""),
    ]
    messages = [message() for _ in answers]
    async with (
        api(lambda seen: reply({"Messages": [answer for answer, _, _ in answers]}, 400)) as server,
        rig("mailjet", server.url, *messages, **MAILJET) as run,
    ):
        await run.settled(*messages)
        for sent, (_, kind, category) in zip(messages, answers, strict=True):
            assert (run.source.outcome(sent).kind, run.source.outcome(sent).category) == (kind, category)
        assert run.source.outcome(messages[1]).text == "mj-0013 words"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind", "state"),
    [
        (401, "mj-0001", "unsent", "open"),
        (401, "mj-0015", "unsent", "open"),
        (400, "mj-0002", "unsent", "open"),
        (413, "mj-0011", "rejected", "closed"),
        (429, "", "unsent", "closed"),
        (500, "", "deferred", "closed"),
        (200, "", "in_doubt", "closed"),
    ],
)
async def test_mailjet_refuses_a_call(status: int, code: str, kind: str, state: str) -> None:
    sent = message()
    body = {"ErrorCode": code, "ErrorMessage": "words", "StatusCode": status}
    async with api(lambda seen: reply(body, status)) as server, rig("mailjet", server.url, sent, **MAILJET) as run:
        await run.settled(sent)
        assert (run.source.outcome(sent).kind, run.pool.state) == (kind, state)


async def test_mailersend_in_full() -> None:
    sent = full(headers=json.dumps({"X-Order": "42", "References": "<a@b> <c@d>", "In-Reply-To": "<c@d>"}))
    async with (
        api(lambda seen: web.Response(status=202, headers={"x-message-id": "ms-1"})) as server,
        rig("mailersend", server.url, sent, **MAILERSEND) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.path, seen.headers["authorization"]) == ("/v1/email", "Bearer mlsn")
    assert seen.json == {
        "from": {"email": "shop@shop.example", "name": "The Shop"},
        "to": [{"email": "ann@example.org", "name": "Ann Müller"}],
        "cc": [{"email": "carl@example.org"}],
        "bcc": [{"email": "bob@example.net"}],
        "reply_to": {"email": "help@shop.example"},
        "subject": "Grüße",
        "html": "<p>Hallo</p>",
        "text": "Hallo",
        "references": ["<a@b>", "<c@d>"],
        "in_reply_to": "<c@d>",
        "tags": [f"mailerd_id-{sent.job.id}", "welcome"],
        "attachments": [
            {"filename": "l.png", "content": "YWJj", "disposition": "inline", "id": "logo"},
            {"filename": "a.png", "content": "YWJj", "disposition": "attachment"},
        ],
    }
    assert run.source.results[sent.job.id][0].provider_message_id == "ms-1"


@pytest.mark.parametrize(
    ("status", "body", "kind", "category", "state"),
    [
        (202, {"warnings": [{"type": "ALL_SUPPRESSED"}]}, "rejected", "inactive", "closed"),
        (202, {"warnings": [{"type": "SOME_SUPPRESSED"}]}, "sent", "", "closed"),
        (422, {"message": "The from.email domain must be verified. #MS42207"}, "deferred", "account", "closed"),
        (422, {"message": "Email quota reached. #MS42204"}, "unsent", "account", "open"),
        (422, {"message": "The to field is required. #MS42205"}, "rejected", "", "closed"),
        (429, {"message": "Daily quota. #MS42901"}, "unsent", "account", "open"),
        (429, {"message": "Too many. #MS42903"}, "unsent", "rate", "closed"),
        (403, {"message": "Account. #MS40302"}, "unsent", "account", "open"),
        (403, {"message": "Scope. #MS40301"}, "unsent", "protocol", "open"),
        (200, {}, "in_doubt", "", "closed"),
    ],
)
async def test_what_mailersends_answers_mean(status: int, body: Any, kind: str, category: str, state: str) -> None:
    sent = message()
    async with (
        api(lambda seen: reply(body, status)) as server,
        rig("mailersend", server.url, sent, **MAILERSEND) as run,
    ):
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.category, run.pool.state) == (kind, category, state)
