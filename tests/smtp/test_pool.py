"""The pool on real sockets: how many connections, how long they live, how it ends; on both event loops."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
import uvloop

from mailerd.config.provider import Provider
from mailerd.smtp.budget import ConnectionBudget
from mailerd.smtp.connection import LATE, Outbox
from mailerd.smtp.pool import SinkPool, SmtpPool, make_pool
from tests.smtp.faultserver import CLOSE, OFFERS, RESET, WITHOUT_PIPELINING, Do, serve
from tests.smtp.rig import CONTENT, Messages, Rig, outgoing, rig

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, None]], None]


def counts(r: Rig) -> tuple[int, int, int]:
    found = r.pool.counts()
    return found["idle"], found["busy"], found["connecting"]


@LOOPS
@pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
def test_many_messages_over_many_connections(run: Run, offers: tuple[str, ...]) -> None:
    async def main() -> None:
        large = b"Subject: large\r\n\r\n" + (b"." + b"x" * 900 + b"\r\n") * 500
        messages = [outgoing(content=large if n % 50 == 0 else CONTENT) for n in range(500)]
        async with serve(offers=offers) as server, rig(server.port, *messages, concurrency=8) as r:
            await r.settled(*messages)
            assert {kind for m in messages for kind in r.source.kinds(m)} == {"sent"}
            assert sorted(server.contents()) == sorted(m.content for m in messages)
            assert 1 <= len(server.connections) <= 8
            await r.pool.drain(r.clock() + 5)
            assert all(c.commands[-1] == "QUIT" for c in server.connections)
            timings = dict(r.pool.timings.items())
            assert sum(timings["dot"].counts) == sum(timings["mail"].counts) == 500
            assert sum(timings["connect"].counts) == len(server.connections)

    run(main())


async def test_opens_gently() -> None:
    """What one connection does in a moment opens no second one."""
    async with serve() as server, rig(server.port, *(outgoing() for _ in range(20)), concurrency=20) as r:
        assert counts(r) == (0, 0, 1)
        await r.until(lambda: len(r.source.results) == 20)
        await asyncio.sleep(0.1)
        assert len(server.connections) == 1


async def test_opens_none_where_one_keeps_up() -> None:
    """It found nothing to take since the last look: what waits at the next one has just come."""
    messages = [outgoing() for _ in range(5)]
    async with serve() as server, rig(server.port, *messages, concurrency=20) as r:
        await r.settled(*messages)
        r.source.queue.extend(outgoing() for _ in range(5))
        r.pool._grow()
        assert counts(r) == (1, 0, 0)
        assert len(server.connections) == 1


async def test_grows_while_messages_wait_up_to_the_concurrency() -> None:
    messages = [outgoing() for _ in range(200)]
    async with serve({"dot": Do(then="silent")}) as server, rig(server.port, *messages, concurrency=6) as r:
        await r.until(lambda: counts(r) == (0, 6, 0))
        await asyncio.sleep(0.1)
        assert len(server.connections) == 6


async def test_budget_is_shared_and_keeps_a_slot() -> None:
    budget = ConnectionBudget(4)
    async with serve({"dot": Do(then="silent")}) as server:
        urgent: dict[str, Any] = {"stream": "urgent", "budget": budget, "concurrency": 20}
        bulk = {"stream": "bulk", "budget": budget, "concurrency": 20}
        async with rig(server.port, **urgent) as first, rig(server.port, *(outgoing() for _ in range(99)), **bulk) as r:
            await r.until(lambda: counts(r) == (0, 3, 0))
            await asyncio.sleep(0.1)
            assert counts(r) == (0, 3, 0)
            first.send(*(outgoing() for _ in range(9)))
            await first.until(lambda: counts(first) == (0, 1, 0))
            assert len(server.connections) == 4


async def test_smaller_cap_ends_connections_politely() -> None:
    messages = [outgoing() for _ in range(2000)]
    async with serve() as server, rig(server.port, concurrency=5) as r:
        r.send(*messages[:1000])
        await r.until(lambda: len(r.source.results) == 1000)
        before = len(server.connections)
        r.budget.cap = 1
        r.send(*messages[1000:])
        await r.settled(*messages)
        await r.until(lambda: sum(counts(r)) <= 1)
        assert {kind for m in messages for kind in r.source.kinds(m)} == {"sent"}
        quits = sum("QUIT" in c.commands for c in server.connections)
        assert quits >= before - 1


async def test_two_streams_take_turns_at_one_slot() -> None:
    budget = ConnectionBudget(1)
    async with serve() as server:
        one: dict[str, Any] = {"stream": "one", "budget": budget, "again": True}
        two: dict[str, Any] = {"stream": "two", "budget": budget, "again": True}
        async with rig(server.port, **one) as a, rig(server.port, **two) as b:
            mine, theirs = [outgoing() for _ in range(30)], [outgoing() for _ in range(30)]
            a.send(*mine)
            b.send(*theirs)
            end = time.monotonic() + 10
            while len(a.source.results) + len(b.source.results) < 60:
                assert time.monotonic() < end
                for r in (a, b):
                    r.pool.tick(r.clock())
                await asyncio.sleep(0.005)
                assert budget.total <= 1


async def test_messages_per_connection() -> None:
    messages = [outgoing() for _ in range(25)]
    async with serve() as server, rig(server.port, *messages, messages_per_connection=10) as r:
        await r.settled(*messages)
        assert {kind for m in messages for kind in r.source.kinds(m)} == {"sent"}
        assert [c.commands.count("DATA") for c in server.connections] == [10, 10, 5]
        assert [c.commands[-1] for c in server.connections[:2]] == ["QUIT", "QUIT"]


async def test_idle_connections_are_kept_warm_then_retired() -> None:
    async with serve() as server, rig(server.port, outgoing(), idle=30.0) as r:
        await r.until(lambda: counts(r) == (1, 0, 0))
        await r.skip(29.0)
        again = outgoing()
        r.send(again)
        await r.settled(again)
        assert len(server.connections) == 1
        await r.skip(29.0)
        assert counts(r) == (1, 0, 0)
        await r.skip(2.0)
        await r.until(lambda: counts(r) == (0, 0, 0))
        assert server.verbs()[-1] == "QUIT"
        assert not r.troubles


async def test_old_connections_are_retired_between_messages() -> None:
    first, second = outgoing(), outgoing()
    async with serve() as server, rig(server.port, first, max_age=600.0, idle=9999.0) as r:
        await r.settled(first)
        await r.skip(601.0)
        r.send(second)
        await r.settled(second)
        assert len(server.connections) == 2
        assert server.verbs()[-1] == "QUIT"


async def test_server_that_ignores_quit() -> None:
    async with serve({"QUIT": ""}) as server, rig(server.port, outgoing()) as r:
        await r.until(lambda: counts(r) == (1, 0, 0))
        server.connections[0].script["QUIT"] = Do(then="silent")
        started = time.monotonic()
        drain = asyncio.create_task(r.pool.drain(r.clock() + 60))
        await r.until(lambda: "QUIT" in server.verbs())
        r.offset += 6.0
        await r.until(drain.done)
        assert time.monotonic() - started < 5


async def test_limit_of_the_peer_on_connections_is_no_outage() -> None:
    """It lets two in and refuses the others: the two go on, further ones are tried again later."""
    messages = [outgoing() for _ in range(3000)]
    full = {"greeting": Do("421 4.7.0 too many connections from you", "close")}
    options: dict[str, Any] = {"concurrency": 10, "messages_per_connection": 0}
    async with serve({}, {}, full) as server, rig(server.port, *messages, **options) as r:
        await r.settled(*messages)
        assert {kind for m in messages for kind in r.source.kinds(m)} == {"sent"}
        assert r.pool.state == "closed"
        assert len(server.connections) <= 6


async def test_drain_finishes_what_is_in_flight() -> None:
    messages = [outgoing() for _ in range(200)]
    async with serve() as server, rig(server.port, *messages, concurrency=2) as r:
        await r.until(lambda: len(r.source.results) > 3)
        await r.pool.drain(r.clock() + 5)
        assert not r.source.flying
        assert {kind for kinds in map(r.source.kinds, [m for m, _ in r.source.log]) for kind in kinds} == {"sent"}
        assert len(server.received) == len(r.source.results) < 200
        assert all(c.commands[-1] == "QUIT" for c in server.connections)
        r.send(outgoing())
        assert counts(r) == (0, 0, 0)


async def test_drain_gives_up_at_its_deadline() -> None:
    messages = [outgoing() for _ in range(4)]
    async with serve({"dot": Do(then="silent")}) as server, rig(server.port, *messages) as r:
        await r.until(lambda: server.connections and server.connections[0].over)
        started = time.monotonic()
        await r.pool.drain(r.clock() + 0.2)
        assert time.monotonic() - started < 2
        assert [r.source.kinds(m) for m in messages[:2]] == [["in_doubt"], ["unsent"]]


@pytest.mark.parametrize("point", ["greeting", "EHLO"])
async def test_drain_while_connecting(point: str) -> None:
    async with serve({point: Do(then="silent")}) as server, rig(server.port, outgoing()) as r:
        await r.until(lambda: server.connections)
        await r.pool.drain(r.clock() + 5)
        assert counts(r) == (0, 0, 0)
        assert not r.source.log


async def test_source_dry_for_a_moment() -> None:
    """`take` may give nothing although messages wait; the next tick tries again."""
    message = outgoing()
    async with serve() as server, rig(server.port, message) as r:
        await r.settled(message)
        take, r.source.take = r.source.take, lambda provider: None  # type: ignore[method-assign]
        late = outgoing()
        r.send(late)
        await asyncio.sleep(0.02)
        r.source.take = take  # type: ignore[method-assign]
        await r.settled(late)
        assert len(server.connections) == 1


async def test_done_that_wakes_the_pool() -> None:
    """A source may call back from inside `done`."""
    messages = [outgoing() for _ in range(50)]
    async with serve() as server, rig(server.port, *messages, concurrency=3) as r:
        done = r.source.done

        def waking(*args: Any) -> None:
            done(*args)
            r.pool.wake()

        r.source.done = waking  # type: ignore[method-assign]
        await r.settled(*messages)
        assert {kind for m in messages for kind in r.source.kinds(m)} == {"sent"}
        assert len(server.received) == 50


@LOOPS
def test_abort_with_many_connections(run: Run) -> None:
    async def main() -> None:
        messages = [outgoing() for _ in range(2000)]
        async with serve() as server, rig(server.port, *messages, concurrency=10) as r:
            await r.until(lambda: len(r.source.results) > 100)
            r.pool.abort()
            assert not r.source.flying
            kinds = [kind for m, _ in r.source.log for kind in r.source.kinds(m)]
            assert set(kinds) <= {"sent", "in_doubt", "unsent"}
            assert kinds.count("sent") <= len(server.received) + 10

    run(main())


FAULTS: tuple[tuple[str, Do | str], ...] = (
    ("greeting", CLOSE),
    ("greeting", "554 no"),
    ("EHLO", CLOSE),
    ("MAIL", "451 4.3.0 later"),
    ("MAIL", RESET),
    ("RCPT", "550 5.1.1 who"),
    ("RCPT", Do("421 4.3.2 bye", "close")),
    ("RCPT:a", "452 4.5.3 too many"),
    ("DATA", "451 4.3.0 later"),
    ("DATA", CLOSE),
    ("content", RESET),
    ("dot", "554 5.7.1 no"),
    ("dot", Do("421 4.3.2 bye")),
    ("dot", CLOSE),
    ("dot", Do(then="silent")),
    ("dot", "250 ok\n250 ok"),
    ("dot", "garbage"),
)


@LOOPS
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offers", [OFFERS, WITHOUT_PIPELINING], ids=["pipelining", "step by step"])
def test_everything_goes_wrong_at_once(run: Run, seed: int, offers: tuple[str, ...]) -> None:
    """What is SENT has arrived once, what is IN_DOUBT at most once, what is anything else never."""
    random = Random(seed)
    scripts: list[dict[str, Any]] = []
    for _ in range(40):
        point, do = random.choice(FAULTS)
        well: list[Do | str] = [{"dot": "250 ok", "DATA": "354 go"}.get(point, "250 ok")]
        scripts.append(
            {point: well * random.randrange(8) + [do] if point not in ("greeting", "EHLO", "content") else do}
        )

    async def main() -> None:
        messages = []
        for number in range(300):
            content = b"Subject: %d\r\n\r\n" % number + b"x\r\n" * random.choice((1, 10, 40_000))
            messages.append(outgoing("a@x.example", "b@x.example", content=content))
        options: dict[str, Any] = {"again": True, "concurrency": 4, "timeouts": {"dot": 0.3}}
        async with (
            serve(*scripts, {}, offers=offers, violations=True) as server,
            rig(server.port, *messages, **options) as r,
        ):

            def over() -> bool:
                if r.pool.state == "open":
                    r.offset += 1.0
                return len(r.source.results) == len(messages)

            await r.until(over)
            copies = Counter((m.content, to) for m in server.taken for to in m.recipients)
            for message in messages:
                for recipient, outcome in zip(message.recipients, r.source.results[message.job.id], strict=True):
                    count = copies[message.content, recipient.address]
                    allowed = {"sent": (1,), "in_doubt": (0, 1)}.get(outcome.kind, (0,))
                    assert count in allowed, (outcome, count)
            assert sum(m.content == b"" for m in server.received) == 0

    run(main())


async def test_sink_accepts_everything() -> None:
    messages = [outgoing("a@x.example", "b@x.example") for _ in range(250)]
    source = Messages(*messages)
    pool = make_pool(Provider(name="sink", kind="sink"), source, stream="s", budget=ConnectionBudget(1))
    assert isinstance(pool, SinkPool)
    pool.wake()
    end = time.monotonic() + 5
    while len(source.results) < 250:
        assert time.monotonic() < end
        await asyncio.sleep(0)
    assert source.kinds(messages[-1]) == ["sent", "sent"]
    await pool.drain(0.0)


def test_kinds_of_pools() -> None:
    pool = make_pool(Provider(name="relay"), Messages(), stream="s", budget=ConnectionBudget(1))
    assert isinstance(pool, SmtpPool)


@pytest.mark.parametrize("stood_still", [False, True])
async def test_what_waited_too_long_for_the_outbox_is_not_written(stood_still: bool) -> None:
    """The process was stopped between the look at the lease and the write: another instance may have sent it by now."""
    now = [100.0]
    calls: list[str] = []

    class Waiting:
        def flush(self) -> None:
            calls.append("written")

        def withhold(self, why: str) -> None:
            calls.append(why)

    outbox = Outbox(lambda: now[0])
    outbox.add(Waiting())  # type: ignore[arg-type]
    now[0] += LATE + 0.1 if stood_still else LATE / 2
    await asyncio.sleep(0)
    assert calls == (["the process stood still before it could write"] if stood_still else ["written"])


async def test_a_probe_for_growth_that_outlives_the_last_connection_ends_with_it() -> None:
    """The server lets one in, then nobody, then everybody: after that it must be used again, however it went before."""
    opened: list[asyncio.StreamWriter] = []
    mode = "one only"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        if mode == "nobody" or (mode == "one only" and len(opened) > 1):
            await asyncio.sleep(0.3 if mode == "nobody" else 0)
            writer.write(b"421 4.3.2 too many\r\n")
            await writer.drain()
            writer.close()
            return
        writer.write(b"220 relay.example\r\n")
        while await reader.readline():
            writer.write(b"250 ok\r\n")

    server = await asyncio.start_server(greet, "127.0.0.1", 0)

    class Always(Messages):
        def waiting(self) -> int:  # there is work, though nothing to take
            return 9

    provider = Provider(
        name="relay", host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls="none", helo="me.example"
    )
    offset = 0.0
    pool = SmtpPool(
        provider, Always(), stream="s", budget=ConnectionBudget(9), concurrency=5,
        clock=lambda: time.monotonic() + offset, chance=lambda: 0.0,
    )  # fmt: skip

    async def ticks(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, (pool.state, pool.counts())
            pool.tick(time.monotonic() + offset)
            await asyncio.sleep(0.01)

    pool._open(1)
    await ticks(lambda: pool.counts()["idle"] == 1)
    pool._open(1)
    await ticks(lambda: pool._growth.state == "open")
    mode = "nobody"
    offset += 5.0
    assert pool._open(1) == 1  # the probe for growth is under way …
    opened[0].transport.abort()  # … when the last working connection ends
    await ticks(lambda: pool.state == "open")
    mode, before = "fine", len(opened)
    for _ in range(20):
        offset += 5.0
        pool.tick(time.monotonic() + offset)
        await asyncio.sleep(0.02)
    await ticks(lambda: pool.state == "closed" and len(opened) > before)
    pool.abort()
    server.close()
