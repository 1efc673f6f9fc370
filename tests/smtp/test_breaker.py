"""The circuit breaker: when it opens, how long, one probe, and that instances do not come back together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailerd.flow.breaker import Breaker


def test_opens_at_the_threshold_only() -> None:
    breaker = Breaker(threshold=3)
    assert not breaker.failure(0.0, 0.5)
    assert not breaker.failure(0.0, 0.5)
    assert not breaker.clean
    breaker.success()
    assert breaker.clean
    assert [breaker.failure(0.0, 0.5) for _ in range(3)] == [False, False, True]
    assert breaker.state == "open"


def test_one_probe_a_wait() -> None:
    breaker = Breaker()
    breaker.failure(10.0, 0.0)
    assert breaker.until == 11.0
    assert not breaker.probe(10.9)
    assert breaker.probe(11.0)
    assert not breaker.probe(99.0)
    assert breaker.state == "half_open"
    assert breaker.failure(12.0, 0.0)
    assert not breaker.probe(12.5)
    assert breaker.probe(13.0)
    assert breaker.success()
    assert breaker.state == "closed"
    assert not breaker.success()


def test_failures_while_open_change_nothing() -> None:
    breaker = Breaker()
    breaker.failure(0.0, 0.0)
    until = breaker.until
    assert not breaker.failure(0.5, 0.9)
    breaker.trip(0.5, 0.9)
    assert breaker.until == until


def test_abandoned_probe_may_be_repeated_at_once() -> None:
    breaker = Breaker()
    breaker.trip(0.0, 0.0)
    assert breaker.probe(1.0)
    breaker.abandon(1.0)
    assert breaker.state == "open"
    assert breaker.probe(1.0)
    breaker.success()
    breaker.abandon(2.0)
    assert breaker.state == "closed"


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50))
def test_waits_stay_within_bounds_and_grow(chances: list[float]) -> None:
    breaker = Breaker(first=1.0, longest=60.0)
    now = 0.0
    before = 1.0
    for chance in chances:
        assert breaker.failure(now, chance)
        assert 1.0 <= breaker.wait <= min(60.0, 3 * before)
        before = breaker.wait
        now = breaker.until
        assert breaker.probe(now)


def test_waits_reach_the_longest() -> None:
    breaker = Breaker()
    now = 0.0
    for _ in range(10):
        breaker.failure(now, 0.99)
        now = breaker.until
        breaker.probe(now)
    assert breaker.wait == 60.0
