"""The HTTP server against hostile octets: it answers or hangs up, in bounded time and memory, and serves the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.web.server import Answer, Limits, Request, Response, Server
from tests.daemon.harness import until
from tests.web.rig import read_reply

Handle = Callable[[Request, Answer], None]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def echo(request: Request, answer: Answer) -> None:
    answer(Response(200, f"{request.method} {request.path} {len(request.body)}".encode()))


@asynccontextmanager
async def serving(handle: Handle = echo, **limits: float) -> AsyncIterator[Server]:
    given = {"head_seconds": 5.0, **limits}
    server = Server(
        handle,
        Limits(body=lambda path: 1000, **given),  # type: ignore[arg-type]
        refusal=lambda status: Response(status, b"no", close=True),
        observe=lambda status: None,
    )
    server.port = (await server.start("127.0.0.1", 0))[1]  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        await server.stop(1.0)
        assert not server.connections
        assert not server.peers
        assert server.buffered == 0


async def opened(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)  # type: ignore[attr-defined]


async def told(server: Server, octets: bytes) -> bytes:
    """All that it answers until it hangs up, or until we do."""
    reader, writer = await opened(server)
    writer.write(octets)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 3)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_one_after_the_other_in_order() -> None:
    waiting: list[Answer] = []

    def handle(request: Request, answer: Answer) -> None:
        if request.path == "/late":
            waiting.append(answer)
        else:
            for late in waiting:
                asyncio.get_running_loop().call_later(0.02, late, Response(200, b"late"))
            echo(request, answer)

    async with serving(handle) as server:
        reader, writer = await opened(server)
        late = GET.replace(b"/ ", b"/late ")
        writer.write(late + GET + b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert [(await read_reply(reader)).body for _ in range(3)] == [b"late", b"GET / 0", b"POST /b 3"]
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await read_reply(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()


async def test_a_peer_that_has_said_all_still_gets_its_answer() -> None:
    def handle(request: Request, answer: Answer) -> None:
        asyncio.get_running_loop().call_later(0.05, answer, Response(200, b"late"))

    async with serving(handle) as server:
        assert (await told(server, GET)).endswith(b"\r\n\r\nlate")
        await until(lambda: not server.connections, "closed")


async def test_head_has_no_body() -> None:
    async with serving() as server:
        reader, writer = await opened(server)
        writer.write(b"HEAD / HTTP/1.1\r\n\r\n" + GET)
        assert (await read_reply(reader, head=True)).headers["content-length"] == "8"
        assert (await read_reply(reader)).body == b"GET / 0"
        writer.close()


async def test_expect_continue() -> None:
    async with serving() as server:
        reader, writer = await opened(server)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await read_reply(reader)).body == b"POST / 3"
        writer.close()


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + b"x" * 1024, 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 8000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
async def test_refused(octets: bytes, status: int) -> None:
    async with serving() as server:
        answer = await told(server, octets)
        assert answer.startswith(b"HTTP/1.1 %d " % (status or 4) if status else b"HTTP/1.1 4"), answer[:100]
        assert answer.count(b"HTTP/1.1 ") == 1
        assert (await told(server, GET)).startswith(b"HTTP/1.1 200 ")


async def test_slow_heads_and_bodies() -> None:
    async with serving(head_seconds=0.2, body_seconds=0.2, idle_seconds=0.2, linger_seconds=0.2) as server:
        slow = [b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"]
        pairs = [await opened(server) for _ in slow]
        for (_, writer), octets in zip(pairs, slow, strict=True):
            writer.write(octets)
        answers = [await asyncio.wait_for(reader.read(), 3) for reader, _ in pairs]
        assert [answer[9:12] for answer in answers] == [b"", b"408", b"408"]
        await until(lambda: not server.connections, "hung up")


async def test_a_peer_that_does_not_read() -> None:
    def handle(request: Request, answer: Answer) -> None:
        answer(Response(200, b"x" * 1_000_000))

    async with serving(handle, answer_seconds=0.2) as server:
        _, writer = await opened(server)
        writer.write(GET * 20)
        await until(lambda: not server.connections, "hung up")
        writer.close()


async def test_no_more_connections_than_allowed() -> None:
    async with serving(per_peer=3) as server:
        pairs = [await opened(server) for _ in range(5)]
        await until(lambda: server.turned_away == 2, "turned away")
        for _, writer in pairs:
            writer.close()
        await until(lambda: not server.connections, "closed")
        assert (await told(server, GET)).startswith(b"HTTP/1.1 200 ")


async def test_no_more_unfinished_bodies_than_memory() -> None:
    async with serving(bodies=2000) as server:
        half = b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + b"x" * 900
        pairs = [await opened(server) for _ in range(3)]
        for _, writer in pairs:
            writer.write(half)
        answers = [asyncio.create_task(read_reply(reader)) for reader, _ in pairs]
        done, _ = await asyncio.wait(answers, timeout=3, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().status for task in done] == [429]
        for task in answers:
            task.cancel()
        for _, writer in pairs:
            writer.close()
        await until(lambda: not server.connections, "closed")


async def test_stopping_answers_what_is_in_hand() -> None:
    waiting: list[Answer] = []

    async with serving(lambda request, answer: waiting.append(answer)) as server:
        idle = await opened(server)
        reader, writer = await opened(server)
        writer.write(GET)
        await until(lambda: waiting, "handled")
        stopping = asyncio.create_task(server.stop(5))
        assert await asyncio.wait_for(idle[0].read(), 3) == b""
        waiting[0](Response(200, b"in time"))
        reply = await read_reply(reader)
        assert (reply.body, reply.headers["connection"]) == (b"in time", "close")
        await asyncio.wait_for(stopping, 3)
        writer.close()


async def test_a_defect_is_a_500() -> None:
    def handle(request: Request, answer: Answer) -> None:
        raise KeyError("defect")

    async with serving(handle) as server:
        assert (await told(server, GET)).startswith(b"HTTP/1.1 500 ")


class _Transport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("1.2.3.4", 5)})
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


PIECES = st.sampled_from(
    [GET, b"GET ", b"POST / HTTP/1.1\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"hello",
     b"5\r\nhello\r\n", b"0\r\n\r\n", b"Expect: 100-continue\r\n", b" HTTP/1.1\r\n", b"A: b\r\n", b"Connection: close\r\n", b":", b"\0"]
)  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_octets(pieces: list[bytes]) -> None:
    from mailerd.web.server import _Connection

    server = Server(
        echo,
        Limits(body=lambda path: 100),
        refusal=lambda status: Response(status, close=True),
        observe=lambda status: None,
    )
    connection, transport = _Connection(server), _Transport()
    connection.connection_made(transport)
    for piece in pieces:
        if not transport.closed:
            connection.data_received(piece)
    connection.connection_lost(None)
    assert server.buffered == 0
    assert not server.connections
    assert not server.peers
    assert not transport.written or transport.written.startswith(b"HTTP/1.1 ")
