"""Which lanes are asked, in which order, for how many."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.flow import lanes as module
from mailerd.flow.bucket import Bucket, Limit
from mailerd.flow.lanes import MOST_LANES, Lane, Lanes, Plan, Rules
from mailerd.message import Job, Lease


def names(plans: list[Plan]) -> list[tuple[int, str]]:
    return [(p.lane.priority, p.lane.domain) for p in plans]


def jobs(first: int, count: int) -> list[Job]:
    """So many rows, from this id up."""
    created = datetime(2026, 1, 1, tzinfo=UTC)
    lease = Lease(1, 60.0)
    return [
        Job(id=first + i, stream="s", priority=5, domain="a", campaign="", lease=lease, created_at=created)
        for i in range(count)
    ]


def full(plans: list[Plan]) -> dict[tuple[int, str, str], list[Job]]:
    """A lease that found all that was asked for."""
    return {(p.lane.priority, p.lane.domain, p.lane.campaign): jobs(1, p.quota) for p in plans}


def test_the_most_urgent_class_goes_first_and_shares_the_room() -> None:
    lanes = Lanes(60)
    for domain in "abc":
        lanes.hint(5, domain, "", 0.0)
    lanes.hint(1, "u", "", 0.0)
    lanes.hint(1, "v", "", 0.0)
    first = lanes.plan(101, 0.0)
    assert names(first) == [(1, "u"), (1, "v")]
    assert [p.quota for p in first] == [51, 50]
    lanes.leased(first, {}, 0.0)
    assert names(lanes.plan(100, 0.0)) == [(5, "a"), (5, "b"), (5, "c")]


def test_a_lane_that_gave_all_stays_and_one_that_gave_less_goes() -> None:
    lanes = Lanes(60)
    lanes.hint(5, "a", "", 0.0)
    lanes.hint(5, "b", "", 0.0)
    plans = lanes.plan(10, 0.0)
    lanes.leased(plans, {(5, "a", ""): jobs(1, 5)}, 0.0)
    assert names(lanes.plan(10, 0.0)) == [(5, "a")]


def test_ageing_lets_a_waiting_class_through_once() -> None:
    lanes = Lanes(10)
    lanes.hint(9, "old", "", 0.0)
    for now in range(0, 200, 5):
        lanes.hint(0, "new", "", float(now))
        plans = lanes.plan(10, float(now))
        lanes.leased(plans, full(plans), float(now))
        if names(plans) == [(9, "old")]:
            break
    else:
        pytest.fail("starved")
    assert now == 100  # nine classes of ten seconds, and more urgent than the urgent one ten later
    plans = lanes.plan(10, float(now))
    assert names(plans) == [(0, "new")]


def test_without_ageing_priorities_are_strict() -> None:
    lanes = Lanes(0)
    lanes.hint(9, "old", "", 0.0)
    lanes.hint(0, "new", "", 1e6)
    assert names(lanes.plan(10, 1e6)) == [(0, "new")]


def test_paused_lanes_are_neither_taken_in_nor_planned() -> None:
    lanes = Lanes(60)
    lanes.hint(5, "a", "", 0.0)
    lanes.close(lambda domain, campaign: domain == "a")
    assert lanes.plan(10, 0.0) == []
    assert not lanes.hint(5, "a", "", 0.0)
    lanes.close(lambda domain, campaign: False)
    assert lanes.hint(5, "a", "", 0.0)


def leased(lanes: Lanes, now: float, first: int, count: int = 10, room: int = 10) -> int:
    """Plans and leases from the one lane; the id from which it looked."""
    (plan,) = lanes.plan(room, now)
    lanes.leased([plan], {(5, "a", ""): jobs(first, count)} if count else {}, now)
    return plan.low


def test_the_low_water_trails() -> None:
    lanes = Lanes(60)
    lanes.hint(5, "a", "", 0.0)
    lows = [leased(lanes, tenth / 10, 1000 + tenth) for tenth in range(0, 61, 5)]
    assert lows == [0, 0, 0, 1000, 1000, 1010, 1010, 1020, 1020, 1030, 1030, 1040, 1040]


def settled(lanes: Lanes) -> None:
    """The one lane has marks: 1012 is looked from."""
    lanes.hint(5, "a", "", 0.0)
    for second in (0, 12, 24):
        leased(lanes, float(second), 1000 + second)


def test_a_hint_that_names_an_id_is_looked_from_until_there_is_no_more() -> None:
    """Retries come back under their old ids; late commits and leases that ran out are found by the sweep. They share the
    lane's quota with the others, one to one."""
    lanes = Lanes(60)
    settled(lanes)
    lanes.hint(5, "a", "", 25.0, swept=True, first=7)
    (plan,) = lanes.plan(10, 25.0)
    assert (plan.look, plan.older, plan.low, plan.quota) == (7, 5, 1012, 10)
    lanes.leased([plan], {(5, "a", ""): [*jobs(7, 5), *jobs(1030, 5)]}, 25.0)
    (plan,) = lanes.plan(10, 25.1)
    assert (plan.look, plan.older) == (7, 5)  # as many as asked: there may be more
    lanes.leased([plan], {(5, "a", ""): [*jobs(12, 3), *jobs(1035, 5)]}, 25.1)
    (plan,) = lanes.plan(10, 25.2)
    assert (plan.look, plan.older, plan.low) == (0, 0, 1024)  # fewer: back to the mark, which they have not moved
    lanes.leased([plan], {(5, "a", ""): jobs(1040, 10)}, 25.2)
    lanes.hint(5, "a", "", 25.3, first=2000)
    assert lanes.plan(10, 25.3)[0].older == 0  # what lies above the mark is found anyhow


def test_older_ones_alone_keep_a_lane_awake_until_they_are_through() -> None:
    lanes = Lanes(60)
    settled(lanes)
    lanes.hint(5, "a", "", 25.0, first=7)
    (plan,) = lanes.plan(10, 25.0)
    lanes.leased([plan], {(5, "a", ""): jobs(7, 5)}, 25.0)
    (plan,) = lanes.plan(10, 25.1)
    assert plan.older == 5
    lanes.leased([plan], {(5, "a", ""): jobs(12, 2)}, 25.1)
    assert lanes.plan(10, 25.2) == []


def test_with_one_token_a_turn_both_kinds_take_turns() -> None:
    lanes = Lanes(60)
    settled(lanes)
    lanes.hint(5, "a", "", 25.0, first=7)
    kinds = []
    for n in range(6):
        (plan,) = lanes.plan(1, 25.0 + n / 10)
        kinds.append(plan.older)
        lanes.leased([plan], {(5, "a", ""): jobs(7 + n if plan.older else 1100 + n, 1)}, 25.0 + n / 10)
    assert kinds in ([0, 1] * 3, [1, 0] * 3)


class Terms(Rules):
    """Every lane falls under the same limit, and those of `free.example` under none."""

    def __init__(self, *permits: Bucket) -> None:
        self._permits = permits

    def permits(self, lane: Lane) -> tuple[Bucket, ...]:
        return () if lane.domain == "free.example" else self._permits

    def weight(self, campaign: str) -> int:
        return 3 if campaign == "heavy" else 1


def limited(tokens: int, now: float = 0.0, rate: float = 100.0) -> Bucket:
    bucket = Bucket(Limit(key="domain:d", rate=rate))
    bucket.granted(tokens, now, 0.0, math.inf, 0.0)
    return bucket


def test_a_lane_takes_its_tokens_along_and_gives_back_what_it_did_not_use() -> None:
    lanes, bucket, other = Lanes(60), limited(20), limited(8)
    lanes.rules = Terms(bucket, other)
    lanes.hint(5, "a", "", 0.0)
    (plan,) = lanes.plan(100, 0.0)
    assert plan.quota == 8  # the shortest decides, and nobody holds half of what it needs
    assert (bucket.stock, other.stock) == (12, 0)
    lanes.leased([plan], {(5, "a", ""): (rows := jobs(1, 3))}, 0.0)
    assert (bucket.stock, other.stock, bucket.held, other.held) == (17, 5, 3, 3)
    assert all(job.permits == (bucket, other) for job in rows)
    lanes.hint(5, "a", "", 0.0)
    plans = lanes.plan(100, 0.0)
    lanes.unleased(plans)
    assert (bucket.stock, other.stock) == (17, 5)


def test_a_lane_without_tokens_is_parked_and_holds_up_nobody() -> None:
    lanes, bucket = Lanes(60), limited(0)
    lanes.rules = Terms(bucket)
    for n in range(1000):
        lanes.hint(5, f"d{n}.example", "", 0.0)
    lanes.hint(5, "free.example", "", 0.0)
    assert [plan.lane.domain for plan in lanes.plan(100, 0.0)] == ["free.example"]
    assert lanes.active() == 1000
    assert not lanes.hint(5, "d5.example", "", 1.0)  # known, and waits
    assert lanes.plan(100, 1.0) == []
    bucket.granted(7, 2.0, 0.0, math.inf, 0.0)
    plans = lanes.plan(100, 2.0)
    assert [plan.lane.domain for plan in plans] == [f"d{n}.example" for n in range(7)]  # who came first
    assert [plan.quota for plan in plans] == [1] * 7
    lanes.leased(plans, full(plans), 2.0)
    bucket.granted(3, 3.0, 0.0, math.inf, 0.0)
    assert [plan.lane.domain for plan in lanes.plan(100, 3.0)] == ["d7.example", "d8.example", "d9.example"]


def test_tokens_that_come_between_two_looks_are_found_by_a_next_one() -> None:
    """They may be gone again before the next occasion."""
    lanes, bucket = Lanes(60), limited(0)
    lanes.rules = Terms(bucket)
    lanes.hint(5, "d.example", "", 1.0)
    assert lanes.plan(10, 1.0) == []
    assert lanes.plan(10, 2.0) == []  # looks
    bucket.granted(3, 2.0, 0.0, math.inf, 0.0)
    assert lanes.plan(10, 2.01) == []  # too soon to look again
    assert lanes.opens == pytest.approx(2.0 + module.UNPARK)
    assert [plan.quota for plan in lanes.plan(10, lanes.opens + 0.001)] == [3]


def test_lanes_of_one_limit_share_it_by_weight() -> None:
    lanes, bucket = Lanes(60), limited(0)
    lanes.rules = Terms(bucket)
    for campaign in ("a", "heavy", "b"):
        lanes.hint(5, "d.example", campaign, 0.0)
    taken: Counter[str] = Counter()
    for turn in range(100):
        bucket.granted(2, float(turn), 0.0, math.inf, 0.0)
        plans = lanes.plan(100, float(turn))
        for plan in plans:
            taken[plan.lane.campaign] += plan.quota
        lanes.leased(plans, full(plans), float(turn))
    assert sum(taken.values()) == 200
    assert taken["a"] == pytest.approx(40, abs=6)
    assert taken["heavy"] == pytest.approx(120, abs=12)


def test_when_the_limits_change_those_that_are_parked_look_again() -> None:
    lanes, bucket = Lanes(60), limited(0)
    lanes.rules = Terms(bucket)
    lanes.hint(5, "d.example", "", 0.0)
    assert lanes.plan(10, 0.0) == []
    lanes.rules = Terms()
    lanes.rules.version = 1
    lanes.recheck()
    assert [plan.quota for plan in lanes.plan(10, 0.0)] == [10]


def test_a_full_memory_gives_up_a_parked_lane_for_an_urgent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SWEPT", 4)
    monkeypatch.setattr(module, "_MOST_ACTIVE", 4)
    lanes, bucket = Lanes(60), limited(0)
    lanes.rules = Terms(bucket)
    for n in range(4):
        lanes.hint(7, f"d{n}.example", "", 0.0)
    assert lanes.plan(10, 0.0) == []
    assert not lanes.hint(8, "x.example", "", 0.0)
    assert lanes.hint(0, "free.example", "", 0.0)
    assert lanes.active() == 4
    assert [plan.lane.domain for plan in lanes.plan(10, 0.0)] == ["free.example"]


def test_now_and_then_one_lane_of_a_lease_is_looked_through_from_its_start() -> None:
    lanes = Lanes(60)
    for second in (0, 12, 24):
        for domain in "ab":
            lanes.hint(5, domain, "", float(second))
        plans = lanes.plan(20, float(second))
        lanes.leased(plans, {(5, d, ""): jobs(1000, 10) for d in "ab"}, float(second))
    plans = lanes.plan(20, 700.0)
    assert sorted(plan.low for plan in plans) == [0, 1000]
    lanes.leased(plans, {(5, d, ""): jobs(1000, 10) for d in "ab"}, 700.0)
    assert sorted(plan.low for plan in lanes.plan(20, 701.0)) == [0, 1000]  # the other one


def test_a_swept_lane_that_was_empty_rests_but_a_hint_wakes_it() -> None:
    lanes = Lanes(60)
    lanes.hint(5, "a", "", 0.0)
    lanes.leased(lanes.plan(10, 0.0), {}, 0.0)
    assert not lanes.hint(5, "a", "", 0.5, swept=True)
    assert lanes.hint(5, "a", "", 0.5)


@given(st.integers(1, 5000), st.integers(1, 600))
def test_quotas_add_up_to_the_room(room: int, count: int) -> None:
    lanes = Lanes(60)
    for i in range(count):
        lanes.hint(5, f"d{i}", "", 0.0)
    plans = lanes.plan(room, 0.0)
    assert sum(p.quota for p in plans) == room
    assert len(plans) == min(room, count, MOST_LANES)
    assert all(p.quota >= 1 for p in plans)


def test_lanes_take_turns() -> None:
    lanes = Lanes(60)
    for i in range(600):
        lanes.hint(5, f"d{i}", "", 0.0)
    seen: list[str] = []
    for _ in range(3):
        plans = lanes.plan(1000, 0.0)
        seen += [p.lane.domain for p in plans]
        lanes.leased(plans, full(plans), 0.0)
    assert len(set(seen)) == 600


def test_new_lanes_beyond_the_limit_do_not_each_walk_all_the_others() -> None:
    lanes = Lanes(60)
    for i in range(100_000):
        lanes.hint(5, f"d{i}", "", 0.0)
    known = lanes._known
    for i in range(500):
        assert lanes.hint(5, f"e{i}", "", 0.0)
    assert lanes._known is known  # and not a copy of what is worth keeping
    assert lanes.active() == 100_500


def test_lanes_that_are_no_longer_active_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN_LIMIT", 100)
    lanes = Lanes(60)
    for i in range(200):
        lanes.hint(5, f"d{i}", "", 0.0)
    assert len(lanes._known) == 200
    for i in range(200, 5000):
        lanes.leased(lanes.plan(1, float(i)), {}, float(i))
        assert lanes.hint(5, f"d{i if i % 3 else i - 250}", "", float(i))  # some come again
    assert lanes.active() == 200
    assert len(lanes._known) <= 201
    taken: set[str] = set()
    while plans := lanes.plan(1000, 5000.0):
        taken |= {p.lane.domain for p in plans}
        lanes.leased(plans, {}, 5000.0)
    assert len(taken) == 200
    for i in range(200):
        lanes.hint(5, f"n{i}", "", 5000.0)
        lanes.leased(lanes.plan(1000, 5000.0), {}, 5000.0)
    assert len(lanes._known) <= 100


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Lanes:
    """As many active lanes as the sweep may bring: 20, of which the last is the least urgent; 40 is the most."""
    monkeypatch.setattr(module, "_MOST_SWEPT", 20)
    monkeypatch.setattr(module, "_MOST_ACTIVE", 40)
    lanes = Lanes(60)
    for i in range(20):
        assert lanes.hint(5, f"d{i}", "", 0.0, swept=True)
    return lanes


def test_the_sweep_brings_no_more_lanes_than_are_needed_for_long(crowded: Lanes) -> None:
    assert not crowded.hint(5, "swept", "", 0.0, swept=True)
    assert not crowded.hint(9, "swept", "", 0.0, swept=True)
    assert crowded.hint(5, "new", "", 0.0)
    assert crowded.hint(0, "urgent", "", 0.0, swept=True)
    crowded.leased(crowded.plan(100, 0.0), {}, 0.0)
    crowded.leased(crowded.plan(100, 0.0), {}, 0.0)
    assert crowded.hint(9, "swept", "", 0.0, swept=True)  # there is room again, and it has come again


def test_whatever_brings_them_the_most_is_the_most(crowded: Lanes) -> None:
    for i in range(100):
        crowded.hint(7, f"n{i}", "", 0.0)
    assert crowded.active() == 40
    for i in range(30):  # the more urgent ones are taken in, at the cost of the least urgent
        assert crowded.hint(1, f"u{i}", "", 0.0)
    assert crowded.active() == 40
    taken = []
    while plans := crowded.plan(100, 0.0):
        taken += [p.lane.priority for p in plans]
        crowded.leased(plans, {}, 0.0)
    assert taken == [1] * 30 + [5] * 10
    assert crowded.hint(7, "n0", "", 0.0)  # what was given up comes again
