"""Suppression lists for mail providers: files that they take, and that `cli.suppressfile` reads back as the same.

A provider's list knows no streams and no end, so an address is written once, with the weightiest of its reasons, and what
is not for ever is left out, as is what was erased. Reasons that a list has no word for are left out, too; all of that is
counted. SendGrid and Mailgun take one file a reason. Pure but for the file that is written to.

Sources: as `cli.suppressfile`; for SES the bulk import (docs.aws.amazon.com/ses, "Adding … in bulk"), which has no heading.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Final, NamedTuple

from mailerd.store.suppression import Suppression

__all__ = ["FORMATS", "REASONS", "Format", "reason_of", "write"]

REASONS: Final = ("bounce", "complaint", "unsubscribe", "manual")  # the weightiest first


class Format(NamedTuple):
    """One kind of file. `words`: our reasons as the list says them. `by_reason`: for each a file of its own, whose heading
    it is."""

    heading: Sequence[str]
    words: Mapping[str, str]
    line: Callable[[str, str, str, str], Sequence[str]]  # address, our reason, its word, when
    by_reason: Mapping[str, Sequence[str]] = {}


_SAME: Final = {reason: reason for reason in REASONS}
_ONE: Final = dict.fromkeys(REASONS[:3], "")


def _sendgrid(address: str, reason: str, word: str, at: str) -> Sequence[str]:
    rest = {"bounce": ("5.0.0", "suppressed", address, at), "complaint": (address, at, "")}
    return rest.get(reason, (address, at))


def _mailgun(address: str, reason: str, word: str, at: str) -> Sequence[str]:
    rest = {"bounce": (address, "550", "suppressed", at), "unsubscribe": (address, "*", at)}
    return rest.get(reason, (address, at))


def _sparkpost(address: str, reason: str, word: str, at: str) -> Sequence[str]:
    return address, "false" if reason == "unsubscribe" else "true", "true", word


FORMATS: Final[Mapping[str, Format]] = {
    "sendgrid": Format(
        (),
        _ONE,
        _sendgrid,
        {
            "bounce": ("status", "reason", "email", "created"),
            "complaint": ("email", "created", "ip"),
            "unsubscribe": ("email", "created"),
        },
    ),
    "mailgun": Format(
        (),
        _ONE,
        _mailgun,
        {
            "bounce": ("address", "code", "error", "created_at"),
            "complaint": ("address", "created_at"),
            "unsubscribe": ("address", "tags", "created_at"),
        },
    ),
    "postmark": Format(
        ("EmailAddress", "SuppressionReason", "Origin", "CreatedAt"),
        {
            "bounce": "HardBounce",
            "complaint": "SpamComplaint",
            "unsubscribe": "ManualSuppression",
            "manual": "ManualSuppression",
        },
        lambda address, reason, word, at: (address, word, "Customer" if reason == "manual" else "Recipient", at),
    ),
    "ses": Format(
        (), {"bounce": "BOUNCE", "complaint": "COMPLAINT"}, lambda address, _reason, word, _at: (address, word)
    ),
    "sparkpost": Format(("recipient", "transactional", "non_transactional", "description"), _SAME, _sparkpost),
    "brevo": Format(
        ("email", "reason_code", "blocked_at"),
        {
            "bounce": "hardBounce",
            "complaint": "contactFlaggedAsSpam",
            "unsubscribe": "unsubscribedViaEmail",
            "manual": "adminBlocked",
        },
        lambda address, _reason, word, at: (address, word, at),
    ),
    "resend": Format(
        ("email", "unsubscribed"), {"unsubscribe": "true"}, lambda address, _reason, word, _at: (address, word)
    ),
}


def reason_of(entry: Suppression) -> str:
    """One of `REASONS`: what else people wrote is manual."""
    word = entry.reason.lower()
    return next((reason for reason in REASONS if word.startswith(reason)), "manual")


async def write(
    pages: AsyncIterator[Sequence[Suppression]], file: IO[str], wanted: Format, reason: str | None
) -> tuple[int, int]:
    """Writes them (in order of address) as that format; how many addresses were written, and how many of those
    that were meant left out. `reason`: only these; it must be given where the format has a file for each."""
    out = csv.writer(file, lineterminator="\n")
    if heading := wanted.by_reason[reason] if wanted.by_reason and reason is not None else wanted.heading:
        out.writerow(heading)
    written = left = 0

    def put(entries: Sequence[Suppression]) -> None:
        nonlocal written, left
        meant = [(said, entry) for entry in entries if (said := reason_of(entry)) == reason or reason is None]
        fit = [
            (REASONS.index(said), entry)
            for said, entry in meant
            if said in wanted.words and entry.until is None and "@" in entry.address
        ]
        if not fit:
            left += bool(meant)
            return
        rank, entry = min(fit, key=lambda pair: pair[0])
        written += 1
        out.writerow(wanted.line(entry.address, REASONS[rank], wanted.words[REASONS[rank]], _iso(entry.at)))

    same: list[Suppression] = []
    async for page in pages:
        for entry in page:
            if same and same[0].address != entry.address:
                put(same)
                same = []
            same.append(entry)
    if same:
        put(same)
    return written, left


def _iso(instant: datetime | None) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds") if instant else ""
