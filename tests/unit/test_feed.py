"""What one provider may take: no more than its tokens, no more than its share while another could take it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable

import pytest

from mailerd.config.base import Duration
from mailerd.config.model import Stream
from mailerd.daemon.backlog import Backlog
from mailerd.daemon.feed import PATIENCE, Feed
from mailerd.daemon.unsettled import Unsettled
from mailerd.flow.bucket import Bucket, Limit
from mailerd.message import Outcome, OutcomeKind, Outgoing, Phase
from tests.unit.test_backlog import Composer, job


def backlog() -> Backlog:
    return Backlog(
        Stream(name="s", expires=Duration(100)),
        Composer(),
        Unsettled(10_000),
        on_settlement=lambda: None,
        on_low=lambda: None,
    )


def bucket(tokens: int, slot: float = 0.0) -> Bucket:
    limited = Bucket(Limit(key="provider:p", rate=100.0))
    limited.granted(tokens, slot, 0.0, math.inf, 0.0)
    return limited


def rivals(*weights: int, waiting: int = 0, sticky: bool = False) -> list[Feed]:
    shared = backlog()
    shared.add(job(n) for n in range(1, waiting + 1))
    feeds = [Feed(shared, f"p{n}", weight=weight, sticky=sticky) for n, weight in enumerate(weights)]
    for feed in feeds:
        feed.rivals = tuple(other for other in feeds if other is not feed)
        feed.eager = lambda: True
    return feeds


def end(feed: Feed, outgoing: Outgoing, kind: OutcomeKind) -> None:
    feed.done(outgoing, [Outcome(kind, Phase.DOT, 250, provider="p")])


def test_without_a_token_nothing_is_taken_and_somebody_is_asked_to_wake_it() -> None:
    limited, woken = bucket(2), list[float]()
    feed = Feed(backlog(), "p", buckets=(limited,))
    feed.on_short = woken.append
    feed._backlog.add(job(n) for n in range(1, 6))
    assert feed.waiting() == 2
    taken = [feed.take("p") for _ in range(4)]
    assert [outgoing.job.id if outgoing else None for outgoing in taken] == [1, 2, None, None]
    assert woken
    assert limited.held == 2
    assert feed.room(time.monotonic()) == 0


def test_a_token_is_used_up_by_what_was_sent_and_free_again_by_what_was_not() -> None:
    limited = bucket(2)
    feed = Feed(backlog(), "p", buckets=(limited,))
    feed._backlog.add([job(1), job(2)])
    first, second = feed.take("p"), feed.take("p")
    assert first is not None
    assert second is not None
    end(feed, first, OutcomeKind.SENT)
    end(feed, second, OutcomeKind.UNSENT)
    assert (limited.held, limited.stock) == (0, 1)


def test_limits_that_change_while_a_message_flies_are_settled_with_those_it_took_from() -> None:
    before, after = bucket(1), bucket(1)
    feed = Feed(backlog(), "p", buckets=(before,))
    feed._backlog.add([job(1)])
    outgoing = feed.take("p")
    assert outgoing is not None
    feed.buckets = (after,)
    end(feed, outgoing, OutcomeKind.SENT)
    assert (before.held, after.held) == (0, 0)


@pytest.mark.parametrize("weights", [(1, 1), (4, 1), (1, 2, 5)])
def test_those_that_could_all_take_it_share_by_weight(weights: tuple[int, ...]) -> None:
    feeds = rivals(*weights, waiting=400)
    shares: Counter[int] = Counter()
    for turn in range(1200):
        outgoing = feeds[turn % len(feeds)].take("p")
        if outgoing is not None:
            shares[turn % len(feeds)] += 1
        if sum(shares.values()) >= 300:
            break
    total = sum(shares.values())
    for n, weight in enumerate(weights):
        assert shares[n] / total == pytest.approx(weight / sum(weights), abs=0.03)


def test_one_that_cannot_take_it_holds_up_nobody() -> None:
    slow, fast = rivals(9, 1, waiting=50)
    slow.eager = lambda: False
    assert all(fast.take("p") is not None for _ in range(50))


def test_one_that_does_not_come_forward_is_waited_for_only_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    _, fast = rivals(9, 1, waiting=0)
    fast._backlog.add(job(n) for n in range(1, 51))
    taken = 0
    while fast.take("p") is not None:
        taken += 1
    assert 0 < taken < 5  # ahead: the other one is to go first
    now += PATIENCE + 0.01
    assert all(fast.take("p") is not None for _ in range(50 - taken))


def test_one_that_was_away_does_not_get_all_that_it_missed() -> None:
    away, other = rivals(1, 1, waiting=300)
    away.eager = lambda: False
    for _ in range(200):
        other.take("p")
    away.eager = lambda: True
    in_a_row = 0
    while other.take("p") is None:
        assert away.take("p") is not None
        in_a_row += 1
    assert in_a_row <= 21


def test_what_came_back_from_one_is_for_another_if_that_takes_it_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    one, two = rivals(1, 1, waiting=0)
    one._provider, two._provider = "one", "two"
    one._backlog.add([job(1), job(2)])
    first = one.take("one")
    assert first is not None
    first_id = first.job.id
    one.done(first, [Outcome(OutcomeKind.UNSENT, Phase.MAIL, 421, provider="one")])
    other = one.take("one")
    assert other is not None
    assert other.job.id != first_id
    assert one.take("one") is None
    again = two.take("two")
    assert again is not None
    assert again.job.id == first_id
    two.done(again, [Outcome(OutcomeKind.UNSENT, Phase.MAIL, 421, provider="two")])
    assert two.take("two") is None
    now += PATIENCE + 0.01
    assert two.take("two") is not None  # nobody else wanted it


def test_in_a_sticky_pool_each_domain_has_one_owner_by_weight() -> None:
    feeds = rivals(1, 3, sticky=True)

    def owners(domains: Iterable[str]) -> list[int]:
        return [next(n for n, feed in enumerate(feeds) if feed._owns(domain)) for domain in domains]

    names = [f"d{n}.example" for n in range(2000)]
    found = owners(names)
    assert all(sum(feed._owns(name) for feed in feeds) == 1 for name in names)
    assert found.count(1) / 2000 == pytest.approx(0.75, abs=0.05)
    assert owners(names) == found


def test_a_sticky_feed_looks_past_what_is_anothers() -> None:
    shared = backlog()
    feeds = [Feed(shared, f"p{n}", sticky=True) for n in range(2)]
    for feed in feeds:
        feed.rivals = tuple(other for other in feeds if other is not feed)
    names = [f"d{n}.example" for n in range(30)]
    for n, name in enumerate(names):
        row = job(n + 1)
        row.domain = name
        shared.add([row])
    for feed in feeds:
        mine = [name for name in names if feed._owns(name)]
        taken = [outgoing.job.domain for _ in range(40) if (outgoing := feed.take("p")) is not None]
        assert taken == mine
    assert shared.waiting == 0
