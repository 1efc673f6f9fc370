"""The story of a message from the real tables, in every place it can be."""

from __future__ import annotations

import asyncpg
import pytest

from mailerd.flow.explain import Place
from mailerd.message import Action, Job, Lease, Outcome, OutcomeKind, Phase, Recipient, Settlement
from mailerd.store.control import pause
from mailerd.store.database import Session
from mailerd.store.inspect import Story, story
from mailerd.store.instances import ProviderState, beat
from mailerd.store.settle import settle
from tests.store.rows import STREAM, done, fill, take

Connection = asyncpg.Connection
LATER = Outcome(OutcomeKind.DEFERRED, Phase.DOT, 451, "4.7.1", "grey-listed", "relay", category="greylist")
INSTANCE = 7


async def told(session: Session, message: int) -> Story:
    found = await story(session, message)
    assert found is not None
    row = (await session.fetch("SELECT status, attempts FROM mailerd.status($1)", message))[0]
    assert (found.status, found.attempts) == (row["status"], row["attempts"]), "status() and the story agree"
    return found


def gates(found: Story) -> list[str]:
    return [gate.name for gate in found.gates]


async def alive(
    session: Session, state: str = "closed", instance: int = INSTANCE, streams: tuple[str, ...] = (STREAM,)
) -> None:
    providers = [ProviderState("relay", state, 120.0 if state == "open" else None, "421 busy", 3)]
    await beat(session, instance, f"mail-{instance}", streams, "running", providers)


async def test_nobody_knows_it(session: Session) -> None:
    assert await story(session, 42) is None


async def test_ready_with_others_ahead(session: Session, connection: Connection) -> None:
    await alive(session)
    ids = await fill(connection, 5)
    await connection.execute(
        "INSERT INTO mailerd.outbox (recipient, stream, text_body, priority) VALUES ('u@d9.example', $1, 'x', 0)",
        STREAM,
    )
    found = await told(session, ids[3])
    assert found.place is Place.READY
    assert gates(found) == ["queue"]
    assert found.gates[0].words == "3 messages ahead of it in its lane, 1 more urgent in its stream"
    assert found.message is not None
    assert (found.message.stream, found.message.domain, found.message.content) == (STREAM, "d0.example", "text")
    assert [(r.field, r.pending) for r in found.recipients] == [("to", True)]


async def test_it_names_the_holder_of_a_lease(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    await take(session, instance=INSTANCE)
    found = await told(session, message)
    assert found.place is Place.LEASED
    assert "is gone" in found.gates[0].words, "the instance never had a heartbeat"
    await alive(session)
    found = await told(session, message)
    assert found.instance == "mail-7"
    assert found.gates[0].until is not None
    assert found.lease_until == found.gates[0].until


async def test_it_tells_attempts_and_replies_in_order(session: Session, connection: Connection) -> None:
    await alive(session)
    (message,) = await fill(connection, 1, cc=["c@x.example"], campaign="spring")
    token = 7 << 32 | 1
    await connection.execute(
        "UPDATE mailerd.ready SET lease_token = $1, lease_until = now() + interval '1 minute'", token
    )
    job = Job(
        id=message, stream=STREAM, priority=5, domain="d0.example", campaign="spring", lease=Lease(token, 0),
        created_at=await connection.fetchval("SELECT now()"), recipient="u1@d0.example",
    )  # fmt: skip
    sent = Outcome(OutcomeKind.SENT, Phase.DOT, 250, "2.0.0", "queued as 4711", "relay", "4711")
    ends = [("deferred", Recipient(0, "u1@d0.example"), LATER), ("sent", Recipient(1, "c@x.example"), sent)]
    await settle(session, STREAM, [Settlement(job, Action.RETRY, ends, delay=300, left=0b01)])
    found = await told(session, message)
    assert found.place is Place.DEFERRED
    assert [(e.type, e.recipient, e.reply) for e in found.events] == [
        ("deferred", "u1@d0.example", "451 4.7.1 grey-listed"),
        ("sent", "c@x.example", "250 2.0.0 queued as 4711"),
    ]
    assert [(r.field, r.pending) for r in found.recipients] == [("to", True), ("cc", False)]
    assert gates(found) == ["deferred"]
    assert found.gates[0].until == found.next_attempt_at


@pytest.mark.parametrize(("kind", "name"), [("stream", STREAM), ("domain", "d0.example"), ("provider", "relay")])
async def test_what_is_paused_is_named(session: Session, connection: Connection, kind: str, name: str) -> None:
    await alive(session)
    (message,) = await fill(connection, 1)
    await pause(session, kind, name, "ann@ops1", "they asked")
    found = await told(session, message)
    assert gates(found) == [f"{kind}_paused"]
    assert found.gates[0].release == f"mailerd resume {kind}:{name}"
    assert "ann@ops1" in found.gates[0].words


async def test_a_provider_that_every_instance_gave_up(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    await alive(session, "open")
    await alive(session, "closed", instance=8)
    assert gates(await told(session, message)) == ["queue"]
    await alive(session, "open", instance=8)
    found = await told(session, message)
    assert gates(found) == ["provider_down"]
    assert "421 busy" in found.gates[0].words
    assert found.gates[0].until is not None
    # An instance that is gone has no say.
    await connection.execute("UPDATE mailerd.provider_state SET state = 'closed' WHERE instance = 8")
    await connection.execute("UPDATE mailerd.instance SET seen_at = now() - interval '16 seconds' WHERE id = 8")
    assert gates(await told(session, message)) == ["provider_down"]
    # Nor has a provider of another stream, when the configuration says which are this stream's.
    other = await story(session, message, ["relay", "unheard-of"])
    assert other is not None
    assert gates(other) == ["queue"]


async def test_nobody_runs_or_nobody_lists_its_stream(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    assert gates(await told(session, message)) == ["no_instance"]
    await alive(session, streams=("other",))
    found = await told(session, message)
    assert gates(found) == ["unknown_stream"]
    assert found.message is not None
    assert (found.gates[0].until - found.message.created_at).total_seconds() == 3600  # type: ignore[operator]


async def test_one_that_drains_takes_nothing_new(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    await take(session, instance=INSTANCE)
    await alive(session)
    await connection.execute("UPDATE mailerd.instance SET state = 'draining'")
    assert (await told(session, message)).instance == "mail-7"
    await connection.execute("UPDATE mailerd.ready SET lease_until = '-infinity'")
    assert gates(await told(session, message)) == ["no_instance"]


async def test_its_end_is_its_own_or_its_streams(session: Session, connection: Connection) -> None:
    await alive(session)
    (message,) = await fill(connection, 1)
    assert (await told(session, message)).ends_at is None
    await connection.execute("INSERT INTO mailerd.stream (name, expires) VALUES ($1, '2 days')", STREAM)
    found = await told(session, message)
    assert found.message is not None
    assert found.ends_at is not None
    assert (found.ends_at - found.message.created_at).days == 2
    await connection.execute("UPDATE mailerd.ready SET expires_at = now() - interval '1 minute'")
    assert gates(await told(session, message)) == ["expired"]


async def test_in_doubt_dead_and_settled(session: Session, connection: Connection) -> None:
    await alive(session)
    doubtful, dead, sent = await fill(connection, 3)
    jobs = {job.id: job for job in await take(session)}
    lost = Outcome(OutcomeKind.IN_DOUBT, Phase.DOT, text="connection lost after the final dot", provider="relay")
    no = Outcome(OutcomeKind.REJECTED, Phase.RCPT, 550, "5.1.1", "no such user", "relay", category="recipient")
    await settle(
        session,
        STREAM,
        [
            Settlement(jobs[doubtful], Action.DOUBT, [("in_doubt", Recipient(0, "u1@d0.example"), lost)], left=1),
            Settlement(
                jobs[dead],
                Action.DONE,
                [("rejected", Recipient(0, "u2@d0.example"), no)],
                dead=1,
                reason="550 no such user",
            ),
            done(jobs[sent]),
        ],
    )
    found = await told(session, doubtful)
    assert (found.place, gates(found)) == (Place.IN_DOUBT, ["in_doubt"])
    assert "connection lost" in found.gates[0].words
    found = await told(session, dead)
    assert (found.status, gates(found)) == ("rejected", ["dead_letter"])
    assert found.gates[0].release == f"mailerd dead retry {dead}"
    found = await told(session, sent)
    assert (found.status, found.place, gates(found)) == ("sent", Place.SETTLED, [])


async def test_a_story_outlives_its_row(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1)
    (job,) = await take(session)
    await settle(session, STREAM, [done(job)])
    await connection.execute("DELETE FROM mailerd.outbox")
    found = await story(session, message)
    assert found is not None
    assert (found.message, found.status, len(found.events)) == (None, "sent", 1)


async def test_ahead_is_counted_up_to_a_bound_on_tables_without_statistics(
    session: Session, connection: Connection
) -> None:
    """100 000 rows in one lane, never analysed: explaining the last one stays a matter of milliseconds."""
    await connection.execute("ALTER TABLE mailerd.ready SET (autovacuum_enabled = off)")
    await alive(session)
    ids = await fill(connection, 100_000)
    found = await told(session, ids[-1])
    assert found.gates[0].words.startswith("more than 10000 messages ahead")
    started = await connection.fetchval("SELECT clock_timestamp()")
    for message in (ids[-1], ids[50_000], ids[0]):
        await story(session, message)
    elapsed = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp() - $1::timestamptz)", started)
    assert elapsed < 1.0, elapsed
