"""The dialect of SparkPost."""

from __future__ import annotations

import pytest

from tests.http.rig import api, job, message, reply, rig

KEY = {"api_key": "spark"}


def accepted(taken: int = 1, refused: int = 0) -> dict[str, object]:
    return {
        "results": {"total_rejected_recipients": refused, "total_accepted_recipients": taken, "id": "11668787484950529"}
    }


async def test_a_message_goes_as_it_was_composed() -> None:
    sent = message("Ann Müller <ann@example.org>", cc=["carl@example.org"], text_body="Tschüß {{ name }}")
    async with api(lambda seen: reply(accepted(2))) as server, rig("sparkpost", server.url, sent, **KEY) as run:
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.headers["authorization"]) == ("POST", "/api/v1/transmissions", "spark")
    assert seen.json == {
        "recipients": [
            {"address": {"email": "ann@example.org"}, "metadata": {"mailerd_id": f"{sent.job.id}-0"}},
            {"address": {"email": "carl@example.org"}, "metadata": {"mailerd_id": f"{sent.job.id}-1"}},
        ],
        "content": {"email_rfc822": sent.content.decode()},
        "metadata": {"mailerd_id": str(sent.job.id)},
        "options": {"perform_substitutions": False},
    }
    assert run.source.results[sent.job.id][1].provider_message_id == "11668787484950529"


async def test_octets_that_are_no_utf8_cannot_be_said() -> None:
    sent = message(raw=b"From: a@example.org\r\n\r\n\xff\r\n")
    async with api(lambda seen: reply(accepted())) as server, rig("sparkpost", server.url, sent, **KEY) as run:
        await run.settled(sent)
        assert run.source.outcome(sent).kind == "failed"
    assert not server.seen


async def test_recipients_that_were_refused_are_counted() -> None:
    none, some = message(), message()
    async with (
        api(lambda seen: reply(accepted(1, 1) if len(server.seen) > 1 else accepted(0, 1))) as server,
        rig("sparkpost", server.url, none, some, concurrency=1, **KEY) as run,
    ):
        await run.settled(none, some)
        assert (run.source.outcome(none).kind, run.source.outcome(none).category) == ("rejected", "recipient")
        assert "1 recipients refused" in run.source.outcome(some).text


@pytest.mark.parametrize(
    ("status", "code", "kind", "category", "state"),
    [
        (422, "1300", "rejected", "", "closed"),
        (400, "5002", "rejected", "recipient", "closed"),
        (400, "7001", "deferred", "account", "closed"),
        (400, "1502", "deferred", "", "closed"),
        (420, "2101", "unsent", "account", "open"),
        (420, "", "unsent", "account", "open"),
        (401, "", "unsent", "account", "open"),
        (403, "1100", "unsent", "account", "open"),
        (429, "", "unsent", "rate", "closed"),
        (503, "1900", "unsent", "connection", "closed"),
        (200, "", "in_doubt", "", "closed"),
    ],
)
async def test_what_answers_mean(status: int, code: str, kind: str, category: str, state: str) -> None:
    sent = message()
    body = {"errors": [{"message": "words", "code": code, "description": "more words"}]}
    async with api(lambda seen: reply(body, status)) as server, rig("sparkpost", server.url, sent, **KEY) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.category, run.pool.state) == (kind, category, state)
        if status != 200:
            assert outcome.text == f"{code} words more words".strip()


def test_the_campaign_is_cut_by_octets() -> None:
    from mailerd.config.provider import Provider
    from mailerd.http.sparkpost import Sparkpost
    from mailerd.message import Outgoing, Recipient

    row = job()
    row.campaign = "ü" * 40
    outgoing = Outgoing(row, "", (Recipient(0, "a@example.org"),), b"From: a@example.org\r\n\r\n")
    entry = Sparkpost(Provider(name="esp", kind="sparkpost", **KEY)).entry(outgoing)
    assert f'"campaign_id":"{"ü" * 32}"'.encode() in entry.octets
