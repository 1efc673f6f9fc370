"""kill -9 behind the 250 of a mail that came in: what was answered is stored, and becomes an event exactly once."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import asyncpg

from mailerd.bench.port import free_port
from tests.daemon.harness import Server, daemon, settled, until
from tests.daemon.test_inbound import PATHS, top
from tests.intake.mails import dsn
from tests.intake.rig import Client

Connection = asyncpg.Connection
MESSAGES = 40


async def messages(connection: Connection, number: int) -> dict[int, str]:
    """id → recipient, sent."""
    await connection.execute(
        "INSERT INTO mailerd.outbox (recipient, sender, text_body) "
        f"SELECT 'u' || i || '@gone.example', 'shop', 'x' FROM generate_series(1, {number}) i"
    )
    await settled(connection)
    rows = await connection.fetch("SELECT id, recipient FROM mailerd.outbox")
    assert len(rows) == number
    return {row[0]: row[1] for row in rows}


async def readers_leases_run_out(connection: Connection) -> None:
    """What takes a minute otherwise."""
    await connection.execute("UPDATE mailerd.inbound_mail SET next_at = now() WHERE next_at IS NOT NULL")


async def all_read(connection: Connection) -> None:
    async def read() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM mailerd.inbound_mail WHERE next_at IS NOT NULL")

    await until(read, "all read")


async def statement(connection: Connection, name: str, *, waiting: bool = False) -> int | None:
    """The process id of a session of the daemon that is at work, or waits for a lock."""
    return await connection.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 "
        "AND CASE WHEN $2 THEN wait_event_type = 'Lock' ELSE state = 'active' END",
        name,
        waiting,
    )


async def bounced(connection: Connection) -> dict[int, int]:
    """message → events."""
    rows = await connection.fetch(
        "SELECT message_id, count(*) FROM mailerd.event WHERE type = 'bounced' GROUP BY message_id"
    )
    return {row[0]: row[1] for row in rows}


async def test_what_was_answered_is_an_event_once(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    lmtp, smtp = free_port(), free_port()
    both = top("both").replace('"both"', f'["lmtp:127.0.0.1:{lmtp}", "smtp:127.0.0.1:{smtp}"]')
    answered: dict[str, list[int]] = {"LHLO": [], "EHLO": []}
    begun: set[int] = set()
    locked = asyncio.Event()

    async def hand_over(left: list[tuple[int, str]], port: int, verb: str) -> None:
        client = await Client.to(port)
        try:
            await client.greet(verb)
            while left:
                if len(answered[verb]) >= 10:
                    await locked.wait()
                id_, recipient = left.pop()
                begun.add(id_)
                if not (await client.mail(PATHS.encode(id_), dsn(recipient))).startswith("250"):
                    return  # the connection is lost
                answered[verb].append(id_)
        finally:
            client.close()

    async with daemon(database, server.port, tmp_path, top=both) as first:
        sent = await messages(connection, MESSAGES)
        left = list(sent.items())
        peers = [
            asyncio.create_task(hand_over(left, port, verb)) for port, verb in [(lmtp, "LHLO"), (smtp, "EHLO")] * 4
        ]
        await until(lambda: min(map(len, answered.values())) >= 10, "some answered")
        other = await asyncpg.connect(database)
        await other.execute("BEGIN; LOCK mailerd.inbound_mail IN SHARE MODE")
        locked.set()
        await until(lambda: statement(connection, "mailerd:inbound", waiting=True), "a mail that cannot be stored")
        await asyncio.sleep(0.2)  # whoever answers before he has stored, does so now
        first.signal(signal.SIGKILL)
        await first.ended()
        await asyncio.gather(*peers, return_exceptions=True)
    taken = {*answered["LHLO"], *answered["EHLO"]}
    assert len(taken) < len(begun) < MESSAGES, "killed in the middle"
    stored = "SELECT unnest(recipients) FROM mailerd.inbound_mail"
    assert {PATHS.encode(id_) for id_ in taken} <= {row[0] for row in await connection.fetch(stored)}
    # Postgres carries out what its dead client has asked for: stored, and not answered.
    await other.close()

    async def carried_out() -> bool:
        return await statement(connection, "mailerd:inbound") is None

    await until(carried_out, "carried out")
    assert len(await connection.fetch(stored)) > len(taken)

    await readers_leases_run_out(connection)
    async with daemon(database, server.port, tmp_path, top=both):
        # Whoever got no answer comes again, also with what was stored after all; and so does one who was answered.
        again = [(id_, sent[id_]) for id_ in {*(begun - taken), answered["LHLO"][0]}]
        await hand_over(again, lmtp, "LHLO")
        await all_read(connection)
        assert await bounced(connection) == dict.fromkeys(begun, 1)
        assert await connection.fetchval("SELECT count(*) FROM mailerd.suppression") == len(begun)


async def test_the_reader_dies_between_event_and_mail(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    """The report has become an event, and its mail is not done with."""
    port = free_port()
    options = {"top": top(f"lmtp:127.0.0.1:{port}")}

    async def waiting() -> int | None:
        return await statement(connection, "mailerd:reports", waiting=True)

    async with daemon(database, server.port, tmp_path, **options) as first:
        sent = await messages(connection, 1)
        (id_, recipient), *_ = sent.items()
        events, mails = await asyncpg.connect(database), await asyncpg.connect(database)
        await events.execute("BEGIN; LOCK mailerd.event IN SHARE MODE")
        client = await Client.to(port)
        await client.greet()
        assert (await client.mail(PATHS.encode(id_), dsn(recipient))).startswith("250")
        await until(waiting, "the event about to be written")
        await mails.execute("BEGIN; SELECT FROM mailerd.inbound_mail FOR UPDATE")
        await events.execute("COMMIT")
        await until(lambda: bounced(connection), "the event written")
        last = await until(waiting, "the mail about to be done with")
        first.signal(signal.SIGKILL)
        await first.ended()
        client.close()
        # Postgres would carry out what its dead client has asked for.
        assert await connection.fetchval("SELECT pg_terminate_backend($1, 5000)", last)
        await events.close()
        await mails.close()
    await readers_leases_run_out(connection)
    async with daemon(database, server.port, tmp_path, **options):
        await all_read(connection)
        assert await bounced(connection) == {id_: 1}
        row = await connection.fetchrow("SELECT kind, message_id, attempts FROM mailerd.inbound_mail")
        assert tuple(row or ()) == ("bounce", id_, 2)
