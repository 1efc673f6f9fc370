"""The dialect of Postmark: batches with a verdict for each message."""

from __future__ import annotations

import base64
import json

import pytest
from aiohttp import web

from tests.http.rig import Seen, api, message, reply, rig

KEY = {"api_key": "pm-token"}


def item(code: int | None, text: str = "OK", id_: str = "") -> dict[str, object]:
    found: dict[str, object] = {"Message": text, "SubmittedAt": "2026-01-01T00:00:00Z", "To": "x"}
    if code is not None:
        found["ErrorCode"] = code
    return found | ({"MessageID": id_} if id_ else {})


async def test_one_message_is_said_in_full() -> None:
    sent = message(
        '"Müller, Ann" <ann@example.org>',
        subject="Grüße",
        text_body="Hallo",
        html_body="<p>Hallo <img src='cid:logo'></p>",
        cc=["carl@example.org"],
        bcc=["bob@example.net"],
        headers=json.dumps({"X-Order": "42"}),
        tags=["welcome", "b"],
        attachments=json.dumps(
            [{"filename": "l.png", "content": base64.b64encode(b"abc").decode(), "content_type": "image/png", "cid": "logo"}]
        ),
    )  # fmt: skip
    async with (
        api(lambda seen: reply([item(0, id_="pm-1")])) as server,
        rig("postmark", server.url, sent, message_stream="broadcast", **KEY) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/email/batch")
    assert seen.headers["x-postmark-server-token"] == "pm-token"
    assert seen.json == [
        {
            "From": "The Shop <shop@shop.example>",
            "To": '"Müller, Ann" <ann@example.org>',
            "Cc": "carl@example.org",
            "Bcc": "bob@example.net",
            "ReplyTo": "help@shop.example",
            "Subject": "Grüße",
            "HtmlBody": "<p>Hallo <img src='cid:logo'></p>",
            "TextBody": "Hallo",
            "Headers": [{"Name": "X-Order", "Value": "42"}],
            "Attachments": [{"Name": "l.png", "Content": "YWJj", "ContentType": "image/png", "ContentID": "cid:logo"}],
            "Metadata": {"mailerd_id": str(sent.job.id)},
            "Tag": "welcome",
            "MessageStream": "broadcast",
        }
    ]
    assert run.source.results[sent.job.id][2].provider_message_id == "pm-1"


VERDICTS = [
    (item(0, id_="a"), "sent", ""),
    (item(None, "Message accepted, but delivery may be delayed.", "b"), "sent", ""),
    (item(300, "Invalid 'To' address"), "rejected", ""),
    (item(406, "You tried to send to a recipient that has been marked as inactive."), "rejected", "inactive"),
    (item(400, "The 'From' address is not a Sender Signature"), "deferred", "account"),
    (item(411, "Invalid attachment"), "rejected", "content"),
    (item(100, "Maintenance"), "unsent", "connection"),
    (item(0), "in_doubt", ""),
    (None, "in_doubt", ""),
    ({"ErrorCode": "x"}, "in_doubt", ""),
    (item(99999, "new"), "rejected", ""),
]


async def test_each_of_a_batch_has_its_own_verdict() -> None:
    messages = [message() for _ in VERDICTS]
    async with (
        api(lambda seen: reply([answer for answer, _, _ in VERDICTS])) as server,
        rig("postmark", server.url, *messages, **KEY) as run,
    ):
        await run.settled(*messages)
        assert run.pool.state == "closed"
    assert len(server.seen) == 1
    for sent, (answer, kind, category) in zip(messages, VERDICTS, strict=True):
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.category) == (kind, category), answer


async def test_an_answer_of_the_wrong_length_is_believed_of_nobody() -> None:
    messages = [message() for _ in range(3)]
    async with (
        api(lambda seen: reply([item(0, id_="a")] * 2)) as server,
        rig("postmark", server.url, *messages, **KEY) as run,
    ):
        await run.settled(*messages)
        assert {run.source.outcome(one).kind for one in messages} == {"in_doubt"}


async def test_five_hundred_go_in_one_call_and_their_answer_is_read_whole() -> None:
    messages = [message() for _ in range(501)]

    def answer(seen: Seen) -> web.Response:
        return reply([item(0, "OK", one["Metadata"]["mailerd_id"].rjust(36, "0")) for one in seen.json])

    async with api(answer) as server, rig("postmark", server.url, *messages, **KEY) as run:
        await run.settled(*messages)
        for sent in messages:
            assert run.source.outcome(sent).provider_message_id == f"{sent.job.id}-0".rjust(36, "0")
    assert [len(seen.json) for seen in server.seen] == [500, 1]


@pytest.mark.parametrize(
    ("status", "body", "kind", "state"),
    [
        (401, {"ErrorCode": 10, "Message": "No Account or Server API tokens were supplied"}, "unsent", "open"),
        (422, {"ErrorCode": 405, "Message": "Not allowed to send"}, "unsent", "open"),
        (422, {"ErrorCode": 413, "Message": "Not allowed to send"}, "unsent", "open"),
        (422, {"ErrorCode": 300, "Message": "Invalid"}, "rejected", "closed"),
        (429, {}, "unsent", "closed"),
        (500, {}, "deferred", "closed"),
        (503, {}, "unsent", "closed"),
    ],
)
async def test_refusals_of_a_call(status: int, body: object, kind: str, state: str) -> None:
    sent = message()
    async with api(lambda seen: reply(body, status)) as server, rig("postmark", server.url, sent, **KEY) as run:
        await run.settled(sent)
        assert (run.source.outcome(sent).kind, run.pool.state) == (kind, state)


async def test_a_trouble_of_the_account_in_one_place_of_a_batch_stops_it() -> None:
    messages = [message() for _ in range(2)]
    async with (
        api(lambda seen: reply([item(0, id_="a"), item(405, "no credits left")])) as server,
        rig("postmark", server.url, *messages, **KEY) as run,
    ):
        await run.settled(*messages)
        assert [run.source.outcome(one).kind for one in messages] == ["sent", "unsent"]
        assert run.pool.state == "open"
