"""A store for the tests: an aiohttp server whose answers are given by path, and a fake of S3 that believes only signatures
that botocore would have made."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from mailerd.compose.mime import Reference

ACCESS, SECRET, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-central-1"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Shop:
    """`answers` by path as it was sent; without one, 404. `asked` counts."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | bytes] = {}
        self.asked: Counter[str] = Counter()
        self.queries: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most = 0
        self.port = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        self.asked[path] += 1
        self.queries.append(request.rel_url.raw_query_string)
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            answer = self.answers.get(path)
            if answer is None:
                return web.Response(status=404)
            if isinstance(answer, bytes):
                return web.Response(body=answer, content_type="application/octet-stream")
            return await answer(request)
        finally:
            self.at_once -= 1


@asynccontextmanager
async def shop(port: int = 0) -> AsyncIterator[Shop]:
    """Listening on a free port, or on this one."""
    made = Shop()
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def redirect(to: str) -> Answer:
    return status(302, Location=to)


def slow(gate: asyncio.Event, body: bytes = b"late") -> Answer:
    """Answers when the gate opens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response(body=body, content_type="application/octet-stream")

    return answer


def s3(body: bytes) -> Answer:
    """Gives an object to a request that is signed as botocore signs it; else S3's error."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            given = request.headers["Authorization"]
            stamp, digest = request.headers["X-Amz-Date"], request.headers["X-Amz-Content-SHA256"]
        except KeyError:
            return _error(403, "AccessDenied")
        url = f"http://{request.host}{request.rel_url.raw_path}"
        copy = AWSRequest("GET", url, {"X-Amz-Content-SHA256": digest}, params=dict(request.query))
        copy.context["timestamp"] = stamp
        signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", REGION)
        copy.headers["X-Amz-Date"] = stamp
        expected = signer.signature(signer.string_to_sign(copy, signer.canonical_request(copy)), copy)
        if not given.endswith(f"Signature={expected}") or f"Credential={ACCESS}/" not in given:
            return _error(403, "SignatureDoesNotMatch")
        return web.Response(body=body, content_type="binary/octet-stream")

    return answer


def _error(code: int, name: str) -> web.Response:
    return web.Response(status=code, text=f"<?xml version='1.0'?><Error><Code>{name}</Code></Error>")


def by_url(url: str, sha256: str = "", kind: str = "application/pdf") -> Reference:
    return Reference(0, "attachments[0]", "", url, sha256, kind)


def by_path(path: str, sha256: str = "", kind: str = "application/pdf") -> Reference:
    return Reference(0, "attachments[0]", path, "", sha256, kind)
