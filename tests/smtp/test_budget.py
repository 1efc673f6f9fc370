"""The connection budget: never over the cap, a slot for every stream that has none, turns where slots are scarce."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailerd.smtp.budget import ConnectionBudget, share


def budget(cap: int, *streams: str) -> ConnectionBudget:
    made = ConnectionBudget(cap)
    for stream in streams:
        made.join(stream)
    return made


def test_a_slot_is_kept_for_each_stream_that_has_none() -> None:
    b = budget(5, "bulk", "urgent", "other")
    assert [b.acquire("bulk") for _ in range(4)] == [True, True, True, False]
    assert b.acquire("urgent")
    assert not b.acquire("bulk")
    assert b.acquire("other")
    assert b.total == 5
    assert not b.acquire("urgent")


def test_a_stream_that_left_is_not_waited_for() -> None:
    b = budget(2, "bulk", "urgent")
    assert b.acquire("bulk")
    assert not b.acquire("bulk")
    b.leave("urgent")
    assert b.acquire("bulk")


def test_two_pools_of_one_stream() -> None:
    b = budget(2, "bulk", "urgent", "urgent")
    b.leave("urgent")
    assert b.acquire("bulk")
    assert not b.acquire("bulk")


def test_shrinking_cap_takes_from_the_richest() -> None:
    b = budget(10, "bulk", "urgent")
    for _ in range(9):
        assert b.acquire("bulk")
    assert b.acquire("urgent")
    b.cap = 4
    assert not b.must_yield("urgent")
    ended = 0
    while b.must_yield("bulk", ended):
        ended += 1
    assert ended == 6
    for _ in range(6):
        b.release("bulk")
    assert not b.must_yield("bulk")
    assert not b.acquire("bulk")


def test_growing_cap() -> None:
    b = budget(1, "bulk")
    assert b.acquire("bulk")
    assert not b.acquire("bulk")
    b.cap = 2
    assert b.acquire("bulk")


def test_turns_with_fewer_slots_than_streams() -> None:
    b = budget(1, "a", "b")
    assert b.acquire("a")
    assert not b.acquire("b")
    assert b.must_yield("a")
    b.release("a")
    assert not b.acquire("a")  # b was first
    assert b.acquire("b")
    assert b.must_yield("b")
    b.waive("a")
    assert not b.must_yield("b")


def test_a_late_stream_gets_its_slot() -> None:
    b = budget(3, "bulk")
    for _ in range(3):
        assert b.acquire("bulk")
    assert not b.must_yield("bulk")
    b.join("urgent")
    assert not b.acquire("urgent")
    assert b.must_yield("bulk")
    assert not b.must_yield("bulk", 1)
    b.release("bulk")
    assert not b.acquire("bulk")
    assert b.acquire("urgent")
    assert not b.must_yield("bulk")


@given(
    cap=st.integers(0, 6),
    steps=st.lists(
        st.tuples(st.sampled_from(["get", "put", "cap", "waive"]), st.sampled_from("abc"), st.integers(0, 6))
    ),
)
def test_never_over_the_cap_that_holds(cap: int, steps: list[tuple[str, str, int]]) -> None:
    b = budget(cap, "a", "b", "c")
    for what, stream, number in steps:
        before = b.total
        if what == "get":
            if b.acquire(stream):
                assert b.total == before + 1 <= b.cap
            else:
                assert b.total == before
                if not b.held(stream) and b.cap >= 3 and not any(b.held(s) for s in "abc"):
                    raise AssertionError("nothing held, and refused")
        elif what == "put":
            b.release(stream)
            assert b.total == max(0, before - (before > b.total))
        elif what == "waive":
            b.waive(stream)
        else:
            b.cap = number
        assert all(b.held(s) >= 0 for s in "abc")
        if b.must_yield(stream):
            assert b.held(stream) > 0


def test_a_newcomer_waits_for_what_the_others_have_not_given_up_yet() -> None:
    assert share(24, 2, others=24, held=0) == 0
    assert share(24, 2, others=23, held=0) == 1
    assert share(24, 2, others=12, held=0) == 12
    assert share(24, 2, others=0, held=0) == 12
    assert share(24, 2, others=0, held=24) == 12  # who has more than its part gives it up
    assert share(24, 1, others=0, held=0) == 24
    assert share(1, 3, others=1, held=0) == 0
    assert share(1, 3, others=1, held=1) == 1  # or both would give way, again and again


@given(st.integers(1, 100), st.integers(1, 5), st.lists(st.integers(0, 4), max_size=60))
def test_instances_that_take_turns_never_have_more_than_there_are(
    connections: int, instances: int, turns: list[int]
) -> None:
    """Each, when its heartbeat comes, knows what the others have, takes what it may, and gives up what it must."""
    has = [connections] + [0] * (instances - 1)
    for turn in turns:
        me = turn % instances
        others = sum(has) - has[me]
        has[me] = share(connections, instances, others=others, held=has[me])
        assert sum(has) <= connections
    for me in list(range(instances)) * 2:
        has[me] = share(connections, instances, others=sum(has) - has[me], held=has[me])
    assert sum(has) <= connections
    if connections >= instances:
        assert has == [connections // instances] * instances
