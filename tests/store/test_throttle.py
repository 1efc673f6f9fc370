"""Tokens from the row that all instances share: never more than the rate, what goes back counts, windows end."""

from __future__ import annotations

import asyncio
import math
import time

import asyncpg
import msgspec
import pytest

from mailerd.config.model import Database
from mailerd.flow.aimd import Aimd
from mailerd.flow.bucket import HORIZON, Ask, Limit
from mailerd.store.database import Session
from mailerd.store.throttle import clear_rate, grant, learn, make_buckets, overrides, set_rate
from mailerd.store.upkeep import forget_rates

Connection = asyncpg.Connection


def rate(per_second: float, key: str = "provider:p") -> Limit:
    return Limit(key=key, rate=per_second)


async def test_a_fresh_bucket_gives_a_burst_and_what_lies_ahead(session: Session) -> None:
    await make_buckets(session, ["provider:p"])
    before = time.monotonic()
    answer = (await grant(session, [Ask(rate(100), 1000, 0)]))["provider:p"]
    after = time.monotonic()
    # 15 at once, and three quarters of a second ahead.
    assert answer.tokens == pytest.approx(15 + 75, abs=1)
    assert answer.step == pytest.approx(0.01)
    assert before - 0.15 <= answer.first <= after - 0.13
    again = (await grant(session, [Ask(rate(100), 1000, 0)]))["provider:p"]
    assert again.tokens <= 10  # as many as time has passed since
    assert again.quiet_until == 0.0 or again.quiet_until <= time.monotonic() + 0.02


async def test_many_that_ask_at_once_get_no_more_than_one_would(settings: Database) -> None:
    sessions = [Session(settings, f"ask{n}") for n in range(6)]
    try:
        await make_buckets(sessions[0], ["provider:p", "pool:q"])
        limits = [rate(500), rate(200, "pool:q")]
        begin = time.monotonic()
        total = {"provider:p": 0, "pool:q": 0}

        async def asks(session: Session) -> None:
            while time.monotonic() - begin < 1.0:
                for key, answer in (await grant(session, [Ask(limit, 40, 0) for limit in limits])).items():
                    total[key] += answer.tokens

        await asyncio.gather(*(asks(session) for session in sessions))
        passed = time.monotonic() - begin
    finally:
        for session in sessions:
            await session.close()
    for limit in limits:
        most = limit.rate * (passed + HORIZON) + limit.burst
        assert most * 0.9 <= total[limit.key] <= most + 1


async def test_what_goes_back_can_be_had_again(session: Session) -> None:
    await make_buckets(session, ["provider:p"])
    first = (await grant(session, [Ask(rate(100), 1000, 0)]))["provider:p"]
    back = (await grant(session, [Ask(rate(100), 0, first.tokens)]))["provider:p"]
    assert back.tokens == 0
    again = (await grant(session, [Ask(rate(100), 1000, 0)]))["provider:p"]
    assert again.tokens >= first.tokens - 1


async def test_a_slow_limit_says_when_to_come_back(session: Session) -> None:
    await make_buckets(session, ["provider:p"])
    first = (await grant(session, [Ask(rate(1 / 60), 5, 0)]))["provider:p"]
    assert first.tokens == 1
    now = time.monotonic()
    second = (await grant(session, [Ask(rate(1 / 60), 5, 0)]))["provider:p"]
    assert second.tokens == 0
    assert second.quiet_until - now == pytest.approx(60 - HORIZON, abs=1)


async def test_a_rate_that_is_raised_holds_at_once(session: Session) -> None:
    await make_buckets(session, ["provider:p"])
    await grant(session, [Ask(rate(1 / 60), 5, 0)])
    assert (await grant(session, [Ask(rate(100), 5, 0)]))["provider:p"].tokens == 5


async def test_a_quota_ends_and_begins_again_with_its_window(session: Session, connection: Connection) -> None:
    limit = Limit(key="quota:p", quota=25, period="day", zone="Asia/Kolkata")
    await make_buckets(session, ["quota:p"])
    first = (await grant(session, [Ask(limit, 20, 0)]))["quota:p"]
    assert first.tokens == 20
    assert first.quiet_until == 0.0
    assert 0 < first.ends - time.monotonic() <= 86400
    second = (await grant(session, [Ask(limit, 20, 0)]))["quota:p"]
    assert second.tokens == 5
    assert second.quiet_until == pytest.approx(first.ends, abs=1)
    none = (await grant(session, [Ask(limit, 20, 3)]))["quota:p"]
    assert none.tokens == 3  # those that came back
    ends = await connection.fetchval("SELECT ends FROM mailerd.throttle WHERE key = 'quota:p'")
    midnight = await connection.fetchval(
        "SELECT (date_trunc('day', now() AT TIME ZONE 'Asia/Kolkata') + interval '1 day') AT TIME ZONE 'Asia/Kolkata'"
    )
    assert ends == midnight
    await connection.execute("UPDATE mailerd.throttle SET ends = now() - interval '1 second'")
    tomorrow = (await grant(session, [Ask(limit, 20, 7)]))["quota:p"]
    assert tomorrow.tokens == 20  # and what came back from yesterday counts for nothing
    assert await connection.fetchval("SELECT used FROM mailerd.throttle WHERE key = 'quota:p'") == 20


async def test_a_bucket_whose_row_is_gone_is_missing_in_the_answer(session: Session) -> None:
    await make_buckets(session, ["pool:a"])
    found = await grant(session, [Ask(rate(10, "pool:a"), 1, 0), Ask(rate(10, "pool:b"), 1, 0)])
    assert list(found) == ["pool:a"]


async def test_rates_that_hold_for_now(session: Session, connection: Connection) -> None:
    assert await overrides(session) == []
    assert await set_rate(session, "provider:p", "operator", 5.0, None, "why", "ann", "5/s: why") is None
    assert await set_rate(session, "provider:p", "operator", 7.0, 3600, "more", "ann", "7/s") == 5.0
    assert await set_rate(session, "pool:q/domain:gmail", "reply", 0.0, -1.0, "past", "mailerd", "") is None
    (held,) = await overrides(session)
    assert (held.key, held.source, held.rate) == ("provider:p", "operator", 7.0)
    assert held.left is not None
    assert math.isclose(held.left, 3600, abs_tol=5)
    assert await clear_rate(session, "provider:p", "bob") == ["operator"]
    assert await clear_rate(session, "provider:p", "bob") == []
    actions = await connection.fetch("SELECT actor, detail FROM mailerd.audit WHERE target = 'provider:p' ORDER BY id")
    assert [tuple(row) for row in actions] == [
        ("ann", "5/s: why"),
        ("ann", "7/s"),
        ("bob", "back to the configuration (was: operator)"),
    ]


async def test_what_is_learnt_is_changed_under_a_lock(
    settings: Database, session: Session, connection: Connection
) -> None:
    key = "pool:p/domain:gmail"

    def more(state: Aimd, now: float) -> Aimd:
        return msgspec.structs.replace(state, rate=(state.rate or 0.0) + 1.0, refused_at=now, ceiling=50.0)

    sessions = [Session(settings, f"learn{n}") for n in range(4)]
    await learn(session, {key: more})
    try:
        await asyncio.gather(*(learn(one, {key: more}) for one in sessions for _ in range(1)))
    finally:
        for one in sessions:
            await one.close()
    ((rate_, source, reason),) = await connection.fetch("SELECT rate, source, reason FROM mailerd.throttle_rate")
    assert (rate_, source) == (5.0, "learned")
    assert reason == "learnt from refusals, refused at 50/s"
    assert [held.key for held in await overrides(session)] == [key]
    await learn(session, {key: lambda state, now: Aimd()})
    assert await overrides(session) == []


async def test_a_state_that_cannot_be_read_is_forgotten_and_a_rate_that_is_no_number_is_none(
    session: Session, connection: Connection
) -> None:
    await connection.execute(
        "INSERT INTO mailerd.throttle_rate (key, source, rate, state) VALUES ('pool:p/domain:x', 'learned', 'NaN', '{\"rate\": \"?\"}')"
    )
    assert await overrides(session) == []
    seen: list[Aimd] = []

    def look(state: Aimd, now: float) -> Aimd:
        seen.append(state)
        return Aimd(rate=3.0, refused_at=now)

    await learn(session, {"pool:p/domain:x": look})
    assert seen == [Aimd()]
    assert [held.rate for held in await overrides(session)] == [3.0]


async def test_what_is_over_is_forgotten_after_a_day(session: Session, connection: Connection) -> None:
    await make_buckets(session, ["pool:p/domain:old", "pool:p/domain:new", "pool:p"])
    await grant(session, [Ask(rate(1, "pool:p/domain:new"), 1, 0)])
    await set_rate(session, "pool:p", "reply", 1.0, -90000.0, None, "mailerd", "")
    await set_rate(session, "pool:p", "operator", 1.0, None, None, "ann", "")
    await forget_rates(session)
    assert {row[0] for row in await connection.fetch("SELECT key FROM mailerd.throttle")} == {
        "pool:p",
        "pool:p/domain:new",
    }
    assert [row[0] for row in await connection.fetch("SELECT source FROM mailerd.throttle_rate")] == ["operator"]
