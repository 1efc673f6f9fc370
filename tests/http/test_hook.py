"""Outgoing webhooks on the wire: only public addresses, no redirects, bounded answers; signatures as the reference has them."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Reference

from mailerd.config.outgoing import Webhook, secret_octets, trouble
from mailerd.http import standard
from mailerd.http.guard import is_public
from mailerd.http.hook import Peer, probe

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def hook(url: str, **more: object) -> Webhook:
    return Webhook(name="shop", url=url, secret=(SECRET,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255",
        "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "fec0::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
        "2001::1", "::127.0.0.1", "not an address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_the_public_internets(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[bytes], Awaitable[tuple[int, list[bytes]]]]]:
    """A server that answers every request with these octets, and what it was asked."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes) -> tuple[int, list[bytes]]:
        asked: list[bytes] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            try:
                await writer.drain()
                await reader.read()
            except ConnectionError:
                pass
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1]), asked

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_no_connection_to_a_private_address(
    host: str, serve: Callable[[bytes], Awaitable[tuple[int, list[bytes]]]]
) -> None:
    port, asked = await serve(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    answer = await probe(hook(f"http://{host}:{port}/"))
    assert not answer.taken
    assert "no public address" in answer.text
    assert not asked


@pytest.mark.parametrize(
    ("reply", "taken", "gone", "text"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, False, "204 No Content"),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", False, True, "410 Gone"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            False,
            False,
            "302 Found",
        ),
        (b"HTTP/1.1 500 \r\ncontent-length: 6\r\n\r\na\0b\n\xff\x1b", False, False, "500 a\\0b \\xff\x1b"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 70_000, True, False, None),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000 + b"\r\n\r\n", False, False, None),
        (b"\x00\x01garbage\r\n\r\n", False, False, None),
        (b"HTTP/1.1 200 OK", False, False, "no answer within 0.3 s"),
    ],
)
async def test_answers(
    reply: bytes,
    taken: bool,
    gone: bool,
    text: str | None,
    serve: Callable[[bytes], Awaitable[tuple[int, list[bytes]]]],
) -> None:
    port, asked = await serve(reply)
    answer = await probe(hook(f"http://127.0.0.1:{port}/", allow_private=True, timeout=0.3))
    assert (answer.taken, answer.gone) == (taken, gone)
    assert text is None or answer.text == text
    assert len(answer.text) <= 500
    assert len(asked) == 1


async def test_nobody_there() -> None:
    peer = Peer(hook("http://127.0.0.1:1/", allow_private=True), 1)
    answer = await peer.post(uuid.uuid4(), b"{}")
    await peer.close()
    assert not answer.taken
    assert "127.0.0.1" in answer.text


@given(st.binary(min_size=24, max_size=64), st.binary(min_size=24, max_size=64))
def test_the_reference_believes_each_of_several_keys(one: bytes, two: bytes) -> None:
    body = standard.body_of((), datetime.now(UTC))
    headers = dict(
        standard.signed(body, standard.message_id(uuid.uuid4()), int(datetime.now(UTC).timestamp()), [one, two])
    )
    for key in (one, two):
        assert Reference(key).verify(body, headers)["data"] == []


def test_waits_grow_and_vary() -> None:
    rng = random.Random(1)
    assert all(2.5 <= standard.delay(1, rng) <= 5 for _ in range(50))
    assert all(1800 <= standard.delay(n, rng) <= 3600 for n in (8, 100))


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"url": "http://shop.example/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://a:b@shop.example/"}, "url"),
        ({"url": "https://shop.example:x/"}, "url"),
        ({"url": "ftp://shop.example/"}, "url"),
        ({"secret": ()}, "secret"),
        ({"secret": ("hello",)}, "secret"),
        ({"secret": ("whsec_YWJj",)}, "secret"),
        ({"headers": ("nothing",)}, "headers"),
        ({"headers": ("Host: a",)}, "headers"),
        ({"headers": ("X-A: b\r\nX-B: c",)}, "headers"),
        ({"streams": ("none",)}, "streams"),
        ({"timeout": 90.0}, "timeout"),
    ],
)
def test_configuration_that_is_refused(more: dict[str, object], key: str) -> None:
    good: dict[str, object] = {"url": "https://shop.example/", "secret": (SECRET,), "streams": ("marketing",)}
    assert not trouble(Webhook(name="shop", **good), frozenset({"marketing"}))  # type: ignore[arg-type]
    found = trouble(Webhook(name="shop", **{**good, **more}), frozenset({"marketing"}))  # type: ignore[arg-type]
    assert [where for where, _ in found] == [key]


def test_a_secret_without_padding_is_read() -> None:
    assert secret_octets(SECRET) == secret_octets(SECRET.rstrip("="))
