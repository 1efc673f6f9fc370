"""How much is kept ready: a quarter second of the present rate, within bounds."""

from __future__ import annotations

from mailerd.daemon.depth import LEAST, MOST, Depth


def test_it_follows_the_rate() -> None:
    depth = Depth(0.0)
    assert depth.messages == LEAST
    depth.measure(0.1, LEAST + 1)  # more than that, in less than a quarter second
    assert depth.messages == 2 * LEAST
    depth.measure(0.1, LEAST + 1)
    depth.measure(1.0, 600)
    assert depth.messages == 150
    depth.measure(1.1, 600)
    assert depth.messages == 150
    depth.measure(2.0, 600)
    assert depth.messages == LEAST
    sent = 600
    for tenth in range(20, 80, 5):
        sent += 100_000
        depth.measure(tenth / 10 + 0.5, sent)
    assert depth.messages == MOST
