"""One file over HTTP or HTTPS: a GET, its redirects, each judged as a row's URL is, and a body up to a limit.

No cookies, no proxies of the environment, no compression: octets are taken as they are stored. Of an S3-compatible store
the request is signed, anew for each redirect, and only for URLs of that store. It has no deadline of its own beside that
for connecting: whoever calls sets one.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from mailerd import __version__
from mailerd.fetch.place import Places, Remote
from mailerd.fetch.trouble import Stopped
from mailerd.http.client import context
from mailerd.http.sigv4 import sign

__all__ = ["Downloads"]

REDIRECTS = 5
CONNECT = 10.0  # seconds
CHUNK = 65_536
LONGEST_WAIT = 3600.0  # that a Retry-After is believed
_TEMPORARY = frozenset((408, 421, 425, 429))
# What S3 answers with 4xx when it is our keys, our clock or its load that are wrong, not the object.
_OURS = frozenset(
    [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
        "ExpiredToken",
        "AuthorizationHeaderMalformed",
        "SlowDown",
        "RequestTimeout",
        "InternalError",
        "OperationAborted",
    ]
)
_code = re.compile(rb"<Code>([A-Za-z.]{1,60})</Code>").search


class Downloads:
    """Use within one running loop; `close` ends it."""

    def __init__(self, places: Places, limit: int) -> None:
        self._places = places
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def get(self, place: Remote) -> bytes:
        """Raises `Stopped`, and what aiohttp raises."""
        session = self._session or await self._open()
        for _ in range(REDIRECTS + 1):
            signed = _sign(place) if place.store else {}
            async with session.get(URL(place.text, encoded=True), headers=signed, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                    place = self._redirected(place, answer.headers["Location"])
                    continue
                return await self._body(place, answer)
        raise Stopped(f"is redirected more than {REDIRECTS} times")

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                tls = await asyncio.to_thread(context, None)  # reading authorities takes milliseconds
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=tls, limit=0),  # `Files` counts
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                    headers={"User-Agent": f"mailerd/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"},
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
                )
            return self._session

    def _redirected(self, place: Remote, location: str) -> Remote:
        try:
            target = urljoin(place.text, location)
        except ValueError:
            raise Stopped("is redirected to what is no URL") from None
        try:
            return self._places.remote(target)
        except Stopped as stopped:
            raise Stopped(f"is redirected, and the new {stopped.trouble.reason}") from None

    async def _body(self, place: Remote, answer: aiohttp.ClientResponse) -> bytes:
        if answer.status != 200:
            raise await _refused(place, answer)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Stopped(f"{place.name} answers with a Content-Encoding that was not asked for")
        if answer.content_type not in ("application/octet-stream", "binary/octet-stream"):
            self._places.allow_type(answer.content_type)
        too_large = Stopped(f"is larger than {self._limit} octets (attachments.size)")
        if (answer.content_length or 0) > self._limit:
            raise too_large
        octets = bytearray()
        async for chunk in answer.content.iter_chunked(CHUNK):
            octets += chunk
            if len(octets) > self._limit:
                raise too_large
        return bytes(octets)


def _sign(place: Remote) -> dict[str, str]:
    store = place.store
    assert store is not None
    return sign(
        place.text,
        {},
        b"",
        access_key=store.access_key,
        secret_key=store.secret_key,
        region=store.region,
        service="s3",
        at=datetime.now(UTC),
        method="GET",
    )


async def _refused(place: Remote, answer: aiohttp.ClientResponse) -> Stopped:
    status = answer.status
    code = ""
    if place.store is not None:
        with suppress(aiohttp.ClientError, OSError):
            if found := _code(await answer.content.read(2048)):
                code = found[1].decode("ascii")
    wait = answer.headers.get("Retry-After", "")
    after = min(float(wait), LONGEST_WAIT) if wait.isascii() and wait.isdigit() else 0.0
    temporary = status >= 500 or status in _TEMPORARY or code in _OURS
    reason = f"{place.name} answers {status}" + (f" {code}" if code else "")
    return Stopped(reason, temporary=temporary, after=after if temporary else 0.0)
