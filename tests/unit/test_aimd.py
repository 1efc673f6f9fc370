"""The rate learnt from refusals, against a simulated receiver with a limit that nobody is told."""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.flow.aimd import LEAST, Aimd, expired, grown, refused

TICK = 0.02  # seconds


class Result(msgspec.Struct):
    """Parts of the hidden limit: what was accepted a second, the lowest, highest and last rate; and the part of the
    messages that was refused. All of them after the time to settle."""

    accepted: float
    refused: float
    lowest: float
    highest: float
    last: float
    state: Aimd


class Receiver:
    """A token bucket that holds one second; what exceeds it is refused, and so is a part `stray` for other reasons."""

    def __init__(self, limit: float, stray: float, rng: random.Random) -> None:
        self.limit = limit
        self.tokens = limit
        self.stray = stray
        self.rng = rng

    def wait(self) -> None:
        self.tokens = min(self.tokens + self.limit * TICK, max(1.0, self.limit))

    def offer(self, count: int) -> int:
        """How many of them are accepted."""
        lost = sum(self.rng.random() < self.stray for _ in range(count)) if self.stray else 0
        accepted = min(count - lost, int(self.tokens))
        self.tokens -= accepted
        return accepted


class Instance:
    """One sender: it knows the shared state as of its last visit, and the replies to its own messages."""

    def __init__(self, of: int, offered: float, rng: random.Random) -> None:
        self.of = of
        self.offered = offered  # messages a second that all instances together would send
        self.rng = rng
        self.known = Aimd()
        self.visit = rng.random()
        self.sends: defaultdict[int, int] = defaultdict(int)
        self.replies: defaultdict[int, list[tuple[float, int, int]]] = defaultdict(list)
        self.accepted = 0
        self.refusals: list[tuple[float, int]] = []
        self.lately: deque[tuple[float, int]] = deque()

    @property
    def rate(self) -> float:
        return self.offered if self.known.rate is None else min(self.known.rate, self.offered)

    def granted(self, tick: int, count: int) -> None:
        """Tokens, which are not used the very moment that they are there."""
        while count:
            part = max(1, count // 3)
            self.sends[tick + self.rng.randrange(13)] += part
            count -= part

    def answered(self, tick: int, accepted: int, refusals: int) -> None:
        late = self.rng.uniform(0.1, 1.0)
        self.replies[tick + int(late / TICK)].append((tick * TICK, accepted, refusals))

    def read(self, tick: int) -> None:
        for sent_at, accepted, refusals in self.replies.pop(tick, ()):
            self.accepted += accepted
            self.lately.append((tick * TICK, accepted))
            if refusals:
                self.refusals.append((sent_at, refusals))

    def share(self, state: Aimd, now: float) -> Aimd:
        """Once a second: tells what it has seen, and learns what the others have."""
        self.visit += 1.0
        while self.lately and self.lately[0][0] < now - 2.0:
            self.lately.popleft()
        rate = sum(count for _, count in self.lately) / min(2.0, max(now, 0.5)) * self.of
        state = grown(state, now, self.accepted)
        for sent_at, count in self.refusals:
            state = refused(state, now, rate, sent_at=sent_at, count=count)
        self.refusals.clear()
        self.accepted = 0
        self.known = state
        return state


def simulate(
    limit: float,
    instances: int,
    *,
    seed: int = 0,
    seconds: float = 300.0,
    settled: float = 120.0,
    offered: float = 0.0,
    stray: float = 0.0,
    changes: Sequence[tuple[float, float]] = (),
) -> Result:
    rng = random.Random(seed)
    receiver = Receiver(limit, stray, rng)
    fleet = [Instance(instances, offered or 5 * limit + 50, rng) for _ in range(instances)]
    state = Aimd()
    coming = deque(changes)
    yes = no = 0
    rates: list[float] = []
    credit = 0.0
    for tick in range(int(seconds / TICK)):
        now = tick * TICK
        if coming and now >= coming[0][0]:
            receiver.limit = coming.popleft()[1]
        receiver.wait()
        credit += sum(one.rate for one in fleet) / instances * TICK  # one bucket for all (`flow.bucket`)
        share, more = divmod(int(credit), instances)
        credit -= int(credit)
        lucky = set(rng.sample(range(instances), more))
        for number, one in enumerate(fleet):
            one.granted(tick, share + (number in lucky))
            if count := one.sends.pop(tick, 0):
                accepted = receiver.offer(count)
                one.answered(tick, accepted, count - accepted)
                if now >= settled:
                    yes += accepted
                    no += count - accepted
            one.read(tick)
            if now >= one.visit:
                state = one.share(state, now)
                if now >= settled:
                    rates.append(math.inf if state.rate is None else state.rate)
    limit = receiver.limit
    return Result(
        accepted=yes / (seconds - settled) / limit,
        refused=no / (yes + no),
        lowest=min(rates) / limit,
        highest=max(rates) / limit,
        last=rates[-1] / limit,
        state=state,
    )


@pytest.mark.parametrize("instances", [1, 2, 4, 8])
@pytest.mark.parametrize("limit", [5, 20, 100, 500, 2000])
def test_it_settles_just_below_a_limit_that_it_was_not_told(limit: float, instances: int) -> None:
    found = simulate(limit, instances)
    assert 0.9 <= found.accepted <= 1.01
    assert found.refused <= 0.02
    assert found.lowest >= 0.75
    assert found.highest <= 1.07
    assert 0.9 <= found.last <= 1.02


@pytest.mark.parametrize("instances", [1, 8])
def test_a_limit_that_falls_is_found_again(instances: int) -> None:
    found = simulate(200, instances, seconds=600, settled=500, changes=[(200, 20)])
    assert 0.85 <= found.accepted <= 1.01
    assert found.refused <= 0.02


def test_a_limit_that_rises_is_found_by_careful_probes() -> None:
    found = simulate(5, 2, seconds=7200, settled=120)
    assert found.accepted >= 0.95
    assert found.refused <= 0.005  # what the probes cost
    found = simulate(5, 2, seconds=9000, settled=8900, changes=[(200, 25)])
    assert 0.85 <= found.accepted <= 1.01


def test_a_lost_refusal_does_not_slow_down_a_fast_lane() -> None:
    unlimited = simulate(10_000, 2, offered=400, stray=0.0005, seconds=200, settled=100)
    assert unlimited.state.rate is None or unlimited.state.rate >= 350
    limited = simulate(200, 2, stray=0.0001)
    assert limited.accepted >= 0.85


def test_what_is_not_offered_teaches_nothing() -> None:
    # Ten minutes at half the rate that was found: nobody knows whether more would be accepted.
    state = Aimd(rate=10.0, ceiling=0.0, changed_at=1.0, refused_at=1.0, probed_at=1.0, since=4.0)
    for second in range(5, 1200):
        state = grown(state, float(second), 5)
    assert state.rate == 10.0


def test_an_episode_decreases_once() -> None:
    first = refused(Aimd(), 1000.0, 50.0, count=9)
    assert first.rate == pytest.approx(46)
    # Everything that was under way, and what others sent before they read the new rate.
    for sent_at in (990.0, 999.9, 1000.5, 1001.4):
        assert refused(first, 1004.0, 50.0, sent_at=sent_at, count=9) is first
    second = refused(first, 1004.0, 40.0, sent_at=1002.0, count=9)
    assert second.rate == pytest.approx(40 * 0.92)
    assert second.ceiling == first.rate
    # However bad: never by more than half.
    third = refused(second, 1010.0, 0.0, sent_at=1009.0, count=9)
    assert second.rate is not None
    assert third.rate == pytest.approx(second.rate / 2)


def test_one_refusal_is_chance_and_a_second_soon_after_is_not() -> None:
    state = Aimd(rate=10.0, ceiling=11.0, changed_at=1.0, refused_at=1.0, probed_at=1.0, since=98.0)
    once = refused(state, 100.0, 10.0)
    assert once.rate == 10.0
    soon = refused(grown(once, 103.0, 50), 104.0, 10.0)
    assert soon.rate is not None
    assert soon.rate < 10.0
    late = once
    for second in range(101, 110):
        late = grown(late, float(second), 10)
        if second < 106:
            assert late.rate == 10.0  # a window that has seen a refusal does not rise
    assert refused(late, 110.0, 10.0).rate == late.rate


def test_it_never_rises_to_the_ceiling_itself_before_it_probes() -> None:
    state = Aimd(rate=50.0, ceiling=100.0, changed_at=1.0, refused_at=1.0, probed_at=1.0, since=1.0)
    now = 1.0
    seen = []
    while now < 2000:
        now += 1.0
        assert state.rate is not None
        state = grown(state, now, round(state.rate))
        seen.append((now, state.rate))
    rates = dict(seen)
    assert rates[100.0] >= 90
    assert max(rate for at, rate in seen if at < 600) <= 97
    assert 97 < rates[1100.0] <= 105 * 0.97 + 1e-9
    assert rates[1900.0] <= 105 * 1.1 * 1.2 * 0.97
    assert [rate for _, rate in seen] == sorted(rate for _, rate in seen)


def test_a_day_without_refusal_and_it_is_forgotten() -> None:
    state = refused(Aimd(), 1000.0, 50.0, count=9)
    assert not expired(state, 1000.0 + 86399)
    assert grown(state, 1000.0 + 86399, 0).rate is not None
    assert expired(state, 1000.0 + 86400)
    assert grown(state, 1000.0 + 86400, 0) == Aimd()
    assert not expired(Aimd(), 5e9)
    hint = refused(Aimd(), 1000.0, 1000.0)  # one of thousands: nothing yet
    assert hint.rate is None
    assert expired(hint, 1010.0)


def test_nothing_new_is_the_same_object() -> None:
    state = refused(Aimd(), 1000.0, 50.0, count=9)
    assert grown(state, 1001.0, 30) is state  # answers to what was sent before
    assert grown(Aimd(), 1001.0, 30) == Aimd()
    assert grown(state, 1005.0, 0) is state


_seconds = st.floats(0, 1e10)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("refused"), _seconds, st.floats(0, 1e6), st.none() | _seconds, st.integers(1, 10**6)),
            st.tuples(st.just("grown"), _seconds, st.integers(0, 10**7)),
        ),
        max_size=30,
    )
)
def test_whatever_happens_it_is_a_rate_and_can_be_stored(steps: list[tuple[object, ...]]) -> None:
    # Clocks that go backwards, estimates of nothing, a million refusals at once.
    state = Aimd()
    for name, *given_ in steps:
        if name == "refused":
            now, observed, sent_at, count = given_
            before, state = state, refused(state, now, observed, sent_at=sent_at, count=count)  # type: ignore[arg-type]
            if before.rate is not None:
                assert state.rate is not None
                assert state.rate <= max(before.rate, LEAST)
        else:
            state = grown(state, *given_)  # type: ignore[arg-type]
        assert state.rate is None or LEAST <= state.rate < math.inf
        assert msgspec.json.decode(msgspec.json.encode(state), type=Aimd) == state
