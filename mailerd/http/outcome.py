"""Verdicts of a provider's API as `Outcome`s, and what they say of the provider itself. Pure.

| fault | for the message | for the provider |
|---|---|---|
| none | sent | it works |
| message, recipient | rejected | it works |
| retry | deferred: costs an attempt | one failure |
| rate | unsent | rests for a moment |
| quota, account, ours | unsent | stops: somebody has to act, or a day to pass |
| down | unsent | one failure |
| doubt | in doubt | one failure |
"""

from __future__ import annotations

from typing import Final

from mailerd.http.dialect import Fault, Verdict
from mailerd.message import Outcome, OutcomeKind, Phase, clean

__all__ = ["STOPS", "WORKS", "outcome"]

STOPS: Final = frozenset((Fault.QUOTA, Fault.ACCOUNT, Fault.OURS))
"""Faults that are no message's matter, and that no other message would be spared."""
WORKS: Final = frozenset((None, Fault.MESSAGE, Fault.RECIPIENT))
"""The provider judged the message: it works."""

_KINDS: Final = {
    None: OutcomeKind.SENT,
    Fault.MESSAGE: OutcomeKind.REJECTED,
    Fault.RECIPIENT: OutcomeKind.REJECTED,
    Fault.RETRY: OutcomeKind.DEFERRED,
    Fault.RATE: OutcomeKind.UNSENT,
    Fault.QUOTA: OutcomeKind.UNSENT,
    Fault.ACCOUNT: OutcomeKind.UNSENT,
    Fault.OURS: OutcomeKind.UNSENT,
    Fault.DOWN: OutcomeKind.UNSENT,
    Fault.DOUBT: OutcomeKind.IN_DOUBT,
}
_CATEGORIES: Final = {
    Fault.RECIPIENT: "recipient",
    Fault.RATE: "rate",
    Fault.QUOTA: "account",
    Fault.ACCOUNT: "account",
    Fault.OURS: "protocol",
    Fault.DOWN: "connection",
}


def outcome(verdict: Verdict, status: int, provider: str) -> Outcome:
    """The outcome for each recipient of a message; `status` is the HTTP status, 0 without an answer."""
    category = verdict.category or _CATEGORIES.get(verdict.fault, "") if verdict.fault else ""
    if verdict.fault is Fault.RETRY and status >= 500 and not category:
        category = "connection"  # said before anybody takes it for a reply code of SMTP
    return Outcome(
        _KINDS[verdict.fault],
        Phase.RESPONSE,
        status,
        "",
        clean(verdict.text),
        provider,
        clean(verdict.id, 200),
        category,
        verdict.retry_after,
    )
