"""What replies teach: categories, what may be tried again, what rests, and what is counted for learning a rate."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from mailerd.config.load import parse
from mailerd.daemon.feedback import Feedback
from mailerd.flow.limits import Held, Limits
from mailerd.flow.rules import Rules, load
from mailerd.message import Job, Lease, Outcome, OutcomeKind, Phase, Recipient

CONFIG = """
[[provider]]
name = "relay"
[[pool]]
name = "bulk"
providers = ["relay"]
"""
OWN = """
[[rule]]
text = "come back tomorrow"
category = "rate"
pause = "1h"
[[rule]]
text = "slow down please"
category = "rate"
slow = "10/m"
for = "30m"
after = [3, "1m"]
[[rule]]
text = "your account sleeps"
category = "account"
breaker = "10m"
[[rule]]
text = "no more here"
category = "connection"
drop = true
[[rule]]
text = "try fewer"
category = "too_many_recipients"
temporary = true
"""


class Rig:
    def __init__(self, *, adapt: bool = True) -> None:
        self.limits = Limits(parse(CONFIG, None, {}).resolved)
        self.changes = 0
        self.feedback = Feedback(self.limits, Rules(load(OWN, "own")), adapt=adapt, on_change=self._change)

    def _change(self) -> None:
        self.changes += 1

    def hear(
        self, text: str, *, kind: OutcomeKind = OutcomeKind.DEFERRED, code: int = 451, to: str = "ann@gmail.com"
    ) -> Outcome:
        job = Job(
            id=1, stream="s", priority=5, domain=to.partition("@")[2], campaign="", lease=Lease(1, 0.0),
            created_at=datetime.now(UTC), started=time.monotonic(),
        )  # fmt: skip
        self.job = job
        outcome = Outcome(kind, Phase.RCPT, code, text=text, provider="relay")
        return self.feedback.judge("bulk", job, Recipient(0, to), outcome)


def test_a_rule_lets_its_lane_rest_at_once() -> None:
    rig = Rig()
    heard = rig.hear("Come back tomorrow")
    assert (heard.kind, heard.category) == (OutcomeKind.DEFERRED, "rate")
    assert rig.limits.rate("pool:bulk/domain:gmail") == 0.0
    assert rig.changes == 1
    assert rig.feedback.due(time.monotonic())
    rig.hear("Come back tomorrow")
    assert rig.changes == 1  # it rests already


def test_what_somebody_cleared_is_noted_again_when_it_is_said_again() -> None:
    rig = Rig()
    rig.hear("Come back tomorrow")
    rig.limits.hold([])
    assert rig.limits.rate("pool:bulk/domain:gmail") is None
    rig.hear("Come back tomorrow")
    assert rig.limits.rate("pool:bulk/domain:gmail") == 0.0
    assert rig.changes == 2


def test_a_rule_with_a_threshold_acts_at_the_last_of_them() -> None:
    rig = Rig()
    for _ in range(2):
        rig.hear("slow down please")
        assert rig.limits.rate("pool:bulk/domain:gmail") is None
    rig.hear("slow down please")
    assert rig.limits.rate("pool:bulk/domain:gmail") == pytest.approx(10 / 60)


def test_what_is_said_about_our_account_costs_the_message_nothing_and_stops_the_provider() -> None:
    rig = Rig()
    heard = rig.hear("Your account sleeps", kind=OutcomeKind.REJECTED, code=550)
    assert (heard.kind, heard.category) == (OutcomeKind.UNSENT, "account")
    assert rig.limits.stopped() == {"relay"}


def test_a_rejection_that_a_rule_calls_temporary_is_tried_again() -> None:
    heard = Rig().hear("try fewer", kind=OutcomeKind.REJECTED, code=552)
    assert (heard.kind, heard.category) == (OutcomeKind.DEFERRED, "too_many_recipients")


def test_a_rule_may_ask_for_another_connection() -> None:
    rig = Rig()
    rig.hear("no more here")
    assert rig.job.hang_up
    rig.hear("mailbox full")
    assert not rig.job.hang_up


def test_an_operators_word_goes_before_a_replys() -> None:
    rig = Rig()
    rig.hear("Come back tomorrow")
    rig.limits.hold([Held("pool:bulk/domain:gmail", "operator", 5.0)])
    assert rig.limits.rate("pool:bulk/domain:gmail") == 5.0
    rig.limits.hold([Held("pool:bulk/domain:gmail", "operator", 5.0), Held("pool:bulk/domain:gmail", "reply", 1.0)])
    assert rig.limits.rate("pool:bulk/domain:gmail") == 1.0  # what the receiver says can only lower it
    rig.limits.hold([])
    assert rig.limits.rate("pool:bulk/domain:gmail") is None
    assert rig.limits.of_lane("s", "bulk", "gmail.com") == ()


def test_a_refusal_for_the_rate_without_a_rule_is_counted_and_others_are_not() -> None:
    rig = Rig()
    rig.hear("too many messages, slow", to="a@example.org")
    rig.hear("mailbox full", code=452, to="b@example.org")
    rig.hear("Come back tomorrow", to="c@example.org")
    assert list(rig.feedback._refused) == [("bulk", "example.org")]
    quiet = Rig(adapt=False)
    quiet.hear("too many messages, slow", to="a@example.org")
    assert not quiet.feedback._refused


def test_a_wait_that_the_reply_asks_for_is_kept() -> None:
    assert Rig().hear("greylisted, try again in 5 minutes").retry_after == 300.0
