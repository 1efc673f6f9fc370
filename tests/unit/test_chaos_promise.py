"""The judging of a chaos run: each promise can break, and does so for its own reason alone."""

from __future__ import annotations

from typing import Any

import pytest

from mailerd.bench.chaos.facts import Facts, Fault
from mailerd.bench.chaos.promise import GRACE, Verdict, judge

SENT = frozenset({"sent"})


def facts(**changes: Any) -> Facts:
    """Two messages, of which nothing bad can be said."""
    given: dict[str, Any] = {
        "begin": 0.0,
        "acknowledged": {1: 1.0, 2: 1.0},
        "cancelled": {},
        "rows": {1: "transactional", 2: "receipts"},
        "expiries": {},
        "events": {1: SENT, 2: SENT},
        "waiting": {},
        "accepted": {1: [(2.0, True)], 2: [(2.0, True)]},
        "faults": [],
        "bound": 10,
        "cap": 5,
        "peak": 5,
        "slack": 1.0,
        "holding": "receipts",
    }
    return Facts(**{**given, **changes})


def broken(verdict: Verdict) -> set[str]:
    return {promise.name for promise in verdict.promises if not promise.kept}


def test_all_is_well() -> None:
    verdict = judge(facts())
    assert verdict.kept
    assert (verdict.messages, verdict.accepted, verdict.lost, verdict.duplicates.total) == (2, 2, 0, 0)
    assert verdict.ends == {"sent": 2}


@pytest.mark.parametrize(
    ("changes", "promise", "lost"),
    [
        ({"events": {1: SENT}, "accepted": {1: [(2.0, True)]}}, "nothing is lost", 1),
        ({"accepted": {1: [(2.0, True)]}}, "nothing is lost", 1),  # said to be sent, and never accepted
        ({"acknowledged": {1: 1.0, 2: 1.0, 3: 1.0}}, "what Postgres acknowledged is there", 1),
        ({"waiting": {2: "ready"}, "events": {1: SENT}, "accepted": {1: [(2.0, True)]}}, "every row ends, or waits for a reason", 0),
        ({"events": {1: SENT, 2: frozenset({"expired"})}}, "nothing is accepted without an event", 0),
        ({"accepted": {1: [(2.0, True)], 2: [(2.0, True)], 9: [(2.0, True)]}}, "nothing is accepted without an event", 0),
        ({"accepted": {1: [(2.0, True), (3.0, True)], 2: [(2.0, True)]}}, "every duplicate has a cause", 0),
        ({"expiries": {1: 0.5}}, "nothing is sent after it expired", 0),
        ({"cancelled": {1: 1.5}}, "nothing is sent after its cancel", 0),
        ({"peak": 6}, "no limit is exceeded", 0),
    ],
)  # fmt: skip
def test_what_breaks_a_promise(changes: dict[str, Any], promise: str, lost: int) -> None:
    verdict = judge(facts(**changes))
    assert broken(verdict) == {promise}
    assert verdict.lost == lost


def test_what_waits_in_doubt_has_a_reason() -> None:
    verdict = judge(facts(waiting={2: "in_doubt"}, events={1: SENT, 2: frozenset({"in_doubt"})}))
    assert verdict.kept
    assert verdict.held == 1


def test_the_causes_of_duplicates() -> None:
    death = Fault(kind="kill-9", at=2.5, deaths=1)
    twice = {
        1: [(2.0, False), (3.0, True)],  # the sink kept its answer to itself
        2: [(2.0, True), (3.0, True)],  # on record as in doubt
        3: [(2.4, True), (9.0, True)],  # sent by the dead one, and by its heir
        4: [(2.5 + GRACE / 2, True), (9.0, True)],  # the same, out of the socket of the dead
        5: [(2.5 + 2 * GRACE, True), (9.0, True)],  # nobody died of that
        6: [(1.0, True), (2.0, True)],  # nor of this
    }
    events = {**dict.fromkeys(twice, SENT), 2: frozenset({"in_doubt", "sent"})}
    rows = dict.fromkeys(twice, "transactional")
    verdict = judge(
        facts(acknowledged=dict.fromkeys(twice, 1.0), rows=rows, events=events, accepted=twice, faults=[death])
    )
    found = verdict.duplicates
    assert (found.total, found.unanswered, found.in_doubt, found.by_death, found.unexplained) == (6, 1, 1, [2], 2)
    assert broken(verdict) == {"every duplicate has a cause"}


def test_what_a_zombie_had_handed_over_leaves_when_it_wakes() -> None:
    zombie = Fault(kind="SIGSTOP", at=2.5, until=12.5, deaths=1)
    twice = {
        1: [(12.6, True), (13.9, True)],
        2: [(12.5 + 2 * GRACE, True), (20.0, True)],
        3: [(8.0, True), (9.0, True)],
    }
    verdict = judge(
        facts(
            acknowledged=dict.fromkeys(twice, 1.0), rows=dict.fromkeys(twice, "marketing"),
            events=dict.fromkeys(twice, SENT), accepted=twice, faults=[zombie],
        )
    )  # fmt: skip
    assert (verdict.duplicates.by_death, verdict.duplicates.unexplained) == ([1], 2)


def test_a_death_may_send_twice_only_so_much() -> None:
    ids = range(10, 31)
    changes = {
        "acknowledged": dict.fromkeys(ids, 1.0),
        "rows": dict.fromkeys(ids, "transactional"),
        "events": dict.fromkeys(ids, SENT),
        "accepted": {id_: [(2.0, True), (4.0, True)] for id_ in ids},
    }
    one = judge(facts(**changes, faults=[Fault(kind="kill-9", at=3.0, deaths=1)]))
    assert broken(one) == {"duplicates of a death stay within its bound"}
    assert one.duplicates.worst == 21
    assert judge(facts(**changes, faults=[Fault(kind="kill-9 of all", at=3.0, deaths=3)])).kept


def test_a_stream_that_holds_sends_nothing_twice_whatever_the_cause() -> None:
    verdict = judge(facts(accepted={1: [(2.0, True)], 2: [(2.0, False), (3.0, True)]}))
    assert broken(verdict) == {"a stream that holds never sends twice"}


def test_a_forgetful_database_is_told_apart() -> None:
    verdict = judge(facts(acknowledged={1: 1.0, 2: 1.0, 3: 1.0}), forgetful=True)
    assert verdict.kept
    assert (verdict.forgotten, verdict.lost) == (1, 0)
