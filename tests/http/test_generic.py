"""An API that is described in the configuration."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mailerd.config.load import parse
from mailerd.config.provider import Call, Provider
from mailerd.http.generic import Generic
from mailerd.message import Failure
from tests.http.rig import api, message, reply, rig

BODY = """
{"key": {{ secret_key|tojson }}, "to": {{ to|tojson }}, "subject": {{ subject|tojson }}, "ref": {{ id }},
 "text": {{ text|tojson }}, "raw": {{ mime_base64|length }}}
"""


def call(tmp_path: Path, body: str = BODY, **keys: Any) -> dict[str, Any]:
    (tmp_path / "body.j2").write_text(body)
    return {
        "api_key": "k-secret",
        "secret_key": "s-secret",
        "call": Call(
            body=str(tmp_path / "body.j2"),
            headers=("Authorization: Token {{ api_key }}",),
            **keys,
        ),
    }


async def test_a_message_becomes_the_body(tmp_path: Path) -> None:
    sent = message('"A \\"quoted\\" name" <ann@example.org>', subject="Grüße {{ id }}", text_body='"}, {"x": "')
    options = call(tmp_path, id="data.0.id", idempotency="X-Once")
    async with (
        api(lambda seen: reply({"data": [{"id": 17}]}, 202)) as server,
        rig("http", f"{server.url}/v1/send?a=b", sent, **options) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/send?a=b")
    assert seen.headers["authorization"] == "Token k-secret"
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["x-once"].startswith("mailerd-")
    assert seen.json | {"raw": 0} == {
        "key": "s-secret",
        "to": [{"email": "ann@example.org", "name": 'A "quoted" name'}],
        "subject": "Grüße {{ id }}",
        "ref": sent.job.id,
        "text": '"}, {"x": "\n',
        "raw": 0,
    }
    assert run.source.outcome(sent).provider_message_id == "17"


async def test_an_id_may_be_in_a_header(tmp_path: Path) -> None:
    sent = message()
    options = call(tmp_path, "text of {{ id }}", type="text/plain", id="header:X-Id", accepted=("204",))
    async with (
        api(lambda seen: web.Response(status=204, headers={"x-id": "h-1"})) as server,
        rig("http", server.url, sent, **options) as run,
    ):
        await run.settled(sent)
    assert server.seen[0].body == f"text of {sent.job.id}".encode()
    assert run.source.outcome(sent).provider_message_id == "h-1"


@pytest.mark.parametrize(
    ("status", "text", "kind", "category"),
    [
        (400, "No such user here", "rejected", "recipient"),
        (400, "else", "rejected", ""),
        (403, "", "deferred", ""),
        (499, "", "unsent", "account"),
        (201, "", "in_doubt", ""),
    ],
)
async def test_what_answers_mean(tmp_path: Path, status: int, text: str, kind: str, category: str) -> None:
    sent = message()
    faults = ("400 recipient no such USER", "403 retry", "4xx account not-said", "499 account")
    options = call(tmp_path, faults=faults, accepted=("200",))
    async with (
        api(lambda seen: reply({"message": text}, status)) as server,
        rig("http", server.url, sent, **options) as run,
    ):
        await run.settled(sent)
        assert (run.source.outcome(sent).kind, run.source.outcome(sent).category) == (kind, category)


@pytest.mark.parametrize(
    "body", ["{{ nowhere.x }}", '{"a": {{ subject }}}', "", "{% for a in range(10**9) %}x{% endfor %}"]
)
async def test_a_body_that_cannot_be_made_fails_its_message(tmp_path: Path, body: str) -> None:
    sent = message(subject="no JSON")
    async with (
        api(lambda seen: reply({})) as server,
        rig("http", server.url, sent, **call(tmp_path, body)) as run,
    ):
        await run.settled(sent)
        assert (run.source.outcome(sent).kind, run.source.outcome(sent).category) == ("failed", "template")
    assert not server.seen


def test_a_template_that_is_none(tmp_path: Path) -> None:
    options = call(tmp_path, "{{ }")
    with pytest.raises(Failure, match=r"provider\.esp\.call: "):
        Generic(Provider(name="esp", kind="http", endpoint="https://a.example", **options))


async def test_mime_goes_where_fields_cannot(tmp_path: Path) -> None:
    raw = b"From: a@x.example\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"
    sent = message(raw=raw)
    body = '{"mime": {{ mime|tojson }}, "to": {{ recipients|tojson }}}'
    async with (
        api(lambda seen: reply({"id": "x"})) as server,
        rig("http", server.url, sent, **call(tmp_path, body)) as run,
    ):
        await run.settled(sent)
        assert run.source.outcome(sent).kind == "sent"
    assert json.loads(server.seen[0].body) == {"mime": raw.decode(), "to": [sent.recipients[0].address]}


def test_the_example_of_the_document_works(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "adding-a-provider.md").read_text()
    toml, jinja = (document.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("toml", "jinja"))
    (tmp_path / "post.json.j2").write_text(jinja)
    config = parse(toml, tmp_path / "m.toml", {"MAILERD_PROVIDER__POST__API_KEY": "k"}).config
    spoken = Generic(config.provider[0])
    sent = message("Ann <ann@example.org>", html_body="<p>x</p>")
    entry = spoken.entry(sent)
    assert json.loads(entry.octets) == {
        "from": "shop@shop.example",
        "to": ["ann@example.org"],
        "subject": "Hello",
        "html": "<p>x</p>",
        "text": "world",
        "reference": str(sent.job.id),
    }
    assert spoken.request([entry], datetime.now(UTC)).headers["Authorization"] == "Bearer k"
