"""Rates: what share of the mail was accepted, put off, bounced, complained about, opened; and which shares are too much.

Pure. Counts by event type go in, shares come out; None where there is nothing to take a share of. What robots did
(class `bot`) is no engagement and counts for nothing. An alert needs a number of messages and of events: one complaint
about ten messages is 10 %, and says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from mailerd.config.alerts import Alerts

__all__ = ["RATES", "Alert", "Counts", "alerts", "rate"]

RATES: Final = ("accepted", "deferred", "bounced", "complained", "opened", "clicked", "unsubscribed")
"""`accepted` and `deferred` are shares of answers to attempts; `bounced`, refused at once or later, of messages that were
answered for good; the others of messages sent."""


class Counts(msgspec.Struct):
    """Events of a span of time, by type, and the bounces among them by class."""

    types: dict[str, int] = {}
    bounces: dict[str, int] = {}

    def add(self, type_: str, category: str, events: int) -> None:
        if category != "bot":
            self.types[type_] = self.types.get(type_, 0) + events
            if type_ in ("bounced", "rejected"):
                self.bounces[category or "other"] = self.bounces.get(category or "other", 0) + events

    def of(self, *types: str) -> int:
        return sum(self.types.get(name, 0) for name in types)


def rate(name: str, counts: Counts) -> float | None:
    """One of `RATES`, 0 to 1 (opens and clicks may exceed it: people open a mail more than once)."""
    sent = counts.of("sent")
    if name in ("accepted", "deferred"):
        part, whole = counts.of("sent" if name == "accepted" else "deferred"), sent + counts.of("rejected", "deferred")
    elif name == "bounced":
        part, whole = counts.of("bounced", "rejected"), sent + counts.of("rejected")
    else:
        part, whole = counts.of(name), sent
    return part / whole if whole else None


class Alert(msgspec.Struct, frozen=True):
    """`kind`: complaints or bounces of a stream are too many. `level`: warn, or pause."""

    stream: str
    kind: str
    level: str
    share: float
    events: int
    sent: int

    @property
    def words(self) -> str:
        return f"{self.kind} are {self.share:.2%} of a day's mail: {self.events} of {self.sent}"


def alerts(counts: Mapping[str, Counts], limits: Alerts, marketing: frozenset[str]) -> list[Alert]:
    """What the last day's counts by stream give cause for. Only streams of `marketing` are to be paused."""
    found: list[Alert] = []
    for stream, day in sorted(counts.items()):
        sent, complaints = day.of("sent"), day.of("complained")
        if sent < limits.minimum:
            continue
        if complaints >= limits.minimum_events and (share := complaints / sent):
            if stream in marketing and 0 < limits.complaints_pause <= share:
                found.append(Alert(stream, "complaints", "pause", share, complaints, sent))
            elif 0 < limits.complaints <= share:
                found.append(Alert(stream, "complaints", "warn", share, complaints, sent))
        bounces, share = day.of("bounced", "rejected"), rate("bounced", day) or 0.0
        if bounces >= limits.minimum_events and 0 < limits.bounces <= share:
            found.append(Alert(stream, "bounces", "warn", share, bounces, sent))
    return found
