"""Suppression lists as other services export them: told by their heading line, and what a line of them says.

The names of the columns are those of each service's API, upper case, spaces and underscores aside. A heading that says
nothing of why (SendGrid's unsubscribes, Mailgun's complaints: an address and a date) is read as any list of addresses
is: `--reason` tells. Pure. Hazard: SendGrid's blocks have the heading of its bounces, and should not be imported.

Sources: the suppression references of SendGrid (bounces, invalid emails, spam reports), Mailgun (bounces, unsubscribes),
Postmark (Suppressions API, dump), Amazon SES (ListSuppressedDestinations), SparkPost (Suppression List), Resend (List
Suppressions), Brevo (GET /smtp/blockedContacts).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

__all__ = ["Export", "Line", "recognise"]


class Line(msgspec.Struct, frozen=True):
    """What a line says. `reason` '' is for `--reason` to tell, and an unfamiliar one is `manual`; `partial` names what it holds for, if not for all mail."""

    address: str
    reason: str
    partial: str = ""


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of export: the columns that tell it, and where its address and reason are."""

    service: str
    columns: frozenset[str]
    address: str
    why: str = ""  # column of the reason
    reason: str = ""  # of every line, where no column has it
    scope: str = ""  # column that says what it holds for
    everything: frozenset[str] = frozenset()  # values of it that are all mail

    def line(self, cells: Mapping[str, str]) -> Line:
        """Reads one; `cells` by the columns that `recognise` gave."""
        scope = cells.get(self.scope, "") if self.scope else ""
        said = _plain(cells.get(self.why, "")) if self.why else ""
        return Line(
            cells.get(self.address, ""),
            (_REASONS.get(said) or ("manual" if said else "")) if self.why else self.reason,
            scope if scope and scope.lower() not in self.everything else "",
        )


_REASONS: Final[Mapping[str, str]] = {
    word: reason
    for reason, words in {
        "bounce": "bounce hardbounce bouncerule",
        "complaint": "complaint spamcomplaint contactflaggedasspam",
        "unsubscribe": "unsubscribe listunsubscribe unsubscribelink unsubscribedviama unsubscribedviaemail unsubscribedviaapi",
        "manual": "manual manualsuppression manuallyadded adminblocked compliance",
    }.items()
    for word in words.split()
}


def _export(service: str, columns: str, address: str, **more: str) -> Export:
    everything = frozenset(more.pop("everything", "").split())
    return Export(service=service, columns=frozenset(columns.split()), address=address, everything=everything, **more)


# The first that fits.
_EXPORTS: Final = (
    _export("Postmark", "emailaddress suppressionreason createdat", "emailaddress", why="suppressionreason"),
    _export("Amazon SES", "emailaddress reason lastupdatetime", "emailaddress", why="reason"),
    _export("Mailgun", "address code error", "address", reason="bounce"),
    _export("Mailgun", "address tags createdat", "address", reason="unsubscribe", scope="tags", everything="*"),
    _export("SparkPost", "recipient type source", "recipient", why="source", scope="type", everything="transactional"),
    _export("Resend", "email origin createdat", "email", why="origin"),
    _export("Brevo", "email reason blockedat", "email", why="reason"),
    _export("SendGrid", "email status reason created", "email", reason="bounce"),
    _export("SendGrid", "email reason created", "email", reason="bounce"),
    _export("SendGrid", "email ip created", "email", reason="complaint"),
)


def recognise(heading: Sequence[str]) -> tuple[Export, list[str]] | None:
    """The kind of export that has this heading line, and its columns in order; None: no known one."""
    columns = [_plain(cell) for cell in heading]
    for export in _EXPORTS:
        if export.columns <= set(columns):
            return export, columns
    return None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
