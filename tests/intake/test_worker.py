"""From stored mail to reports about messages of ours, against a real outbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import asyncpg
import pytest

from mailerd.feedback import Feedback
from mailerd.intake.worker import Worker
from mailerd.message import Job
from mailerd.store import inbound as store
from mailerd.store.database import Session
from tests.intake.mails import AWAY, arf, dsn
from tests.intake.rig import PATHS, Applied, config

Connection = asyncpg.Connection
BOX = "bounces@shop.example"


class Bench:
    """A worker, what it told, and a way to give it mails."""

    def __init__(self, session: Session, database: str) -> None:
        self.session = session
        self.applied = Applied()
        self.seen: list[tuple[str, str]] = []
        self.worker = Worker(config(database), lambda *what: self.seen.append(what), self.applied)

    async def give(self, raw: bytes, to: str = BOX) -> store.Row:
        before = len(await store.listed(self.session, 1000))
        mail = store.Arrived(source="listen", raw=raw, size=len(raw), hashed=sha256(raw).digest(), recipients=(to,))
        await store.keep(self.session, [mail])
        while await self.worker.work():
            pass
        rows = await store.listed(self.session, 1000)
        assert len(rows) == before + 1
        return rows[0]

    @property
    def only(self) -> Feedback:
        (one,) = self.applied.told
        return one


@pytest.fixture
async def bench(session: Session, database: str) -> Bench:
    return Bench(session, database)


async def message(
    connection: Connection, recipient: str = "Ann <Ann@There.example>", **more: object
) -> tuple[int, str]:
    """(id, Message-ID without brackets) of a message, as the composer writes it."""
    names = "".join(f", {name}" for name in more)
    places = "".join(f", ${number + 2}" for number in range(len(more)))
    row = await connection.fetchrow(
        f"INSERT INTO mailerd.outbox (recipient, text_body{names}) VALUES ($1, 'x'{places}) RETURNING id, created_at",
        recipient,
        *more.values(),
    )
    assert row is not None
    micro = (row["created_at"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return row["id"], f"{row['id']}.{micro:x}@shop.example"


async def test_by_the_return_path(bench: Bench, connection: Connection) -> None:
    id_, _ = await message(connection)
    row = await bench.give(dsn("ann@there.example"), PATHS.encode(id_))
    assert (row.kind, row.message_id, row.matched_by, row.applied) == ("bounce", id_, "return_path", 1)
    assert row.read_at is not None
    told = bench.only
    assert (told.type, told.message_id, told.rcpt, told.recipient) == ("bounced", id_, 0, "ann@there.example")
    assert (told.code, told.enhanced, told.category, told.hard) == (550, "5.1.1", "recipient", True)
    assert (told.source, told.at) == ("mail", row.at)
    assert bench.seen == [("listen", "bounce")]


async def test_what_it_was_sent_to_may_stand_in_the_mail_alone(bench: Bench, connection: Connection) -> None:
    """A Maildir has no envelope."""
    id_, _ = await message(connection)
    row = await bench.give(dsn("ann@there.example", to=PATHS.encode(id_)))
    assert (row.message_id, row.matched_by) == (id_, "return_path")


async def test_by_our_message_id(bench: Bench, connection: Connection) -> None:
    id_, message_id = await message(connection)
    row = await bench.give(dsn("ann@there.example", message_id=message_id))
    assert (row.message_id, row.matched_by, bench.only.hard) == (id_, "message_id", True)


async def test_a_message_id_that_was_guessed_is_none(bench: Bench, connection: Connection) -> None:
    id_, message_id = await message(connection)
    guessed = f"{id_}.{int(message_id.partition('.')[2].partition('@')[0], 16) + 1:x}@shop.example"
    row = await bench.give(dsn("ann@there.example", message_id=guessed))
    assert (row.message_id, row.matched_by) == (None, "recipient")
    told = bench.only
    assert (told.message_id, told.hard, told.recipient) == (None, False, "ann@there.example")
    assert told.header_ids == (guessed,)


async def test_a_tampered_return_path_is_none(bench: Bench, connection: Connection) -> None:
    id_, _ = await message(connection)
    path = PATHS.encode(id_)
    forged = path[:-30] + ("0" if path[-30] != "0" else "1") + path[-29:]
    row = await bench.give(dsn("ann@there.example"), forged)
    assert row.message_id is None
    assert not bench.only.hard


async def test_by_a_providers_id(bench: Bench) -> None:
    ses = "0100018d1a2b3c4d-00000000-0000-0000-0000-000000000000-000000"
    row = await bench.give(dsn("ann@there.example", message_id=f"{ses}@email.amazonses.com"))
    assert row.matched_by == "provider_id"
    assert (bench.only.provider_message_id, bench.only.message_id, bench.only.hard) == (ses, None, True)


@pytest.mark.parametrize(
    "field",
    ['X-Mailgun-Variables: {{"mailerd_id": "{}"}}\n', "X-PM-Metadata-mailerd_id: {}\n"],
    ids=["mailgun", "postmark"],
)
async def test_by_a_field_that_a_provider_added_which_proves_nothing(
    bench: Bench, connection: Connection, field: str
) -> None:
    id_, _ = await message(connection)
    row = await bench.give(dsn("ann@there.example", returned=field.format(id_)))
    assert (row.message_id, row.matched_by) == (id_, "header")
    assert (bench.only.message_id, bench.only.rcpt, bench.only.hard) == (id_, 0, False)


async def test_an_address_that_we_did_not_write_to_is_never_dead(bench: Bench, connection: Connection) -> None:
    """Whoever gets a mail of ours could name anybody in a bounce of it."""
    id_, _ = await message(connection, cc=["carl@there.example"])
    await bench.give(dsn("victim@elsewhere.example"), PATHS.encode(id_))
    told = bench.only
    assert (told.message_id, told.rcpt, told.recipient, told.hard) == (id_, None, "victim@elsewhere.example", False)


async def test_a_forwarded_recipient_is_the_one_that_we_wrote_to(bench: Bench, connection: Connection) -> None:
    id_, _ = await message(connection)
    await bench.give(dsn("ann@forwarded.example"), PATHS.encode(id_))
    told = bench.only
    assert (told.rcpt, told.recipient, told.hard) == (0, "ann@there.example", True)
    assert told.metadata["reported"] == "ann@forwarded.example"


async def test_each_recipient_of_several(bench: Bench, connection: Connection) -> None:
    id_, _ = await message(connection, cc=["carl@there.example"], bcc=["Dora <DORA@there.example>"])
    await bench.give(dsn("Dora@There.Example"), PATHS.encode(id_))
    assert (bench.only.rcpt, bench.only.hard) == (2, True)


SAYS = (
    (dsn("ann@there.example", action="delayed", status="4.4.1", diagnostic="connection timed out"), "deferred"),
    (dsn("ann@there.example", status="5.2.2", diagnostic="552 5.2.2 mailbox is full"), "bounced"),
    (dsn("ann@there.example", status="5.7.1", diagnostic="550 5.7.1 blocked: your ip is listed"), "bounced"),
    (dsn("ann@there.example", action="delivered", status="2.0.0", diagnostic="250 ok"), "delivered"),
    (arf("abuse"), "complained"),
    (arf("opt-out"), "unsubscribed"),
    (arf("not-spam"), "unknown"),
    (arf("auth-failure"), "unknown"),
)


async def test_what_reports_say_that_writes_nobody_off(bench: Bench, connection: Connection) -> None:
    id_, _ = await message(connection)
    for mail, type_ in SAYS:
        bench.applied.told.clear()
        await bench.give(mail, PATHS.encode(id_))
        assert (bench.only.type, bench.only.hard, bench.only.recipient) == (type_, False, "ann@there.example"), mail


async def test_automatic_replies_are_a_class_and_no_report(bench: Bench, connection: Connection) -> None:
    id_, _ = await message(connection)
    row = await bench.give(AWAY, PATHS.encode(id_))
    assert (row.kind, row.message_id, row.applied) == ("auto_reply", id_, 0)
    row = await bench.give(b"Subject: hello\n\nHow are you?\n")
    assert (row.kind, row.message_id, row.matched_by) == ("other", None, None)
    assert not bench.applied.told


async def test_read_again_it_counts_once(bench: Bench, connection: Connection) -> None:
    id_, _ = await message(connection)
    row = await bench.give(dsn("ann@there.example"), PATHS.encode(id_))
    assert await store.replay(bench.session, [row.id, 999]) == [row.id]
    assert await bench.worker.work() == 1
    again = await store.row(bench.session, row.id)
    assert again is not None
    assert (again.applied, len(bench.applied.told)) == (1, 1)
    assert again.raw == dsn("ann@there.example")


async def test_one_that_fails_holds_up_no_other_and_is_given_up_at_last(
    bench: Bench, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ATTEMPTS", 2)
    bench.applied.wrong = RuntimeError("no\0 room")
    row = await bench.give(dsn("ann@there.example"))
    assert row.error is not None
    assert (row.kind, "no" in row.error) == (None, True)
    assert row.next_at is not None
    assert (await bench.give(AWAY)).kind == "auto_reply"
    await connection.execute("UPDATE mailerd.inbound_mail SET next_at = now() WHERE id = $1", row.id)
    await bench.worker.work()
    last = await store.row(bench.session, row.id)
    assert last is not None
    assert (last.kind, last.next_at) == ("unreadable", None)


async def test_a_mail_that_kills_its_reader_is_left_alone_at_last(bench: Bench, connection: Connection) -> None:
    await store.keep(bench.session, [store.Arrived(source="listen", raw=AWAY, size=1, hashed=b"x")])
    await connection.execute("UPDATE mailerd.inbound_mail SET attempts = $1", store.ATTEMPTS)
    assert await bench.worker.work() == 1
    assert await connection.fetchval("SELECT kind FROM mailerd.inbound_mail WHERE next_at IS NULL") == "unreadable"


async def test_who_dies_while_reading_leaves_it_to_others(bench: Bench, connection: Connection) -> None:
    mail = store.Arrived(source="listen", raw=AWAY, size=len(AWAY), hashed=b"x")
    await store.keep(bench.session, [mail])
    assert len(await store.take(bench.session, 10)) == 1
    assert await bench.worker.work() == 0
    await connection.execute("UPDATE mailerd.inbound_mail SET next_at = now()")
    assert await bench.worker.work() == 1


async def test_what_is_old_goes(session: Session, connection: Connection) -> None:
    for number in range(3):
        await store.keep(session, [store.Arrived(source="listen", raw=AWAY, size=1, hashed=bytes([number]))])
    await connection.execute("UPDATE mailerd.inbound_mail SET at = now() - interval '31 days' WHERE id < 3")
    assert await store.forget(session, 30 * 86400, batch=1) == 2
    assert len(await store.listed(session, 10)) == 1


def test_what_comes_out_of_the_composer_is_found() -> None:
    """The two sides of the Message-ID say the same."""
    from mailerd.compose.composer import Composer
    from mailerd.config.model import Config, Identity
    from mailerd.inbound.correlate import clues
    from mailerd.inbound.reader import read
    from tests.compose.jobs import job

    made: Job = job()
    composed = Composer(Config(identity=(Identity(name="main", sender="shop@shop.example"),))).compose(made)
    trail = clues(read(dsn("a@b.example", message_id=composed.message_id.strip("<>"))), (), None)
    created = made.created_at if made.created_at.tzinfo else made.created_at.replace(tzinfo=UTC)
    assert trail.stamped == ((made.id, (created - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)),)
