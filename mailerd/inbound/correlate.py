"""From a report to what it says about messages of ours: first by what to look for (`clues`), then, with what was found, as
`Feedback`. Pure.

Anybody may send a mail that looks like a bounce, so it matters by what the message is found. Two ways are proofs that the
writer has seen our mail: its signed return path, and our own Message-ID, which names the row and the microsecond it was made
in (the store says whether that is right). A provider's id is nearly one: it is long and random, but we have not signed it. Our id
in a field that a provider adds (X-Mailgun-Variables, X-PM-Metadata-…) can be guessed; an address and a time prove nothing. Only proofs, and provider's ids, may write an address off, and only one that the message
went to: whatever address a report names, of a message with one recipient it is about that one, and of one with several it must
be among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from mailerd.compose.address import normal
from mailerd.compose.verp import ReturnPaths
from mailerd.feedback import Feedback
from mailerd.inbound.report import Hardness, Kind, Report, Result
from mailerd.message import Failure

__all__ = ["Clues", "Match", "clues", "feedback", "match"]

_OURS: Final = re.compile(r"(\d{1,19})\.([0-9a-f]{1,16})@[^@\s]+")  # compose.composer writes it
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_ID_LIMIT: Final = 1 << 63
_PLANTED: Final = re.compile(r"\d{10,19}")  # under http.dialect.ID_KEY
_SAME: Final = ("ses", "postmark")  # whose id in a mail is the one that the API told
_IDS: Final = 20
_ANSWERS: Final = {
    "failed": "bounced",
    "delayed": "deferred",
    "delivered": "delivered",
    "relayed": "delivered",
    "expanded": "delivered",
}
# RFC 5965 §7.3, RFC 6650; what is neither says nothing of the recipient: not-spam takes one back, auth-failure is about us
_COMPLAINTS: Final = {
    "abuse": "complained",
    "fraud": "complained",
    "virus": "complained",
    "other": "complained",
    "opt-out": "unsubscribed",
    "opt-out-list": "unsubscribed",
}


class Clues(msgspec.Struct, frozen=True, kw_only=True):
    """By what the message of a report may be found, the best first. `signed`: ids from return paths. `stamped`: (id,
    microseconds since 1970) from our Message-IDs. `provider`: (kind of provider, its id)."""

    signed: tuple[int, ...] = ()
    stamped: tuple[tuple[int, int], ...] = ()
    planted: tuple[int, ...] = ()  # ids of ours in the original's X- fields
    provider: tuple[tuple[str, str], ...] = ()

    @property
    def ids(self) -> list[int]:
        """Of the messages to look up."""
        return list(dict.fromkeys((*self.signed, *(id_ for id_, _ in self.stamped), *self.planted)))


class Match(msgspec.Struct, frozen=True):
    """The message that a report is about. `by`: return_path, message_id, header. `recipients`: normal addresses by their bit, None
    if the row is gone."""

    message: int
    by: str
    recipients: tuple[str, ...] | None


def clues(report: Report, envelope: Sequence[str], paths: ReturnPaths | None) -> Clues:
    """`envelope`: to whom the report was sent; `paths`: None if no return path is signed."""
    trace = report.trace
    addresses = (*envelope, *trace.sent_to, trace.mail_from) if paths is not None else ()
    signed = [found for address in addresses if paths and (found := paths.decode(address)) is not None]
    stamped = []
    for message_id in trace.message_ids[:_IDS]:
        ours = _OURS.fullmatch(message_id)
        if ours and int(ours[1]) < _ID_LIMIT:
            stamped.append((int(ours[1]), int(ours[2], 16)))
    said = [value for name, value in trace.headers if "mailerd_id" in name or "mailerd_id" in value]
    numbers = [int(number) for value in said[:_IDS] for number in _PLANTED.findall(value)[:1]]
    planted = [number for number in numbers if number < _ID_LIMIT]
    ids = [(kind, id_) for kind, _, id_ in (one.partition(":") for one in trace.provider_ids[:_IDS])]
    return Clues(
        signed=tuple(dict.fromkeys(signed)),
        stamped=tuple(stamped),
        planted=tuple(planted),
        provider=tuple((kind, id_) for kind, id_ in ids if id_ and kind in _SAME),
    )


def match(found: Clues, sent: dict[int, tuple[datetime, Sequence[str]]]) -> Match | None:
    """`sent`: (when it was made, recipients in the order of their bits) of those ids that the store still has."""
    for id_ in found.signed:
        return Match(id_, "return_path", _normal(sent[id_][1]) if id_ in sent else None)
    for id_, stamp in found.stamped:
        if id_ in sent and (sent[id_][0] - _EPOCH) // _MICROSECOND == stamp:
            return Match(id_, "message_id", _normal(sent[id_][1]))
    for id_ in found.planted:
        if id_ in sent:
            return Match(id_, "header", _normal(sent[id_][1]))
    return None


def feedback(
    report: Report, found: Match | None, trail: Clues, *, name: str, at: datetime, provider: str = ""
) -> list[Feedback]:
    """What the report says, one value a recipient; none for automatic replies and what is no report. `name`: the report's
    own, by which it counts once; `at`: when it came; `provider`: whose the provider's id is, '' if that is not certain."""
    if report.kind not in (Kind.BOUNCE, Kind.DELIVERED, Kind.COMPLAINT):
        return []
    results = report.results
    if not results and report.kind is Kind.COMPLAINT:  # the complainant is often blacked out
        results = (Result(recipient=""),)
    told: list[Feedback] = []
    for number, result in enumerate(results):
        what = (
            _COMPLAINTS.get(report.feedback_type or "abuse", "unknown")
            if report.kind is Kind.COMPLAINT
            else _ANSWERS.get(result.action, "unknown")
        )
        bit, recipient = _whom(result, found)
        provider_id = trail.provider[0][1] if trail.provider and found is None else ""
        proven = (found is not None and found.by != "header" and bit is not None) or bool(provider_id)
        if found is None and not recipient and not provider_id:
            continue  # about nobody
        told.append(
            Feedback(
                type=what,
                message_id=found.message if found is not None else None,
                rcpt=bit,
                recipient=recipient,
                provider=provider if provider_id else "",
                provider_message_id=provider_id,
                header_ids=() if found is not None else report.trace.message_ids[:_IDS],
                source="mail",
                source_id=f"{name}:{number}",
                at=at,
                code=result.code,
                enhanced=result.status,
                category=result.category,
                hard=what == "bounced" and result.hardness is Hardness.HARD and proven,
                detail=result.reason,
                metadata=_metadata(report, result, found),
            )
        )
    return told


def _whom(result: Result, found: Match | None) -> tuple[int | None, str]:
    """(bit, address) of the recipient that a result is about; the bit is None if the message is not known to have it."""
    named = [address for address in map(_bare, (result.original_recipient, result.recipient)) if address]
    if found is None:
        return None, named[-1] if named else ""
    if found.recipients is None:
        return None, named[0] if named else ""
    for address in named:
        if address in found.recipients:
            return found.recipients.index(address), address
    if len(set(found.recipients)) == 1:  # passed on to an address that we never wrote to, or not named
        return 0, found.recipients[0]
    return None, named[0] if named else ""


def _metadata(report: Report, result: Result, found: Match | None) -> dict[str, str]:
    said = {
        "matched_by": found.by if found is not None else "",
        "action": result.action if result.action in ("relayed", "expanded") else "",
        "feedback_type": report.feedback_type,
        "reporting_mta": report.reporting_mta,
        "remote_mta": result.remote_mta,
        "hardness": str(result.hardness),
        "reported": result.recipient if found is not None else "",
    }
    return {key: value for key, value in said.items() if value}


def _normal(recipients: Sequence[str]) -> tuple[str, ...]:
    return tuple(_bare(text) or text.lower() for text in recipients)


def _bare(text: str) -> str:
    try:
        return normal(text) if text else ""
    except Failure:
        return ""
