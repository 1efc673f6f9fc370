"""Suppression lists as files: our own CSV, and those that mail providers export, told apart by their heading line.

Columns are found by name, whatever their order, case and punctuation; the separator may be a comma, a semicolon or a tab.
What a provider calls its reasons becomes ours (bounce, complaint, unsubscribe, manual), so that a list that moved here
behaves as one that grew here; its free text (a peer's reply) is not kept. Of exports that list everybody with a flag, only
those who are blocked are read. It writes nothing and never raises for a bad line: that is named, and left out.

Hazard: SendGrid's blocks, which are its own trouble with a receiver and no dead addresses, have the heading of its bounces;
nothing in the file tells them apart.

Sources: documentation.mailgun.com (import of bounces, unsubscribes, complaints), postmarkapp.com/developer (suppressions),
docs.aws.amazon.com/ses (account-level suppression list), SparkPost's suppression-list API, developers.brevo.com
(blockedContacts). Where a provider documents its API and not its CSV, the API's names are expected as columns.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final, NamedTuple

from mailerd.message import Failure
from mailerd.store.suppression import Suppression

__all__ = ["REASON_LIMIT", "UnknownHeading", "checked_reason", "normal_address", "read"]

REASON_LIMIT: Final = 200  # octets
_OURS: Final = ("address", "stream", "reason", "until")
_ADDRESS: Final = ("address", "email", "emailaddress", "recipient")
_YES: Final = frozenset({"true", "yes", "y", "1", "t"})

# Providers' words, letters only, as ours.
_BOUNCE, _COMPLAINT, _UNSUBSCRIBE, _MANUAL = "bounce", "complaint", "unsubscribe", "manual"
_REASONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("bounce", "bounced", "hardbounce", "hardbounced", "bouncerule", "invalid", "invalidemail"), _BOUNCE),
    **dict.fromkeys(("complaint", "complained", "spam", "spamcomplaint", "spamreport", "contactflaggedasspam"), _COMPLAINT),
    **dict.fromkeys(
        ("unsubscribe", "unsubscribed", "unsub", "listunsubscribe", "unsubscribelink", "unsubscribedviaemail",
         "unsubscribedviaapi", "unsubscribedviama"),
        _UNSUBSCRIBE,
    ),
    **dict.fromkeys(("manual", "manuallyadded", "compliance", "adminblocked", "manualblock"), _MANUAL),
}  # fmt: skip


class UnknownHeading(ValueError):
    """The first line is no address, and names no column that holds one. The text says so."""


class _Dialect(NamedTuple):
    """One kind of file. `reason` is given the cells of a line; None: the line suppresses nobody."""

    name: str
    columns: frozenset[str]  # that must all be there
    reason: Callable[[Mapping[str, str]], str | None]

    def fits(self, heading: Sequence[str]) -> bool:
        """One that knows nothing of a `reason` is not meant by a file that gives one."""
        return self.columns <= set(heading) and ("reason" not in heading or "reason" in self.columns)


def _always(reason: str) -> Callable[[Mapping[str, str]], str | None]:
    return lambda cells: reason


def _word(*columns: str) -> Callable[[Mapping[str, str]], str | None]:
    """The first of these columns that holds a word we know; '' if none does, for the caller's own reason."""
    return lambda cells: next((r for c in columns if (r := _REASONS.get(_letters(cells.get(c, ""))))), "")


def _postmark(cells: Mapping[str, str]) -> str | None:
    word = _letters(cells["suppressionreason"])
    if word == "manualsuppression":  # by the recipient it is an unsubscribe, by the customer or the staff a decision
        return _UNSUBSCRIBE if _letters(cells.get("origin", "")) == "recipient" else _MANUAL
    return _REASONS.get(word, "")


def _sparkpost(cells: Mapping[str, str]) -> str | None:
    flags = [cells[c] for c in ("transactional", "nontransactional") if c in cells]
    if flags and not any(_letters(flag) in _YES for flag in flags):
        return None
    return _word("source", "description")(cells)


def _flagged(column: str) -> Callable[[Mapping[str, str]], str | None]:
    """An export of all contacts: those who left have `column` set."""
    return lambda cells: _UNSUBSCRIBE if _letters(cells[column]) in _YES else None


# The first that fits; the more columns it asks for, the earlier.
_DIALECTS: Final = (
    _Dialect("postmark", frozenset({"emailaddress", "suppressionreason"}), _postmark),
    _Dialect("ses", frozenset({"emailaddress", "reason"}), _word("reason")),
    _Dialect("sparkpost", frozenset({"recipient", "source"}), _sparkpost),
    _Dialect("sparkpost", frozenset({"recipient", "transactional"}), _sparkpost),
    _Dialect("sparkpost", frozenset({"recipient", "type"}), _sparkpost),
    _Dialect("mailgun bounces", frozenset({"address", "code", "error"}), _always(_BOUNCE)),
    _Dialect("mailgun unsubscribes", frozenset({"address", "tags"}), _always(_UNSUBSCRIBE)),
    _Dialect("mailgun complaints", frozenset({"address", "createdat"}), _always(_COMPLAINT)),
    _Dialect("brevo", frozenset({"email", "reasoncode"}), _word("reasoncode")),
    _Dialect("brevo", frozenset({"email", "senderemail", "reason"}), _word("reason")),
    _Dialect("brevo contacts", frozenset({"email", "emailblacklisted"}), _flagged("emailblacklisted")),
    _Dialect("brevo contacts", frozenset({"email", "emailblocklisted"}), _flagged("emailblocklisted")),
    _Dialect("resend contacts", frozenset({"email", "unsubscribed"}), _flagged("unsubscribed")),
    _Dialect("sendgrid bounces", frozenset({"email", "status", "reason", "created"}), _always(_BOUNCE)),
    _Dialect("sendgrid spam reports", frozenset({"email", "created", "ip"}), _always(_COMPLAINT)),
    _Dialect("sendgrid invalid emails", frozenset({"email", "created", "reason"}), _always(_BOUNCE)),
    _Dialect("sendgrid unsubscribes", frozenset({"email", "created"}), _always(_UNSUBSCRIBE)),
)


def read(
    lines: Iterable[str], stream: str, reason: str | None, source: str, faults: list[str], default: str = "import"
) -> Iterator[Suppression]:
    """The entries of a file, lazily. `stream` is for lines that name none. `reason`, if given, is for lines that name none
    in our own format, and for all lines of a provider's; `default` for those of which nothing says why.

    A line that cannot be used is added to `faults`, with its number. Raises `UnknownHeading`.
    """
    lines = iter(lines)
    head = next(lines, None)
    if head is None:
        return
    reader = csv.reader(chain([head], lines), delimiter=_delimiter(head))
    rows = _rows(reader, faults)
    first = next(rows, None)
    if first is None:
        return
    heading = [_letters(cell) for cell in first]
    known = next((name for name in _ADDRESS if name in heading), None)
    dialect: _Dialect | None = None
    if known is not None:
        columns: Sequence[str] = heading
        if "stream" not in heading and "until" not in heading:
            dialect = next((d for d in _DIALECTS if d.fits(heading)), None)
    elif len(first) > 1 and not any("@" in cell for cell in first):
        named = ", ".join(ascii(cell[:40]) for cell in first[:8])
        raise UnknownHeading(f"line 1: no column is called address, email, emailaddress or recipient: {named}")
    else:
        rows = chain([first], rows)
        known = "address"
        columns = _OURS
        if len(first) == 2 and _letters(first[1]) in ("bounce", "complaint"):
            # What SES takes for its bulk import has no heading. Ours would read the reason as a stream.
            columns, dialect = ("address", "reason"), _Dialect("ses", frozenset(), _word("reason"))
    if dialect is not None:
        source = f"{source} ({dialect.name})"
    for row in rows:
        cells = dict.fromkeys(columns, "") | {n: cell.strip() for n, cell in zip(columns, row, strict=False)}
        if not any(cells.values()):
            continue
        try:
            entry = _entry(cells, known, dialect, stream, reason, source, default)
        except ValueError as wrong:
            faults.append(f"line {reader.line_num}: {wrong}")
            continue
        if entry is not None:
            yield entry


def _entry(
    cells: Mapping[str, str],
    known: str,
    dialect: _Dialect | None,
    stream: str,
    reason: str | None,
    source: str,
    default: str,
) -> Suppression | None:
    if dialect is None:
        return Suppression(
            address=normal_address(cells[known]),
            stream=cells.get("stream") or stream,
            reason=checked_reason(cells.get("reason") or reason or default),
            source=source,
            until=_until(cells.get("until", "")),
        )
    said = dialect.reason(cells)
    if said is None:
        return None
    return Suppression(
        address=normal_address(cells[known]), stream=stream, reason=reason or said or default, source=source
    )


def _rows(reader: Iterator[list[str]], faults: list[str]) -> Iterator[list[str]]:
    """The rows; what is no CSV (a cell beyond all measure) is a fault of its line."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as wrong:
            faults.append(f"line {getattr(reader, 'line_num', 0)}: {wrong}")


def _delimiter(head: str) -> str:
    """An address has none of them, so in the first line the most frequent one separates."""
    return max(",;\t", key=head.count)


def _letters(text: str) -> str:
    """`SuppressionReason`, `suppression_reason` and `Suppression reason` are one name."""
    return "".join(filter(str.isalnum, text)).lower()


def normal_address(text: str) -> str:
    """The address in normal form. Raises `ValueError` with a reason for people."""
    from mailerd.compose.address import normal

    try:
        return normal(text)
    except Failure as wrong:
        raise ValueError(wrong.reason) from None


def checked_reason(text: str) -> str:
    """The same text. Raises `ValueError` if it is no reason that can be stored."""
    if not text.isprintable() or len(text.encode("utf-8", "replace")) > REASON_LIMIT:
        raise ValueError(f"reason: has a control character, or is longer than {REASON_LIMIT} octets")
    return text


def _until(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"until: {text[:40]!a} is no time such as 2026-12-24T18:00+00:00") from None
