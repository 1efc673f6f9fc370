"""The engine: what is lost and when, deadlines, limits, batches, the breaker and rests; whatever a peer may do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from mailerd.http import flight
from mailerd.message import Lease, OutcomeKind, Phase
from tests.http.rig import Seen, api, message, reply, rig

SES = {"access_key": "A", "secret_key": "wJalr", "region": "eu-central-1"}
RESEND = {"api_key": "re_secret"}


def ok(seen: Seen) -> web.Response:
    if isinstance(seen.json, list):
        return reply({"data": [{"id": one["tags"][0]["value"]} for one in seen.json]})
    return reply({"id": "x", "MessageId": "x"})


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(talk: Talk) -> AsyncIterator[str]:
    """A server that speaks octets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=10_000_000)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert found
    return head + await reader.readexactly(int(found[1]))


# -- lost ---------------------------------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    sent = message()
    async with rig("ses", "http://127.0.0.1:1", sent, **SES) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.phase) == (OutcomeKind.UNSENT, Phase.CONNECT)
        assert run.states == ["open"]
        assert run.troubles[0].phase is Phase.CONNECT


async def test_a_request_without_an_answer_is_in_doubt() -> None:
    sent = message()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)

    async with peer(talk) as url, rig("ses", url, sent, **SES) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.phase) == (OutcomeKind.IN_DOUBT, Phase.RESPONSE)


async def test_a_request_that_was_not_written_whole_is_unsent() -> None:
    sent = message(text_body="x" * 3_000_000)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()  # with most of it unread

    async with peer(talk) as url, rig("ses", url, sent, **SES) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.phase) == (OutcomeKind.UNSENT, Phase.REQUEST)


async def test_silence_is_in_doubt_after_the_deadline() -> None:
    sent = message()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await reader.read()

    async with peer(talk) as url, rig("ses", url, sent, timeouts={"command": 0.2}, **SES) as run:
        begun = time.monotonic()
        await run.settled(sent)
        assert time.monotonic() - begun < 2
        assert run.source.outcome(sent).kind is OutcomeKind.IN_DOUBT


async def test_a_peer_that_never_takes_the_body_costs_its_deadline() -> None:
    sent = message(text_body="x" * 8_000_000)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(5)

    times = {"connect": 0.1, "content": 0.1, "command": 0.1}
    async with peer(talk) as url, rig("ses", url, sent, timeouts=times, **SES) as run:
        await run.settled(sent)
        assert run.source.outcome(sent).kind is OutcomeKind.UNSENT


async def test_an_idempotent_call_is_made_again_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "REPEAT_WAIT", 0.01)
    sent = message()
    tries: list[tuple[str, bytes]] = []

    def answer(seen: Seen) -> web.Response:
        tries.append((seen.headers["idempotency-key"], seen.body))
        if len(tries) < 3:
            assert seen.transport is not None
            seen.transport.close()
        return ok(seen)

    async with api(answer) as server, rig("resend", server.url, sent, **RESEND) as run:
        await run.settled(sent)
        assert run.source.outcome(sent).kind is OutcomeKind.SENT
    assert len(tries) == 3
    assert len(set(tries)) == 1


async def test_a_refusal_says_nothing_of_an_earlier_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "REPEAT_WAIT", 0.01)
    sent = message()

    def answer(seen: Seen) -> web.Response:
        if len(server.seen) == 1:
            assert seen.transport is not None
            seen.transport.close()
        return reply({"name": "rate_limit_exceeded", "message": "too fast"}, 429)

    async with api(answer) as server, rig("resend", server.url, sent, **RESEND) as run:
        await run.settled(sent)
        assert run.source.outcome(sent).kind is OutcomeKind.IN_DOUBT


async def test_what_is_written_when_it_ends_is_in_doubt() -> None:
    sent = message()
    came = asyncio.Event()

    async def answer(seen: Seen) -> web.Response:
        came.set()
        await asyncio.sleep(5)
        return ok(seen)

    async with api(answer) as server, rig("ses", server.url, sent, **SES) as run:
        await asyncio.wait_for(came.wait(), 5)
        await run.pool.drain(run.clock() + 0.05)
        assert run.source.outcome(sent).kind is OutcomeKind.IN_DOUBT


async def test_draining_waits_for_the_answer() -> None:
    sent = message()
    came = asyncio.Event()

    async def answer(seen: Seen) -> web.Response:
        came.set()
        await asyncio.sleep(0.1)
        return ok(seen)

    async with api(answer) as server, rig("ses", server.url, sent, **SES) as run:
        await asyncio.wait_for(came.wait(), 5)
        await run.pool.drain(run.clock() + 5)
        assert run.source.outcome(sent).kind is OutcomeKind.SENT


async def test_a_lease_that_ran_out_is_not_sent() -> None:
    late = message(lease_until=time.monotonic() - 1)
    good = message()
    async with api(ok) as server, rig("resend", server.url, late, good, **RESEND) as run:
        await run.settled(late, good)
        assert run.source.outcome(late).kind is OutcomeKind.UNSENT
        assert run.source.outcome(good).kind is OutcomeKind.SENT
        assert run.pool.state == "closed"
    assert [seen.json["to"] for seen in server.seen] == [[good.recipients[0].address]]


async def test_a_lease_that_is_lost_while_the_call_waits_is_not_sent() -> None:
    sent = message()

    async with api(ok) as server, rig("ses", server.url, **SES) as run:
        open_session = run.pool.client._open

        async def slow() -> object:
            session = await open_session()
            sent.job.lease = Lease(1, 0.0)
            return session

        run.pool.client._open = slow  # type: ignore[assignment, method-assign]
        run.send(sent)
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.text) == (OutcomeKind.UNSENT, "the lease ran out before it was sent")
        assert not server.seen
        assert run.pool.state == "closed"


async def test_a_defect_of_ours_behind_the_answer_leaves_it_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mailerd.http"), "disabled", True)  # the rig takes its error for a failure
    sent = message()
    async with api(ok) as server, rig("ses", server.url, **SES) as run:

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        run.pool.answered = broken  # type: ignore[method-assign]
        run.send(sent)
        await run.settled(sent)
        assert run.source.outcome(sent).kind is OutcomeKind.IN_DOUBT
        assert "ZeroDivisionError" in str(run.pool.last_trouble)


# -- strange answers ----------------------------------------------------------------------------------------------------

ANSWERS = {
    "no HTTP": (b"220 hello\r\n", "in_doubt"),
    "no status": (b"HTTP/1.1 \r\n\r\n", "in_doubt"),
    "status 999": (b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n", "in_doubt"),
    "half a body": (b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"MessageId":', "in_doubt"),
    "half of a refusal": (b"HTTP/1.1 400 No\r\ncontent-length: 100\r\n\r\nbad", "rejected"),
    "not JSON": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "in_doubt"),
    "deep JSON": (b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n" + b"[" * 60000, "in_doubt"),
    "NUL and no UTF-8": (b"HTTP/1.1 400 No\r\ncontent-length: 4\r\n\r\n\0\xff\0\xfe", "rejected"),
    "a redirect": (b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "unsent"),
    "compressed": (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b", "in_doubt"),
    "a cookie": (b'HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 17\r\n\r\n{"MessageId":"x"}', "sent"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_strange_answer_is_an_outcome(name: str) -> None:
    octets, kind = ANSWERS[name]
    sent = message()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(octets)
        await writer.drain()

    async with peer(talk) as url, rig("ses", url, sent, timeouts={"command": 0.3}, **SES) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert outcome.kind == kind, outcome
        assert "\0" not in outcome.text


async def test_an_endless_answer_is_read_up_to_a_limit() -> None:
    sent = message()
    written = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 No\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            await writer.drain()
            written += 4096

    async with peer(talk) as url, rig("ses", url, sent, **SES) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert outcome.kind is OutcomeKind.REJECTED
        assert len(outcome.text) <= 1024
    assert written < 20_000_000


async def test_early_refusal_of_a_large_body() -> None:
    sent = message(text_body="x" * 6_000_000)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        while await reader.read(65536):
            pass

    async with peer(talk) as url, rig("ses", url, sent, **SES) as run:
        await run.settled(sent)
        outcome = run.source.outcome(sent)
        assert (outcome.kind, outcome.category) == (OutcomeKind.REJECTED, "size")


# -- batches ------------------------------------------------------------------------------------------------------------


async def test_a_bad_message_is_found_by_halves() -> None:
    messages = [message() for _ in range(20)]
    bad = messages[13].recipients[0].address

    def strict(seen: Seen) -> web.Response:
        entries = seen.json if isinstance(seen.json, list) else [seen.json]
        if any(entry["to"] == [bad] for entry in entries):
            return reply({"name": "validation_error", "message": "one of them is bad"}, 422)
        return ok(seen)

    async with api(strict) as server, rig("resend", server.url, *messages, concurrency=1, **RESEND) as run:
        await run.settled(*messages)
        assert [run.source.kinds(one) for one in messages] == [
            ["rejected"] if one is messages[13] else ["sent"] for one in messages
        ]
    assert len(server.seen) < 12


async def test_each_call_is_measured() -> None:
    messages = [message() for _ in range(3)]
    async with api(ok) as server, rig("ses", server.url, *messages, **SES) as run:
        await run.settled(*messages)
        assert {phase: sum(timing.counts) for phase, timing in run.pool.timings.items()} == {
            "request": 3,
            "response": 3,
        }


async def test_a_batch_is_no_larger_than_configured() -> None:
    messages = [message() for _ in range(10)]
    async with api(ok) as server, rig("resend", server.url, *messages, batch=4, **RESEND) as run:
        await run.settled(*messages)
    assert max(len(seen.json) if isinstance(seen.json, list) else 1 for seen in server.seen) == 4


async def test_large_messages_fill_a_call_by_their_octets() -> None:
    messages = [message(text_body="x" * 75 + "\n" + "y" * 1_500_000) for _ in range(5)]
    async with api(ok) as server, rig("resend", server.url, *messages, concurrency=1, **RESEND) as run:
        await run.settled(*messages)
    assert [len(seen.json) if isinstance(seen.json, list) else 1 for seen in server.seen] == [3, 2]


async def test_a_message_that_cannot_be_said_concerns_no_other() -> None:
    bad = message(raw=b"Subject: no From\r\n\r\nx\r\n")
    good = message()
    async with api(ok) as server, rig("resend", server.url, bad, good, **RESEND) as run:
        await run.settled(bad, good)
        outcome = run.source.outcome(bad)
        assert (outcome.kind, outcome.category) == (OutcomeKind.FAILED, "sender")
        assert run.source.outcome(good).kind is OutcomeKind.SENT


# -- how many at a time -------------------------------------------------------------------------------------------------


async def test_calls_stay_within_the_caps() -> None:
    now = most = 0

    async def answer(seen: Seen) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return ok(seen)

    messages = [message() for _ in range(30)]
    async with api(answer) as server, rig("ses", server.url, *messages, cap=3, concurrency=8, **SES) as run:
        await run.settled(*messages)
        assert run.pool.counts()["busy"] <= 3
    assert most == 3


async def test_a_window_that_is_used_up_is_waited_for() -> None:
    times: list[float] = []

    def answer(seen: Seen) -> web.Response:
        times.append(time.monotonic())
        left = 2 - (len(times) - 1) % 3
        return reply({"MessageId": "x"}, ratelimit_limit="3", ratelimit_remaining=str(left), ratelimit_reset="0.2")

    messages = [message() for _ in range(5)]
    async with api(answer) as server, rig("ses", server.url, *messages, concurrency=1, **SES) as run:
        await run.settled(*messages)
    assert times[3] - times[2] >= 0.19
    assert times[2] - times[0] < 0.19


async def test_too_fast_is_a_rest_and_costs_nothing() -> None:
    def answer(seen: Seen) -> web.Response:
        return ok(seen) if len(server.seen) > 1 else reply({"message": "Maximum rate"}, 429, retry_after="0.2")

    sent = message()
    async with api(answer) as server, rig("ses", server.url, sent, again=True, **SES) as run:
        begun = time.monotonic()
        await run.settled(sent)
        assert time.monotonic() - begun >= 0.19
        assert run.source.outcome(sent).kind is OutcomeKind.SENT
        assert run.states == []
    assert len(server.seen) == 2


async def test_a_long_rest_is_left_to_the_next_pool() -> None:
    def answer(seen: Seen) -> web.Response:
        return ok(seen) if len(server.seen) > 1 else reply({"message": "Maximum rate"}, 429, retry_after="120")

    sent = message()
    async with api(answer) as server, rig("ses", server.url, sent, again=True, **SES) as run:
        await run.until(lambda: run.pool.state == "open")
        assert 115 < run.pool.open_until - run.clock() <= 120
        run.skip(121)
        await run.settled(sent)
        assert run.states == ["open", "half_open", "closed"]


# -- the breaker --------------------------------------------------------------------------------------------------------


async def test_account_trouble_stops_it_and_one_message_probes() -> None:
    well = False

    def answer(seen: Seen) -> web.Response:
        return ok(seen) if well else reply({"name": "invalid_api_key", "message": "API key is invalid"}, 401)

    messages = [message() for _ in range(10)]
    async with api(answer) as server, rig("resend", server.url, *messages, again=True, **RESEND) as run:
        await run.until(lambda: run.pool.state == "open")
        assert len(server.seen) == 1
        assert not run.pool.eager
        assert "API key is invalid" in str(run.pool.last_trouble)
        run.skip(60)
        await run.until(lambda: len(server.seen) == 2)
        assert isinstance(server.seen[1].json, dict), "one message alone"
        well = True
        await run.until(lambda: run.pool.state == "open")
        run.skip(120)
        await run.settled(*messages)
        assert run.pool.state == "closed"
    assert all(outcome.category == "account" for _, (outcome,) in run.source.log[:10])


async def test_what_it_says_is_fit_to_be_stored_and_shown() -> None:
    sent = message()
    answer = reply({"name": "missing_api_key", "message": "no\0 re_secret\n\x1b[31m"}, 401)
    async with api(lambda seen: answer) as server, rig("resend", server.url, sent, **RESEND) as run:
        await run.settled(sent)
        assert run.pool.last_trouble is not None
        assert "re_secret" not in str(run.pool.last_trouble)
        assert "\0" not in str(run.pool.last_trouble)
        assert "re_secret" not in str(run.troubles)


async def test_a_provider_that_fails_again_and_again_is_left_alone() -> None:
    messages = [message() for _ in range(20)]
    async with (
        api(lambda seen: web.Response(status=503)) as server,
        rig("ses", server.url, *messages, again=True, concurrency=1, **SES) as run,
    ):
        await run.until(lambda: run.pool.state == "open")
    assert len(server.seen) == 5


async def test_without_a_message_it_stays_half_open_until_one_comes() -> None:
    well = False

    def answer(seen: Seen) -> web.Response:
        return ok(seen) if well else reply({"message": "no"}, 401)

    first, second = message(), message()
    async with api(answer) as server, rig("ses", server.url, first, **SES) as run:
        await run.settled(first)
        run.skip(60)
        run.skip(60)
        assert run.states == ["open", "half_open"]  # so that messages are leased again
        assert len(server.seen) == 1
        well = True
        run.send(second)
        await run.settled(second)
        assert run.states == ["open", "half_open", "closed"]


async def test_a_probe_that_cannot_be_said_decides_nothing() -> None:
    def answer(seen: Seen) -> web.Response:
        return reply({"name": "missing_api_key"}, 401) if len(server.seen) == 1 else ok(seen)

    first, bad, good = message(), message(raw=b"Subject: no From\r\n\r\nx\r\n"), message()
    async with api(answer) as server, rig("resend", server.url, first, **RESEND) as run:
        await run.settled(first)
        run.skip(60)
        run.send(bad, good)
        await run.settled(bad, good)
        assert run.source.kinds(good) == ["sent"]
        assert run.pool.state == "closed"
