"""Dead letters are found, sent again as new ones, or forgotten; what cannot be sent again says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from mailerd.message import Action, Outcome, OutcomeKind, Phase, Recipient, Settlement
from mailerd.store import deadletter, doubt
from mailerd.store.database import Session
from mailerd.store.deadletter import Filter, Verdict
from mailerd.store.settle import settle
from tests.store.rows import STREAM, fill, take

Connection = asyncpg.Connection
ANN = "ann@ops1"


async def kill(
    session: Session, connection: Connection, count: int, reason: str = "550 no such user", **columns: object
) -> list[int]:
    """Messages that were refused for good."""
    ids = await fill(connection, count, **columns)
    no = Outcome(OutcomeKind.REJECTED, Phase.RCPT, 550, "5.1.1", reason, "relay", category="recipient")
    jobs = await take(session, 10_000)
    await settle(
        session,
        STREAM,
        [
            Settlement(j, Action.DONE, [("rejected", Recipient(0, j.recipient), no)], dead=1, reason=reason)
            for j in jobs
        ],
    )
    return ids


async def retry(session: Session, which: Filter, limit: int | None = None) -> list[Verdict]:
    return [verdict async for batch in deadletter.retry(session, which, ANN, limit) for verdict in batch]


async def drop(session: Session, which: Filter, limit: int | None = None) -> list[Verdict]:
    return [verdict async for batch in deadletter.drop(session, which, ANN, limit) for verdict in batch]


async def test_a_retried_letter_is_a_new_message(session: Session, connection: Connection) -> None:
    (message,) = await kill(session, connection, 1)
    await connection.execute("UPDATE mailerd.dead_letter SET attempts = 12")
    await connection.execute("INSERT INTO mailerd.stream (name, expires) VALUES ($1, '2 days')", STREAM)
    assert await retry(session, Filter(ids=[message])) == [Verdict(message, True, "queued again")]
    assert await connection.fetchval("SELECT count(*) FROM mailerd.dead_letter") == 0
    row = await connection.fetchrow("SELECT *, expires_at - now() AS left FROM mailerd.ready")
    assert (row["id"], row["attempt"], row["leases"], row["rcpt"], row["domain"]) == (message, 0, 0, 1, "d0.example")
    assert timedelta(days=1, hours=23) < row["left"] <= timedelta(days=2), "a new age"
    assert (await connection.fetchrow("SELECT * FROM mailerd.status($1)", message))["status"] == "ready"
    (job,) = await take(session)
    assert job.recipient == "u1@d0.example"
    audit = await connection.fetchrow("SELECT actor, action, target, detail FROM mailerd.audit")
    assert tuple(audit) == (ANN, "dead retry", f"message:{message}", "550 no such user")
    assert await connection.fetchval("SELECT count(*) FROM mailerd.event WHERE type = 'rejected'") == 1, "events stay"


async def test_what_cannot_be_retried_says_why_and_stays(session: Session, connection: Connection) -> None:
    gone, expired, busy, fine = await kill(session, connection, 4)
    await connection.execute("DELETE FROM mailerd.outbox WHERE id = $1", gone)
    await connection.execute(
        "UPDATE mailerd.outbox SET expires_at = now() - interval '1 second' WHERE id = $1", expired
    )
    await connection.execute(
        "INSERT INTO mailerd.scheduled (stream, priority, run_at, id, domain) VALUES ($1, 5, now() + interval '1 hour', $2, 'd0.example')",
        STREAM,
        busy,
    )
    verdicts = {v.id: (v.done, v.words) for v in await retry(session, Filter())}
    assert verdicts == {
        gone: (False, "its payload is gone: send it anew"),
        expired: (False, "its expires_at has passed"),
        busy: (False, "still on its way to other recipients"),
        fine: (True, "queued again"),
    }
    assert {r[0] for r in await connection.fetch("SELECT message_id FROM mailerd.dead_letter")} == {gone, expired, busy}
    assert [r[0] for r in await connection.fetch("SELECT id FROM mailerd.ready")] == [fine]
    listed = {letter.message_id: letter.payload for letter in await deadletter.letters(session, Filter(), 10)}
    assert listed == {gone: False, expired: True, busy: True}


async def test_a_kept_payload_is_as_good(session: Session, connection: Connection) -> None:
    (message,) = await kill(session, connection, 1)
    await connection.execute(
        "INSERT INTO mailerd.outbox_kept (id, created_at, stream, priority, recipient, text_body) "
        "SELECT id, created_at, stream, priority, recipient, text_body FROM mailerd.outbox"
    )
    await connection.execute("DELETE FROM mailerd.outbox")
    assert [v.done for v in await retry(session, Filter(ids=[message]))] == [True]


async def test_only_the_recipients_that_were_given_up_are_retried(session: Session, connection: Connection) -> None:
    (message,) = await fill(connection, 1, cc=["c@x.example"])
    (job,) = await take(session)
    sent = Outcome(OutcomeKind.SENT, Phase.DOT, 250, text="ok")
    no = Outcome(OutcomeKind.REJECTED, Phase.RCPT, 550, text="no")
    ends = [("sent", Recipient(0, job.recipient), sent), ("rejected", Recipient(1, "c@x.example"), no)]
    await settle(session, STREAM, [Settlement(job, Action.DONE, ends, dead=0b10, reason="550 no")])
    await retry(session, Filter(ids=[message]))
    (again,) = await take(session)
    assert again.rcpt == 0b10


async def test_thousands_go_in_batches_and_stop_at_the_limit(session: Session, connection: Connection) -> None:
    ids = await kill(session, connection, 2500)
    await connection.execute("DELETE FROM mailerd.outbox WHERE id = ANY ($1)", ids[:5])
    verdicts = await retry(session, Filter(stream=STREAM), limit=1500)
    assert [v.id for v in verdicts] == ids[:1500], "the oldest first"
    assert sum(v.done for v in verdicts) == 1495
    verdicts = await retry(session, Filter(stream=STREAM))
    assert len(verdicts) == 1005
    assert await connection.fetchval("SELECT count(*) FROM mailerd.ready") == 2495
    assert [v.words for v in await drop(session, Filter())] == ["dropped"] * 5
    assert await connection.fetchval("SELECT count(*) FROM mailerd.dead_letter") == 0


FILTERS = [
    (Filter(), "abcd"),
    (Filter(stream="marketing"), "abc"),
    (Filter(stream="nope"), ""),
    (Filter(category="spam"), "b"),
    (Filter(reason="NO SUCH"), "a"),
    (Filter(reason="100%"), "c"),
    (Filter(recipient="ann@example.org"), "a"),
    (Filter(recipient="Ann@Example.org"), "a"),
    (Filter(recipient="@example.org"), "ab"),
    (Filter(recipient="nn@example.org"), ""),
    (Filter(since=datetime.now(UTC) - timedelta(hours=1)), "abc"),
    (Filter(stream="marketing", category="other", since=datetime.now(UTC) - timedelta(hours=1)), "ac"),
    (Filter(ids=[1, 4]), "ad"),
    (Filter(ids=[1, 4], stream="x"), "d"),
]


async def test_filters(session: Session, connection: Connection) -> None:
    for which, found in FILTERS:
        await connection.execute("""
            TRUNCATE mailerd.dead_letter, mailerd.audit;
            INSERT INTO mailerd.dead_letter (message_id, stream, priority, domain, recipient, reason, class, at) VALUES
            (1, 'marketing', 5, 'example.org', 'ann@example.org', '550 no such user', 'other', now()),
            (2, 'marketing', 5, 'example.org', 'Joann <joann@example.org>', '554 spam', 'spam', now()),
            (3, 'marketing', 5, 'example.com', 'ann@example.com', 'mailbox 100% full', 'other', now()),
            (4, 'x', 5, 'example.com', NULL, 'no instance lists the stream x', 'configuration', now() - interval '2 days')""")
        listed = await deadletter.letters(session, which, 10)
        assert "".join(sorted("abcd"[d.message_id - 1] for d in listed)) == found, which
        assert await deadletter.count(session, which) == len(found)
        assert "".join("abcd"[v.id - 1] for v in await drop(session, which)) == found, which
        assert await connection.fetchval("SELECT count(*) FROM mailerd.audit WHERE action = 'dead drop'") == len(found)


async def test_two_operators_do_not_retry_twice(database: str, session: Session, connection: Connection) -> None:
    ids = await kill(session, connection, 20)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM mailerd.dead_letter WHERE message_id = ANY ($1) FOR UPDATE", ids[:10])
    assert [v.id for v in await retry(session, Filter())] == ids[10:], "what another is at is left to him"
    await transaction.rollback()


async def doubtful(session: Session, connection: Connection, **columns: object) -> int:
    (message,) = await fill(connection, 1, **columns)
    (job,) = await take(session)
    lost = Outcome(OutcomeKind.IN_DOUBT, Phase.DOT, text="connection lost", provider="relay")
    ends = [("in_doubt", Recipient(0, job.recipient), lost)]
    await settle(session, STREAM, [Settlement(job, Action.DOUBT, ends, left=1)])
    return message


async def test_a_doubtful_message_is_resent_once(session: Session, connection: Connection) -> None:
    message = await doubtful(session, connection)
    (held,) = await doubt.doubtful(session, None, 10)
    assert (held.message_id, held.recipient, held.provider, held.detail) == (
        message, "u1@d0.example", "relay", "connection lost"
    )  # fmt: skip
    assert await doubt.doubtful(session, "other", 10) == []
    assert await doubt.resend(session, [message, 42], ANN) == {message}
    assert await doubt.resend(session, [message], ANN) == set()
    (job,) = await take(session)
    assert (job.id, job.rcpt) == (message, 1)
    assert (
        await connection.fetchval("SELECT target FROM mailerd.audit WHERE action = 'doubt resend'")
        == f"message:{message}"
    )


@pytest.mark.parametrize("outcome", ["sent", "failed"])
async def test_a_doubtful_message_is_settled_for_each_recipient_in_question(
    session: Session, connection: Connection, outcome: str
) -> None:
    message = await doubtful(session, connection, cc=["c@x.example"], bcc=["b@x.example"])
    await connection.execute("UPDATE mailerd.in_doubt SET rcpt = 5")  # the recipient and the bcc
    assert await doubt.settle(session, [message], outcome, ANN) == {message}
    events = await connection.fetch(
        "SELECT rcpt, recipient, type, detail FROM mailerd.event WHERE type = $1 ORDER BY rcpt", outcome
    )
    assert [tuple(e) for e in events] == [
        (0, "u1@d0.example", outcome, f"settled by {ANN}"),
        (2, "b@x.example", outcome, f"settled by {ANN}"),
    ]
    assert (await connection.fetchrow("SELECT * FROM mailerd.status($1)", message))["status"] == outcome
    assert await doubt.settle(session, [message], outcome, ANN) == set()


async def test_a_doubtful_message_whose_row_is_gone_can_be_settled(session: Session, connection: Connection) -> None:
    message = await doubtful(session, connection)
    await connection.execute("UPDATE mailerd.in_doubt SET rcpt = -1; DELETE FROM mailerd.outbox")
    assert await doubt.settle(session, [message], "sent", ANN) == {message}
    assert (
        await connection.fetchval("SELECT count(*) FROM mailerd.event WHERE type = 'sent' AND message_id = $1", message)
        == 1
    )
