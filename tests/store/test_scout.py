"""The scout's loops on a real Postgres: what fails costs nothing else its turn, and no notification is taken on trust."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from mailerd.config import model
from mailerd.config.base import Duration
from mailerd.daemon.scout import Scout
from mailerd.store.database import Session, Unavailable
from mailerd.store.work import Lane
from tests.daemon.harness import until
from tests.store.rows import STREAM

Connection = asyncpg.Connection


class Told:
    """A pipeline that writes down what it is told."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.swept: list[Lane] = []

    def hint(self, lanes: Iterable[Lane], *, swept: bool = False) -> None:
        (self.swept if swept else self.lanes).extend(lanes)


@asynccontextmanager
async def scout(database: str, *streams: str) -> AsyncIterator[tuple[Scout, dict[str, Told]]]:
    pipelines = {stream: Told() for stream in streams}
    settings = model.Database(url=database, statement_timeout=Duration(0.2))
    running = Scout(settings, pipelines, 0.05)
    task = asyncio.create_task(running.run())
    try:
        yield running, pipelines
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_stream_that_cannot_be_swept_keeps_no_other(database: str, connection: Connection) -> None:
    await connection.execute(
        f"INSERT INTO mailerd.ready (stream, priority, domain, id) VALUES ('{STREAM}', 5, 'x.example', 1)"
    )
    async with scout(database, "\x00", STREAM) as (_, told):  # Postgres refuses a NUL, whatever is asked with it
        await until(lambda: told[STREAM].swept, "swept", 5)


async def test_what_is_due_is_moved_while_the_tail_cannot_be_read(database: str, connection: Connection) -> None:
    await connection.execute(
        f"INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) VALUES ('{STREAM}', 5, now(), 1, 'x.example')"
    )
    async with connection.transaction():
        await connection.execute("LOCK TABLE mailerd.outbox IN ACCESS EXCLUSIVE MODE")
        async with scout(database, STREAM) as (_, told):
            await until(lambda: told[STREAM].lanes, "moved", 5)
    assert told[STREAM].lanes == [Lane(STREAM, 5, "x.example", "", 1)]


async def test_a_notification_that_names_no_possible_lane_is_only_a_call(database: str, connection: Connection) -> None:
    no_lanes = [
        f"{STREAM}\t99999\tx.example\t",
        f"{STREAM}\t10\tx.example\t",
        f"{STREAM}\t-1\tx.example\t",
        f"{STREAM}\t\u00b2\tx.example\t",  # a digit, says str.isdigit
        f"{STREAM}\t\tx.example\t",
        f"{STREAM}\t5\t\t",
        f"{STREAM}\t5\tx.example",
        f"{STREAM}\t5\tx.example\tspring\tsale",
        f"{STREAM}\t5\tx\x07.example\t",
        f"{STREAM}\t5\t{'x' * 254}\t",
        f"{STREAM}\t5\tx.example\t" + "\u00e9" * 101,
        "",
    ]
    async with scout(database, STREAM) as (running, told):
        await until(lambda: running.listening, "listening")
        for payload in no_lanes:
            await connection.execute("SELECT pg_notify('mailerd.wake', $1)", payload)
        await connection.execute(
            "SELECT pg_notify('mailerd.wake', $1)", f"{STREAM}\t0\tb\u00fccher.example\tspring sale"
        )
        await until(lambda: told[STREAM].lanes, "told")
    assert told[STREAM].lanes == [Lane(STREAM, 0, "b\u00fccher.example", "spring sale")]


async def test_a_connection_that_is_lost_while_it_is_used_is_trouble_with_postgres(session: Session) -> None:
    """What asyncpg raises when the end of the connection and the LISTEN cross is no error of its server's."""
    sleeping = asyncio.create_task((await session.connection()).fetchval("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.05)
    with pytest.raises(Unavailable):
        await session.listen("mailerd.wake", lambda payload: None, lambda: None)
    with contextlib.suppress(Exception):
        await sleeping


async def test_a_defect_in_one_loop_stops_no_other(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Scout, session: Session) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Scout, "_sweep", broken)
    async with scout(database, STREAM) as (running, told):
        await until(lambda: running.listening, "listening")
        await connection.execute("SELECT pg_notify('mailerd.wake', $1)", f"{STREAM}\t0\tx.example\t")
        await until(lambda: told[STREAM].lanes, "told")
    assert "sweep: a defect; trying again" in caplog.text
