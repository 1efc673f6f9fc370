"""How often one address is written to: exact across instances, once a message, in any window."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from mailerd.config.model import Database
from mailerd.store.database import Session
from mailerd.store.gates import capped
from mailerd.store.upkeep import forget_counts

Connection = asyncpg.Connection
ANN = "ann@a.example"


async def test_what_exceeds_the_limit_is_told_when_there_is_room(session: Session, connection: Connection) -> None:
    assert await capped(session, "s", [(1, ANN), (2, ANN)], 3, 3600) == {}
    over = await capped(session, "s", [(3, ANN), (4, ANN), (5, "bob@a.example")], 3, 3600)
    assert list(over) == [(4, ANN)]
    assert over[4, ANN] == pytest.approx(3600, abs=5)
    await connection.execute("UPDATE mailerd.recipient_count SET ats[1] = now() - interval '50 minutes'")
    over = await capped(session, "s", [(4, ANN)], 3, 3600)
    assert over[4, ANN] == pytest.approx(600, abs=5)
    await connection.execute("UPDATE mailerd.recipient_count SET ats[1] = now() - interval '61 minutes'")
    assert await capped(session, "s", [(4, ANN)], 3, 3600) == {}


async def test_a_message_that_is_leased_again_counts_once(session: Session) -> None:
    for _ in range(5):
        assert await capped(session, "s", [(1, ANN)], 1, 3600) == {}
    assert list(await capped(session, "s", [(2, ANN)], 1, 3600)) == [(2, ANN)]
    assert await capped(session, "other", [(2, ANN)], 1, 3600) == {}


async def test_instances_that_count_at_once(settings: Database) -> None:
    sessions = [Session(settings, f"count{n}") for n in range(4)]
    people = [f"p{n}@a.example" for n in range(20)]
    try:
        results = await asyncio.gather(
            *(
                capped(session, "s", [(100 * n + i, person) for i in range(3) for person in people], 5, 3600)
                for n, session in enumerate(sessions)
            )
        )
    finally:
        for session in sessions:
            await session.close()
    assert sum(map(len, results)) == 20 * (12 - 5)


async def test_old_counts_are_forgotten(session: Session, connection: Connection) -> None:
    await capped(session, "s", [(n, f"p{n}@a.example") for n in range(7)], 5, 3600)
    await connection.execute(
        "UPDATE mailerd.recipient_count SET last = now() - interval '26 hours' WHERE address <> 'p0@a.example'"
    )
    assert await forget_counts(session, batch=3) == 6
    assert await connection.fetchval("SELECT count(*) FROM mailerd.recipient_count") == 1
