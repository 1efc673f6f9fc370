"""What runs beside sending may have trouble of its own: it says so, goes on, and never stops the process."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from mailerd.config import model
from mailerd.daemon import eventlog, numbers, shelf
from mailerd.store.database import Session
from mailerd.web.metrics import Metrics
from tests.daemon.harness import until

Connection = asyncpg.Connection
WRITE = "INSERT INTO mailerd.event (message_id, type, recipient) VALUES ($1, 'sent', 'a@b.example')"


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[asyncio.Future[None]]:
    task = asyncio.ensure_future(work)
    try:
        yield task
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_events_wait_for_room_on_the_disk(
    session: Session, connection: Connection, settings: model.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "TROUBLE", 0.05)
    printed: list[bytes] = []
    full = True
    refused = 0

    def write(lines: bytes) -> None:
        nonlocal refused
        if full:
            refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        printed.append(lines)

    async def subscribed() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM mailerd.subscriber"))

    async with running(eventlog.EventLog(settings, write).run()):
        await until(subscribed, "it listens")
        await connection.execute(WRITE, 7)
        await until(lambda: refused > 1, "it tried again")
        full = False
        await until(lambda: printed, "it printed")
    (line,) = b"".join(printed).splitlines()
    assert json.loads(line)["message_id"] == 7


async def test_nobody_reads_stdout(session: Session, connection: Connection, settings: model.Database) -> None:
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()

    def write(lines: bytes) -> None:
        loop.call_soon_threadsafe(tried.set)
        raise BrokenPipeError

    async def subscribed() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM mailerd.subscriber"))

    async with running(eventlog.EventLog(settings, write).run()):
        await until(subscribed, "it listens")
        await connection.execute(WRITE, 7)
        await asyncio.wait_for(tried.wait(), 10)


@pytest.mark.parametrize("part", ["templates", "rates"])
async def test_a_defect_of_ours_stops_nothing(
    session: Session, settings: model.Database, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    tries = 0

    async def broken(*_: object) -> bool:
        nonlocal tries
        tries += 1
        raise KeyError("a defect")

    monkeypatch.setattr(shelf, "refresh", broken)
    monkeypatch.setattr(numbers.Numbers, "turn", broken)
    for module in (shelf, numbers):
        monkeypatch.setattr(module, "TROUBLE", 0.01)
    monkeypatch.setattr(shelf, "LOOK", 0.01)
    monkeypatch.setattr(numbers, "COUNT_EVERY", 0.01)
    config = model.Config(database=settings)
    work = (
        shelf.Shelf(settings).run()
        if part == "templates"
        else numbers.Numbers(lambda: config, lambda domain: None, Metrics()).run()
    )
    async with running(work):
        await until(lambda: tries > 2, "it tried again")
