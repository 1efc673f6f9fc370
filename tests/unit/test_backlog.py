"""The leased messages of one stream: order, gates, ends, and the count of what may be sent twice."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Literal

import pytest

from mailerd.config.base import Duration
from mailerd.config.model import Stream
from mailerd.daemon.backlog import FRESH, RETURNS, TRIES, Backlog
from mailerd.daemon.feed import Feed
from mailerd.daemon.unsettled import Unsettled
from mailerd.message import Action, Failure, Job, Lease, Outcome, OutcomeKind, Outgoing, Phase, Recipient


class Composer:
    def compose(self, job: Job) -> Outgoing:
        if job.subject == "bad":
            raise Failure("a bad one", "content")
        return Outgoing(job, "s@x.example", (Recipient(0, job.recipient),), b"x\r\n")


class Rig:
    def __init__(self, cap: int = 512, on_uncertain: Literal["resend", "hold"] = "resend") -> None:
        self.unsettled = Unsettled(cap)
        self.nudges = 0
        self.backlog = Backlog(
            Stream(name="s", expires=Duration(100), on_uncertain=on_uncertain),
            Composer(),
            self.unsettled,
            on_settlement=self._nudge,
            on_low=lambda: None,
        )
        self.feed = Feed(self.backlog, "relay")

    def _nudge(self) -> None:
        self.nudges += 1

    def end(self, outgoing: Outgoing, kind: str) -> None:
        self.feed.done(
            outgoing, [Outcome(OutcomeKind(kind), Phase.DOT, 250 if kind == "sent" else 0, provider="relay")]
        )

    def events(self) -> list[str]:
        return [event for settlement in self.backlog.settlements for event, _, _ in settlement.events]


def job(id_: int = 1, *, priority: int = 5, ttl: float = 60, **fields: object) -> Job:
    now = time.monotonic()
    return Job(
        id=id_, stream="s", priority=priority, domain="d", campaign="", lease=Lease(1, now + ttl), created_at=datetime.now(UTC),
        recipient=f"r{id_}@d.example", leased_at=now, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_most_urgent_goes_first_then_the_oldest() -> None:
    rig = Rig()
    rig.backlog.add([job(1), job(2), job(3, priority=0), job(4)])
    assert [o.job.id for _ in range(4) if (o := rig.feed.take("relay"))] == [3, 1, 2, 4]
    assert rig.feed.take("relay") is None


def test_what_stops_at_a_gate_ends_and_the_next_one_is_tried() -> None:
    rig = Rig()
    now = time.monotonic()
    rig.backlog.add([job(1, subject="bad"), job(2, expires=now - 1), job(3, ttl=-1), job(4)])
    taken = rig.feed.take("relay")
    assert taken is not None
    assert taken.job.id == 4
    assert rig.events() == ["failed", "expired"]
    assert 3 not in rig.backlog.held  # its lease is over: anybody may lease it, and nothing is written


@pytest.mark.parametrize(
    ("age", "expires", "event"),
    [(99, None, None), (101, None, "expired"), (101, 50, None), (1, -1, "expired")],
    ids=[
        "young",
        "over the stream's limit",
        "older than the limit, but its own instant decides",
        "its own instant is over",
    ],
)
def test_expiry(age: float, expires: float | None, event: str | None) -> None:
    rig = Rig()
    rig.backlog.add([job(age=age, expires=None if expires is None else time.monotonic() + expires)])
    assert (rig.feed.take("relay") is None) == (event is not None)
    assert rig.events() == ([event] if event else [])


def test_what_comes_back_unsent_is_tried_again_and_then_put_off_without_charge() -> None:
    rig = Rig()
    rig.backlog.add([job()])
    for _ in range(RETURNS + 1):
        taken = rig.feed.take("relay")
        assert taken is not None
        rig.end(taken, "unsent")
    assert rig.feed.take("relay") is None
    (settlement,) = rig.backlog.settlements
    assert (settlement.action, settlement.charged, settlement.left) == (Action.RETRY, False, 1)


def test_at_the_cap_no_new_message_is_started_until_a_settle() -> None:
    rig = Rig(cap=2)
    called: list[int] = []
    rig.unsettled.on_release.append(lambda: called.append(1))
    rig.backlog.add([job(i) for i in range(1, 6)])
    for kind in ("sent", "in_doubt"):
        taken = rig.feed.take("relay")
        assert taken is not None
        rig.end(taken, kind)
    assert rig.feed.take("relay") is None
    batch = rig.backlog.take_settlements(100)
    assert not called
    rig.backlog.settled(batch)
    assert called == [1]
    assert rig.unsettled.count == 0
    assert rig.feed.take("relay") is not None


def test_a_settle_that_could_not_be_written_goes_first_next_time_and_still_counts() -> None:
    rig = Rig()
    rig.backlog.add([job(1), job(2)])
    for _ in range(2):
        taken = rig.feed.take("relay")
        assert taken is not None
        rig.end(taken, "sent")
    batch = rig.backlog.take_settlements(1)
    rig.backlog.put_back(batch)
    assert [s.job.id for s in rig.backlog.settlements] == [1, 2]
    assert rig.unsettled.count == 2


def test_lost_leases_are_forgotten_unless_they_fly() -> None:
    rig = Rig()
    rig.backlog.add([job(1), job(2), job(3)])
    flying = rig.feed.take("relay")
    assert flying is not None
    rig.backlog.lost([1, 2])
    assert sorted(rig.backlog.held) == [1, 3]
    assert rig.backlog.waiting == 1
    rig.end(flying, "sent")  # will be fenced when it is settled
    assert rig.events() == ["sent"]


def test_a_shut_feed_gives_nothing_but_takes_what_comes_back() -> None:
    rig = Rig()
    rig.backlog.add([job(1), job(2)])
    taken = rig.feed.take("relay")
    assert taken is not None
    rig.feed.may_send = False
    assert rig.feed.take("relay") is None
    assert rig.feed.waiting() == 0
    rig.end(taken, "sent")
    assert rig.nudges == 1
    assert {j.id for j in rig.backlog.empty()} == {2}
    assert rig.backlog.waiting == rig.backlog.octets == 0


def test_what_flies_may_not_send_its_content_once_its_lease_is_lost() -> None:
    """A renewal moves the deadline of the whole batch, those that were lost excepted."""
    rig = Rig()
    lost, kept = job(1), job(2)
    lost.lease = kept.lease
    rig.backlog.add([lost, kept])
    flying = [o for _ in range(2) if (o := rig.feed.take("relay"))]
    kept.lease.deadline += 60
    rig.backlog.lost({1})
    assert flying[0].job.lease.deadline < time.monotonic()
    assert flying[0].job.lease.token == 1  # its settle is to miss, not to hit
    assert flying[1].job.lease.deadline > time.monotonic() + 60


def test_a_stream_that_holds_gives_only_what_has_its_intent_committed() -> None:
    rig = Rig(on_uncertain="hold")
    rig.backlog.add([job(1), job(2), job(3, priority=0), job(4)])
    assert rig.feed.take("relay") is None
    assert rig.feed.waiting() == 0
    jobs = rig.backlog.intentions(3)
    assert [j.id for j in jobs] == [3, 1, 2]
    assert rig.backlog.waiting == 1
    rig.backlog.intended(jobs, gone={1})
    assert rig.feed.waiting() == rig.backlog.cleared == 2
    assert rig.backlog.held.keys() == {2, 3, 4}
    outgoing = rig.feed.take("relay")
    assert outgoing is not None
    assert outgoing.job.id == 3
    rig.end(outgoing, "unsent")  # it comes back, and needs no second intent
    assert rig.feed.waiting() == 2
    rig.backlog.lost({3})
    assert [j.id for j in rig.backlog.empty()] == [2, 4]
    assert rig.backlog.octets == rig.backlog.waiting == rig.backlog.cleared == 0


def test_intents_that_could_not_be_committed_go_first_next_time() -> None:
    rig = Rig(on_uncertain="hold")
    rig.backlog.add([job(1), job(2), job(3)])
    rig.backlog.unintended(rig.backlog.intentions(2))
    assert [j.id for j in rig.backlog.intentions(9)] == [1, 2, 3]
    assert rig.backlog.octets == 0


def test_what_a_dead_instance_had_and_then_expired_is_in_doubt_on_record() -> None:
    rig = Rig()
    rig.backlog.add([job(1, leases=2, expires=0.0), job(2, leases=1, expires=0.0)])
    assert rig.feed.take("relay") is None
    assert rig.events() == ["in_doubt", "expired", "expired"]
    held = Rig(on_uncertain="hold")
    held.backlog.intended([job(1, leases=2, expires=0.0)], set())  # leased twice, and never intended: not sent
    assert held.feed.take("relay") is None
    assert held.events() == ["expired"]


@pytest.mark.parametrize("rcpt", [-1, 0b110, 0b1])
def test_an_end_without_a_payload_is_the_end_of_all_recipients(rcpt: int) -> None:
    rig = Rig(on_uncertain="hold")
    unread = job(1, rcpt=rcpt)
    unread.recipient = ""
    rig.backlog.fail(unread, "gone", "internal")
    doubtful = job(2, rcpt=rcpt)
    doubtful.recipient = ""
    rig.backlog.doubt(doubtful)
    failed, doubted = rig.backlog.settlements
    assert (failed.dead, doubted.left) == (rcpt, rcpt)
    assert (failed.action, doubted.action) == (Action.DONE, Action.DOUBT)
    assert rig.events() == ["failed", "in_doubt"]


def test_composed_messages_do_not_outlive_their_jobs() -> None:
    rig = Rig()
    lost, expired, bounced = job(1), job(2, expires=0.0), job(3, size=1_000_000)
    rig.backlog.prepared = {1: Failure("x", "x"), 2: Failure("x", "x")}
    rig.backlog.add([lost, expired, bounced])
    rig.backlog.lost({1})
    outgoing = rig.feed.take("relay")
    assert outgoing is not None
    assert rig.backlog.prepared == {}
    rig.end(outgoing, "unsent")
    assert rig.backlog.prepared == {3: outgoing}  # a large one is not composed twice
    assert rig.feed.take("relay") is outgoing
    assert rig.backlog.prepared == {}


def test_the_age_limit_of_the_stream_is_an_expiry_like_any_other() -> None:
    rig = Rig()
    rig.backlog.add([job(1, age=40.0)])
    outgoing = rig.feed.take("relay")
    assert outgoing is not None
    assert outgoing.job.expires == pytest.approx(outgoing.job.leased_at + 60.0)


class Purse:
    """A permit that counts."""

    def __init__(self) -> None:
        self.refunded = self.used = self.owed = 0

    def refund(self, count: int) -> None:
        self.refunded += count

    def spent(self, count: int) -> None:
        self.used += count

    def owe(self, count: int) -> None:
        self.owed += count


def test_what_is_leased_before_its_slot_ripens_first() -> None:
    rig = Rig()
    now = time.monotonic()
    rig.backlog.add([job(1, not_before=now + 50), job(2), job(3, not_before=now + 20)])
    assert (rig.backlog.waiting, rig.backlog.ripening) == (1, 2)
    assert rig.backlog.ripe(now) == now + 20
    assert rig.backlog.ripe(now + 30) == now + 50
    assert [o.job.id for _ in range(3) if (o := rig.feed.take("relay"))] == [2, 3]
    rig.backlog.lost([1])
    assert (rig.backlog.ripening, rig.backlog.octets) == (0, 0)


def test_tokens_are_used_by_what_was_on_the_wire_and_go_back_otherwise() -> None:
    rig = Rig()
    purse = Purse()
    rows = [job(n, permits=(purse,)) for n in range(1, 8)]
    rows[1].subject = "bad"
    rows[2].expires = 0.0
    rig.backlog.add(rows)
    sent = rig.feed.take("relay")
    assert sent is not None
    rig.end(sent, "sent")
    assert (purse.used, purse.refunded) == (1, 0)
    deferred = rig.feed.take("relay")  # passes over the bad one and the expired one
    assert deferred is not None
    assert deferred.job.id == 4
    assert purse.refunded == 2
    rig.end(deferred, "deferred")
    assert (purse.used, purse.refunded) == (2, 2)
    unsent = rig.feed.take("relay")
    assert unsent is not None
    for _ in range(RETURNS):
        rig.end(unsent, "unsent")
        assert purse.refunded == 2  # it keeps them while it waits for another connection
        again = rig.feed.take("relay")
        assert again is not None
        unsent = again
    rig.end(unsent, "unsent")
    assert purse.refunded == 3
    rig.backlog.lost([6])
    assert purse.refunded == 4
    assert len(rig.backlog.empty()) == 1
    assert (purse.used, purse.refunded) == (2, 5)


def test_each_recipient_costs_a_token() -> None:
    rig = Rig()
    purse = Purse()
    row = job(1, permits=(purse,), cc=["b@d.example", "c@d.example"], bcc=["e@d.example"], rcpt=0b0111)
    rig.backlog.add([row])
    assert (purse.owed, row.tokens) == (2, 3)  # one of the four is done already, and one was paid for by the lease
    rig.backlog.empty()
    assert purse.refunded == 3


def test_what_was_looked_up_too_long_ago_is_not_sent_but_looked_up_again() -> None:
    stale: list[int] = []
    backlog = Backlog(
        Stream(name="s"), Composer(), Unsettled(9), on_settlement=lambda: None, on_low=lambda: None,
        on_stale=lambda job: stale.append(job.id),
    )  # fmt: skip
    now = time.monotonic()
    old, young = job(1, checked=now - FRESH - 1), job(2, checked=now - FRESH + 20)
    backlog.add([old, young])
    assert (taken := backlog.take("relay")) is not None
    assert (taken.job.id, stale, backlog.settlements) == (2, [1], [])
    assert 1 in backlog.held, "its lease must go on being renewed"
    old.checked = time.monotonic()
    backlog.add([old])
    assert (taken := backlog.take("relay")) is not None
    assert taken.job.id == 1
    backlog.add([job(i, checked=now - FRESH - 1) for i in range(10, 11 + TRIES)])
    assert backlog.take("relay") is None
    assert (len(stale), backlog.waiting, backlog.octets) == (1 + TRIES, 1, 0)
