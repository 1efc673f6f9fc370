"""The gate that a message stands at, for every reason to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailerd.flow.explain import AHEAD_LIMIT, Breaker, Dead, Doubt, Facts, Gate, Pause, Place, Throttle, gates

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SOON = NOW + timedelta(minutes=3)
PAST = NOW - timedelta(minutes=3)


def facts(place: Place = Place.READY, **changes: Any) -> Facts:
    known: dict[str, Any] = {
        "now": NOW, "id": 42, "created_at": PAST, "stream": "marketing", "domain": "example.org", "campaign": "spring sale",
        "live": 2, "serving": 2, "providers": ("relay", "backup"),
    }  # fmt: skip
    return Facts(place=place, **(known | changes))


def pause(kind: str, name: str, reason: str | None = "they asked") -> Pause:
    return Pause(kind=kind, name=name, at=PAST, actor="ann@ops1", reason=reason)


def broken(provider: str, until: datetime | None = SOON, state: str = "open") -> Breaker:
    return Breaker(provider=provider, state=state, until=until, reason="421 4.7.0 too many connections")


def names(found: list[Gate]) -> list[str]:
    return [gate.name for gate in found]


def test_nothing_holds_it_but_those_ahead() -> None:
    (gate,) = gates(facts(ahead=3, urgent_ahead=1))
    assert gate.name == "queue"
    assert gate.words == "3 messages ahead of it in its lane, 1 more urgent in its stream"
    assert gates(facts())[0].words == "next in its lane"
    assert gates(facts(ahead=1))[0].words.startswith("1 message ahead")
    assert gates(facts(ahead=AHEAD_LIMIT))[0].words.startswith("more than 10000")
    assert "leased 4 times without an end" in gates(facts(leases=4))[0].words


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("stream", "marketing", "mailerd resume stream:marketing"),
        ("domain", "example.org", "mailerd resume domain:example.org"),
        ("campaign", "spring sale", "mailerd resume 'campaign:spring sale'"),
    ],
)
def test_a_paused_lane_names_who_when_why_and_the_command(kind: str, name: str, command: str) -> None:
    (gate,) = gates(facts(pauses=[pause(kind, name)]))
    assert gate.name == f"{kind}_paused"
    assert gate.release == command
    assert "ann@ops1" in gate.words
    assert "2026-11-25 11:57 UTC" in gate.words
    assert "they asked" in gate.words


def test_a_pause_of_something_else_holds_nothing() -> None:
    others = [pause("stream", "other"), pause("domain", "marketing"), pause("campaign", "example.org")]
    assert names(gates(facts(pauses=others))) == ["queue"]


def test_no_instance_and_an_unknown_stream() -> None:
    (gate,) = gates(facts(live=0, serving=0, providers=()))
    assert (gate.name, gate.release) == ("no_instance", "mailerd run")
    (gate,) = gates(facts(serving=0, providers=()))
    assert gate.name == "unknown_stream"
    assert gate.words == "no live instance lists stream marketing; it is failed after an hour in which none did"
    assert gate.until == PAST + timedelta(hours=1)


def test_providers_are_a_gate_only_when_none_of_them_takes_mail() -> None:
    assert names(gates(facts(breakers=[broken("relay")]))) == ["queue"]
    assert names(gates(facts(pauses=[pause("provider", "relay")]))) == ["queue"]
    assert names(gates(facts(breakers=[broken("relay"), broken("backup", state="half_open")]))) == ["queue"]
    assert names(gates(facts(breakers=[broken("relay"), broken("relay", state="closed"), broken("backup")]))) == [
        "queue"
    ], "one instance can reach it"
    found = gates(facts(breakers=[broken("relay"), broken("backup")]))
    assert names(found) == ["provider_down", "provider_down"]
    assert found[0].until == SOON
    assert "421 4.7.0 too many connections" in found[0].words
    found = gates(facts(pauses=[pause("provider", "relay")], breakers=[broken("backup")]))
    assert names(found) == ["provider_paused", "provider_down"]
    assert found[0].release == "mailerd resume provider:relay"


def test_what_waits_for_a_time() -> None:
    (gate,) = gates(facts(Place.SCHEDULED, run_at=SOON))
    assert (gate.name, gate.until) == ("scheduled", SOON)
    (gate,) = gates(facts(Place.DEFERRED, run_at=SOON, last_reply="451 4.7.1 grey-listed"))
    assert (gate.name, gate.until) == ("deferred", SOON)
    assert "451 4.7.1 grey-listed" in gate.words
    assert names(gates(facts(Place.DEFERRED, run_at=SOON, pauses=[pause("stream", "marketing")]))) == [
        "deferred",
        "stream_paused",
    ]
    assert names(gates(facts(Place.SCHEDULED, run_at=PAST))) == ["due"]
    assert names(gates(facts(Place.SCHEDULED, run_at=PAST, live=0, serving=0))) == ["no_instance"]


def test_leased_by_a_live_instance_or_by_one_that_is_gone() -> None:
    (gate,) = gates(facts(Place.LEASED, holder="mail-1", lease_until=SOON))
    assert (gate.name, gate.until) == ("leased", SOON)
    assert "mail-1" in gate.words
    assert "is gone" in gates(facts(Place.LEASED, holder="", lease_until=SOON))[0].words


def test_past_its_end() -> None:
    assert names(gates(facts(expires_at=PAST)))[0] == "expired"
    assert names(gates(facts(expires_at=SOON))) == ["queue"]


def test_in_doubt_and_dead() -> None:
    doubt = Doubt(at=PAST, provider="relay", detail="no answer after the final dot")
    (gate,) = gates(facts(Place.IN_DOUBT, doubt=doubt))
    assert (gate.name, gate.release) == ("in_doubt", "mailerd doubt resend 42")
    assert "relay" in gate.words
    dead = Dead(at=PAST, reason="550 5.1.1 no such user", attempts=1, category="recipient")
    (gate,) = gates(facts(Place.SETTLED, dead=dead))
    assert (gate.name, gate.release) == ("dead_letter", "mailerd dead retry 42")
    assert gate.words == "given up after 1 attempt: 550 5.1.1 no such user"
    found = gates(facts(Place.DEFERRED, run_at=SOON, dead=dead))
    assert names(found) == ["deferred", "dead_letter"], "some recipients are given up, the others go on"
    assert found[1].release is None


def test_a_settled_message_stands_at_no_gate() -> None:
    assert gates(facts(Place.SETTLED, live=0, pauses=[pause("stream", "marketing")])) == []


def limit(key: str = "domain:slow", rate: float = 2.0, opens: datetime | None = SOON, **more: Any) -> Throttle:
    return Throttle(key=key, words="120/m", rate=rate, opens=opens, **more)


def test_a_limit_without_a_token_says_until_when_and_what_opens_it() -> None:
    (gate,) = gates(facts(throttles=[limit()], ahead=10, beside=50))
    assert gate.name == "throttled"
    assert gate.words == "domain:slow is limited to 120/m; 60 messages ahead of it or beside it"
    assert gate.until == SOON + timedelta(seconds=30)
    assert gate.release == "mailerd throttle set domain:slow RATE"


def test_a_limit_that_has_tokens_holds_nobody() -> None:
    assert names(gates(facts(throttles=[limit(opens=None)]))) == ["queue"]


def test_the_slowest_limit_comes_first() -> None:
    found = gates(facts(throttles=[limit("pool:bulk", 50.0), limit(rate=1.0)]))
    assert [gate.words.split()[0] for gate in found] == ["domain:slow", "pool:bulk"]


def test_what_a_reply_stopped_can_be_let_go() -> None:
    stopped = limit("pool:bulk/domain:gmail", 0.0, None, stopped=True, source="reply", reason="421 later")
    (gate,) = gates(facts(throttles=[stopped]))
    assert gate.name == "lane_paused"
    assert "set by reply: 421 later" in gate.words
    assert gate.until is None
    assert gate.release == "mailerd throttle clear pool:bulk/domain:gmail"


def test_a_spent_quota_has_no_command() -> None:
    (gate,) = gates(facts(throttles=[limit("quota:relay", 0.0)]))
    assert (gate.until, gate.release) == (SOON, None)


def test_a_paused_group_holds_its_domains() -> None:
    assert names(gates(facts(group="slow", pauses=[pause("domain", "slow")]))) == ["domain_paused"]
    assert names(gates(facts(pauses=[pause("domain", "slow")]))) == ["queue"]
