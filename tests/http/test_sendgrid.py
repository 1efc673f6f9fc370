"""The dialect of SendGrid."""

from __future__ import annotations

import base64
import json

import pytest
from aiohttp import web

from tests.http.rig import api, message, reply, rig

KEY = {"api_key": "SG.secret"}


async def test_one_message_is_said_in_full() -> None:
    sent = message(
        '"Müller, Ann" <ann@example.org>',
        subject="Grüße",
        text_body="Hallo",
        html_body="<p>Hallo</p>",
        cc=["carl@example.org"],
        bcc=["bob@example.net"],
        reply_to="Help, Now <now@shop.example>",
        headers=json.dumps({"X-Order": "42"}),
        tags=["welcome", "welcome", "b"],
        attachments=json.dumps(
            [{"filename": "l.png", "content": base64.b64encode(b"abc").decode(), "content_type": "image/png", "cid": "logo"}]
        ),
    )  # fmt: skip
    async with (
        api(lambda seen: web.Response(status=202, headers={"X-Message-Id": "sg-1"})) as server,
        rig("sendgrid", server.url, sent, **KEY) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v3/mail/send")
    assert seen.headers["authorization"] == "Bearer SG.secret"
    assert seen.json == {
        "personalizations": [
            {
                "to": [{"email": "ann@example.org", "name": "Müller Ann"}],
                "cc": [{"email": "carl@example.org"}],
                "bcc": [{"email": "bob@example.net"}],
                "custom_args": {"mailerd_id": str(sent.job.id)},
            }
        ],
        "from": {"email": "shop@shop.example", "name": "The Shop"},
        "reply_to": {"email": "now@shop.example", "name": "Help Now"},
        "subject": "Grüße",
        "content": [{"type": "text/plain", "value": "Hallo"}, {"type": "text/html", "value": "<p>Hallo</p>"}],
        "headers": {"X-Order": "42"},
        "categories": ["welcome", "b"],
        "attachments": [
            {
                "content": "YWJj",
                "filename": "l.png",
                "type": "image/png",
                "disposition": "inline",
                "content_id": "logo",
            }
        ],
    }
    assert run.source.results[sent.job.id][0].provider_message_id == "sg-1"


async def test_nothing_is_said_as_a_blank() -> None:
    sent = message(subject=None, text_body="")
    async with (
        api(lambda seen: web.Response(status=202)) as server,
        rig("sendgrid", server.url, sent, **KEY) as run,
    ):
        await run.settled(sent)
        assert run.source.outcome(sent).kind == "sent"
    assert server.seen[0].json["subject"] == " "
    assert server.seen[0].json["content"] == [{"type": "text/plain", "value": " "}]


@pytest.mark.parametrize(
    ("status", "text", "kind", "category", "state"),
    [
        (400, "Does not contain a valid address.", "rejected", "", "closed"),
        (401, "The provided authorization grant is invalid", "unsent", "account", "open"),
        (401, "Maximum credits exceeded", "unsent", "account", "open"),
        (403, "The from address does not match a verified Sender Identity.", "deferred", "account", "closed"),
        (403, "access forbidden", "unsent", "account", "open"),
        (413, "", "rejected", "size", "closed"),
        (404, "", "unsent", "protocol", "open"),
        (429, "too many requests", "unsent", "rate", "closed"),
        (500, "", "deferred", "connection", "closed"),
        (503, "", "unsent", "connection", "closed"),
        (200, "", "in_doubt", "", "closed"),
    ],
)
async def test_what_answers_mean(status: int, text: str, kind: str, category: str, state: str) -> None:
    sent = message()
    body = {"errors": [{"message": text, "field": None, "help": None}]}
    async with api(lambda seen: reply(body, status)) as server, rig("sendgrid", server.url, sent, **KEY) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.category, run.pool.state) == (kind, category, state)
        assert text in outcome.text


async def test_an_invitation_and_a_fetched_file_go_as_files() -> None:
    calendar = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
    items = [
        {"content": base64.b64encode(calendar.encode()).decode(), "content_type": "text/calendar; method=REQUEST"},
        {"url": "https://files.example/bill.pdf"},
    ]
    sent = message(attachments=json.dumps(items), fetched={1: b"PDF"})
    async with (
        api(lambda seen: web.Response(status=202, headers={"X-Message-Id": "sg-1"})) as server,
        rig("sendgrid", server.url, sent, **KEY) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    # It refuses a type with parameters.
    found = [(f["filename"], f["type"], base64.b64decode(f["content"])) for f in seen.json["attachments"]]
    assert found == [("invite.ics", "text/calendar", calendar.encode()), ("bill.pdf", "application/pdf", b"PDF")]
