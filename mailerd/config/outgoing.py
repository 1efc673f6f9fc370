"""Outgoing webhooks as configuration: where events go, which ones, and what signs them."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from mailerd.config.base import D, Duration, Name, Section

__all__ = ["EVENT_TYPES", "Webhook", "secret_octets", "trouble"]

EventType = Literal[
    "sent",
    "deferred",
    "delivered",
    "bounced",
    "rejected",
    "failed",
    "suppressed",
    "expired",
    "cancelled",
    "in_doubt",
    "complained",
    "opened",
    "clicked",
    "unsubscribed",
    "unknown",
]
EVENT_TYPES: Final[tuple[str, ...]] = EventType.__args__  # type: ignore[attr-defined]

# Headers that are ours, or HTTP's own.
_OURS: Final = frozenset(
    [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "host",
        "connection",
    ]
)


class Webhook(Section, frozen=True, kw_only=True):
    """Where events go, signed by the Standard Webhooks specification, at least once, in batches."""

    name: Annotated[Name, Meta(description="What `mailerd webhook` calls it.", examples=["shop"])]
    url: Annotated[
        str,
        Meta(
            description="Where events are posted: https, or http where `allow_private` is set. Redirects are not followed.",
            examples=["https://shop.example.org/mail-events"],
        ),
    ]
    events: Annotated[
        tuple[EventType, ...],
        Meta(description="Types of events. Empty: all of them.", examples=[["bounced", "complained"]]),
    ] = ()
    streams: Annotated[
        tuple[str, ...], Meta(description="Streams whose events go there. Empty: all.", examples=[["transactional"]])
    ] = ()
    secret: Annotated[
        tuple[str, ...],
        Meta(
            description="Signs requests: `whsec_` and the base64 of 24 to 64 random octets "
            "(`echo whsec_$(openssl rand -base64 32)`). Several, to rotate: all sign. "
            "Better: MAILERD_WEBHOOK__NAME__SECRET_FILE or a credential webhook.NAME.secret.",
            examples=[["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]],
            extra={"secret": True, "one": True},
        ),
    ] = ()
    batch_size: Annotated[int, Meta(ge=1, le=1000, description="Most events in one request.")] = 100
    timeout: Annotated[Duration, Meta(description="Longest wait for the whole answer.")] = D(15)
    headers: Annotated[
        tuple[str, ...],
        Meta(
            description="`Name: value` each, added to the request.",
            examples=[["Authorization: Bearer token"]],
            extra={"secret": True},
        ),
    ] = ()
    allow_private: Annotated[
        bool, Meta(description="Also connect to private, loopback and link-local addresses, and without TLS.")
    ] = False
    give_up: Annotated[
        Duration, Meta(description="Failing for so long without one success, it is disabled; `webhook enable` resumes.")
    ] = D(3 * 86400)


def secret_octets(secret: str) -> bytes:
    """The key behind `whsec_…`. Raises `ValueError` with words for people."""
    try:
        if not secret.startswith("whsec_"):
            raise ValueError
        text = secret.removeprefix("whsec_")
        octets = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("must be `whsec_` and base64: `echo whsec_$(openssl rand -base64 32)`") from None
    if not 24 <= len(octets) <= 64:
        raise ValueError(f"must hold 24 to 64 octets, not {len(octets)}")
    return octets


def trouble(webhook: Webhook, streams: frozenset[str]) -> list[tuple[str, str]]:
    """(key, what is wrong with it) of what one webhook says; `streams` are those of the file."""
    found: list[tuple[str, str]] = []
    try:
        parts = urlsplit(webhook.url)
        host, _ = parts.hostname, parts.port
    except ValueError as wrong:
        return [("url", f"is no URL: {wrong}")]
    schemes = ("https", "http") if webhook.allow_private else ("https",)
    if parts.scheme not in schemes or not host or any(c.isspace() or not c.isprintable() for c in webhook.url):
        found.append(("url", f"must be a URL that begins with {' or '.join(s + '://' for s in schemes)}"))
    elif parts.username is not None or parts.fragment:
        found.append(("url", "must have no user and no fragment; `headers` can carry an Authorization"))
    else:
        try:
            if not webhook.allow_private and not ipaddress.ip_address(host).is_global:
                found.append(("url", f"{host} is no public address: set `allow_private = true` if that is meant"))
        except ValueError:
            pass  # a name: judged when it is resolved
    if not webhook.secret:
        found.append(("secret", "must be given: `echo whsec_$(openssl rand -base64 32)` makes one"))
    for secret in webhook.secret:
        try:
            secret_octets(secret)
        except ValueError as wrong:
            found.append(("secret", str(wrong)))
    for header in webhook.headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or not name.strip().replace("-", "").isalnum() or not name.isascii():
            found.append(("headers", "must each be `Name: value`"))
        elif name.strip().lower() in _OURS:
            found.append(("headers", f"{name.strip()} is set by mailerd"))
        elif not value.isprintable() or not value.isascii():
            found.append(("headers", f"the value of {name.strip()} must be printable ASCII"))
    found += [("streams", f"there is no [[stream]] {name}") for name in webhook.streams if name not in streams]
    if not 0.1 <= float(webhook.timeout) <= 60:
        found.append(("timeout", "must be between 100ms and 1m"))
    return found
