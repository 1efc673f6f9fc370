"""The suppression list: added, renewed, removed, listed, and read whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg

from mailerd.store import suppression
from mailerd.store.database import Session
from mailerd.store.gates import suppressed
from mailerd.store.suppression import Suppression

Connection = asyncpg.Connection


async def test_what_is_added_is_what_the_gate_stops(session: Session) -> None:
    soon, past = (datetime.now(UTC) + timedelta(hours=sign) for sign in (1, -1))
    entries = [
        Suppression(address="all@x.example", reason="complaint"),
        Suppression(address="one@x.example", stream="marketing", reason="unsubscribed"),
        Suppression(address="soon@x.example", until=soon),
        Suppression(address="past@x.example", until=past),
    ]
    assert await suppression.add(session, entries) == 4
    addresses = [e.address for e in entries] + ["free@x.example"]
    assert await suppressed(session, "marketing", addresses) == {
        "all@x.example": "complaint", "one@x.example": "unsubscribed", "soon@x.example": "manual"
    }  # fmt: skip
    assert set(await suppressed(session, "other", addresses)) == {"all@x.example", "soon@x.example"}


async def test_adding_again_renews_and_a_batch_may_repeat_itself(session: Session) -> None:
    assert await suppression.add(session, [Suppression(address="a@x.example", reason="one")]) == 1
    again = [Suppression(address="a@x.example", reason="two"), Suppression(address="a@x.example", reason="three")]
    assert await suppression.add(session, [*again, Suppression(address="a@x.example", stream="s")]) == 1
    found = {(e.address, e.stream): e.reason for e in await suppression.listed(session, 10)}
    assert found == {("a@x.example", ""): "three", ("a@x.example", "s"): "manual"}


async def test_removing_from_one_list_or_all(session: Session) -> None:
    await suppression.add(session, [Suppression(address="a@x.example", stream=s) for s in ("", "one", "two")])
    assert await suppression.remove(session, ["a@x.example"], "one") == [("a@x.example", "one")]
    assert await suppression.remove(session, ["a@x.example"], "one") == []
    assert sorted(await suppression.remove(session, ["a@x.example", "b@x.example"])) == [
        ("a@x.example", ""), ("a@x.example", "two")
    ]  # fmt: skip


async def test_listing_by_stream_reason_and_part(session: Session) -> None:
    await suppression.add(
        session,
        [
            Suppression(address="ann@x.example", reason="complaint"),
            Suppression(address="bob_1@y.example", stream="marketing"),
        ],
    )

    async def listed(**by: str) -> list[str]:
        return [e.address for e in await suppression.listed(session, 10, **by)]

    assert await listed(stream="") == ["ann@x.example"]
    assert await listed(stream="marketing") == ["bob_1@y.example"]
    assert await listed(reason="complaint") == ["ann@x.example"]
    assert await listed(part="B_1@Y") == ["bob_1@y.example"]
    assert await listed(part="%") == []


async def test_export_reads_every_page_once(session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.suppression (address, stream) "
        "SELECT 'u' || i / 2 || '@x.example', CASE i % 2 WHEN 0 THEN '' ELSE 's' END FROM generate_series(0, 12345) i"
    )
    pages = [page async for page in suppression.export(session)]
    keys = [(e.address, e.stream) for page in pages for e in page]
    assert max(map(len, pages)) <= suppression.PAGE
    assert len(keys) == 12346
    assert keys == sorted(set(keys))
    assert sum([len(page) async for page in suppression.export(session, "s")]) == 6173
