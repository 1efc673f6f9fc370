"""The domain types: what a message is on its way from the outbox to the provider's answer.

A leased row is a `Job`; composing makes an `Outgoing` of it; a provider answers with one `Outcome` a recipient;
settling writes `Event`s. All are values: nothing here does I/O, reads a clock or imports another room. Delivery
failures are values too (`Outcome`), never exceptions: an exception that leaves a sender would stop its neighbours.

Hazards: `Lease.deadline` is the one mutable field (a renewal moves it for every job of the batch at once). All clock
values are `time.monotonic()` seconds; wall-clock instants are judged by Postgres alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

__all__ = [
    "DETAIL_LIMIT",
    "Action",
    "Failure",
    "Job",
    "Lease",
    "Outcome",
    "OutcomeKind",
    "Outgoing",
    "Permit",
    "Phase",
    "Recipient",
    "Reply",
    "Settlement",
    "Source",
    "Trouble",
    "clean",
]

DETAIL_LIMIT = (
    1024  # octets of a peer's text that are kept: enough for every known refusal, too little to flood a table
)


def clean(text: str | bytes, limit: int = DETAIL_LIMIT) -> str:
    """A peer's words made safe to store: no NUL (Postgres refuses it), valid UTF-8, at most `limit` characters.

    One hostile reply must never make a settle statement fail, and so duplicate its neighbours.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    elif not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8", "backslashreplace")
    if "\0" in text:
        text = text.replace("\0", "\\0")
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Phase(StrEnum):
    """Where in a conversation a thing happened; the label of durations and the place in an event's detail."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"  # after 354, before the final dot has been written
    DOT = "dot"  # the final dot is written: from here on the message may have been accepted
    REQUEST = "request"  # an HTTP call, before its last octet was written: nothing was accepted
    RESPONSE = "response"  # it is written: what it carries may have been accepted
    COMPOSE = "compose"
    GATE = "gate"


class OutcomeKind(StrEnum):
    """What became of one recipient in one attempt. Whoever adds a kind adds its row to `flow.retry.decide`."""

    SENT = "sent"  # the peer took responsibility (RFC 5321 §6.1)
    DEFERRED = "deferred"  # a temporary refusal of this message or recipient: costs an attempt
    REJECTED = "rejected"  # a permanent refusal (5yz) of this message or recipient
    UNSENT = "unsent"  # trouble of the provider or the connection; certainly not accepted: costs no attempt
    IN_DOUBT = "in_doubt"  # may have been accepted: the answer to the final dot never came
    FAILED = "failed"  # our side cannot send it: template, address, size, missing payload
    SUPPRESSED = "suppressed"
    EXPIRED = "expired"


class Reply(msgspec.Struct, frozen=True):
    """One SMTP reply (RFC 5321 §4.2), multiline joined by newlines; `enhanced` as in RFC 2034, or ''."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"


class Outcome(msgspec.Struct, frozen=True):
    """What one attempt did for one recipient.

    `code` is the SMTP or HTTP status (0: none), `text` the peer's or our own words, already `clean`ed. `retry_after`
    is a wait in seconds that the peer asked for. `category` is the classified reason (`flow.classify`), '' if unset.
    """

    kind: OutcomeKind
    phase: Phase
    code: int = 0
    enhanced: str = ""
    text: str = ""
    provider: str = ""
    provider_message_id: str = ""
    category: str = ""
    retry_after: float = 0.0


class Trouble(msgspec.Struct, frozen=True):
    """Why a connection could not be opened, or ended. A value: nothing of it is the message's fault."""

    phase: Phase
    code: int = 0
    enhanced: str = ""
    text: str = ""

    def __str__(self) -> str:
        words = (str(self.code or ""), self.enhanced, *self.text.split())  # one line, whatever it was
        return f"{self.phase}: {' '.join(word for word in words if word)}"


class Failure(Exception):
    """A message that cannot be composed or addressed, with the reason an operator reads. Caught at the edge of compose
    and turned into a `failed` outcome; it never leaves a sender."""

    def __init__(self, reason: str, category: str = "content") -> None:
        super().__init__(reason)
        self.reason = reason
        self.category = category


class Lease(msgspec.Struct, gc=False):
    """One batch's claim: the random fencing token and the monotonic instant after which nothing may be sent.

    The deadline was started *before* the lease statement was sent, so it never lies later than Postgres's own.
    """

    token: int
    deadline: float


class Permit(Protocol):
    """A part of a limit that a message holds (`flow.bucket`): it ends used, or it goes back."""

    def refund(self, count: int) -> None:
        """So many tokens were not used."""
        ...

    def spent(self, count: int) -> None:
        """So many tokens were used."""
        ...

    def owe(self, count: int) -> None:
        """So many more are taken, whether they are there or not."""
        ...


class Job(msgspec.Struct, kw_only=True, gc=False):
    """A leased row of the outbox, as it came. JSON columns stay undecoded text until compose wants them.

    `rcpt` is a bitmap of what is still to do: bit 0 recipient, then cc, then bcc. `attempt` counts the charged tries
    before this one. `expires` is a monotonic instant, or None. `leases` counts leases without a settle (poison guard).
    """

    id: int
    stream: str
    priority: int
    domain: str
    campaign: str
    lease: Lease
    created_at: datetime
    send_at: datetime | None = None  # dates the message, where later than created_at
    attempt: int = 0
    leases: int = 1
    rcpt: int = -1
    size: int = 0
    expires: float | None = None
    sender: str | None = None
    recipient: str = ""
    cc: Sequence[str] | None = None
    bcc: Sequence[str] | None = None
    reply_to: str | None = None
    subject: str | None = None
    text_body: str | None = None
    html_body: str | None = None
    template: str | None = None
    params: str | None = None
    locale: str | None = None
    raw: bytes | None = None
    headers: str | None = None
    attachments: str | None = None
    fetched: dict[int, bytes] | None = None  # octets of the attachments that are references, by index
    thread_key: str | None = None
    tags: Sequence[str] | None = None
    metadata: str | None = None
    topic: str | None = None  # what the row says; its campaign may say it for it (`compose.topics`)
    age: float = 0.0  # seconds it had waited when it was leased, by Postgres's clock (from send_at, if that was later)
    leased_at: float = 0.0  # monotonic
    checked: float = 0.0  # monotonic; when its recipients were last looked up in the suppression list
    bounced: int = 0  # times it came back unsent within this lease
    noted: tuple[tuple[Recipient, Outcome], ...] = ()  # recipients that the gates have dealt with already
    permits: tuple[Permit, ...] = ()  # of the limits that it falls under
    tokens: int = 1  # how many it holds of each: one a recipient
    not_before: float = 0.0  # monotonic; their slot
    started: float = 0.0  # monotonic; when a connection took it
    avoid: str = ""  # the provider that gave it back unsent within this lease
    pool: str = ""  # through which it is being sent
    variant: str = ""  # the stored template that it was made from, as its events say it: `welcome@3 b`
    hang_up: bool = False  # what it was answered asks us to end the connection (`flow.rules`, drop)


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """One envelope recipient: its bit in `Job.rcpt` and the bare mailbox (A-label domain)."""

    bit: int
    address: str


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A composed message with its envelope, ready for any SMTP connection.

    `content` has CRLF line ends and a final CRLF, and is *not* dot-stuffed. `sender` is the reverse-path ('' is the
    null path). `utf8` asks for SMTPUTF8 (RFC 6531), `eight_bit` for BODY=8BITMIME (RFC 6152). `signed`: it has a
    signature of ours, so no octet of it may change, and composing it again would cost as much again.
    """

    job: Job
    sender: str
    recipients: tuple[Recipient, ...]
    content: bytes
    message_id: str = ""
    utf8: bool = False
    eight_bit: bool = False
    signed: bool = False


class Source(Protocol):
    """Where a connection gets its next message and says what became of it. Both calls are synchronous and never raise."""

    def take(self, provider: str) -> Outgoing | None:
        """The next message that may be sent *now* through this provider (composed, unexpired, lease left), or None."""
        ...

    def waiting(self) -> int:
        """How many messages `take` could still give: how many connections are worth opening."""
        ...

    def done(self, outgoing: Outgoing, outcomes: Sequence[Outcome]) -> None:
        """The end of one attempt: one outcome per recipient, in order. Called exactly once a take."""
        ...


class Action(StrEnum):
    """What settle does with the row of `ready`; bits that can never be sent go to `dead_letter` besides (`dead`)."""

    DONE = "done"
    RETRY = "retry"
    DOUBT = "doubt"


class Settlement(msgspec.Struct, gc=False):
    """One row's end of lease, as settle writes it: the action, and one event per recipient that it concerns.

    `delay` is seconds until the retry. `left` are the bits still to do (retry, doubt), `dead` those given up with
    `reason`. `charged` says whether this attempt counts.
    """

    job: Job
    action: Action
    events: list[tuple[str, Recipient, Outcome]]
    delay: float = 0.0
    charged: bool = True
    left: int = 0
    dead: int = 0
    reason: str = ""
