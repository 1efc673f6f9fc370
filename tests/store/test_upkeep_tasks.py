"""Upkeep's tasks on their clocks: one that fails costs no other its turn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from mailerd.config import model
from mailerd.config.base import Duration
from mailerd.daemon import upkeep
from mailerd.store.database import Session
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics
from tests.daemon.harness import until

Connection = asyncpg.Connection


@asynccontextmanager
async def running(database: str) -> AsyncIterator[Health]:
    """Upkeep with a statement deadline of a fifth of a second; its task must still be alive at the end."""
    health = Health()
    settings = model.Database(url=database, statement_timeout=Duration(0.2))
    task = asyncio.create_task(upkeep.Upkeep(settings, Metrics(), health, list).run())
    try:
        yield health
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def locked(database: str, table: str) -> AsyncIterator[None]:
    holder = await asyncpg.connect(database)
    try:
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE mailerd.{table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await holder.close()


@pytest.mark.parametrize("table", ["queue_gauge", "ready", "dedup_generation"])
async def test_a_task_that_fails_keeps_no_other_from_running(
    database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    # As in earnest, where they come more often than a statement takes to fail.
    monkeypatch.setattr(upkeep, "GAUGE_EVERY", 0.1)
    monkeypatch.setattr(upkeep, "OVERVIEW_EVERY", 0.1)
    await connection.execute(
        "INSERT INTO mailerd.instance (id, name, pid, version, seen_at) VALUES (5, 'gone', 1, '0', now() - interval '1 hour')"
    )
    async with locked(database, table), running(database) as health:

        async def swept() -> bool:
            return await connection.fetchval("SELECT count(*) FROM mailerd.instance") == 0

        await until(swept, "the gone instance was forgotten", 10)
        assert health.checks["partitions"][1] != "not checked yet"


async def test_a_gauge_that_runs_into_its_deadline_rests_as_after_a_long_one(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "GAUGE_EVERY", 0.1)
    async with locked(database, "queue_gauge"):
        settings = model.Database(url=database, statement_timeout=Duration(0.2))
        async with Session(settings, "test") as session:
            tasks = upkeep.Upkeep(settings, Metrics(), Health(), list)
            gauge = tasks._tasks["gauge"]
            await tasks._try(session, "gauge", gauge)
            assert gauge.failures == 1
            assert gauge.due > time.monotonic() + 3.0  # twenty times 0.2 s, not 0.1 s
