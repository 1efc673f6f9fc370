"""AWS Signature Version 4, as far as a POST without a query and a GET from S3 need it. Pure.

Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. The tests compare it with
botocore, octet for octet.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

__all__ = ["sign", "signable"]

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def sign(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    access_key: str,
    secret_key: str,
    region: str,
    service: str,
    at: datetime,
    method: str = "POST",
) -> dict[str, str]:
    """The headers that make this request a signed one: X-Amz-Date and Authorization; for S3, X-Amz-Content-SHA256 too.
    `headers` are signed as well, with the Host that the URL says; `at` is now, in UTC: AWS takes five minutes to either side
    (S3: fifteen). A URL of S3 goes out as `signable` makes it."""
    digest = sha256(body).hexdigest()
    if service == "s3":
        host, path, query = _s3_address(url)
        own = {"X-Amz-Content-SHA256": digest}
    else:
        host, path = _address(url)
        query, own = "", {}
    stamp = _stamp(at.replace(microsecond=0))
    signed = {name.lower(): " ".join(value.split()) for name, value in {**headers, **own}.items()}
    signed |= {"host": host, "x-amz-date": stamp}
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    signature = _mac(_key(secret_key, stamp[:8], region, service), text).hex()
    authorization = f"{_ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**own, "X-Amz-Date": stamp, "Authorization": authorization}


def signable(origin: str, key: Sequence[bytes], query: str) -> str:
    """A URL of S3 as it is signed and sent: `key` are the decoded segments of its path, encoded once (S3's exception), the
    query sorted."""
    path = "/".join(quote(segment, safe="-_.~") for segment in key)
    pairs = urlencode(sorted(parse_qsl(query, keep_blank_values=True)), quote_via=quote, safe="-_.~")
    return f"{origin}/{path}" + (f"?{pairs}" if pairs else "")


@lru_cache(maxsize=16)
def _address(url: str) -> tuple[str, str]:
    """Host and canonical path."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2], quote(parts.path or "/", safe="/-_.~")


def _s3_address(url: str) -> tuple[str, str, str]:
    """Host, canonical path and query of a `signable` URL."""
    parts = urlsplit(url)
    return parts.netloc, parts.path, parts.query


@lru_cache(maxsize=16)
def _stamp(second: datetime) -> str:
    return second.strftime("%Y%m%dT%H%M%SZ")


@lru_cache(maxsize=16)
def _key(secret: str, day: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = _mac(key, part)
    return key


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
