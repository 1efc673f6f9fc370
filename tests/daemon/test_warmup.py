"""Warm-ups as the real daemon keeps them: today's limit, what exceeds it, and what `warmup show` and `explain` say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from tests.daemon.harness import Running, Server, daemon, enqueue, settled, until
from tests.daemon.test_limits import local_parts, mailerd

Connection = asyncpg.Connection
NAMES = '[[domain]]\nname = "own"\nmatch = ["own.example"]\n'


def table(days: list[int], *, ago: int = 0, **more: Any) -> str:
    begin = (datetime.now(UTC) - timedelta(days=ago)).date()
    rest = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f"begin = {begin}\ndays = {days}\n{rest}"


def pool(days: list[int], **more: Any) -> str:
    return f'[[pool]]\nname = "default"\nproviders = ["relay"]\n[pool.warmup]\n{table(days, **more)}{NAMES}'


async def waits(running: Running) -> None:
    """What is left has waited for a token for a while: it would have gone, had there been one."""

    async def waited() -> bool:
        return await running.metric("mailerd_throttle_wait_seconds_total", bucket_kind="warmup") > 1.0

    await until(waited, "the others wait for the warm-up")


async def test_a_day_has_its_limit_for_each_group(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    # On its second day, at a pace that is over at once: 2 an hour's worth of one.
    async with daemon(database, server.port, tmp_path, extra=pool([1, 2], ago=1)) as running:
        own = [await enqueue(connection, f"o{n}@own.example") for n in range(4)]
        for n in range(4):
            await enqueue(connection, f"x{n}@a{n}.example")
        await until(
            lambda: local_parts(server, "@own.example") and local_parts(server, ".example"), "the first of each sent"
        )
        await until(lambda: len(server.taken) >= 2, "one of each")
        await waits(running)
        assert len(local_parts(server, "@own.example")) == 1  # the second one is a minute away
        assert len(server.taken) == 2
        (plan,) = await mailerd(running.config, "warmup", "show")

        async def is_counted() -> bool:
            (plan,) = await mailerd(running.config, "warmup", "show")
            return {g["group"]: g["sent"] for g in plan["groups"]} == {"own": 1, "*": 1}

        await until(is_counted, "both counted")
        assert plan["pool"] == "default"
        assert plan["days"] == [1, 2]
        held = [i for i in own if await connection.fetchval("SELECT 1 FROM mailerd.ready WHERE id = $1", i)]
        story = await mailerd(running.config, "explain", str(held[-1]))
        words = [gate["words"] for gate in story["gates"]]
        assert any(text.startswith("pace:pool:default/domain:own is limited to 1/m") for text in words), words


async def test_what_exceeds_it_goes_to_the_warm_pool(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    other = Server()
    other.start()
    try:
        extra = (
            f'[[provider]]\nname = "warm"\nhost = "127.0.0.1"\nport = {other.port}\ntls = "none"\n'
            '[[pool]]\nname = "cold"\nproviders = ["relay"]\n'
            f'[pool.warmup]\n{table([3], overflow=["warm"])}[[pool]]\nname = "warm"\nproviders = ["warm"]\n{NAMES}'
        )
        stream = 'pools = ["cold"]'
        async with daemon(database, server.port, tmp_path, extra=extra, stream=stream):
            for n in range(30):
                await enqueue(connection, f"o{n}@own.example")
            await settled(connection)
            assert len(server.taken) + len(other.taken) == 30
            assert len(server.taken) == 1  # at once; the others of the day's three a minute each
    finally:
        other.stop()


async def test_a_day_with_too_many_refusals_ends(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    server.answers = {f"r{n}": ["550 5.1.1 no such user"] for n in range(200)}
    async with daemon(database, server.port, tmp_path, extra=pool([1_000_000, 2_000_000], ago=1)) as running:
        for n in range(120):
            await enqueue(connection, f"r{n}@own.example")

        async def stands() -> bool:
            (plan,) = await mailerd(running.config, "warmup", "show")
            return any(group["stands_still"] for group in plan["groups"])

        await until(stands, "the day is over")
        await enqueue(connection, "z@a.example")  # all other domains go on
        await until(lambda: local_parts(server, "@a.example"), "the other sent")
        held = await enqueue(connection, "late@own.example")

        async def told() -> Any:
            story = await mailerd(running.config, "explain", str(held))
            gates = [gate for gate in story["gates"] if gate["name"] == "lane_paused"]
            return gates and gates[0]

        gate = await until(told, "explained")
        assert "messages bounced or were refused: 100 %, more than 5 %" in gate["words"]
        assert gate["words"].startswith("warmup:pool:default/domain:own is limited to nothing, set by warm-up")
        assert gate["until"] == f"{(datetime.now(UTC) + timedelta(days=1)).date()}T00:00:00Z"
        assert not local_parts(server, "@own.example")
