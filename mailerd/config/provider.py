"""Who takes the mail: the tables of a provider, its timeouts, and the warm-up that a pool may have, too.

Part of the model (`config.model`), which says how keys are declared.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mailerd.config.base import D, Duration, Name, Quota, Rate, Section

__all__ = ["Provider", "Timeouts", "Warmup"]


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
    """Deadlines of an SMTP conversation. Defaults follow RFC 5321 §4.5.3.2, shortened where no mail is at risk."""

    connect: Annotated[Duration, Meta(description="TCP and TLS set-up.")] = D(15)
    greeting: Annotated[Duration, Meta(description="220 greeting, EHLO, STARTTLS, AUTH, each.")] = D(30)
    command: Annotated[Duration, Meta(description="MAIL, RCPT, DATA.")] = D(60)
    content: Annotated[Duration, Meta(description="Each 64 kB of content to be taken by the peer.")] = D(180)
    dot: Annotated[
        Duration,
        Meta(description="The reply to the final dot. Short values make duplicates (RFC 5321 says 10 minutes)."),
    ] = D(600)


class Provider(Section, frozen=True, kw_only=True):
    """Who takes the mail: an SMTP relay."""

    name: Annotated[Name, Meta(description="What `pool.providers` says.", examples=["relay"])]
    kind: Annotated[Literal["smtp", "sink"], Meta(description="`smtp`, or `sink`: accept and drop, for tests.")] = (
        "smtp"
    )
    host: Annotated[str, Meta(description="Host name or address.")] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535, description="Default: 465 with implicit TLS, else 587.")] = 587
    tls: Annotated[
        Literal["none", "opportunistic", "starttls", "implicit"],
        Meta(
            description="`starttls` and `implicit` verify the certificate; "
            "`opportunistic` takes what is offered; `none` is plain text."
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
    connections: Annotated[int, Meta(ge=1, le=10_000, description="Most connections to it, over all instances.")] = 20
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
