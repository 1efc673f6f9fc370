"""Which keys of a [[provider]] belong to which kind, and which it must have; and where its HTTP API is.

Keys that every kind has are not listed. Pure data, and the check that goes with it (`misplaced`): it opens nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec

__all__ = ["FAULTS", "HTTP", "endpoint", "fault", "header", "is_loopback", "is_status", "misplaced", "status", "users"]

_SMTP: Final = frozenset(
    ("host", "port", "tls_name", "username", "password", "helo", "messages_per_connection", "max_age", "pipeline")
)


class Api(msgspec.Struct, frozen=True):
    """An HTTP API: keys that it must have, those that it may have besides `endpoint`, and its regions where it has a few."""

    must: frozenset[str]
    may: frozenset[str] = frozenset()
    regions: tuple[str, ...] = ()
    rewrites: frozenset[str] = frozenset()  # fields that it writes anew: a signature that covers them would break


def _api(must: str, may: str = "", regions: str = "", rewrites: str = "") -> Api:
    return Api(frozenset(must.split()), frozenset(may.split()), tuple(regions.split()), frozenset(rewrites.split()))


HTTP: Final = {
    "ses": _api("access_key secret_key region", "configuration_set webhook_topics", rewrites="message-id date"),
    "resend": _api("api_key", "batch webhook_secret"),
    "sendgrid": _api("api_key", "region webhook_secret", "us eu"),
    "mailgun": _api("api_key domain", "region webhook_secret", "us eu"),
    "postmark": _api("api_key", "batch message_stream webhook_secret"),
    "sparkpost": _api("api_key", "region webhook_secret", "us eu"),
    "brevo": _api("api_key", "webhook_secret"),
    "mailjet": _api("api_key secret_key", "batch webhook_secret"),
    "mailersend": _api("api_key", "webhook_secret"),
    "http": _api("endpoint call", "api_key secret_key domain region"),
}
"""The kinds with an HTTP API."""

_ONLY_HTTP: Final = frozenset(("endpoint",)).union(*(api.must | api.may for api in HTTP.values()))


def users(key: str) -> tuple[str, ...]:
    """The kinds that a key of [[provider]] is for, where it is for HTTP APIs alone; else none."""
    key = key.partition(".")[0]
    if key not in _ONLY_HTTP:
        return ()
    return tuple(kind for kind, api in HTTP.items() if key == "endpoint" or key in api.must | api.may)


def misplaced(kind: str, given: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for each key that does not belong to this kind, and each that is missing."""
    given = tuple(given)
    api = HTTP.get(kind)
    if api is None:
        for key in given:
            if key in _ONLY_HTTP:
                yield key, f'is for providers with an HTTP API, not for kind = "{kind}"'
        return
    for key in given:
        if key in _SMTP:
            hint = "; the address of the API is `endpoint`" if key in ("host", "port") else ""
            yield key, f'is for kind = "smtp", not for "{kind}"{hint}'
        elif key in _ONLY_HTTP and key != "endpoint" and key not in api.must | api.may:
            yield key, f'is not for kind = "{kind}"'
    for key in sorted(api.must.difference(given)):
        yield key, f'must be given for kind = "{kind}"'


FAULTS: Final = ("message", "recipient", "retry", "rate", "quota", "account", "ours", "down", "doubt")
"""What may be wrong with a call, in the words of `call.faults`; `http.dialect.Fault` says what each means."""

_STATUS: Final = re.compile(r"[1-9](?:xx|[0-9]{2})").fullmatch
_HEADER: Final = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+): *([ -~]+)").fullmatch
_OWN: Final = frozenset(
    ("host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding")
)


def status(text: str) -> str:
    """`404` or `4xx`. Raises ValueError."""
    if not _STATUS(text):
        raise ValueError(f"must be statuses such as `404` or `4xx`, not `{text}`")
    return text


def is_status(code: int, wanted: str) -> bool:
    """Is this status meant by `404` or `4xx`?"""
    return str(code) == wanted or (wanted.endswith("xx") and code // 100 == int(wanted[0]))


def fault(text: str) -> tuple[str, str, str]:
    """(status, fault, words in small letters or '') of `400 recipient no such user`. Raises ValueError."""
    code, _, rest = text.strip().partition(" ")
    name, _, said = rest.strip().partition(" ")
    if name not in FAULTS:
        raise ValueError(f"must be a status, one of {', '.join(FAULTS)}, and words if need be, not `{text}`")
    return status(code), name, said.strip().lower()


def header(text: str) -> tuple[str, str]:
    """(name, value) of `Name: value`. Raises ValueError; never repeats the value, which may be secret."""
    found = _HEADER(text)
    if found is None:
        raise ValueError('must be a list of headers, as in ["Authorization: Bearer {{ api_key }}"]')
    if found[1].lower() in _OWN:
        raise ValueError(f"must not set {found[1]}: that is done for you")
    return found[1], found[2]


def endpoint(text: str, *, plain: bool) -> str:
    """The base URL of an API. `http://` only to this machine, or where `plain` says so. Raises ValueError; never repeats
    the text, which may hold a password."""
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError("is no URL: write `https://api.example.org`") from None
    if url.scheme not in ("https", "http") or not host or port == 0:
        raise ValueError("is no URL: write `https://api.example.org`")
    if url.username is not None or url.fragment or any(c.isspace() for c in text):
        raise ValueError("must have no user and no `#`")
    if url.scheme == "http" and not plain and not is_loopback(host):
        raise ValueError('is not encrypted: write `https://`, or tls = "none" if it must be so')
    return text


def is_loopback(host: str) -> bool:
    """Does this name or address mean this very machine?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
