"""The dialect of Mailgun: multipart forms, read back by aiohttp's own parser."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from tests.http.rig import Seen, api, message, reply, rig

KEY = {"api_key": "key-secret", "domain": "mg.example.org"}


async def form(seen: Seen) -> list[tuple[str, str | None, bytes]]:
    """(name, file name, value) of each part, as another implementation reads them."""
    import asyncio

    from aiohttp import MultipartReader, StreamReader
    from aiohttp.base_protocol import BaseProtocol

    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream.feed_data(seen.body)
    stream.feed_eof()
    reader = MultipartReader({"Content-Type": seen.headers["content-type"]}, stream)  # type: ignore[arg-type]
    parts = []
    while (part := await reader.next()) is not None:
        assert not isinstance(part, MultipartReader)
        parts.append((part.name or "", part.filename, bytes(await part.read())))
    return parts


async def test_a_message_goes_as_it_was_composed() -> None:
    sent = message(
        "Ann Müller <ann@example.org>",
        cc=["carl@example.org"],
        bcc=["bob@example.net"],
        tags=["a", "ü", "b"],
        text_body="--x\r\n\r\nTschüß\r\n",
    )
    async with (
        api(lambda seen: reply({"id": "<2026.1@mg.example.org>", "message": "Queued. Thank you."})) as server,
        rig("mailgun", server.url, sent, **KEY) as run,
    ):
        await run.settled(sent)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v3/mg.example.org/messages.mime")
    assert seen.headers["authorization"] == "Basic " + b64encode(b"api:key-secret").decode()
    assert await form(seen) == [
        ("to", None, b"ann@example.org"),
        ("to", None, b"carl@example.org"),
        ("to", None, b"bob@example.net"),
        ("v:mailerd_id", None, str(sent.job.id).encode()),
        ("o:tag", None, b"a"),
        ("o:tag", None, b"b"),
        ("message", "message.eml", sent.content),
    ]
    assert run.source.results[sent.job.id][0].provider_message_id == "2026.1@mg.example.org"


@pytest.mark.parametrize(
    ("status", "text", "kind", "category", "state"),
    [
        (400, "to parameter is not a valid address", "rejected", "", "closed"),
        (400, "Domain mg.example.org is not allowed to send: not activated", "unsent", "account", "open"),
        (401, "Forbidden", "unsent", "account", "open"),
        (403, "not allowed to send large batches yet", "unsent", "rate", "closed"),
        (404, "Domain not found: mg.example.org", "unsent", "protocol", "open"),
        (429, "recipient limit exceeded, try again", "unsent", "rate", "closed"),
        (429, "recipient limit exceeded, try again after SOON", "unsent", "rate", "open"),
        (500, "", "deferred", "connection", "closed"),
        (200, "", "in_doubt", "", "closed"),
    ],
)
async def test_what_answers_mean(status: int, text: str, kind: str, category: str, state: str) -> None:
    sent = message()
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    async with (
        api(lambda seen: reply({"message": text.replace("SOON", soon)}, status)) as server,
        rig("mailgun", server.url, sent, **KEY) as run,
    ):
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.category, run.pool.state) == (kind, category, state)
        assert (80 < outcome.retry_after <= 90) == ("SOON" in text)


async def test_the_greeting_of_the_wrong_address() -> None:
    sent = message()
    async with (
        api(lambda seen: web.Response(text="Mailgun Magnificent API")) as server,
        rig("mailgun", server.url, sent, **KEY) as run,
    ):
        await run.settled(sent)
        assert (run.source.outcome(sent).kind, run.pool.state) == ("unsent", "open")
