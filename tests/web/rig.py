"""A public listener in the test's own process, with a webhook of the test's own, and a client that speaks octets."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from mailerd.compose.tokens import Tokens
from mailerd.config.model import Config, Identity, Pool, Provider, Stream
from mailerd.config.model import Database as DatabaseSection
from mailerd.config.public import Public
from mailerd.config.resolved import Resolved
from mailerd.feedback import Feedback
from mailerd.store.database import Session
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics
from mailerd.web.public import PublicServer
from mailerd.webhook.dialect import Malformed, Post, Verdict, accepted, refused

SECRET = "a secret of sixteen octets and more"
KEY = b"key"
TOKENS = Tokens([SECRET])


class Signed:
    """A webhook in the manner of many: an HMAC of the raw body in a header, a list of events as JSON."""

    keep = ("x-kept",)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        if not hmac.compare_digest(post.headers.get("x-signature", ""), sign(post.body)):
            return refused(401, "no signature")
        return accepted(post.headers.get("x-once", ""), empty=post.body == b"[]")

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        try:
            events = msgspec.json.decode(body, type=list[dict[str, str]])
        except msgspec.MsgspecError as error:
            raise Malformed(str(error)) from error
        return [Feedback(type=e["type"], recipient=e["to"], source_id=e.get("id", "")) for e in events]


def sign(body: bytes) -> str:
    return hmac.digest(KEY, body, "sha256").hex()


class Applied:
    """Stands for `store.feedback.apply`: remembers, and fails as told."""

    def __init__(self) -> None:
        self.reports: list[Feedback] = []
        self.failures: list[Exception] = []
        self.poison = ""  # a recipient that cannot be applied

    async def __call__(self, session: Session, reports: Sequence[Feedback]) -> int:
        if self.failures:
            raise self.failures.pop()
        if any(self.poison and report.recipient == self.poison for report in reports):
            raise ValueError("poison")
        self.reports += reports
        return len(reports)


def resolved(database: str, **public: object) -> Resolved:
    section = Public(
        **{"listen": "127.0.0.1:0", "base_url": "https://mail.example.org", "secret": (SECRET,), **public}  # type: ignore[arg-type]
    )
    return Resolved(
        Config(
            database=DatabaseSection(url=database),
            public=section,
            provider=(Provider(name="relay", host="127.0.0.1"),),
            pool=(Pool(name="default", providers=("relay",)),),
            identity=(Identity(name="shop", sender="The <Shop> & Co <shop@shop.example>".replace("<Shop>", "Shop")),),
            stream=(Stream(name="marketing", identity="shop"),),
        )
    )


@asynccontextmanager
async def listener(database: str, applied: Applied | None = None, **public: object) -> AsyncIterator[PublicServer]:
    server = PublicServer(
        resolved(database, **public), Health(), Metrics(), webhooks={"relay": Signed()}, apply=applied or Applied()
    )
    await server.start()
    running = asyncio.create_task(server.run())
    try:
        yield server
        assert not running.done(), running.exception()
    finally:
        await server.stop()
        running.cancel()


class Reply(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes


async def read_reply(reader: asyncio.StreamReader, *, head: bool = False) -> Reply:
    lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(": ")
        assert name.lower() not in headers or not name, line
        headers[name.lower()] = value
    length = 0 if head else int(headers.get("content-length", "0"))
    return Reply(int(lines[0].split()[1]), headers, await asyncio.wait_for(reader.readexactly(length), 5))


async def ask(
    server: PublicServer, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Reply:
    assert server.address is not None
    reader, writer = await asyncio.open_connection(*server.address)
    fields = {"Host": "x", "User-Agent": "Mozilla/5.0 (Firefox)", **(headers or {})}
    if body or method == "POST":
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    try:
        return await read_reply(reader, head=method == "HEAD")
    finally:
        writer.close()


async def post(server: PublicServer, body: bytes, **headers: str) -> Reply:
    given = {"X-Signature": sign(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await ask(server, "POST", "/webhooks/relay", given, body)
