"""Warm-ups at work: whose limit a message counts against, what is left of it, and what goes to another pool."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from mailerd.config.model import Config, Domain, Pool
from mailerd.config.provider import Provider, Warmup
from mailerd.config.resolved import Resolved
from mailerd.flow.bucket import Bucket
from mailerd.flow.domains import Group, Groups
from mailerd.flow.warming import Warming
from mailerd.flow.warmup import Counts

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)  # the second day
TABLE: dict[str, Any] = {"begin": "2026-11-01", "days": (50, 100, 200)}


def warming(*, pool: Any = None, first: Any = None, second: Any = None) -> Warming:
    config = Config(
        pool=(
            Pool(
                name="cold", providers=("first", "second"), warmup=Warmup(**TABLE | pool) if pool is not None else None
            ),
            Pool(name="warm", providers=("old",)),
        ),
        provider=(
            Provider(name="first", warmup=Warmup(**TABLE | first) if first is not None else None),
            Provider(name="second", warmup=Warmup(**TABLE | second) if second is not None else None),
            Provider(name="old"),
        ),
        domain=(Domain(name="own", match=("own.example", "own.test")),),
    )
    resolved = Resolved(config)
    return Warming(resolved, Groups([Group(d.name, d.match, d.mx) for d in resolved.config.domain]))


def limits(its: Warming, domain: str = "own.example", provider: str = "first") -> dict[str, tuple[float, int]]:
    return {b.limit.key: (b.limit.rate, b.limit.quota) for b in its.of("cold", provider, domain)}


def granted(bucket: Bucket, tokens: int, at: float = 0.0) -> None:
    bucket.granted(tokens, at, 0.0, float("inf"), 0.0)


def fill(its: Warming, domain: str, tokens: int, provider: str = "first") -> None:
    for bucket in its.of("cold", provider, domain):
        granted(bucket, tokens)


def test_without_a_warmup_nothing_is_limited() -> None:
    none = warming()
    assert not none
    assert none.of("cold", "first", "a.example") == ()
    assert none.gate("cold", "a.example") is None
    assert not none.covers("cold", "first")
    assert not none.concerns("cold")


def test_until_the_days_are_known_nothing_is_sent() -> None:
    its = warming(pool={})
    assert [bucket.limit.stopped for bucket in its.of("cold", "first", "own.example")] == [True, True]
    gate = its.gate("cold", "own.example")
    assert gate is not None
    assert gate.room(0.0) == 0


def test_groups_have_their_own_limits_and_other_domains_one_together() -> None:
    its = warming(pool={})
    its.tell([], NOON)
    own = its.of("cold", "first", "own.example")
    assert own == its.of("cold", "second", "own.test")
    others = its.of("cold", "first", "a.example")
    assert others == its.of("cold", "first", "b.example")
    assert [b.limit.key for b in (*own, *others)] == [
        "warmup:pool:cold/domain:own",
        "pace:pool:cold/domain:own",
        "warmup:pool:cold/domain:*",
        "pace:pool:cold/domain:*",
    ]
    assert {b.kind for b in own} == {"warmup"}
    assert len(list(its.buckets())) == 4


def test_one_limit_for_all_mail() -> None:
    its = warming(pool={"domains": False})
    its.tell([], NOON)
    assert its.of("cold", "first", "own.example") == its.of("cold", "first", "a.example")
    assert list(limits(its)) == ["warmup:pool:cold", "pace:pool:cold"]


def test_the_day_has_its_limit_and_the_rest_of_it_is_spread() -> None:
    its = warming(pool={})
    its.tell([("pool:cold", NOON.date(), "own", Counts(sent=40))], NOON)
    found = limits(its)
    assert found["warmup:pool:cold/domain:own"] == (0.0, 100)
    assert found["pace:pool:cold/domain:own"] == (pytest.approx(1 / 60), 0)  # not 60 in 12 h: one a minute at least
    its.tell([("pool:cold", NOON.date(), "own", Counts(sent=40))], NOON + timedelta(days=1))
    assert limits(its)["warmup:pool:cold/domain:own"] == (0.0, 200)


def test_before_the_first_day_it_stands_and_after_the_last_it_is_over() -> None:
    its = warming(pool={})
    its.tell([], NOON - timedelta(days=3))
    (quota, pace) = its.of("cold", "first", "own.example")
    assert quota.limit.stopped
    assert pace.limit.stopped
    assert quota.limit.words == "it begins on 2026-11-01"
    changed = its.tell([], NOON + timedelta(days=2))
    assert changed
    assert its.of("cold", "first", "own.example") == ()
    gate = its.gate("cold", "own.example")
    assert gate is not None
    assert gate.room(0.0) > 1_000_000


def test_a_bad_day_ends_and_is_done_again() -> None:
    its = warming(pool={})
    bad = ("pool:cold", NOON.date(), "own", Counts(sent=90, rejected=10))
    fill(its, "own.example", 5)
    its.tell([bad], NOON)
    (quota, _) = its.of("cold", "first", "own.example")
    assert quota.limit.stopped
    assert quota.room(1.0) == 0
    assert "10 of 100 messages bounced or were refused" in quota.limit.words
    assert quota.limit.until == datetime(2026, 11, 3, tzinfo=UTC)
    assert not [b for b in its.of("cold", "first", "a.example") if b.limit.stopped]  # others had a good one
    its.tell([bad], NOON + timedelta(days=1))
    assert limits(its)["warmup:pool:cold/domain:own"] == (0.0, 100)
    assert limits(its, "a.example")["warmup:pool:cold/domain:*"] == (0.0, 200)


def test_lanes_are_leased_no_further_than_their_tokens() -> None:
    its = warming(pool={})
    its.tell([], NOON)
    gate = its.gate("cold", "own.example")
    assert gate is its.gate("cold", "own.test")
    assert gate is not None
    assert gate.room(1.0) == 0
    fill(its, "own.example", 3)
    assert gate.room(2.0) == 3
    gate.take(2, 2.0)
    assert gate.room(2.0) == 1
    gate.refund(1)
    gate.spent(1)
    assert gate.room(2.0) == 3


def test_of_several_providers_each_adds_its_own() -> None:
    its = warming(first={}, second={"days": (10,)})
    its.tell([], NOON)  # the second one's schedule is over
    gate = its.gate("cold", "own.example")
    assert gate is not None
    assert gate.room(1.0) > 1_000_000
    its = warming(first={}, second={})
    its.tell([], NOON)
    gate = its.gate("cold", "own.example")
    assert gate is not None
    fill(its, "own.example", 3)
    fill(its, "own.example", 4, provider="second")
    assert gate.room(1.0) == 7


def test_a_provider_beside_one_that_is_warm_holds_no_lane() -> None:
    its = warming(first={})
    its.tell([], NOON)
    assert its.gate("cold", "own.example") is None
    assert not its.wants("cold", "first", "own.example", 1.0)
    assert its.wants("cold", "second", "own.example", 1.0)


def test_what_has_no_token_goes_to_the_overflow() -> None:
    its = warming(pool={"overflow": ("warm",)})
    providers = ("first", "second")
    assert its.gate("cold", "own.example") is None
    assert not its.spills("cold", providers, "own.example", 0.0, 9.0)  # nothing is known yet
    its.tell([], NOON)
    assert not its.spills("cold", providers, "own.example", 1.0, 0.5)  # a token may be on its way
    assert its.spills("cold", providers, "own.example", 1.0, 1.0)
    its.of("cold", "first", "own.example")[1].granted(0, 0.0, 0.0, 0.0, 60.0)
    assert its.spills("cold", providers, "own.example", 1.0, 0.0)  # none comes within the next minute
    fill(its, "own.example", 1)
    assert not its.spills("cold", providers, "own.example", 2.0, 9.0)
    assert its.wants("cold", "first", "own.example", 2.0)


def test_what_was_noted_and_not_stored_is_not_lost() -> None:
    its = warming(pool={}, first={"domains": False})
    its.note("cold", "first", "own.example", 2, 1)
    its.note("cold", "second", "a.example", 1, 0)
    seen = its.seen()
    assert seen == {
        ("pool:cold", "own"): Counts(sent=2, rejected=1),
        ("provider:first", ""): Counts(sent=2, rejected=1),
        ("pool:cold", "*"): Counts(sent=1),
    }
    assert its.seen() == {}
    its.note("cold", "first", "own.example", 1, 0)
    its.unseen(seen)
    assert its.seen()["pool:cold", "own"] == Counts(sent=3, rejected=1)


def test_its_days_are_its_own_zones() -> None:
    its = warming(pool={"zone": "Pacific/Kiritimati"})
    assert its.zones == {"pool:cold": "Pacific/Kiritimati"}
    its.tell([("pool:cold", date(2026, 11, 3), "own", Counts(sent=90, rejected=90))], NOON)  # there it is the third
    assert its.of("cold", "first", "own.example")[0].limit.stopped
