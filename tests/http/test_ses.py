"""SES: the signature against botocore, the request against its service model, and what answers mean."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any

import botocore.auth
import botocore.loaders
import botocore.model
import botocore.validate
import pytest
from aiohttp import web
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.config.provider import Provider
from mailerd.http.ses import Ses
from mailerd.http.sigv4 import sign
from mailerd.message import OutcomeKind
from tests.http.rig import Seen, api, message, reply, rig

ACCESS, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = {"access_key": ACCESS, "secret_key": SECRET, "region": "eu-central-1"}


def signed_by_botocore(
    url: str, headers: dict[str, str], body: bytes, region: str, at: datetime, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    request = AWSRequest("POST", url, headers, body)
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    signer = botocore.auth.SigV4Auth(Credentials(ACCESS, SECRET), "ses", region)
    with monkeypatch.context() as patched:
        patched.setattr(botocore.auth, "get_current_datetime", lambda: at.replace(tzinfo=None))
        signer.add_auth(request)
    assert request.headers["X-Amz-Date"] == stamp
    return {name: request.headers[name] for name in ("X-Amz-Date", "Authorization")}


@settings(deadline=None)
@given(
    path=st.sampled_from(["", "/", "/v2/email/outbound-emails", "/a b/ü", "/~x/y.z"]),
    port=st.sampled_from(["", ":8443"]),
    kind=st.sampled_from(["application/json", "application/json;  charset=utf-8"]),
    body=st.binary(max_size=200),
    region=st.sampled_from(["eu-central-1", "us-east-1", "cn-north-1"]),
    at=st.integers(1_600_000_000, 2_000_000_000).map(lambda second: datetime.fromtimestamp(second, UTC)),
)
def test_the_signature_is_botocores(path: str, port: str, kind: str, body: bytes, region: str, at: datetime) -> None:
    url = f"https://email.{region}.amazonaws.com{port}{path}"
    headers = {"Content-Type": kind}
    ours = sign(url, headers, body, access_key=ACCESS, secret_key=SECRET, region=region, service="ses", at=at)
    with pytest.MonkeyPatch.context() as patch:
        assert ours == signed_by_botocore(url, headers, body, region, at, patch)


async def test_a_message_goes_as_it_was_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = message("Ann Müller <ann@example.org>", cc=["carl@example.org"], bcc=["bob@example.net"])
    async with (
        api(lambda seen: reply({"MessageId": "0100-abc"})) as server,
        rig("ses", server.url, sent, configuration_set="events", **KEYS) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v2/email/outbound-emails")
    assert b64decode(seen.json["Content"]["Raw"]["Data"]) == sent.content
    assert seen.json == {
        "Destination": {"ToAddresses": ["ann@example.org", "carl@example.org", "bob@example.net"]},
        "Content": {"Raw": {"Data": seen.json["Content"]["Raw"]["Data"]}},
        "EmailTags": [{"Name": "mailerd_id", "Value": str(sent.job.id)}],
        "ConfigurationSetName": "events",
    }
    # What arrived carries the signature that botocore makes of it.
    at = datetime.strptime(seen.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    url = f"http://{seen.headers['host']}{seen.path}"
    headers = {"Content-Type": seen.headers["content-type"]}
    expected = signed_by_botocore(url, headers, seen.body, "eu-central-1", at, monkeypatch)
    assert seen.headers["authorization"] == expected["Authorization"]
    outcomes = run.source.results[sent.job.id]
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.SENT] * 3
    assert outcomes[0].provider_message_id == "0100-abc"


def test_the_request_fits_the_service_model() -> None:
    shapes = botocore.loaders.Loader().load_service_model("sesv2", "service-2")
    operation = botocore.model.ServiceModel(shapes, "sesv2").operation_model("SendEmail")
    assert operation.http["requestUri"] == "/v2/email/outbound-emails"
    entry = Ses(Provider(name="esp", kind="ses", configuration_set="x", **KEYS)).entry(message())
    body: dict[str, Any] = json.loads(entry.octets)
    report = botocore.validate.ParamValidator().validate(body, operation.input_shape)
    assert not report.has_errors(), report.generate_report()


async def test_more_recipients_than_a_call_takes_are_sent_in_two() -> None:
    sent = message("a@example.org", cc=[f"c{n}@example.org" for n in range(55)])
    async with (
        api(lambda seen: reply({"MessageId": "x"})) as server,
        rig("ses", server.url, sent, **KEYS) as run,
    ):
        await run.settled(sent)
    assert len(server.seen[0].json["Destination"]["ToAddresses"]) == 50
    assert run.source.kinds(sent) == ["sent"] * 50 + ["unsent"] * 6


REFUSALS: list[tuple[int, str, str, str, str, str]] = [
    (400, "MessageRejected", "Email rejected: virus", "rejected", "", "closed"),
    (400, "MessageRejected", "Email address is not verified. x@y", "deferred", "account", "closed"),
    (400, "BadRequestException", "bad", "rejected", "", "closed"),
    (400, "AccountSuspendedException", "suspended", "unsent", "account", "open"),
    (400, "SendingPausedException:http://x", "paused", "unsent", "account", "open"),
    (400, "LimitExceededException", "limit", "unsent", "account", "open"),
    (400, "ThrottlingException", "Rate exceeded", "unsent", "rate", "closed"),
    (429, "TooManyRequestsException", "Maximum sending rate exceeded.", "unsent", "rate", "closed"),
    (429, "TooManyRequestsException", "Daily message quota exceeded.", "unsent", "account", "open"),
    (429, "", "Maximum sending rate exceeded.", "unsent", "rate", "closed"),
    (403, "SignatureDoesNotMatch", "The request signature we calculated…", "unsent", "account", "open"),
    (404, "NotFoundException", "Configuration set <x> does not exist", "unsent", "protocol", "open"),
    (500, "InternalFailure", "internal", "deferred", "connection", "closed"),
    (503, "ServiceUnavailable", "later", "unsent", "connection", "closed"),
    (504, "", "", "in_doubt", "", "closed"),
    (200, "", "", "in_doubt", "", "closed"),
]


@pytest.mark.parametrize(("status", "name", "text", "kind", "category", "state"), REFUSALS)
async def test_what_answers_mean(status: int, name: str, text: str, kind: str, category: str, state: str) -> None:
    sent = message()
    headers = {"x_amzn_errortype": name} if name else {}

    def answer(seen: Seen) -> web.Response:
        return reply({"message": text}, status, **headers)

    async with api(answer) as server, rig("ses", server.url, sent, **KEYS) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.category, run.pool.state) == (kind, category, state)
