"""Our id, from the request that a dialect makes to the report that comes back: each plants it, with the bit of its recipient."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email import message_from_bytes
from typing import Any

import pytest

from mailerd.config.provider import Provider
from mailerd.http.kinds import DIALECTS
from mailerd.message import Outgoing
from mailerd.webhook.event import planted
from tests.http.rig import message
from tests.webhook.keys import KINDS


def found_in(kind: str, sent: Outgoing) -> Any:
    """What the provider would hand back, out of the request."""
    dialect = DIALECTS[kind](
        Provider(name="x", kind=kind, api_key="k", access_key="a", secret_key="s", region="eu", domain="d.example")  # type: ignore[arg-type]
    )
    request = dialect.request([dialect.entry(sent)], datetime(2026, 9, 21, tzinfo=UTC))
    if kind == "mailgun":
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        parts: Any = message_from_bytes(head + request.body).get_payload()
        return next(
            part.get_payload()
            for part in parts
            if part.get_param("name", header="content-disposition") == "v:mailerd_id"
        )
    body = json.loads(request.body)
    body = body[0] if isinstance(body, list) else body
    match kind:
        case "ses":
            return next(tag["Value"] for tag in body["EmailTags"] if tag["Name"] == "mailerd_id")
        case "resend":
            return next(tag["value"] for tag in body["tags"] if tag["name"] == "mailerd_id")
        case "sendgrid":
            return body["custom_args"]["mailerd_id"]
        case "postmark":
            return body["Metadata"]["mailerd_id"]
        case "sparkpost":
            return (body["recipients"][0] if len(body["recipients"]) == 1 else body)["metadata"]["mailerd_id"]
        case "brevo":
            return body["headers"]["X-Mailin-custom"]
        case "mailjet":
            return body["Messages"][0]["CustomID"]
    (tag,) = (tag for tag in body["tags"] if tag.startswith("mailerd_id-"))
    return tag.removeprefix("mailerd_id-")


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_bit_where_one_recipient_is_meant(kind: str) -> None:
    sent = message("ann@example.org", cc=["carl@example.org"], tags=["a", "b", "c", "d", "e", "f"])
    for to in sent.recipients:  # in calls of their own, as where an API takes fewer than a message has
        alone = Outgoing(sent.job, sent.sender, (to,), sent.content, sent.message_id)
        assert planted(found_in(kind, alone)) == (sent.job.id, to.bit)


@pytest.mark.parametrize("kind", KINDS)
def test_without_where_several_share_a_call(kind: str) -> None:
    sent = message("ann@example.org", cc=["carl@example.org"])
    assert planted(found_in(kind, sent)) == (sent.job.id, None)
