"""Rows for the store's tests, and what leases of them give."""

from __future__ import annotations

import asyncpg

from mailerd.message import Action, Job, Outcome, OutcomeKind, Phase, Recipient, Settlement
from mailerd.store.database import Session
from mailerd.store.lease import Claim, lease

STREAM = "marketing"
SENT = Outcome(OutcomeKind.SENT, Phase.DOT, 250, "2.0.0", "ok", "relay")


async def fill(
    connection: asyncpg.Connection[asyncpg.Record], count: int, domains: int = 1, **columns: object
) -> list[int]:
    """Inserts plain messages, round robin over domains; their ids in order."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", ${i + 4}" for i in range(len(columns)))
    rows = await connection.fetch(
        f"INSERT INTO mailerd.outbox (recipient, stream, text_body{names}) "
        f"SELECT 'u' || i || '@d' || i % $2 || '.example', $3, 'hello'{values} FROM generate_series(1, $1) i RETURNING id",
        count,
        domains,
        STREAM,
        *columns.values(),
    )
    return [row[0] for row in rows]


def claims(quota: int, domains: int = 1, priority: int = 5) -> list[Claim]:
    return [Claim(priority, f"d{i}.example", "", quota) for i in range(domains)]


async def take(session: Session, quota: int = 100, domains: int = 1, instance: int = 7, ttl: float = 60.0) -> list[Job]:
    light, heavy, doubtful = await lease(session, STREAM, claims(quota, domains), instance, ttl)
    assert not heavy
    assert not doubtful
    return light


def done(job: Job, outcome: Outcome = SENT) -> Settlement:
    return Settlement(job, Action.DONE, [("sent", Recipient(0, job.recipient), outcome)])


async def count(connection: asyncpg.Connection[asyncpg.Record], table: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM mailerd.{table}"))
