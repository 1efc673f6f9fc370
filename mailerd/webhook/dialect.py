"""What a provider's webhook is to us: a `Webhook` judges a request (who sent it?) and reads it (what happened?). Pure.

The public listener asks `judge` before it stores or answers anything; a worker asks `read` later, of what was stored. Neither
knows a socket, a clock or a state: what must be fetched is a value (`Verdict.certificate`, `Verdict.visit`), and what may
come only once is a name (`Verdict.once`). `webhook.kinds.webhook` makes the one that belongs to a `[[provider]]`.

What a listener does with a verdict:

1. `certificate`: nothing is judged yet. GET that URL (TLS verified, no redirects, at most `CERTIFICATE_LIMIT` octets), keep
   it under its URL, and judge again with it in `certificates`. If it cannot be had, answer 429 or 503.
2. `status` is not 200: answer that, store nothing, count `reason`. A `certificate` beside it is of no use: forget it.
3. `visit`: GET that URL likewise (it confirms a subscription), then answer 200.
4. `once` was seen before from this provider: answer 200, store nothing.
5. Store the body and those headers that `keep` names; answer 200. Nothing to store where `empty`.

Hazards: body and headers are a stranger's until `status` is 200, and then still not all signed (Mailgun signs no event).
`judge` never raises; `read` raises `Malformed` alone, and only for a body of which nothing can be read: an event that is not
understood comes out as `unknown`, beside its neighbours. Both take time linear in the body, which is at most `LIMIT`.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from mailerd.feedback import Feedback

__all__ = [
    "CERTIFICATE_LIMIT",
    "LIMIT",
    "PATIENCE",
    "Malformed",
    "Post",
    "Verdict",
    "Webhook",
    "accepted",
    "fresh",
    "refused",
    "same",
]

LIMIT: Final = 4_000_000
"""Octets of the largest body that is taken: SendGrid posts batches of 768 kB, SparkPost of 350 events."""
CERTIFICATE_LIMIT: Final = 65_536
PATIENCE: Final = 300.0
"""Seconds that a signature's time may lie in the past or the future (Standard Webhooks, "Verifying webhook authenticity")."""


class Malformed(Exception):
    """A body of which nothing can be read, with the reason that an operator reads."""


class Post(msgspec.Struct, frozen=True):
    """A request as it came. Names of `headers` in lower case; `query` is that of its URL, decoded, first value of each name."""

    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = {}


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a request. `status` is the answer: 200, 400 (cannot be what it says), 401 (no proof, or a wrong one),
    403 (proven, and not for us: too old, a foreign topic). `reason` is a few words of ours, no octet of the request in them.

    `once`: this may be accepted once per provider, '' where nothing names it. `certificate`, `visit`: URLs, see above; they
    were looked at, and lead to the provider alone. `empty`: nothing happened (a ping, a confirmation)."""

    status: int = 200
    reason: str = ""
    once: str = ""
    certificate: str = ""
    visit: str = ""
    empty: bool = False

    @property
    def accepted(self) -> bool:
        """Was it proven, and is it for us? Never before a certificate that it wants has been seen."""
        return self.status == 200 and not self.certificate


class Webhook(Protocol):
    """One provider's webhook, for one `[[provider]]`."""

    keep: tuple[str, ...]
    """Names (lower case) of headers that `read` wants back."""

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        """`now` in seconds since 1970. `certificates`: what was fetched before, by URL. Never raises."""
        ...

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        """What an accepted body reports, in its order; empty for a ping. Raises `Malformed`."""
        ...


def accepted(once: str = "", *, empty: bool = False) -> Verdict:
    return Verdict(once=once, empty=empty)


def refused(status: int, reason: str) -> Verdict:
    return Verdict(status, reason)


def fresh(then: str, now: float, patience: float = PATIENCE) -> bool:
    """Is this time, in decimal seconds since 1970, `now` give or take `patience` seconds? False for what is no such number."""
    return len(then) <= 15 and then.isascii() and then.isdecimal() and abs(now - int(then)) <= patience


def same(ours: bytes | str, theirs: bytes | str) -> bool:
    """Are two secrets or signatures the same? In constant time, whatever characters they have."""
    return hmac.compare_digest(
        ours.encode("utf-8", "surrogatepass") if isinstance(ours, str) else ours,
        theirs.encode("utf-8", "surrogatepass") if isinstance(theirs, str) else theirs,
    )
