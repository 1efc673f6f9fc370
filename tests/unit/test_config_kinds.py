"""Which keys belong to which kind of provider, and where an HTTP API may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailerd.config import kinds
from mailerd.config.provider import Provider
from mailerd.config.schema import keys
from mailerd.http.dialect import Fault
from mailerd.http.kinds import DIALECTS
from mailerd.webhook.kinds import webhook
from tests.unit.test_config_load import good, problems

RESEND = '[[provider]]\nname = "esp"\nkind = "resend"\n'


def test_every_dialect_can_be_configured_and_every_kind_be_spoken() -> None:
    assert DIALECTS.keys() == kinds.HTTP.keys()
    assert {"smtp", "sink", *DIALECTS} == set(keys(Provider)["kind"].choices)
    assert all(api.must | api.may <= keys(Provider).keys() for api in kinds.HTTP.values())


def test_a_key_that_is_missing() -> None:
    assert problems(RESEND) == ['1: provider.esp.api_key: must be given for kind = "resend"']


def test_a_secret_may_come_from_the_environment() -> None:
    (provider,) = good(RESEND, {"MAILERD_PROVIDER__ESP__API_KEY": "re_x"}).config.provider
    assert provider.api_key == "re_x"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('host = "h"', 'host: is for kind = "smtp", not for "resend"; the address of the API is `endpoint`'),
        ("pipeline = false", 'pipeline: is for kind = "smtp", not for "resend"'),
        ('secret_key = "x"', 'secret_key: is not for kind = "resend"'),
        ('tls = "starttls"', 'tls: of kind = "resend" is "implicit" or "none"'),
        ('endpoint = "http://api.example.org"', 'endpoint: is not encrypted: write `https://`, or tls = "none" if it must be so'),
        ('endpoint = "api.example.org"', "endpoint: is no URL: write `https://api.example.org`"),
        ('endpoint = "ftp://api.example.org"', "endpoint: is no URL: write `https://api.example.org`"),
        ('endpoint = "https://u:p@api.example.org"', "endpoint: must have no user and no `#`"),
        ('endpoint = "https://api.example.org/#a"', "endpoint: must have no user and no `#`"),
        ('endpoint = "https://[::1"', "endpoint: is no URL: write `https://api.example.org`"),
        ("batch = 0", "batch: must be at least 1"),
    ],
)  # fmt: skip
def test_a_key_that_does_not_belong(line: str, wrong: str) -> None:
    assert problems(f'{RESEND}api_key = "re_x"\n{line}') == [f"5: provider.esp.{wrong}"]


def test_a_key_that_no_header_can_carry() -> None:
    assert problems(f'{RESEND}api_key = "schlüssel"') == [
        "4: provider.esp.api_key: must be ASCII: it goes into a header"
    ]


def test_a_relay_has_no_keys_of_apis() -> None:
    assert problems('[[provider]]\nname = "relay"\napi_key = "x"') == [
        '3: provider.relay.api_key: is for providers with an HTTP API, not for kind = "smtp"'
    ]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://[::1]:1", "http://localhost/x", "https://a.example"])
def test_plain_http_to_this_machine(url: str) -> None:
    good(f'{RESEND}api_key = "x"\nendpoint = "{url}"')


def test_plain_http_where_it_was_written_down() -> None:
    good(f'{RESEND}api_key = "x"\nendpoint = "http://proxy.internal"\ntls = "none"')


HTTP = '[[provider]]\nname = "esp"\nkind = "http"\nendpoint = "https://a.example/v1?x=1"\n[provider.call]\n'


def test_an_api_that_is_not_known_by_name(tmp_path: Path) -> None:
    assert problems(HTTP) == ["5: provider.esp.call.body: must be given"]
    assert problems(HTTP.partition("[provider.call]")[0]) == ['1: provider.esp.call: must be given for kind = "http"']
    (tmp_path / "b.j2").write_text("{}")
    text = f'{HTTP}body = "{tmp_path / "b.j2"}"\n'
    assert good(text).config.provider[0].call.accepted == ("2xx",)
    words = ", ".join(kinds.FAULTS)
    assert problems(f"{text}headers = ['Content-Type: x']\naccepted = ['2x']\nfaults = ['400 bad', '40 message']") == [
        "7: provider.esp.call.headers: must not set Content-Type: that is done for you",
        "8: provider.esp.call.accepted: must be statuses such as `404` or `4xx`, not `2x`",
        f"9: provider.esp.call.faults: must be a status, one of {words}, and words if need be, not `400 bad`",
    ]
    assert problems(f"{text}headers = ['A: secret\N{LATIN SMALL LETTER E WITH ACUTE}']") == [
        '7: provider.esp.call.headers: must be a list of headers, as in ["Authorization: Bearer {{ api_key }}"]'
    ]


def test_faults_have_the_same_names_everywhere() -> None:
    assert tuple(Fault) == kinds.FAULTS


# -- webhooks -----------------------------------------------------------------------------------------------------------

P256 = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEozYA3Hx9wcnRGpyNALyEUYEtmBKii05IjTuRvqDeQtb3WH4M2/IujlvFCi0f7WxsO2ldKonIXFIdQ8+ZAlOtiQ=="
P256_TOO = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy3ABnIAQxOXPvMGBY+VtionLes5/CTo9IowgwU4Ay/gEa37bt/h8hU5wpGWNhwXwE7Vl+bk1+r1ACT+aHlN4Mg=="
WHSEC = "whsec_MjQgb2N0ZXRzIG9mIGEgc2VjcmV0IC4uLg=="
OTHER = dict.fromkeys(kinds.HTTP, "0123456789abcdeg") | {"resend": "MDEyMzQ1Njc4OWFiY2RlZg==", "sendgrid": P256_TOO}


@pytest.mark.parametrize(
    ("kind", "more", "secret"),
    [
        ("resend", "", WHSEC),
        ("resend", "", WHSEC.removeprefix("whsec_")),
        ("sendgrid", "", P256),
        ("mailgun", 'domain = "m.example"', "0123456789abcdef"),
        ("postmark", "", "mailerd:0123456789abcdef"),
    ],
)
def test_a_webhook_has_a_secret_or_several(kind: str, more: str, secret: str) -> None:
    table = f'[[provider]]\nname = "esp"\nkind = "{kind}"\napi_key = "k"\n{more}\n'
    for text, expected in ((f'"{secret}"', (secret,)), (f'["{secret}", "{OTHER[kind]}"]', (secret, OTHER[kind]))):
        (provider,) = good(f"{table}webhook_secret = {text}").config.provider
        assert provider.webhook_secret == expected
        assert webhook(provider) is not None
    (provider,) = good(table, {"MAILERD_PROVIDER__ESP__WEBHOOK_SECRET": secret}).config.provider
    assert provider.webhook_secret == (secret,)


@pytest.mark.parametrize(
    ("kind", "more", "secret", "wrong"),
    [
        ("resend", "", "whsec_???", "is no signing secret of a webhook: it begins with `whsec_`, and base64 follows"),
        ("resend", "", "whsec_MjQg", "is no signing secret of a webhook: it begins with `whsec_`, and base64 follows"),
        ("sendgrid", "", "-----BEGIN PUBLIC KEY-----", "is no verification key of the Signed Event Webhook: base64 of a P-256 key, without PEM lines"),
        ("sendgrid", "", "MjQgb2N0ZXRz", "is no verification key of the Signed Event Webhook: base64 of a P-256 key, without PEM lines"),
        ("mailgun", 'domain = "m.example"', "short", "must be ASCII, and 16 characters or more"),
        ("brevo", "", "schlüsselschlüssel", "must be ASCII, and 16 characters or more"),
    ],
)  # fmt: skip
def test_a_secret_that_proves_nothing(kind: str, more: str, secret: str, wrong: str) -> None:
    table = f'[[provider]]\nname = "esp"\nkind = "{kind}"\napi_key = "k"\n{more}\nwebhook_secret = "{secret}"'
    assert problems(table) == [f"6: provider.esp.webhook_secret: {wrong}"]


def test_a_secret_that_stands_there_twice_is_not_shown() -> None:
    table = f'{RESEND}api_key = "k"\nwebhook_secret = ["{WHSEC}", "{WHSEC}"]'
    assert problems(table) == ["5: provider.esp.webhook_secret: names one twice"]


def test_ses_has_topics_and_a_relay_has_no_webhook() -> None:
    table = '[[provider]]\nname = "esp"\nkind = "ses"\naccess_key = "a"\nsecret_key = "s"\nregion = "eu-central-1"\n'
    arn = "arn:aws:sns:eu-central-1:123456789012:mail"
    (provider,) = good(f'{table}webhook_topics = "{arn}"').config.provider
    assert provider.webhook_topics == (arn,)
    assert problems(f'{table}webhook_topics = ["mail"]') == [
        (
            "7: provider.esp.webhook_topics: must be the ARN of an SNS topic, as in "
            "arn:aws:sns:eu-central-1:123456789012:mail, not `mail`"
        )
    ]
    assert problems(f'{table}webhook_secret = "0123456789abcdef"') == [
        '7: provider.esp.webhook_secret: is not for kind = "ses"'
    ]
    (wrong,) = problems('[[provider]]\nname = "relay"\nhost = "h"\nwebhook_secret = "0123456789abcdef"')
    assert "webhook_secret: is for providers with an HTTP API" in wrong
