"""What an instance believes of the others: nobody counts on room that is not made yet."""

from __future__ import annotations

from mailerd.daemon.neighbours import PATIENCE, Neighbours
from mailerd.store.instances import ALIVE_SECONDS, Paused, Shared


def shared(instances: int, strangers: int = 0) -> Shared:
    return Shared(instances, Paused(), {}, strangers)


def test_alone_one_is_acquainted_at_once() -> None:
    neighbours = Neighbours()
    assert not neighbours.acquainted
    assert neighbours.heard(shared(1), 0.0).instances == 1
    assert neighbours.acquainted


def test_a_newcomer_waits_until_the_others_have_seen_it() -> None:
    neighbours = Neighbours()
    neighbours.heard(shared(3, strangers=2), 0.0)
    assert not neighbours.acquainted
    neighbours.heard(shared(3, strangers=1), 1.0)
    assert not neighbours.acquainted
    neighbours.heard(shared(3), 2.0)
    assert neighbours.acquainted


def test_but_not_for_ever_for_one_that_was_killed() -> None:
    neighbours = Neighbours()
    for second in range(PATIENCE):
        neighbours.heard(shared(2, strangers=1), float(second))
        assert not neighbours.acquainted
    neighbours.heard(shared(2, strangers=1), float(PATIENCE))
    assert neighbours.acquainted


def test_an_instance_that_ended_leaves_its_share() -> None:
    neighbours = Neighbours()
    for second in range(20):
        neighbours.heard(shared(2), float(second))
    assert neighbours.heard(shared(1), 20.0).instances == 1


def test_after_an_interruption_the_others_are_still_there() -> None:
    """Postgres was away for longer than an instance counts as alive: whoever comes back first is not alone."""
    neighbours = Neighbours()
    for second in range(20):
        neighbours.heard(shared(2), float(second))
    assert neighbours.heard(shared(1), 60.0).instances == 2
    assert neighbours.heard(shared(3), 61.0).instances == 3
    for second in range(62, 60 + ALIVE_SECONDS):
        assert neighbours.heard(shared(1), float(second)).instances == 3
    assert neighbours.heard(shared(1), 60.0 + ALIVE_SECONDS).instances == 1
