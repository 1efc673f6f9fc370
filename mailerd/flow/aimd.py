"""The rate that a receiver takes, learnt from its refusals where no rule (`flow.rules`) speaks: additive increase,
multiplicative decrease, for one (pool, domain group). Pure: it counts and judges, and knows no clock and no store.

Nothing is limited until somebody is refused. Then the rate is what was accepted, less a tenth; it grows fast until it
is refused again, at the `ceiling`; from there it falls once an episode and comes back to just below the ceiling in ever
smaller steps. Every ten minutes the ceiling is raised a little, to see whether more is taken by now: by 5 %, and by twice
as much each time that went well. A day without a refusal, and the limit is gone.

All instances share one `Aimd` (they read it, change it and write it back under a lock, about once a second), and each
sees only the replies to its own messages. So instants are those of the store's clock, and a refusal counts only if its
message was sent after everybody had heard of the last change: what comes later belongs to the episode before.

The constants. `SPREAD` is a second for all to have read the new rate, and what was under way. `STEP` is several times the
second by which replies are late: judged sooner, a rise has no answer yet. A receiver with one second of burst takes 8 %
too much for 12 s before it says so; `DOWN` to 92 % therefore lands below the limit at the first or second refusal, and
more would give away what was found. `NEAR` is what the ceiling, which was too much, costs at rest. A single refusal, or
less than `STRAY` of a fast lane's, may be chance: when the first one counted, a limit of 5 a second was taken for 3.8.

Simulated as in tests/unit/test_aimd.py: mail without end, a hidden limit L of 5, 20, 100, 500, 2000 a second with one
second of burst, 1, 2, 4, 8 instances, replies 0.1 to 1 s late; 16 runs of each, 320 in all. Between the second and the
fifth minute 93.3 to 100.5 % of L was accepted (more than L: what was left of the burst) and at most 1.3 % refused (at 5 a
second; 0.03 % from 100 a second on); the rate moved between 78 and 105 % of L and ended at 92 to 101.5 %. With a probe
every ten minutes for two hours: 98.8 % of L accepted, 0.02 % refused. A limit that falls to a tenth is found again within
five minutes; one that rises fivefold within two and a half hours.

Hazards: it believes that refusals are about the rate. Only those whose category is `rate` may be told to it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

__all__ = ["LEAST", "Aimd", "expired", "grown", "refused"]

SPREAD: Final = 1.5  # seconds after a change in which messages may still be sent at the rate before
STEP: Final = 4.0  # seconds between two rises, and the window in which refusals and acceptances are counted
DOWN: Final = 0.92  # of what was accepted
HALF: Final = 0.5  # the most that one episode takes away
NEAR: Final = 0.97  # of the ceiling: where it rests
FAST: Final = 1.5  # a rise while no ceiling is known
GAP: Final = 0.2  # a rise below a ceiling, of what is missing
LITTLE: Final = 0.005  # a rise is at least that part of the ceiling
USED: Final = 0.7  # of the rate must have been sent, or nothing was learnt
STRAY: Final = 0.003  # refusals in a window that may be chance, of what the window holds
MANY: Final = 50  # messages among which a second refusal is no chance
PROBE: Final = 600.0  # seconds without a refusal after which the ceiling is raised
HIGHER: Final = 0.05  # by this, doubled with each probe in a row that went well, at most by 1
FIRST: Final = 1.0  # messages a second: no first limit is lower
LEAST: Final = 1 / 60  # messages a second: nor any later one, so that something is always tried
DAY: Final = 86400.0
_FEW = 3  # messages that a window must have seen, unless it has lasted a minute
_MINUTE = 60.0
_DOUBLINGS = 5


class Aimd(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of one (pool, domain group). `rate` in messages a second; None: unlimited. Instants are seconds of
    the store's clock. A new one knows nothing."""

    rate: float | None = None
    ceiling: float = 0.0  # the lowest rate that was refused, raised by probes; 0: not known yet
    changed_at: float = 0.0  # the last decrease
    refused_at: float = 0.0
    probed_at: float = 0.0
    probes: int = 0  # in a row that were not refused
    since: float = 0.0  # begin of the window; it may lie ahead: nothing is counted before
    sent: int = 0  # accepted in the window, of all instances
    refused: int = 0  # refused in the window
    accepted: float = 0.0  # messages a second in the last window; 0: none since the last decrease


def refused(state: Aimd, now: float, observed_rate: float, *, sent_at: float | None = None, count: int = 1) -> Aimd:
    """`count` messages that were sent at `sent_at` (now, if nobody knows) were refused for the rate.

    `observed_rate` is how many messages a second were accepted lately, of all instances; an estimate from one
    instance's last two seconds will do. Decreases at most once an episode.
    """
    limited = state.rate is not None
    if limited and (now if sent_at is None else sent_at) < state.changed_at + SPREAD:
        return state
    if not limited and now - state.since > STEP:
        state = replace(state, since=now, refused=0)
    rate = observed_rate if state.rate is None else state.rate
    total = state.refused + count
    if total <= max(1, STRAY * rate * STEP):
        return replace(state, refused=total, refused_at=now)
    # Replies still under way belong to the rate before: the next window begins when they are through.
    after = Aimd(changed_at=now, refused_at=now, probed_at=now, since=now + 2 * SPREAD)
    if state.rate is None:
        return replace(after, rate=max(FIRST, observed_rate * DOWN))
    taken = min(rate, state.accepted or observed_rate)
    return replace(after, rate=max(LEAST, rate * HALF, taken * DOWN), ceiling=rate)


def grown(state: Aimd, now: float, sent_since: int) -> Aimd:
    """The caller's instance had `sent_since` messages accepted since its last call. The state after that: a higher rate
    when a whole window went without a refusal and the rate was really used. The same object when nothing is to be stored.
    """
    if expired(state, now):
        return Aimd()
    if state.rate is None or now < state.since:
        return state
    span = now - state.since
    total = state.sent + sent_since
    if span < STEP or (total < _FEW and span < _MINUTE):
        return replace(state, sent=total) if sent_since else state
    accepted = total / span
    rate = state.rate
    learnt = state.refused_at < state.since and accepted >= USED * rate
    lately = rate * STEP < MANY and now - state.refused_at < MANY / rate
    state = replace(state, since=now, sent=0, refused=state.refused if lately else 0, accepted=accepted)
    return _risen(state, now, rate) if learnt else state


def _risen(state: Aimd, now: float, rate: float) -> Aimd:
    if not state.ceiling:
        return replace(state, rate=rate * FAST)
    if now - state.probed_at >= PROBE:
        higher = state.ceiling * (1 + min(1.0, HIGHER * 2.0**state.probes))
        state = replace(state, ceiling=higher, probed_at=now, probes=min(state.probes + 1, _DOUBLINGS))
    rest = state.ceiling * NEAR
    step = max((rest - rate) * GAP, state.ceiling * LITTLE)
    return replace(state, rate=max(rate, min(rest, rate + step)))


def expired(state: Aimd, now: float) -> bool:
    """Whether it says nothing any more: unlimited again, and to be forgotten."""
    if state.rate is None:
        return state.refused_at != 0.0 and now - state.refused_at > STEP
    return now - state.refused_at >= DAY
