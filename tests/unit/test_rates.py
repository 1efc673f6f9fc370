"""Rates and alerts: shares of the right whole, none of nothing, and no alarm about a handful of messages."""

from __future__ import annotations

import pytest

from mailerd.config.alerts import Alerts
from mailerd.flow.rates import RATES, Counts, alerts, rate

MARKETING = frozenset({"marketing"})


def counts(**types: int) -> Counts:
    found = Counts()
    for name, events in types.items():
        found.add(name, "", events)
    return found


def test_shares() -> None:
    day = counts(sent=90, rejected=10, deferred=100, bounced=5, complained=9, opened=45, clicked=18, unsubscribed=1)
    assert {name: rate(name, day) for name in RATES} == {
        "accepted": 90 / 200,
        "deferred": 100 / 200,
        "bounced": 15 / 100,
        "complained": 0.1,
        "opened": 0.5,
        "clicked": 0.2,
        "unsubscribed": 1 / 90,
    }


def test_of_nothing_there_is_no_share() -> None:
    assert {rate(name, Counts()) for name in RATES} == {None}


def test_robots_are_no_engagement_and_bounces_have_classes() -> None:
    found = Counts()
    found.add("opened", "bot", 7)
    found.add("bounced", "recipient", 2)
    found.add("rejected", "", 1)
    assert found.types == {"bounced": 2, "rejected": 1}
    assert found.bounces == {"recipient": 2, "other": 1}


@pytest.mark.parametrize(
    ("stream", "day", "levels"),
    [
        ("marketing", counts(sent=10, complained=1), []),
        ("marketing", counts(sent=1000, complained=4), []),
        ("marketing", counts(sent=10_000, complained=9), []),
        ("marketing", counts(sent=10_000, complained=10), [("complaints", "warn")]),
        ("marketing", counts(sent=10_000, complained=30), [("complaints", "pause")]),
        ("transactional", counts(sent=10_000, complained=30), [("complaints", "warn")]),
        ("transactional", counts(sent=950, rejected=40, bounced=10), []),
        ("transactional", counts(sent=1000, rejected=40, bounced=13), [("bounces", "warn")]),
    ],
)
def test_alerts(stream: str, day: Counts, levels: list[tuple[str, str]]) -> None:
    assert [(a.kind, a.level) for a in alerts({stream: day}, Alerts(), MARKETING)] == levels


def test_zero_turns_an_alert_off() -> None:
    quiet = Alerts(complaints=0, complaints_pause=0, bounces=0)
    assert not alerts({"marketing": counts(sent=10_000, complained=5000, bounced=5000)}, quiet, MARKETING)
