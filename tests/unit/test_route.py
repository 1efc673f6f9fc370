"""Which of a stream's providers may send: the first pool that works, and whoever is being probed."""

from __future__ import annotations

from typing import Any

import pytest

from mailerd.daemon.route import PATIENCE, Route


class Pool:
    def __init__(self, name: str) -> None:
        self.provider = self
        self.name = name
        self.state = "closed"
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def counts(self) -> dict[str, int]:
        return {"idle": 0}


class Feed:
    may_send = True
    served = 0.0
    buckets = ()
    rivals: Any = ()
    probe: Any = None
    pool = ""


def route(*groups: int) -> tuple[Route, list[Pool], list[Feed]]:
    built, pools, feeds = Route(("a", "b")), [Pool(f"p{n}") for n in range(len(groups))], [Feed() for _ in groups]
    for group, pool, feed in zip(groups, pools, feeds, strict=True):
        built.attach(group, pool, feed, lambda: True)  # type: ignore[arg-type]
    return built, pools, feeds


@pytest.mark.parametrize(
    ("states", "sending"),
    [
        (["closed", "closed", "closed"], [True, True, False]),
        (["open", "closed", "closed"], [True, True, False]),  # its pool sends; the breaker itself keeps it from it
        (["open", "open", "closed"], [False, False, True]),
        # While the first pool is probed, the second goes on.
        (["half_open", "open", "closed"], [True, False, True]),
        (["half_open", "closed", "closed"], [True, True, False]),
        # Nobody works: each breaker probes for itself.
        (["open", "open", "open"], [True, True, True]),
        (["half_open", "open", "open"], [True, True, True]),
    ],
)
def test_who_sends(states: list[str], sending: list[bool]) -> None:
    built, pools, feeds = route(0, 0, 1)
    for pool, state in zip(pools, states, strict=True):
        pool.state = state
    built.choose()
    assert [feed.may_send for feed in feeds] == sending


def test_a_paused_provider_never_sends() -> None:
    built, pools, feeds = route(0, 1)
    built.pause(frozenset({"p0"}))
    assert [feed.may_send for feed in feeds] == [False, True]
    pools[1].state = "open"
    built.choose()
    assert [feed.may_send for feed in feeds] == [False, True]  # it probes
    built.pause(frozenset({"p0", "p1"}))
    assert [feed.may_send for feed in feeds] == [False, False]


def test_patience_without_a_provider() -> None:
    built, pools, _ = route(0, 1)
    for pool in pools:
        pool.state = "open"
    assert not built.none_usable(100.0)
    assert not built.none_usable(100.0 + PATIENCE - 0.1)
    assert built.none_usable(100.0 + PATIENCE)
    pools[1].state = "half_open"
    assert not built.none_usable(200.0)


def test_a_spare_takes_part_and_stands_in_for_nobody() -> None:
    built, pools, feeds = Route(("cold", "warm")), [Pool(f"p{n}") for n in range(3)], [Feed() for _ in range(3)]
    for group, pool, feed, spare in zip((0, 0, 1), pools, feeds, (False, True, False), strict=True):
        feed.pool = f"pool{pool.provider.name}"
        built.attach(group, pool, feed, lambda: True, spare=spare)  # type: ignore[arg-type]
    assert [feed.may_send for feed in feeds] == [True, True, False]
    assert not feeds[0].rivals  # they do not share by weight
    asked: list[tuple[str, str]] = []
    built.limit(lambda provider, pool: asked.append((provider, pool)) or ())  # type: ignore[func-returns-value]
    assert asked == [("p0", ""), ("p1", "poolp1"), ("p2", "")]
    pools[0].state = "open"
    built.choose()
    assert [feed.may_send for feed in feeds] == [False, False, True]
