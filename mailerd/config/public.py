"""The public listener as configuration: where it listens, how the world reaches it, and what signs the links that lead to it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mailerd.config.base import Section

__all__ = ["SECRET_OCTETS", "Public"]

SECRET_OCTETS = 16  # of a signing secret: 128 bits, if they are random


class Public(Section, frozen=True, kw_only=True):
    """What recipients and providers reach over HTTP: webhooks, opens, clicks, unsubscribing. Apart from [ops]."""

    listen: Annotated[
        str, Meta(description="host:port of the public listener, behind your TLS proxy; port 0 picks one, `off` none.")
    ] = "off"
    base_url: Annotated[
        str | None,
        Meta(
            description="How the world reaches it: the start of every link in a message. No `/` at its end.",
            pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*[^/?#\s])?$",
            examples=["https://mail.example.org"],
            extra={"words": "a URL without `/` at its end, as in https://mail.example.org"},
        ),
    ] = None
    secret: Annotated[
        tuple[str, ...],
        Meta(
            description="Signs links and return paths: 16 characters or more, best `openssl rand -hex 32`. Several, to rotate: "
            "the first signs, all are believed. Better: MAILERD_PUBLIC__SECRET_FILE or a credential public.secret.",
            examples=[["a long random text"]],
            extra={"secret": True, "one": True},
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses or networks whose X-Forwarded-For is believed.",
            examples=[["127.0.0.1/32"]],
        ),
    ] = ()
