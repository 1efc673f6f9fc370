"""Pause, resume and cancel hold for everybody and leave their trace."""

from __future__ import annotations

import asyncpg
import pytest

from mailerd.store import control
from mailerd.store.database import Session
from mailerd.store.instances import beat
from tests.store.rows import fill, take

Connection = asyncpg.Connection
ANN = "ann@ops1"


async def paused(session: Session, kind: str) -> frozenset[str]:
    """What an instance reads with its heartbeat."""
    found: frozenset[str] = getattr((await beat(session, 7, "mail-7", ["marketing"], "running", [])).paused, kind)
    return found


@pytest.mark.parametrize("kind", control.KINDS)
async def test_instances_read_what_is_paused(session: Session, connection: Connection, kind: str) -> None:
    assert await control.pause(session, kind, "a.example", ANN, "they asked") is True
    assert await paused(session, kind) == {"a.example"}
    assert await control.pause(session, kind, "a.example", "bob@ops2") is False
    row = await connection.fetchrow("SELECT kind, name, actor, reason FROM mailerd.lane_control")
    assert tuple(row) == (kind, "a.example", ANN, "they asked"), "a second pause takes nothing over"
    assert await control.resume(session, kind, "a.example", ANN) is True
    assert await control.resume(session, kind, "a.example", ANN) is False
    assert await paused(session, kind) == set()
    audit = await connection.fetch("SELECT actor, action, target, detail FROM mailerd.audit ORDER BY id")
    assert [tuple(a) for a in audit] == [
        (ANN, "pause", f"{kind}:a.example", "they asked"),
        (ANN, "resume", f"{kind}:a.example", None),
    ]


async def test_a_new_reason_replaces_the_old_one(session: Session, connection: Connection) -> None:
    await control.pause(session, "stream", "marketing", ANN, "first")
    assert await control.pause(session, "stream", "marketing", "bob@ops2", "second") is True
    assert await connection.fetchval("SELECT actor || ': ' || reason FROM mailerd.lane_control") == "bob@ops2: second"


async def test_an_internationalised_domain_is_paused_in_both_spellings(session: Session) -> None:
    for name in ("München.example", "xn--mnchen-3ya.example"):
        assert await control.pause(session, "domain", name, ANN) is True
        assert await paused(session, "domain") == {"münchen.example", "xn--mnchen-3ya.example"}
        assert await control.resume(session, "domain", name, ANN) is True
        assert await paused(session, "domain") == set()
    assert control.spellings("domain", "xn--\u0000.example") == ["xn--\u0000.example"]


async def test_known_names_come_from_live_instances_and_published_streams(
    session: Session, connection: Connection
) -> None:
    await connection.execute("INSERT INTO mailerd.stream (name) VALUES ('published')")
    await beat(session, 7, "mail-7", ["marketing"], "running", [])
    await connection.execute("UPDATE mailerd.instance SET providers = '{relay}'")
    assert await control.known(session, "stream") == {"published", "marketing"}
    assert await control.known(session, "provider") == {"relay"}
    await connection.execute("UPDATE mailerd.instance SET seen_at = now() - interval '1 minute'")
    assert await control.known(session, "stream") == {"published"}
    assert await control.known(session, "provider") == set()


async def test_cancel_is_audited_for_those_it_took(session: Session, connection: Connection) -> None:
    leased, waiting = await fill(connection, 2)
    await take(session, 1)
    assert await control.cancel(session, [leased, waiting, 42], ANN) == {leased: False, waiting: True, 42: False}
    assert [tuple(r) for r in await connection.fetch("SELECT actor, action, target FROM mailerd.audit")] == [
        (ANN, "cancel", f"message:{waiting}")
    ]


async def test_cancel_refuses_what_a_dead_instance_may_have_sent(session: Session, connection: Connection) -> None:
    """True means that it will never have been sent; of a lease that ran out nobody can say so."""
    (id_,) = await fill(connection, 1)
    await take(session, 1)
    await connection.execute("UPDATE mailerd.ready SET lease_until = now() - interval '1 minute'")
    assert await control.cancel(session, [id_], ANN) == {id_: False}
    assert await connection.fetchval("SELECT count(*) FROM mailerd.ready") == 1
