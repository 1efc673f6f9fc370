"""The dialect of Resend: what is asked, word for word, and what its answers mean."""

from __future__ import annotations

import base64
import json
from typing import Any

from aiohttp import web

from mailerd.message import OutcomeKind
from tests.http.rig import Seen, api, message, reply, rig

KEY = "re_secret"


def accept(seen: Seen) -> web.Response:
    if seen.path == "/emails/batch":
        return reply({"data": [{"id": f"id-{one['tags'][0]['value']}"} for one in seen.json]})
    return reply({"id": f"id-{seen.json['tags'][0]['value']}"})


async def test_one_message_is_said_in_full() -> None:
    sent = message(
        "Ann Müller <ann@example.org>",
        subject="Grüße",
        text_body="Hallo",
        html_body="<p>Hallo</p>",
        cc=["carl@example.org"],
        bcc=["bob@example.net"],
        headers=json.dumps({"X-Order": "42"}),
        attachments=json.dumps(
            [{"filename": "a.txt", "content": base64.b64encode(b"abc").decode(), "content_type": "text/plain"}]
        ),
    )
    async with api(accept) as server, rig("resend", server.url, sent, api_key=KEY) as run:
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/emails")
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["content-type"] == "application/json"
    assert 1 <= len(seen.headers["idempotency-key"]) <= 256
    assert seen.json == {
        "from": "The Shop <shop@shop.example>",
        "to": ['"Ann Müller" <ann@example.org>'],
        "cc": ["carl@example.org"],
        "bcc": ["bob@example.net"],
        "reply_to": ["help@shop.example"],
        "subject": "Grüße",
        "text": "Hallo",
        "html": "<p>Hallo</p>",
        "headers": {"X-Order": "42"},
        "tags": [{"name": "mailerd_id", "value": str(sent.job.id)}],
        "attachments": [{"filename": "a.txt", "content": "YWJj", "content_type": "text/plain"}],
    }
    outcomes = run.source.results[sent.job.id]
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.SENT] * 3
    assert outcomes[0].provider_message_id == f"id-{sent.job.id}"
    assert (outcomes[0].code, outcomes[0].provider) == (200, "esp")


async def test_several_share_a_call_but_for_those_with_attachments() -> None:
    attached = message(attachments=json.dumps([{"filename": "a.txt", "content": ""}]))
    messages = [message() for _ in range(5)] + [attached]
    async with api(accept) as server, rig("resend", server.url, *messages, api_key=KEY) as run:
        await run.settled(*messages)
    assert sorted(seen.path for seen in server.seen) == ["/emails", "/emails/batch"]
    batch = next(seen for seen in server.seen if seen.path == "/emails/batch")
    assert len(batch.json) == 5
    assert batch.headers["x-batch-validation"] == "permissive"
    for sent in messages:
        assert run.source.outcome(sent).provider_message_id == f"id-{sent.job.id}-0"


async def test_each_of_a_batch_has_its_own_verdict() -> None:
    good, bad, last = message(), message("bad@example.net"), message()

    def answer(seen: Seen) -> web.Response:
        return reply({"data": [{"id": "a"}, {"id": "b"}], "errors": [{"index": 1, "message": "Invalid `to` field"}]})

    async with api(answer) as server, rig("resend", server.url, good, bad, last, api_key=KEY) as run:
        await run.settled(good, bad, last)
    assert [run.source.outcome(m).kind for m in (good, bad, last)] == ["sent", "rejected", "sent"]
    assert run.source.outcome(last).provider_message_id == "b"
    assert run.source.outcome(bad).text == "Invalid `to` field"


REFUSALS: list[tuple[int, Any, str, str]] = [
    (422, {"name": "validation_error", "message": "Invalid `to` field."}, "rejected", ""),
    (429, {"name": "rate_limit_exceeded", "message": "Too many requests"}, "unsent", "rate"),
    (429, {"name": "daily_quota_exceeded", "message": "daily"}, "unsent", "account"),
    (401, {"name": "missing_api_key", "message": "missing"}, "unsent", "account"),
    (403, {"name": "validation_error", "message": "The domain is not verified"}, "deferred", "account"),
    (404, {"name": "not_found", "message": "no such endpoint"}, "unsent", "protocol"),
    (413, None, "rejected", "size"),
    (500, {"name": "application_error", "message": "oops"}, "deferred", "connection"),
    (503, None, "unsent", "connection"),
    (302, None, "unsent", "protocol"),
]


async def test_what_refusals_mean() -> None:
    for status, body, kind, category in REFUSALS:
        sent = message()
        async with (
            api(lambda seen, status=status, body=body: reply(body, status)) as server,  # type: ignore[misc]
            rig("resend", server.url, sent, api_key=KEY) as run,
        ):
            await run.settled(sent)
            outcome = run.source.outcome(sent)
            assert (outcome.kind, outcome.category, outcome.code) == (kind, category, status), (status, body)
            assert (run.pool.state == "open") == (kind == "unsent" and category in ("account", "protocol")), (
                status,
                body,
            )


async def test_the_key_is_never_repeated() -> None:
    sent = message()
    answer = reply({"name": "validation_error", "message": f"bad key {KEY}!"}, 422)
    async with api(lambda seen: answer) as server, rig("resend", server.url, sent, api_key=KEY) as run:
        await run.settled(sent)
    assert run.source.outcome(sent).text == "validation_error bad key ***!"
