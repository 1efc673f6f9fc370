"""`[[provider]]` as types: a relay, or a provider's HTTP API; and the warm-up that a pool may have, too. Which keys belong
to which kind of provider is in `config.kinds`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mailerd.config.base import D, Duration, Name, Quota, Rate, Section

__all__ = ["Call", "Provider", "Timeouts", "Warmup"]


class Warmup(Section, frozen=True, kw_only=True):
    """A new address sends a little more every day, until receivers know it."""

    begin: Annotated[
        str,
        Meta(
            description="The first day of a warm-up: a little more every day, until receivers know the address. Nothing before it.",
            examples=["2026-11-01"],
            extra={"date": True},
        ),
    ]
    curve: Annotated[
        Literal["standard"], Meta(description="Messages of each day, from 50 to 4 million within 17 days: a steep one.")
    ] = "standard"
    days: Annotated[
        tuple[int, ...],
        Meta(
            description="Messages of each day, instead of `curve`. After the last there is no limit.",
            examples=[[50, 100, 500]],
        ),
    ] = ()
    zone: Annotated[str, Meta(description="Time zone in which its days begin.")] = "UTC"
    domains: Annotated[
        bool,
        Meta(
            description="Each domain group has these limits for itself, and all domains without a group together. "
            "false: one limit for all mail."
        ),
    ] = True
    overflow: Annotated[
        tuple[str, ...],
        Meta(description='Pools that take what exceeds the limit, as in ["warm"]. Empty: it waits.', examples=[[]]),
    ] = ()
    bounces: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of bounces and refusals above which the day ends, and is repeated."),
    ] = 0.05
    complaints: Annotated[float, Meta(ge=0, le=1, description="Share of complaints above which it does.")] = 0.001


class Timeouts(Section, frozen=True, kw_only=True):
    """Deadlines of a conversation. Defaults follow RFC 5321 §4.5.3.2, shortened where no mail is at risk."""

    connect: Annotated[Duration, Meta(description="TCP and TLS set-up.")] = D(15)
    greeting: Annotated[Duration, Meta(description="220 greeting, EHLO, STARTTLS, AUTH, each.")] = D(30)
    command: Annotated[Duration, Meta(description="MAIL, RCPT, DATA; the answer to an HTTP call.")] = D(60)
    content: Annotated[Duration, Meta(description="Each 64 kB of content to be taken by the peer.")] = D(180)
    dot: Annotated[
        Duration,
        Meta(description="The reply to the final dot. Short values make duplicates (RFC 5321 says 10 minutes)."),
    ] = D(600)


class Call(Section, frozen=True, kw_only=True):
    """The call of a provider with an HTTP API that mailerd does not know by name: a POST to its `endpoint`."""

    body: Annotated[
        str | None,
        Meta(
            description="File with the Jinja template of the body. docs/adding-a-provider.md lists its variables.",
            examples=["api.json.j2"],
            extra={"path": True},
        ),
    ] = None
    type: Annotated[str, Meta(description="Content type of the body.", pattern="^[!-~]+/[ -~]+$")] = "application/json"
    headers: Annotated[
        tuple[str, ...],
        Meta(
            description="`Name: value` each; `{{ api_key }}`, `{{ secret_key }}`, `{{ domain }}` and `{{ region }}` are "
            "put in.",
            examples=[["Authorization: Bearer {{ api_key }}"]],
        ),
    ] = ()
    accepted: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Statuses that mean accepted: `202`, or `2xx`.")
    ] = ("2xx",)
    id: Annotated[
        str,
        Meta(
            description="Where the answer has its id: a path in its JSON such as `data.0.id`, or `header:x-message-id`."
        ),
    ] = "id"
    faults: Annotated[
        tuple[str, ...],
        Meta(
            description="What other answers mean: a status, `message`, `recipient`, `retry`, `rate`, `quota`, `account`, "
            "`ours`, `down` or `doubt`, and words that the answer must have. First match wins, before what statuses "
            "mean by themselves.",
            examples=[["400 recipient no such user"]],
        ),
    ] = ()
    idempotency: Annotated[
        str | None,
        Meta(
            description="Header whose key makes the same call again harmless. With it, a lost answer is asked for again.",
            examples=["Idempotency-Key"],
        ),
    ] = None


class Provider(Section, frozen=True, kw_only=True):
    """Who takes the mail: an SMTP relay, or a provider's HTTP API."""

    name: Annotated[Name, Meta(description="What `pool.providers` says.", examples=["relay"])]
    kind: Annotated[
        Literal[
            "smtp",
            "ses",
            "resend",
            "sendgrid",
            "mailgun",
            "postmark",
            "sparkpost",
            "brevo",
            "mailjet",
            "mailersend",
            "http",
            "sink",
        ],
        Meta(
            description="`smtp`, the name of a provider whose HTTP API is spoken, `http` for an API that [provider.call] describes, or `sink`: accept and drop, for tests."
        ),
    ] = "smtp"
    host: Annotated[str, Meta(description="Host name or address.")] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535, description="Default: 465 with implicit TLS, else 587.")] = 587
    tls: Annotated[
        Literal["none", "opportunistic", "starttls", "implicit"],
        Meta(
            description="`starttls` and `implicit` verify the certificate; "
            "`opportunistic` takes what is offered; `none` is plain text. HTTP APIs are always verified; with `none` their "
            "`endpoint` may be `http://`."
        ),
    ] = "starttls"
    tls_ca: Annotated[
        str | None,
        Meta(
            description="PEM file of the authorities to trust instead of the system's.",
            examples=["ca.pem"],
            extra={"path": True},
        ),
    ] = None
    tls_name: Annotated[
        str | None,
        Meta(description="Name the certificate must have, if not `host`.", examples=["smtp.example.org"]),
    ] = None
    username: Annotated[str | None, Meta(description="AUTH user; absent: no AUTH.", examples=["mailer"])] = None
    password: Annotated[
        str | None,
        Meta(
            description="AUTH password. Better: MAILERD_PROVIDER__NAME__PASSWORD_FILE or a systemd credential.",
            examples=["secret"],
            extra={"secret": True},
        ),
    ] = None
    api_key: Annotated[
        str | None,
        Meta(
            description="Key of an HTTP API. Better: MAILERD_PROVIDER__NAME__API_KEY_FILE or a systemd credential.",
            examples=["secret"],
            extra={"secret": True},
        ),
    ] = None
    access_key: Annotated[
        str | None, Meta(description="Access key id of an AWS user.", examples=["AKIAIOSFODNN7EXAMPLE"])
    ] = None
    secret_key: Annotated[
        str | None,
        Meta(
            description="The secret half of a key that has two. Better: MAILERD_PROVIDER__NAME__SECRET_KEY_FILE or a "
            "systemd credential.",
            examples=["secret"],
            extra={"secret": True},
        ),
    ] = None
    region: Annotated[
        str | None,
        Meta(
            pattern="^[a-z0-9-]{2,32}$",
            description="Region of the account: of AWS as AWS writes it, `us` or `eu` of others.",
            examples=["eu"],
            extra={"words": "small letters, digits and `-`"},
        ),
    ] = None
    domain: Annotated[str | None, Meta(description="Sending domain of the account.", examples=["mail.example.org"])] = (
        None
    )
    message_stream: Annotated[
        str | None,
        Meta(
            pattern="^[a-z0-9-]{1,30}$",
            description="Message stream that each message goes through. Default: the provider's.",
            examples=["outbound"],
            extra={"words": "small letters, digits and `-`, at most 30"},
        ),
    ] = None
    configuration_set: Annotated[
        str | None,
        Meta(
            pattern="^[A-Za-z0-9_-]{1,64}$",
            description="Configuration set that each message names.",
            examples=["mailerd"],
            extra={"words": "letters, digits, `_` and `-`, at most 64"},
        ),
    ] = None
    endpoint: Annotated[
        str | None,
        Meta(
            description="Base URL of an HTTP API instead of the provider's own: another region, a proxy, a test.",
            examples=["https://api.example.org"],
        ),
    ] = None
    webhook_secret: Annotated[
        tuple[str, ...],
        Meta(
            description="Proves who posts to /webhooks/NAME: the signing secret or public key that the provider shows, or, where "
            "it signs nothing, a secret of yours, 16 characters or more, that you put into the URL there. Several, to rotate. "
            "Better: MAILERD_PROVIDER__NAME__WEBHOOK_SECRET_FILE or a credential.",
            examples=[["whsec_MDEyMzQ1Njc4OWFiY2RlZg=="]],
            extra={"secret": True, "one": True},
        ),
    ] = ()
    webhook_topics: Annotated[
        tuple[str, ...],
        Meta(
            description="SNS topics whose notifications are taken, by ARN; they are subscribed to when they ask.",
            examples=[["arn:aws:sns:eu-central-1:123456789012:mail"]],
            extra={"one": True},
        ),
    ] = ()
    batch: Annotated[
        int | None,
        Meta(
            ge=1,
            description="Most messages in one call, where an HTTP API takes several. Default: as many as it takes.",
            examples=[100],
        ),
    ] = None
    helo: Annotated[
        str | None,
        Meta(description="Name we say in EHLO; default: this host's name.", examples=["mail.example.org"]),
    ] = None
    source: Annotated[
        tuple[str, ...],
        Meta(
            description="Local addresses to connect from. With several, each is a provider of its own, `NAME@ADDRESS`, with "
            "its own connections, rate and quota.",
            examples=[["192.0.2.1"]],
            extra={"one": True},
        ),
    ] = ()
    weight: Annotated[
        int, Meta(ge=1, le=1000, description="Its share of the pool's mail, against the weights of the others.")
    ] = 1
    rate: Annotated[Rate | None, Meta(description="Most messages to it, over all instances.", examples=["14/s"])] = None
    quota: Annotated[
        Quota | None,
        Meta(description="Most messages in a calendar day or month; it goes on at the next one.", examples=["50000/d"]),
    ] = None
    quota_zone: Annotated[str, Meta(description="Time zone in which the provider's days and months begin.")] = "UTC"
    connections: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Most connections to it, over all instances; of an HTTP API, most calls at a time.",
        ),
    ] = 20
    messages_per_connection: Annotated[
        int, Meta(ge=0, description="Messages after which a connection is closed; 0: no limit.")
    ] = 1000
    max_age: Annotated[Duration, Meta(description="Age at which an idle or between-messages connection is closed.")] = (
        D(600)
    )
    idle: Annotated[Duration, Meta(description="Idle time after which a connection is closed.")] = D(30)
    pipeline: Annotated[
        bool,
        Meta(
            description="Send commands in groups, and the next envelope behind the final dot, where PIPELINING is "
            "offered (RFC 2920). false: one command at a time, for servers that get it wrong."
        ),
    ] = True
    timeouts: Timeouts = Timeouts()
    warmup: Warmup | None = None
    call: Call = Call()
