"""Providers that sign nothing: a secret that both sides know stands in the request. Pure.

It may come as the password of basic authentication (also as `user:password`, if the secret is written so), as a bearer
token, in the header `X-Webhook-Secret`, or as `?secret=` of the URL: whatever the provider can be told to send.

Hazards: it proves who posts and nothing about what, and it can be replayed; events are told apart by their own names.
What is in a URL stands in the logs of the proxies before us: a header is better where the provider has one.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from typing import Final

from mailerd.config.provider import Provider
from mailerd.webhook.dialect import Post, Verdict, accepted, refused, same
from mailerd.webhook.event import Reporter

__all__ = ["HEADER", "PARAMETER", "Shared"]

HEADER: Final = "x-webhook-secret"
PARAMETER: Final = "secret"
_LONGEST: Final = 2000  # octets of a header that is looked at


class Shared:
    """The half of a webhook that judges; `read` is each provider's own."""

    keep: tuple[str, ...] = ()

    def __init__(self, provider: Provider) -> None:
        self._secrets = [secret.encode() for secret in provider.webhook_secret]
        self._reporter = Reporter(provider.name)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        given = _given(post)
        if not given:
            return refused(401, "secret missing")
        if not any(same(secret, one) for secret in self._secrets for one in given):
            return refused(401, "secret wrong")
        return accepted()


def _given(post: Post) -> list[bytes]:
    found: list[bytes] = []
    scheme, _, rest = post.headers.get("authorization", "")[:_LONGEST].partition(" ")
    if scheme.lower() == "bearer":
        found.append(rest.strip().encode("utf-8", "replace"))
    elif scheme.lower() == "basic":
        try:
            login = b64decode(rest.strip().encode("utf-8", "replace"))
        except (Error, ValueError):
            login = b""
        found += [login, login.partition(b":")[2]] if login else []
    elif scheme:
        found.append(scheme.encode("utf-8", "replace"))
    for value in (post.headers.get(HEADER, ""), post.query.get(PARAMETER, "")):
        if value:
            found.append(value[:_LONGEST].encode("utf-8", "replace"))
    return found
