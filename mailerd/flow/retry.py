"""What an attempt's outcomes mean for the row: `decide` turns them into a `Settlement`. Pure: time and chance come in.

Rules: an unknown failure is temporary. Provider trouble (`UNSENT`) costs the message no attempt. What may have been
accepted follows the stream's policy. Recipients of one row end separately: the bits not done go on. A retry that
would come after the message's end is not scheduled: the message has expired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailerd.config.model import RetryPolicy
from mailerd.message import Action, Job, Outcome, OutcomeKind, Recipient, Settlement, clean

__all__ = ["decide", "wait"]

UNSENT_WAIT: Final = 5.0  # seconds before a message that met provider trouble is looked at again
_LEAST: Final = 1.0

_EVENT: Final = {
    OutcomeKind.SENT: "sent",
    OutcomeKind.DEFERRED: "deferred",
    OutcomeKind.REJECTED: "rejected",
    OutcomeKind.UNSENT: "deferred",
    OutcomeKind.IN_DOUBT: "in_doubt",
    OutcomeKind.FAILED: "failed",
    OutcomeKind.SUPPRESSED: "suppressed",
    OutcomeKind.EXPIRED: "expired",
}


def wait(policy: RetryPolicy, attempt: int, chance: float) -> float:
    """Seconds to wait after charged attempt number `attempt` (1 for the first); `chance` in [0, 1).

    Exponential with jitter: the nominal wait is first · factor^(attempt−1), at most `max`; `jitter` of it is random.
    """
    try:
        nominal = min(float(policy.first) * policy.factor ** (attempt - 1), float(policy.max))
    except OverflowError:
        nominal = float(policy.max)
    return max(nominal * (1.0 - policy.jitter * chance), min(_LEAST, nominal))


def decide(
    job: Job,
    results: Sequence[tuple[Recipient, Outcome]],
    policy: RetryPolicy,
    *,
    hold: bool,
    remaining: float | None,
    chance: float,
) -> Settlement:
    """The settlement of one attempt. `remaining` is seconds until the message expires, None when it never does."""
    if len(results) == 1 and results[0][1].kind is OutcomeKind.SENT:  # nearly every message
        return Settlement(job, Action.DONE, [("sent", results[0][0], results[0][1])])
    charged = any(o.kind is not OutcomeKind.UNSENT for _, o in results)
    attempt = job.attempt + charged
    delay = max(
        wait(policy, max(attempt, 1), chance) if charged else UNSENT_WAIT * (0.5 + chance),
        max((o.retry_after for _, o in results), default=0.0),
    )
    late = remaining is not None and delay >= remaining
    spent = attempt >= policy.attempts
    events: list[tuple[str, Recipient, Outcome]] = []
    left = dead = 0
    doubt = False
    reason = ""
    for to, outcome in results:
        bit = 1 << to.bit
        kind = outcome.kind
        event = _EVENT[kind]
        if kind is OutcomeKind.IN_DOUBT and hold:
            doubt = True
            left |= bit
        elif kind in (OutcomeKind.DEFERRED, OutcomeKind.UNSENT, OutcomeKind.IN_DOUBT):
            if late or (spent and kind is not OutcomeKind.UNSENT):
                dead |= bit
                why = (
                    f"the next attempt, in {delay:.0f} s, would come after it expires"
                    if late
                    else f"given up after {attempt} attempts"
                )
                reason = f"{why}: {_words(outcome)}"
                if kind is OutcomeKind.IN_DOUBT:
                    events.append((event, to, outcome))  # it may have been accepted: that stays on record
                event = "expired" if late else "failed"
                end = OutcomeKind.EXPIRED if late else OutcomeKind.FAILED
                outcome = Outcome(
                    end, outcome.phase, text=clean(reason), provider=outcome.provider, category=outcome.category
                )
            else:
                left |= bit
        elif kind in (OutcomeKind.REJECTED, OutcomeKind.FAILED):
            dead |= bit
            reason = _words(outcome)
        elif kind is OutcomeKind.EXPIRED and job.attempt:
            dead |= bit  # tried and given up; one that expired untried is no operator's business
            reason = _words(outcome)
        events.append((event, to, outcome))
    action = Action.DOUBT if doubt else Action.RETRY if left else Action.DONE
    return Settlement(job, action, events, delay if left else 0.0, charged, left, dead, reason)


def _words(outcome: Outcome) -> str:
    if not outcome.code:
        return outcome.text
    return " ".join(filter(None, (str(outcome.code), outcome.enhanced, outcome.text)))
