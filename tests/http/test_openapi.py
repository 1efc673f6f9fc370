"""Requests and the sink's answers, judged by what providers publish of their APIs: SendGrid's OpenAPI document (see
openapi/NOTICE), and the types of Resend's own SDK. A field that they do not know is an error, too.

What a schema says only in words (reserved headers, the alphabet of tags, most recipients) is checked beside it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import resend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mailerd.bench.api import APIS
from mailerd.config.provider import Provider
from mailerd.http.dialect import Entry
from mailerd.http.kinds import DIALECTS
from mailerd.message import Failure
from tests.http.rig import message

NOW = datetime(2026, 11, 27, tzinfo=UTC)


# -- the judges -------------------------------------------------------------------------------------------------------------------


def closed(schema: Any) -> Any:
    """The same, with objects that have no other fields than those named."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    if made.get("nullable"):  # OpenAPI 3.0's own word
        made["type"] = [made["type"], "null"]
    return made


def judge(schema: Any) -> Callable[[Any], list[str]]:
    validator = jsonschema_rs.Draft202012Validator(closed(schema), validate_formats=True)
    return lambda value: [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]


DOCUMENT = json.loads((Path(__file__).parent / "openapi" / "sendgrid.json").read_text("utf-8"))
SEND = DOCUMENT["paths"]["/mail/send"]["post"]


def sendgrid_answer(status: int) -> Callable[[Any], list[str]]:
    answer = SEND["responses"][str(status)]
    if "$ref" in answer:
        answer = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    assert answer.keys() <= {"content", "description"}
    schema = answer["content"]["application/json"]["schema"] if "content" in answer else {"const": None}
    return judge({**schema, "components": DOCUMENT["components"]})


SENDGRID = judge({**SEND["requestBody"]["content"]["application/json"]["schema"], "components": DOCUMENT["components"]})
RESEND = judge(TypeAdapter(resend.Emails.SendParams).json_schema())
RESEND_BATCH = judge(TypeAdapter(list[resend.Emails.SendParams]).json_schema())

# The words beside the schema of `headers` and of a personalization.
RESERVED = {
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding", "to", "from", "subject",
    "reply-to", "cc", "bcc",
}  # fmt: skip


# -- messages ---------------------------------------------------------------------------------------------------------------------

_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30)
_words = st.one_of(
    st.sampled_from(["", "Hello", "Grüße", "日本語 メール", "🦊", " a  b ", "x" * 300, 'a "b" c\\', "1,2;3"]), _text
)
_address = st.sampled_from(
    ["ann@example.org", "bob.bee+tag@d.example", "o'neill@example.net", "carl@xn--bcher-kva.example", "ANN@Example.org"]
)
_mailbox = st.one_of(
    _address,
    st.builds(lambda name, to: f'"{name}" <{to}>', st.sampled_from(["Ann", "Bee, Ann", "Jörg; Müller", "日本", "🦊"]), _address),
)  # fmt: skip
_attachment = st.fixed_dictionaries(
    {
        "filename": st.sampled_from(["a.pdf", "Größe.txt", "日本.bin", "no extension"]),
        "content": st.binary(max_size=40).map(lambda octets: base64.b64encode(octets).decode()),
    },
    optional={
        "content_type": st.sampled_from(["text/plain", "image/png", "application/pdf"]),
        "cid": st.sampled_from(["logo", "a.b@c"]),
        "disposition": st.sampled_from(["inline", "attachment"]),
    },
)
_body = st.one_of(st.none(), _words, st.sampled_from(["<p>Hello</p>\n", "a\nb\n\n" * 40]))
ROWS = st.fixed_dictionaries(
    {
        "recipient": _mailbox,
        "subject": st.one_of(st.none(), _words),
        "text_body": _body.map(lambda text: text or ""),
    },
    optional={
        "html_body": _body,
        "cc": st.lists(_mailbox, max_size=3),
        "bcc": st.lists(_mailbox, max_size=3),
        "reply_to": _mailbox,
        "headers": st.dictionaries(
            st.sampled_from(["X-Order", "X-Tag", "List-Id", "Comments", "In-Reply-To", "List-Unsubscribe", "X-Sg-Eid", "X-SG-ID"]),
            st.sampled_from(["42", "<a@b.example>", "grün", "<https://shop.example/u?x=1>"]),
            max_size=3,
        ).map(json.dumps),
        "attachments": st.lists(_attachment, max_size=3).map(json.dumps),
        "tags": st.lists(st.one_of(st.sampled_from(["welcome", "a b", "ä", "t" * 256]), _text), max_size=13),
        "thread_key": st.just("order 7"),
        "metadata": st.just('{"user": 7}'),
    },
)  # fmt: skip
UNSAYABLE = ("takes no empty file", "keeps it to itself")
wide = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def entries(kind: str, rows: Iterable[dict[str, Any]]) -> list[Entry]:
    """Those that the dialect can say."""
    dialect = DIALECTS[kind](Provider(name="p", kind=kind, api_key="k"))  # type: ignore[arg-type]
    made = []
    for row in rows:
        try:
            sent = message(**row)
        except Failure:  # no mail at all: the composer's matter
            continue
        try:
            made.append(dialect.entry(sent))
        except Failure as failure:
            if not any(words in failure.reason for words in UNSAYABLE):
                raise
    return made


def request(kind: str, of: list[Entry]) -> tuple[str, dict[str, str], Any]:
    asked = DIALECTS[kind](Provider(name="p", kind=kind, api_key="k")).request(of, NOW)  # type: ignore[arg-type]
    return asked.url, asked.headers, json.loads(asked.body)


def answered(kind: str, path: str, of: list[Entry], refused: bool) -> tuple[int, Any, Any]:
    """What the sink answers, and what the dialect makes of it."""
    api = APIS[kind]
    dialect = DIALECTS[kind](Provider(name="p", kind=kind, api_key="k"))  # type: ignore[arg-type]
    taken = api.read(path, dialect.request(of, NOW).body)
    assert [one.id for one in taken] == [entry.outgoing.job.id for entry in of]
    assert [one.recipients for one in taken] == [len(entry.outgoing.recipients) for entry in of]
    if refused:
        taken[0] = taken[0]._replace(refused=True)
    status, _, value = api.answer(path, taken)
    return status, value, taken


# -- SendGrid ---------------------------------------------------------------------------------------------------------------------


@wide
@given(ROWS, st.booleans())
def test_sendgrid(row: dict[str, Any], refused: bool) -> None:
    for entry in entries("sendgrid", [row]):
        url, headers, body = request("sendgrid", [entry])
        assert url == "https://api.sendgrid.com/v3/mail/send"
        assert headers["Content-Type"] == "application/json"
        assert SENDGRID(body) == []
        assert not RESERVED & {name.lower() for name in body.get("headers", {})}
        (to,) = body["personalizations"]
        named = [one["email"].lower() for name in ("to", "cc", "bcc") for one in to.get(name, ())]
        assert len(named) == len(set(named)) > 0
        status, value, _ = answered("sendgrid", "/v3/mail/send", [entry], refused)
        assert status == (400 if refused else 202)
        assert sendgrid_answer(status)(value) == []


def test_the_document_judges() -> None:
    """It would find what is wrong: each of these is one thing the adapter must not say."""
    (entry,) = entries("sendgrid", [{"recipient": "ann@example.org", "html_body": "<p>", "tags": ["a"]}])
    _, _, body = request("sendgrid", [entry])
    assert SENDGRID(body) == []
    for wrong in (
        {"subject": ""},
        {"custom_args": {"a": "b"}},
        {"categories": ["a", "a"]},
        {"categories": ["x" * 256]},
        {"content": [{"type": "text/plain", "value": ""}]},
        {"attachments": [{"content": "", "filename": "a"}]},
        {"from": {"email": "nobody"}},
        {"from": {"name": "Ann"}},
        {"replyto": {"email": "a@b.example"}},
        {"personalizations": [{"to": [{"email": "a@b.example", "Name": "x"}]}]},
    ):
        assert len(SENDGRID({**body, **wrong})) == 1, wrong
    assert sendgrid_answer(400)({"errors": [{"field": None}]})
    assert sendgrid_answer(202)({})


def test_what_the_document_forbids_is_said_before_it_is_sent() -> None:
    to = {"recipient": "ann@example.org"}
    empty = json.dumps([{"filename": "a.pdf", "content": ""}])
    for row, words in (
        ({"attachments": empty}, "attachment a.pdf: this provider takes no empty file"),
        ({"headers": '{"X-SG-EID": "1"}'}, "header X-SG-EID: this provider keeps it to itself"),
    ):
        with pytest.raises(Failure, match=words):
            DIALECTS["sendgrid"](Provider(name="p", kind="sendgrid", api_key="k")).entry(message(**to, **row))
    (entry,) = entries("sendgrid", [{**to, "tags": ["a", "t" * 256, "", "a", *"bcdefghijk"]}])
    assert request("sendgrid", [entry])[2]["categories"] == list("abcdefghij")


# -- Resend -----------------------------------------------------------------------------------------------------------------------

_tag = re.compile(r"[A-Za-z0-9_-]{1,256}").fullmatch


@wide
@given(st.lists(ROWS, min_size=1, max_size=4), st.booleans())
def test_resend(rows: list[dict[str, Any]], refused: bool) -> None:
    made = entries("resend", rows)
    for of in (*([entry] for entry in made), [entry for entry in made if not entry.alone]):
        if not of:
            continue
        url, headers, body = request("resend", of)
        assert len(headers["Idempotency-Key"]) <= 256
        if len(of) == 1:
            assert url == "https://api.resend.com/emails"
            assert RESEND(body) == []
            judge_of_answer = RESEND_ACCEPTED
        else:
            assert url == "https://api.resend.com/emails/batch"
            assert headers["x-batch-validation"] in ("strict", "permissive")
            assert RESEND_BATCH(body) == []
            assert not any("attachments" in one for one in body)
            judge_of_answer = RESEND_ACCEPTED_BATCH
        for one in body if isinstance(body, list) else [body]:
            assert one.keys() >= {"from", "to", "subject"}
            assert 0 < len(one["to"]) <= 50
            assert all(_tag(tag["name"]) and _tag(tag["value"]) for tag in one["tags"])
        status, value, _ = answered("resend", url.removeprefix("https://api.resend.com"), of, refused)
        if status == 200:
            assert judge_of_answer(value) == []
        else:
            assert (status, set(value)) == (422, {"statusCode", "name", "message"})


RESEND_ACCEPTED = judge(TypeAdapter(resend.Emails.SendResponse).json_schema())
RESEND_ACCEPTED_BATCH = judge(TypeAdapter(resend.Batch.SendResponse).json_schema())


@pytest.mark.parametrize(
    "wrong",
    [{"to": 7}, {"reply_to": {"email": "x"}}, {"tags": [{"value": "x"}]}, {"attachments": [{"content": "QQ=="}]}, {"From": "x"}],
)  # fmt: skip
def test_the_types_judge(wrong: dict[str, Any]) -> None:
    (entry,) = entries("resend", [{"recipient": "ann@example.org"}])
    _, _, body = request("resend", [entry])
    assert RESEND(body) == []
    assert RESEND({**body, **wrong})
    assert RESEND_ACCEPTED({"ID": "x"})
