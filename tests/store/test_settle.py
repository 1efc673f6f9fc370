"""Settle writes a batch whole, and no hostile value can hold back its neighbours."""

from __future__ import annotations

import asyncpg
import msgspec

from mailerd.message import Action, Outcome, OutcomeKind, Phase, Recipient, Settlement
from mailerd.store.database import Session
from mailerd.store.settle import settle
from tests.store.rows import SENT, STREAM, count, done, fill, take

Connection = asyncpg.Connection


async def test_a_refused_value_is_written_without_its_words_and_its_neighbours_as_they_are(
    session: Session, connection: Connection
) -> None:
    await fill(connection, 9)
    jobs = await take(session)
    # Outcomes are cleaned before they get here; this one is not, as if that wall had a hole.
    batch = [done(j, msgspec.structs.replace(SENT, text="nul \0") if i == 4 else SENT) for i, j in enumerate(jobs)]
    assert await settle(session, STREAM, batch) == {j.id for j in jobs}
    details = [row[0] for row in await connection.fetch("SELECT detail FROM mailerd.event ORDER BY id")]
    assert details.count("ok") == 8
    assert details.count("(reply could not be stored)") == 1
    assert await count(connection, "ready") == 0


async def test_each_recipient_has_its_event_and_the_bits_not_done_go_on(
    session: Session, connection: Connection
) -> None:
    await fill(connection, 1, cc=["c@x.example", "d@x.example"])
    (job,) = await take(session)
    late = Outcome(OutcomeKind.DEFERRED, Phase.RCPT, 450, "4.2.1", "later", "relay")
    no = Outcome(OutcomeKind.REJECTED, Phase.RCPT, 550, "5.1.1", "no such user", "relay", category="recipient")
    settlement = Settlement(
        job,
        Action.RETRY,
        [
            ("sent", Recipient(0, job.recipient), SENT),
            ("deferred", Recipient(1, "c@x.example"), late),
            ("rejected", Recipient(2, "d@x.example"), no),
        ],
        delay=60,
        left=0b010,
        dead=0b100,
        reason="550 5.1.1 no such user",
    )
    await settle(session, STREAM, [settlement])
    events = await connection.fetch("SELECT rcpt, type, recipient, code FROM mailerd.event ORDER BY rcpt")
    assert [tuple(e) for e in events] == [
        (0, "sent", job.recipient, 250),
        (1, "deferred", "c@x.example", 450),
        (2, "rejected", "d@x.example", 550),
    ]
    assert await connection.fetchval("SELECT rcpt FROM mailerd.scheduled") == 0b010
    assert await connection.fetchval("SELECT rcpt FROM mailerd.dead_letter") == 0b100


async def test_settling_twice_changes_nothing(session: Session, connection: Connection) -> None:
    await fill(connection, 3)
    batch = [done(j) for j in await take(session)]
    assert len(await settle(session, STREAM, batch)) == 3
    assert await settle(session, STREAM, batch) == set()
    assert await count(connection, "event") == 3
