"""What a provider's HTTP API is to us: a `Dialect` turns messages into requests, and answers into verdicts. Pure.

A dialect writes each message by itself (`entry`), so that one that cannot be said concerns nobody else, then puts the
entries of one call together (`request`), and reads the answer (`verdicts`): one verdict for the whole call, or one a
message. It knows no socket, no clock and no state; `http.pool` sends, waits, repeats and draws the consequences.

Hazards: an answer is a stranger's octets. Nothing in it may raise; what was not said clearly to be accepted is `DOUBT`
after a 2xx, and whatever its status says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from mailerd.message import Failure, Outgoing, clean

__all__ = [
    "ID_KEY",
    "Dialect",
    "Entry",
    "Fault",
    "Request",
    "Response",
    "Verdict",
    "ascii_only",
    "by_status",
    "encode",
    "ident",
    "mapping",
    "retry_after",
    "words",
]

ID_KEY: Final = "mailerd_id"
"""The name under which our message id is planted in what a provider hands back to webhooks."""

LONGEST_WAIT: Final = (
    3600.0  # seconds that a peer may ask us to wait: after an hour it is asked again, whatever it said
)

encode = msgspec.json.Encoder().encode


class Fault(StrEnum):
    """What was wrong. `http.outcome` says what each means for the message, `http.pool` what it means for the provider."""

    MESSAGE = "message"  # this message, for good
    RECIPIENT = "recipient"  # this recipient, for good
    RETRY = "retry"  # this message, for now
    RATE = "rate"  # too much at a time; nothing was judged
    QUOTA = "quota"  # nothing more until the provider's next day or month
    ACCOUNT = "account"  # login, suspension, verification: until somebody mends it
    OURS = "ours"  # a wrong address of the API, a setting that is not there: until somebody mends it
    DOWN = "down"  # the provider does not work, and has accepted nothing
    DOUBT = "doubt"  # it may have been accepted


class Verdict(msgspec.Struct, frozen=True):
    """One message's end of a call. No `fault`: it was accepted, under the provider's `id`. `category` as in
    `flow.classify`, '' where the text shall tell; `retry_after` in seconds."""

    fault: Fault | None = None
    id: str = ""
    text: str = ""
    category: str = ""
    retry_after: float = 0.0


class Entry(msgspec.Struct, frozen=True):
    """A message as its dialect says it. `alone`: it cannot share a call with others. `form` is a dialect's own matter
    (the content type of `octets`, a path)."""

    outgoing: Outgoing
    octets: bytes
    alone: bool = False
    form: str = ""


class Request(msgspec.Struct, frozen=True):
    """One call. `headers` have no Host and no Content-Length; `body` is never empty."""

    url: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"


class Response(msgspec.Struct, frozen=True):
    """An answer: names of `headers` in lower case, at most as much of the body as the limit allows, and when it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: datetime

    def json(self) -> Any:
        """The body decoded; None for what is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError):
            return None


class Dialect(Protocol):
    """One provider's API, for one `[[provider]]`."""

    batch: int
    """Most messages in one call."""
    recipients: int
    """Most recipients of one message; the others go in a call of their own."""
    octets: int
    """Largest body of a call that several messages share."""
    idempotent: bool
    """The same request may be sent again: the provider acts on it once."""
    url: str
    """Where calls go, for people."""

    def entry(self, outgoing: Outgoing) -> Entry:
        """Raises `Failure` for what cannot be said. May run in a thread."""
        ...

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        """The call for these, at least one and at most `batch`. `at` is now, in UTC, for signatures."""
        ...

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict | list[Verdict]:
        """One for the call as a whole, or one for each entry in its order."""
        ...


_BY_STATUS: Final = {
    400: Fault.MESSAGE,
    401: Fault.ACCOUNT,
    402: Fault.ACCOUNT,
    403: Fault.ACCOUNT,
    408: Fault.RETRY,
    409: Fault.RETRY,
    413: Fault.MESSAGE,
    422: Fault.MESSAGE,
    425: Fault.RETRY,
    429: Fault.RATE,
    500: Fault.RETRY,
    503: Fault.DOWN,
}


def by_status(response: Response, text: str = "", fault: Fault | None = None) -> Verdict:
    """What a status says by itself (RFC 9110 §15), where the body says no more; `fault` where it does.

    2xx, 1xx and gateways that had no answer (502, 504, 520 to 524) leave open what became of the message. A redirect is
    not followed: mail does not go where an answer says.
    """
    status = response.status
    if fault is None:
        if status in _BY_STATUS:
            fault = _BY_STATUS[status]
        else:
            fault = Fault.OURS if 300 <= status < 500 or status in (501, 505, 511) else Fault.DOUBT
    category = "size" if status == 413 and fault is Fault.MESSAGE else ""
    return Verdict(fault, "", text or words(response), category, retry_after(response))


def words(response: Response) -> str:
    """What an answer says, in one line: the message of its JSON or of its first error there, else how the body begins."""
    found = response.json()
    if isinstance(found, dict):
        errors = found.get("errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            found = errors[0]
        lower = {key.lower(): value for key, value in found.items() if isinstance(key, str)}
        said = [value for key in ("name", "code", "message", "error") if isinstance(value := lower.get(key), str | int)]
        if said:
            return clean(" ".join(f"{value}" for value in said))
    return clean(" ".join(response.body[:4096].decode("utf-8", "replace").split())) or "an answer without words"


def retry_after(response: Response) -> float:
    """Seconds of a Retry-After (RFC 9110 §10.2.3, a number or a date), at most an hour; 0 without one."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except (ValueError, OverflowError, IndexError, TypeError):
            return 0.0
        seconds = ((then if then.tzinfo else then.replace(tzinfo=UTC)) - response.at).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else 0.0


def ident(outgoing: Outgoing) -> str:
    """Our id of a message, as it is planted: `ID-BIT`, with the bit of its recipient (`Job.rcpt`), where it has one alone; else
    `ID`, and webhooks tell the recipients apart by their addresses. `webhook.event.planted` reads it."""
    recipients = outgoing.recipients
    return f"{outgoing.job.id}-{recipients[0].bit}" if len(recipients) == 1 else str(outgoing.job.id)


def ascii_only(outgoing: Outgoing) -> None:
    """Raises `Failure` where a recipient's address is not ASCII: no provider's API takes those (RFC 6531)."""
    if outgoing.utf8 and not all(to.address.isascii() for to in outgoing.recipients):
        raise Failure("address: this provider takes only ASCII addresses", "address")


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}
