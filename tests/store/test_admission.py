"""Payloads that are fetched after the lease: what became of the lease meanwhile decides, and trouble loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from mailerd.compose.composer import Composer
from mailerd.config.base import Duration
from mailerd.config.load import parse
from mailerd.config.model import Database, Stream
from mailerd.daemon.admission import Admission
from mailerd.daemon.backlog import FRESH, Backlog
from mailerd.daemon.unsettled import Unsettled
from mailerd.message import Job
from mailerd.store.database import Session, Unavailable
from mailerd.store.lease import lease
from tests.store.rows import STREAM, claims, fill, take

Connection = asyncpg.Connection
CONFIG = '[[provider]]\nname = "sink"\nkind = "sink"\n[[identity]]\nname = "a"\nfrom = "a@a.example"\n'


class Rig:
    def __init__(self, url: str) -> None:
        composer = Composer(parse(CONFIG, None, {}).config)
        self.backlog = Backlog(
            Stream(name=STREAM), composer, Unsettled(9), on_settlement=lambda: None, on_low=lambda: None,
            on_stale=lambda job: self.admission.stale(job),
        )  # fmt: skip
        self.payloads = Session(Database(url=url, statement_timeout=Duration(0.3)), "payloads")
        self.admission = Admission(Stream(name=STREAM), self.backlog, composer, self.payloads, 1 << 28, lambda: None)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, f"not {what}"
            await asyncio.sleep(0.01)

    async def until_waiting(self, count: int) -> None:
        await self.until(lambda: self.backlog.waiting == count, f"{count} in the backlog")


@pytest.fixture
async def rig(database: str) -> AsyncIterator[Rig]:
    built = Rig(database)
    task = asyncio.create_task(built.admission.run())
    yield built
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await built.payloads.close()


async def heavy(session: Session, connection: Connection, count: int) -> list[Job]:
    """Leased jobs whose payload is too large for the lease."""
    await connection.execute(
        "INSERT INTO mailerd.outbox (recipient, stream, text_body) "
        "SELECT 'u' || i || '@d0.example', $2, repeat('x', 70000) FROM generate_series(1, $1) i",
        count,
        STREAM,
    )
    _, jobs, _ = await lease(session, STREAM, claims(count), 7, 60.0)
    assert len(jobs) == count
    return jobs


async def test_a_lease_lost_during_the_fetch_is_not_sent(rig: Rig, session: Session, connection: Connection) -> None:
    lost, kept = await heavy(session, connection, 2)
    async with connection.transaction():
        await connection.execute("LOCK TABLE mailerd.outbox_kept IN ACCESS EXCLUSIVE MODE")
        rig.admission.later([lost, kept])
        await asyncio.sleep(0.1)
        rig.backlog.lost({lost.id})
        kept.lease.deadline += 60  # a renewal, for its neighbour
    await rig.until_waiting(1)
    assert [job.id for job in rig.backlog.empty()] == [kept.id]


async def test_a_fetch_that_fails_is_repeated_also_when_the_lease_was_over(
    rig: Rig, session: Session, connection: Connection
) -> None:
    """Held and never sent would be renewed for ever; whoever renews it says whether it is still ours."""
    (job,) = await heavy(session, connection, 1)
    async with connection.transaction():
        await connection.execute("LOCK TABLE mailerd.outbox_kept IN ACCESS EXCLUSIVE MODE")
        rig.admission.later([job])
        await rig.until(lambda: rig.admission.waiting == 0, "being fetched")
        await rig.until(lambda: rig.admission.waiting == 1, "back, since the statement failed")
        job.lease.deadline = time.monotonic() - 1
    job.lease.deadline = time.monotonic() + 60  # it was renewed
    await rig.until_waiting(1)


async def test_what_is_given_back_during_the_fetch_does_not_come_back(
    rig: Rig, session: Session, connection: Connection
) -> None:
    first, second = await heavy(session, connection, 2)
    async with connection.transaction():
        await connection.execute("LOCK TABLE mailerd.outbox_kept IN ACCESS EXCLUSIVE MODE")
        rig.admission.later([first])
        await asyncio.sleep(0.1)
        rig.backlog.held.pop(first.id)
    rig.admission.later([second])
    await rig.until_waiting(1)
    await asyncio.sleep(0.05)
    assert [job.id for job in rig.backlog.empty()] == [second.id]


async def test_a_gone_payload_ends_all_recipients(rig: Rig, session: Session, connection: Connection) -> None:
    (job,) = await heavy(session, connection, 1)
    await connection.execute("DELETE FROM mailerd.outbox")
    job.rcpt = 0b110  # the first recipient is done
    rig.admission.later([job])
    async with asyncio.timeout(5):
        while not rig.backlog.settlements:
            await asyncio.sleep(0.01)
    (settlement,) = rig.backlog.settlements
    assert settlement.dead == 0b110
    assert len(settlement.events) == 1
    assert "payload" in settlement.reason


async def aged(rig: Rig, session: Session, count: int) -> list[Job]:
    """Admitted, and looked up long ago; a connection has come for them, and got none."""
    jobs = await take(session, count)
    assert len(jobs) == count
    await rig.admission.admit(jobs, session)
    assert all(time.monotonic() - job.checked < 5 for job in jobs)
    for job in jobs:
        job.checked -= FRESH
    assert rig.backlog.take("relay") is None
    assert rig.admission.waiting == count
    return jobs


async def test_who_unsubscribed_while_the_message_waited_does_not_get_it(
    rig: Rig, session: Session, connection: Connection
) -> None:
    await fill(connection, 3)
    jobs = await aged(rig, session, 3)
    await connection.execute(
        "INSERT INTO mailerd.suppression (address, reason) VALUES ('u2@d0.example', 'unsubscribe')"
    )
    kept = rig.backlog.prepared[jobs[2].id] = rig.admission._composer.compose(jobs[2])
    rig.backlog.lost({jobs[0].id})
    await rig.admission.again(session)
    (settlement,) = rig.backlog.settlements
    assert [(kind, to.address) for kind, to, _ in settlement.events] == [("suppressed", "u2@d0.example")]
    assert rig.backlog.take("relay") is kept, "the one that nobody stopped, as it was composed"
    assert rig.backlog.take("relay") is None, "the first one is another instance's now"
    assert rig.admission.waiting == 0


async def test_of_several_recipients_the_others_still_get_it(
    rig: Rig, session: Session, connection: Connection
) -> None:
    await fill(connection, 1, cc=["c@d0.example", "d@d0.example"])
    (job,) = await aged(rig, session, 1)
    rig.backlog.prepared[job.id] = rig.admission._composer.compose(job)
    await connection.execute("INSERT INTO mailerd.suppression (address) VALUES ('c@d0.example')")
    await rig.admission.again(session)
    taken = rig.backlog.take("relay")
    assert taken is not None
    assert [to.address for to in taken.recipients] == ["u1@d0.example", "d@d0.example"]


async def test_what_cannot_be_looked_up_again_waits(rig: Rig, session: Session, connection: Connection) -> None:
    await fill(connection, 1)
    (job,) = await aged(rig, session, 1)
    async with connection.transaction():
        await connection.execute("LOCK TABLE mailerd.suppression IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable):
            await rig.admission.again(rig.payloads)
    assert (rig.admission.waiting, rig.backlog.waiting) == (1, 0)
    assert rig.admission.empty() == [job]
