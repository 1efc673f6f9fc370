"""What an instance does with the tokens it was granted."""

from __future__ import annotations

import bisect
import math
import random

import pytest

from mailerd.flow.bucket import AHEAD, BURST, HORIZON, LATE, RESERVE, Bucket, Limit, Slots


def bucket(rate: float = 100.0, *, shared: bool = False) -> Bucket:
    return Bucket(Limit(key="provider:p", rate=rate), shared=shared)


def test_a_token_may_be_taken_a_little_before_its_slot_and_used_at_it() -> None:
    limited = bucket(10)
    limited.granted(10, 100.0, 0.1, math.inf, 0.0)
    assert limited.room(100.0) == 3  # those of 100.0, 100.1, 100.2
    assert limited.ripe(100.0) == 1
    assert limited.take(3, 100.0) == pytest.approx([100.0, 100.1, 100.2])
    assert limited.room(100.0) == 0
    assert limited.opens(100.0) == pytest.approx(100.3 - AHEAD)
    assert limited.room(100.06) == 1
    assert limited.stock == 7
    assert limited.held == 3


def test_what_is_refunded_is_used_first() -> None:
    limited = bucket(10)
    limited.granted(5, 100.0, 0.1, math.inf, 0.0)
    limited.take(2, 101.0)
    limited.refund(2)
    assert limited.held == 0
    assert limited.room(101.0) == 5
    assert limited.take(3, 101.0) == pytest.approx([0.0, 0.0, 100.2])


def test_a_row_with_many_recipients_goes_out_whole_and_is_paid_for_later() -> None:
    limited = bucket(10)
    limited.granted(2, 100.0, 0.1, math.inf, 0.0)
    limited.take(1, 100.5)
    limited.owe(4)
    assert limited.room(100.5) == -3
    ask = limited.ask(100.5, 1)
    assert ask is not None
    assert ask.want >= 3
    limited.granted(5, 101.0, 0.1, math.inf, 0.0)
    assert limited.room(102.0) == 2
    assert limited.slot(0) == pytest.approx(101.3)  # three were owed


def test_nothing_is_asked_for_what_nobody_sends() -> None:
    assert bucket().ask(1.0, 1) is None


def test_the_first_ask_is_for_a_fair_share_and_grows_with_what_is_used() -> None:
    limited = bucket(100)
    assert limited.room(1.0) == 0
    first = limited.ask(1.0, 8)
    assert first is not None
    assert first.want == math.ceil(75 / 8)
    limited.granted(first.want, 1.0, 0.01, math.inf, 0.0)
    limited.take(first.want, 1.0)
    limited.spent(first.want)
    second = limited.ask(1.5, 8)
    assert second is not None
    assert second.want == 2 * first.want + 1


def test_what_is_late_goes_back() -> None:
    limited = bucket(10)
    limited.granted(5, 100.0, 0.1, math.inf, 0.0)
    ask = limited.ask(100.2 + LATE, 1)
    assert ask is not None
    assert (ask.want, ask.back) == (0, 3)
    assert limited.stock == 2
    limited.failed(ask)  # it may have been told all the same: nothing is used twice
    assert limited.stock == 2


def test_a_part_is_kept_for_the_most_urgent_stream() -> None:
    limited = bucket(100, shared=True)
    assert limited.room(1.0) == 0
    limited.ask(1.0, 1)
    assert limited.reserve == int(100 * RESERVE)
    limited.granted(30, 0.5, 0.0001, math.inf, 0.0)
    assert limited.room(1.0) == 30
    assert limited.room(1.0, urgent=False) == 20
    limited.take(20, 1.0)
    limited.spent(20)
    assert limited.room(1.0, urgent=False) == 0
    assert limited.room(1.0) == 10
    ask = limited.ask(1.0 + 2 * LATE, 1)
    assert ask is not None
    assert ask.back == 0  # the reserve stays


def test_slow_limits_have_no_reserve() -> None:
    limited = bucket(1 / 60, shared=True)
    limited.ask(1.0, 1)
    assert limited.reserve == 0


def test_tokens_of_a_quota_end_with_its_window() -> None:
    limited = Bucket(Limit(key="quota:p", quota=1000))
    assert limited.room(1.0) == 0
    ask = limited.ask(1.0, 1)
    assert ask is not None
    limited.granted(20, 1.0, 0.0, 5.0, 0.0)
    assert limited.room(4.9) == 20
    limited.take(1, 4.9)
    limited.refund(1)
    again = limited.ask(5.1, 1)
    assert limited.stock == 0
    assert again is None or again.back == 0


def test_nobody_asks_before_there_can_be_more() -> None:
    limited = bucket(1 / 60)
    assert limited.room(1.0) == 0
    assert limited.hungry(1.0)
    limited.ask(1.0, 1)
    limited.granted(1, 1.0, 60.0, math.inf, 60.3)
    limited.take(1, 1.0)
    limited.spent(1)
    assert limited.room(2.0) == 0
    assert not limited.hungry(2.0)
    assert limited.ask(2.0, 1) is None
    assert limited.ask(60.4, 1) is not None


def test_a_lower_rate_takes_away_what_it_would_not_have_given() -> None:
    limited = bucket(1000)
    limited.granted(700, 1.0, 0.001, math.inf, 0.0)
    limited.change(10)
    assert limited.stock == math.ceil(10 * HORIZON)


def test_a_stopped_limit_gives_nothing_and_asks_for_nothing() -> None:
    limited = bucket(100)
    limited.granted(50, 1.0, 0.0, math.inf, 0.0)
    limited.change(0.0)
    assert limited.room(2.0) == limited.ripe(2.0) == 0
    assert limited.opens(2.0) == math.inf
    assert limited.ask(2.0, 1) is None
    assert not limited.hungry(2.0)
    limited.change(100.0)
    assert limited.room(3.0) == 0
    assert limited.ask(3.0, 1) is not None


def test_slots_are_free_again_when_the_message_has_ended() -> None:
    slots = Slots("domain:d", 2)
    assert slots.take(2, 5.0) == [5.0, 5.0]
    assert slots.room(5.0) == 0
    assert slots.opens(5.0) == math.inf
    slots.spent(1)
    assert slots.room(5.0) == 1
    slots.owe(2)  # a row with three recipients
    assert slots.room(5.0) == -1
    slots.refund(3)
    assert slots.room(5.0) == 2


class Store:
    """The row that all instances share, as `store.throttle` keeps it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.burst = Limit(key="k", rate=rate).burst
        self.tat = 0.0

    def answer(self, limited: Bucket, now: float, instances: int) -> None:
        ask = limited.ask(now, instances)
        if ask is None:
            return
        tat = self.tat - ask.back / self.rate
        base = max(tat, now)
        first = base - (self.burst - 1) / self.rate - now
        count = min(ask.want, math.floor((HORIZON - first) * self.rate) + 1) if first <= HORIZON else 0
        self.tat = base + count / self.rate if count else tat
        wait = first + count / self.rate - HORIZON
        limited.granted(count, now + first, 1 / self.rate, math.inf, now + wait if wait > 0 else 0.0)


@pytest.mark.parametrize("rate", [1 / 60, 1.0, 14.0, 50.0, 500.0])
@pytest.mark.parametrize("instances", [1, 2, 8])
@pytest.mark.parametrize("seed", range(3))
def test_no_window_has_more_than_the_rate_and_its_burst(rate: float, instances: int, seed: int) -> None:
    """Several instances with more mail than they may send, which now and then have none, and die with what they hold."""
    chance = random.Random(seed)
    store = Store(rate)
    limits = [bucket(rate) for _ in range(instances)]
    asked = [chance.random() * 0.5 for _ in range(instances)]
    resting = [0.0] * instances
    sent: list[float] = []
    waiting: list[list[float]] = [[] for _ in range(instances)]  # slots of messages in hand
    now = 0.0
    while now < 30.0:
        now += 0.05
        for i, limited in enumerate(limits):
            if chance.random() < 0.003:
                resting[i] = now + chance.random() * 3
            if chance.random() < 0.001:
                limits[i], waiting[i] = bucket(rate), []  # killed
                continue
            if now - asked[i] >= 0.5:
                asked[i] = now
                store.answer(limited, now, instances)
            room = limited.room(now) if resting[i] <= now else 0
            if room > 0:
                waiting[i] += limited.take(room, now)
            ready = [slot for slot in waiting[i] if slot <= now]
            waiting[i] = [slot for slot in waiting[i] if slot > now]
            limited.spent(len(ready))
            sent += [now] * len(ready)
    for window in (1.0, 10.0):
        for i in range(0, len(sent), max(1, len(sent) // 200)):
            inside = bisect.bisect_left(sent, sent[i] + window) - i
            assert inside <= rate * window + max(1.0, rate) + 1
    assert BURST + HORIZON + RESERVE <= 1.0
    assert len(sent) >= 0.5 * rate * 30


@pytest.mark.parametrize("instances", [1, 2, 8])
@pytest.mark.parametrize("rate", [50.0, 500.0])
def test_a_busy_limit_is_used_to_the_last_token(rate: float, instances: int) -> None:
    chance = random.Random(instances)
    store = Store(rate)
    limits = [bucket(rate) for _ in range(instances)]
    asked = [chance.random() * 0.5 for _ in range(instances)]
    sent = 0
    now = 0.0
    while now < 20.0:
        now += 0.02
        for i, limited in enumerate(limits):
            if now - asked[i] >= 0.5:
                asked[i] = now
                store.answer(limited, now, instances)
            room = max(0, limited.ripe(now))
            limited.take(room, now)
            limited.spent(room)
            sent += room if now > 5.0 else 0
    assert sent == pytest.approx(rate * 15, rel=0.01)
