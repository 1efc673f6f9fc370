"""One message's mail transaction: where it stands, and what its replies mean for each recipient. Pure.

It holds the rules by which a reply becomes an `Outcome` (RFC 5321 §4.2.1 and §4.5.3.1.10). It says nothing and reads
nothing: `core` moves it from step to step.

Hazard: `data` counts the recipients that are said, which may be fewer than the message has (`indices`).
"""

from __future__ import annotations

import msgspec

from mailerd.message import Outcome, OutcomeKind, Outgoing, Phase, Reply

__all__ = ["CONTENT", "DOT", "LONE", "MAIL", "RCPT", "RSET", "Transaction", "queue_id", "refusal"]

RSET, MAIL, RCPT = 0, 1, 2  # steps: which reply comes next
CONTENT, DOT, LONE = 1, 2, 3  # steps after the reply to DATA, counted from `Transaction.data`


class Transaction:
    """`step` is the reply that comes next: RSET, MAIL, RCPT + i, `data`, then `data` + CONTENT, DOT or LONE."""

    __slots__ = ("accepted", "began", "commands", "data", "indices", "outgoing", "refused", "results", "step")

    def __init__(self, outgoing: Outgoing, now: float) -> None:
        self.outgoing = outgoing
        self.step = MAIL
        self.data = RCPT + len(outgoing.recipients)
        self.accepted = 0  # recipients
        self.began = now  # of the phase that is timed
        self.refused: Outcome | None = None  # the whole message
        self.results: list[Outcome | None] | None = None  # per recipient; None: accepted, or not answered yet
        self.indices: list[int] | None = None  # of the recipients that are said, where not all are
        self.commands: list[bytes] | None = None  # step by step: what is still to be said, last first

    def omit(self, failed: dict[int, Outcome]) -> None:
        """These recipients, by index, are not said."""
        count = len(self.outgoing.recipients)
        self.indices = [index for index in range(count) if index not in failed]
        self.data = RCPT + len(self.indices)
        self.results = [failed.get(index) for index in range(count)]

    def refuse(self, outcome: Outcome) -> None:
        """The recipient whose RCPT is answered now was refused."""
        index = self.step - RCPT
        if self.indices is not None:
            index = self.indices[index]
        if self.results is None:
            self.results = [None] * len(self.outgoing.recipients)
        self.results[index] = outcome

    def late(self, now: float) -> str:
        """Why the content may not be sent any more, or ''. Asked up to its final dot."""
        job = self.outgoing.job
        if now >= job.lease.deadline:
            return "the lease ran out before the content was sent"  # another instance may hold the message by now
        if job.expires is not None and now >= job.expires:
            return "the message expired before its content was sent"
        return ""

    def phase(self) -> Phase:
        step = self.step - self.data
        if step < 0:
            return Phase.MAIL if self.step <= MAIL else Phase.RCPT
        return (Phase.DATA, Phase.CONTENT, Phase.DOT, Phase.DATA)[step]

    def outcomes(self, rest: Outcome) -> list[Outcome]:
        """One per recipient, in order; `rest` is for those that were not refused by themselves."""
        if self.results is None:
            return [rest] * len(self.outgoing.recipients)
        outcomes = [result or rest for result in self.results]
        if rest.kind in (OutcomeKind.SENT, OutcomeKind.IN_DOUBT):
            # RFC 5321 §4.5.3.1.10: recipients beyond the server's limit go in further transactions. It costs them
            # nothing, and ends: each such transaction has brought somebody through.
            for index, outcome in enumerate(outcomes):
                if outcome.phase is Phase.RCPT and _crowded(outcome):
                    outcomes[index] = msgspec.structs.replace(outcome, kind=OutcomeKind.UNSENT)
        return outcomes


def refusal(reply: Reply, phase: Phase, provider: str) -> Outcome:
    """A 4yz or 5yz reply as the outcome of those it concerns."""
    kind = OutcomeKind.REJECTED if reply.code >= 500 else OutcomeKind.DEFERRED
    if reply.code == 552 and phase is Phase.RCPT and not reply.enhanced.endswith(".2.2"):
        # RFC 5321 §4.5.3.1.10: a client "SHOULD treat a 552 code in this case [RCPT] as a temporary […] failure".
        # A full mailbox that says so (X.2.2) is not that case.
        kind = OutcomeKind.DEFERRED
    return Outcome(kind, phase, reply.code, reply.enhanced, reply.text, provider)


def _crowded(outcome: Outcome) -> bool:
    """A refusal for the number of recipients: 452, or 552, which older servers say. X.2.2 is a full mailbox."""
    if outcome.code not in (452, 552):
        return False
    return not outcome.enhanced or outcome.enhanced.endswith(".5.3") or "too many" in outcome.text.lower()


def queue_id(text: str) -> str:
    """The server's name for the message, from the two usual forms: `Ok: queued as ID`, and `Ok ID`. '' if neither."""
    _, found, rest = text.partition("queued as ")
    if found:
        words = rest.split(None, 1)
        return words[0].rstrip(".,;") if words else ""
    words = text.split(None, 2)
    return words[1] if len(words) == 2 and len(words[1]) >= 16 and words[0].lower() == "ok" else ""
