"""What an attempt's outcomes mean for the row."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.config.base import Duration
from mailerd.config.model import RetryPolicy
from mailerd.flow.retry import decide, wait
from mailerd.message import Action, Job, Lease, Outcome, OutcomeKind, Phase, Recipient, Settlement

POLICY = RetryPolicy(first=Duration(10), factor=2, max=Duration(100), jitter=1.0, attempts=5)


def job(attempt: int = 0) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=1, stream="s", priority=5, domain="d", campaign="", lease=Lease(1, 1e9), created_at=now, attempt=attempt
    )


def outcome(kind: str, **fields: object) -> Outcome:
    return Outcome(OutcomeKind(kind), Phase.DOT, **fields)  # type: ignore[arg-type]


def run(
    *kinds: str | Outcome, attempt: int = 0, hold: bool = False, remaining: float | None = 1e6, chance: float = 0.0
) -> Settlement:
    results = [
        (Recipient(bit, f"r{bit}@x.example"), kind if isinstance(kind, Outcome) else outcome(kind))
        for bit, kind in enumerate(kinds)
    ]
    return decide(job(attempt), results, POLICY, hold=hold, remaining=remaining, chance=chance)


@pytest.mark.parametrize(
    ("kind", "action", "event", "left", "dead", "charged"),
    [
        ("sent", Action.DONE, "sent", 0, 0, True),
        ("deferred", Action.RETRY, "deferred", 1, 0, True),
        ("unsent", Action.RETRY, "deferred", 1, 0, False),
        ("rejected", Action.DONE, "rejected", 0, 1, True),
        ("failed", Action.DONE, "failed", 0, 1, True),
        ("in_doubt", Action.RETRY, "in_doubt", 1, 0, True),
        ("suppressed", Action.DONE, "suppressed", 0, 0, True),
        ("expired", Action.DONE, "expired", 0, 0, True),
    ],
)
def test_one_recipient(kind: str, action: Action, event: str, left: int, dead: int, charged: bool) -> None:
    s = run(kind)
    assert (s.action, s.events[0][0], s.left, s.dead, s.charged) == (action, event, left, dead, charged)


def test_a_stream_that_holds_what_is_uncertain_sends_it_to_in_doubt() -> None:
    assert run("in_doubt", hold=True).action is Action.DOUBT


def test_the_last_attempt_gives_up_and_says_what_the_peer_said() -> None:
    s = run(outcome("deferred", code=450, enhanced="4.2.1", text="slow down"), attempt=4)
    assert (s.action, s.dead, [e[0] for e in s.events]) == (Action.DONE, 1, ["failed"])
    assert s.reason == "given up after 5 attempts: 450 4.2.1 slow down"


def test_provider_trouble_never_gives_up_by_attempts() -> None:
    assert run("unsent", attempt=99).action is Action.RETRY


def test_a_retry_after_the_end_is_an_expiry() -> None:
    s = run("deferred", remaining=5.0)
    assert (s.action, [e[0] for e in s.events]) == (Action.DONE, ["expired"])
    assert s.dead == 1


def test_expired_after_attempts_is_a_dead_letter() -> None:
    assert run("expired", attempt=2).dead == 1


def test_a_wait_that_the_peer_asks_for_is_kept() -> None:
    assert run(outcome("deferred", retry_after=300.0), chance=0.99).delay == 300.0


def test_recipients_end_separately() -> None:
    s = run("sent", "deferred", "rejected", "suppressed")
    assert (s.action, s.left, s.dead) == (Action.RETRY, 0b0010, 0b0100)
    assert [e[0] for e in s.events] == ["sent", "deferred", "rejected", "suppressed"]


@given(
    st.integers(1, 2000),
    st.floats(0, 0.999),
    st.floats(0, 1),
    st.floats(1, 100),
    st.floats(0.1, 1e5),
    st.floats(0.1, 1e6),
)
def test_waits_stay_within_the_policy(
    attempt: int, chance: float, jitter: float, factor: float, first: float, most: float
) -> None:
    policy = RetryPolicy(first=Duration(first), factor=factor, max=Duration(most), jitter=jitter)
    assert 0 < wait(policy, attempt, chance) <= most
    assert wait(policy, attempt, chance) <= wait(policy, attempt + 1, chance) + 1e-6
    assert wait(policy, attempt, 0.0) >= min(first, most) - 1e-6


@given(
    st.lists(st.sampled_from(list(OutcomeKind)), min_size=1, max_size=6),
    st.integers(0, 10),
    st.booleans(),
    st.floats(0, 1e5),
)
def test_no_recipient_is_lost(kinds: list[OutcomeKind], attempt: int, hold: bool, remaining: float) -> None:
    s = run(*[k.value for k in kinds], attempt=attempt, hold=hold, remaining=remaining)
    for bit, kind in enumerate(kinds):
        named = [event for event, to, _ in s.events if to.bit == bit]
        assert named
        over = bool(s.dead >> bit & 1) or named[-1] in ("sent", "suppressed", "expired", "failed", "rejected")
        assert over != bool(s.left >> bit & 1), kind
    assert (s.action is Action.DONE) == (s.left == 0)
