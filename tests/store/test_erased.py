"""What is reported about an address after it was erased: written under the pseudonym, and still heeded."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest

from mailerd.feedback import Feedback
from mailerd.store import erased
from mailerd.store.database import Session
from mailerd.store.feedback import apply
from mailerd.store.gates import suppressed
from mailerd.store.privacy import erase
from tests.store.test_plans import explain, reads, scans

Connection = asyncpg.Connection

ANN, BOB = "ann@x.example", "bob@y.example"
KEYS = erased.keys(("a key for tests only", "the key of before it"), ())
HIDDEN = erased.pseudonym(KEYS[0], ANN)


async def message(connection: Connection, recipient: str = ANN, cc: list[str] | None = None) -> int:
    id_ = await connection.fetchval(
        "INSERT INTO mailerd.outbox (recipient, cc, text_body) VALUES ($1, $2, 'x') RETURNING id", recipient, cc
    )
    await connection.execute("DELETE FROM mailerd.ready")
    return int(id_)


async def all_of_it(connection: Connection) -> str:
    tables = ("event", "suppression", "engagement", "soft_bounce", "outbox", "audit")
    return " ".join(
        [str(await connection.fetchval(f"SELECT string_agg(t::text, ' ') FROM mailerd.{table} t")) for table in tables]
    )


@pytest.mark.parametrize("keys", [KEYS, KEYS[1:]], ids=["the newest key", "an older key"])
async def test_a_later_report_is_written_under_the_pseudonym(
    session: Session, connection: Connection, keys: tuple[bytes, ...]
) -> None:
    alone, copied = await message(connection), await message(connection, BOB, ["Ann <Ann@X.example>"])
    hidden = (await erase(session, ANN, keys, "somebody")).pseudonym
    words = {"detail": "550 <Ann@X.example>: no such user ann", "metadata": {"user": ANN}, "source": "webhook:p"}
    await apply(
        session,
        [
            Feedback(type="bounced", message_id=alone, recipient=ANN, hard=True, **words),
            Feedback(type="delivered", message_id=copied, recipient=ANN.upper(), **words),
            Feedback(type="delivered", message_id=copied, recipient=BOB),
            Feedback(type="opened", message_id=alone, rcpt=0),
            Feedback(type="bounced", provider="p", provider_message_id="unknown", recipient=ANN, **words),
            Feedback(type="unsubscribed", recipient=ANN, stream="news"),
        ],
        keys=KEYS,
    )
    found = await connection.fetch("SELECT recipient, rcpt, detail, metadata FROM mailerd.event ORDER BY id")
    said = f"550 <{hidden}>: no such user ann"
    source = '{"source": "webhook:p"}'
    assert [tuple(row) for row in found] == [
        (hidden, 0, said, source),
        (hidden, 1, said, source),
        (BOB, 0, "", None),
        (hidden, 0, "", None),
        (hidden, 0, said, source),
        (hidden, 0, "", None),
    ]
    assert ANN not in (await all_of_it(connection)).lower()
    assert await suppressed(session, "any", [ANN, BOB], KEYS) == {ANN: "bounce"}
    assert await connection.fetchval("SELECT count(*) FROM mailerd.engagement") == 0


async def test_who_comes_back_is_a_new_address(session: Session, connection: Connection) -> None:
    await erase(session, ANN, KEYS, "somebody")
    await connection.execute("UPDATE mailerd.audit SET at = at - interval '2 seconds'")
    id_ = await message(connection)
    await apply(session, [Feedback(type="opened", message_id=id_, recipient=ANN)], keys=KEYS)
    assert await connection.fetchval("SELECT recipient FROM mailerd.event") == ANN
    assert await connection.fetchval("SELECT address FROM mailerd.engagement") == ANN


async def test_a_message_that_could_not_be_erased_yet(session: Session, connection: Connection) -> None:
    id_ = await message(connection)
    await connection.execute(
        "INSERT INTO mailerd.in_doubt (message_id, stream, priority, domain, rcpt, size, attempts) "
        "VALUES ($1, 'transactional', 5, 'x.example', -1, 1, 1)",
        id_,
    )
    assert (await erase(session, ANN, KEYS, "somebody")).held == (id_,)
    await apply(session, [Feedback(type="delivered", message_id=id_)], keys=KEYS)
    assert await connection.fetchval("SELECT recipient FROM mailerd.event") == HIDDEN


async def test_without_keys_and_with_foreign_words(session: Session, connection: Connection) -> None:
    id_ = await message(connection)
    await apply(
        session, [Feedback(type="opened", message_id=id_), Feedback(type="delivered", recipient="erased:nothing")]
    )
    assert await connection.fetchval("SELECT array_agg(recipient) FROM mailerd.event") == [ANN]


async def test_marks_are_found_by_index_whatever_the_statistics_say(session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.audit (actor, action, target) SELECT 'a', 'suppress add', 'u' || n FROM generate_series(1, 20000) n"
    )
    await erase(session, ANN, KEYS[1:], "somebody")
    names = [*erased.pseudonyms(KEYS, BOB), *erased.pseudonyms(KEYS, ANN)]
    plan = await explain(connection, erased.SINCE, [0, 0, 1, 1], names, erased.ACTION)
    assert scans(plan, "audit")
    assert reads(plan, "audit") < 10
    marks = await erased.since(session, KEYS, [BOB, ANN])
    assert marks.keys() == {ANN}
    assert marks[ANN].pseudonym == erased.pseudonym(KEYS[1], ANN)
    assert abs((datetime.now(UTC) - marks[ANN].at).total_seconds()) < 60


def test_pseudonyms_are_told_from_addresses() -> None:
    assert erased.unveiled(erased.mailbox(HIDDEN)) == erased.unveiled(HIDDEN) == HIDDEN
    for other in (ANN, "erased:1", "erased-@erased.invalid", f"x{HIDDEN}", f"{HIDDEN}0"):
        assert erased.unveiled(other) is None
    assert erased.scrubbed("to <a.b+c@x.example> or a%40x.example; 5.1.1", "E") == "to <E> or E; 5.1.1"
