"""One message for one dedup key, whoever comes second: skipped by a plain INSERT, answered with the first id by enqueue()."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

Connection = asyncpg.Connection
INSERT = "INSERT INTO mailerd.outbox (recipient, text_body, dedup_key, stream) VALUES ('ann@example.org', 'x', $1, $2) RETURNING id"
ENQUEUE = "SELECT mailerd.enqueue(recipient => 'ann@example.org', text_body => 'x', dedup_key => $1, stream => $2)"


async def messages(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM mailerd.outbox"))


async def test_a_second_insert_is_skipped_and_returns_no_row(connection: Connection) -> None:
    first = await connection.fetchval(INSERT, "k", None)
    assert await connection.fetch(INSERT, "k", None) == []
    assert await connection.fetchval(INSERT, "other", None) not in (None, first)
    assert await messages(connection) == 2
    assert await connection.fetchval("SELECT count(*) FROM mailerd.ready") == 2


async def test_enqueue_returns_the_first_id(connection: Connection) -> None:
    first = await connection.fetchval(ENQUEUE, "k", None)
    assert await connection.fetchval(ENQUEUE, "k", None) == first
    assert await connection.fetchval(ENQUEUE, "k", "transactional") == first, "the default stream by name"
    assert await messages(connection) == 1


async def test_streams_have_their_own_keys(connection: Connection) -> None:
    assert await connection.fetchval(ENQUEUE, "k", "a") != await connection.fetchval(ENQUEUE, "k", "b")


async def test_a_batch_with_a_key_twice_keeps_the_first(connection: Connection) -> None:
    rows = await connection.fetch(
        "INSERT INTO mailerd.outbox (recipient, text_body, dedup_key) "
        "SELECT 'u' || i || '@example.org', 'x', 'k' || i % 3 FROM generate_series(0, 8) i RETURNING recipient"
    )
    assert [row[0] for row in rows] == ["u0@example.org", "u1@example.org", "u2@example.org"]


@pytest.mark.parametrize("commit", [True, False])
async def test_two_transactions_with_one_key_wait_for_each_other(
    database: str, connection: Connection, commit: bool
) -> None:
    other = await asyncpg.connect(database)
    try:
        transaction = connection.transaction()
        await transaction.start()
        first = await connection.fetchval(ENQUEUE, "k", None)
        waiting = asyncio.create_task(other.fetchval(ENQUEUE, "k", None))
        await asyncio.sleep(0.1)
        assert not waiting.done(), "only the first one's commit decides"
        await (transaction.commit() if commit else transaction.rollback())
        second = await asyncio.wait_for(waiting, 5)
        assert (second == first) is commit
        assert await messages(connection) == 1
    finally:
        await other.close()


async def test_a_rolled_back_insert_leaves_the_key_free(connection: Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetchval(INSERT, "k", None)
    await transaction.rollback()
    assert await connection.fetchval(INSERT, "k", None) is not None


async def test_a_key_is_forgotten_after_its_streams_window(connection: Connection) -> None:
    await connection.execute("INSERT INTO mailerd.stream (name, dedup_window) VALUES ('short', '1 hour')")
    first = await connection.fetchval(ENQUEUE, "k", "short")
    await connection.execute("UPDATE mailerd.dedup_0 SET at = now() - interval '59 minutes'")
    assert await connection.fetchval(ENQUEUE, "k", "short") == first
    await connection.execute("UPDATE mailerd.dedup_0 SET at = now() - interval '61 minutes'")
    second = await connection.fetchval(ENQUEUE, "k", "short")
    assert second != first
    assert await connection.fetchval(ENQUEUE, "k", "short") == second


async def test_keys_survive_the_turn_of_generations(connection: Connection) -> None:
    first = await connection.fetchval(ENQUEUE, "old", None)
    assert await connection.fetchval("SELECT mailerd.turn_dedup()") is False, "the generation is young"
    await connection.execute("UPDATE mailerd.dedup_generation SET since = now() - interval '25 hours'")
    assert await connection.fetchval("SELECT mailerd.turn_dedup()") is True
    assert await connection.fetchval(ENQUEUE, "old", None) == first
    # In the first hour a key is written to both generations; later to the new one alone, and the old one is still read.
    second = await connection.fetchval(ENQUEUE, "young", None)
    assert await connection.fetchval("SELECT count(*) FROM mailerd.dedup WHERE key = 'young'") == 2
    await connection.execute("UPDATE mailerd.dedup_generation SET since = now() - interval '2 hours'")
    third = await connection.fetchval(ENQUEUE, "later", None)
    assert await connection.fetchval("SELECT count(*) FROM mailerd.dedup WHERE key = 'later'") == 1
    for key, message in (("old", first), ("young", second), ("later", third)):
        assert await connection.fetchval(ENQUEUE, key, None) == message
        assert await connection.fetch(INSERT, key, None) == []
    # The next turn empties the generation that held `old`, whose window has passed by then.
    await connection.execute("UPDATE mailerd.dedup_0 SET at = at - interval '25 hours' WHERE key = 'old'")
    await connection.execute("UPDATE mailerd.dedup_generation SET since = now() - interval '25 hours'")
    assert await connection.fetchval("SELECT mailerd.turn_dedup()") is True
    assert await connection.fetchval(ENQUEUE, "old", None) != first
    assert await connection.fetchval(ENQUEUE, "young", None) == second
    assert await connection.fetchval(ENQUEUE, "later", None) == third


async def test_a_skip_in_the_other_generation_does_not_shadow_the_first(connection: Connection) -> None:
    """The claim writes one generation before it finds the key in the other; then it must take that back."""
    first = await connection.fetchval(ENQUEUE, "k", None)
    await connection.execute("UPDATE mailerd.dedup_generation SET current = 1, since = now()")
    await connection.execute("INSERT INTO mailerd.dedup_1 SELECT * FROM mailerd.dedup_0; DELETE FROM mailerd.dedup_0")
    assert await connection.fetchval(ENQUEUE, "k", None) == first
    assert await connection.fetchval(ENQUEUE, "k", None) == first
    assert await messages(connection) == 1
