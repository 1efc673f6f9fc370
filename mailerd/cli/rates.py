"""`mailerd status --rates`: acceptance, deferral, bounces, complaints, opens, clicks and unsubscribes, by what was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import msgspec

from mailerd.cli.output import is_terminal, print_table
from mailerd.flow.classify import CATEGORIES
from mailerd.flow.rates import RATES, Alert, Counts, rate
from mailerd.store.rates import HOURS, Row

__all__ = ["WINDOWS", "as_json", "print_alerts", "print_rates"]

WINDOWS = {"1h": 1, "24h": 24, "7d": 168}
_SPANS = {1: "the last hour", 24: "the last 24 hours", 168: "the last 7 days"}
_HEADS = ("OK", "DEFER", "BOUNCE", "COMPL", "OPEN", "CLICK", "UNSUB")  # of `RATES`, for 80 columns
_NAMELESS = {"stream": "(no stream)", "provider": "(none)", "group": "(others)"}
_BY: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("stream", "streams", lambda row: row.stream),
    ("provider", "providers", lambda row: row.provider),
    ("group", "domain groups", lambda row: row.group),
)


def _counts(rows: Sequence[Row], hours: int, name: Callable[[Row], str]) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    for row in rows:
        if row.hours == hours:
            found.setdefault(name(row), Counts()).add(row.type, row.category, row.events)
    return dict(sorted(found.items(), key=lambda item: (-item[1].of("sent"), item[0])))


def print_rates(rows: Sequence[Row], window: str, shown: int = 20) -> None:
    """For one of `WINDOWS`: a table of streams, one of providers, one of domain groups, the largest first; bounces by class."""
    hours = WINDOWS[window]
    for kind, plural, name in _BY:
        _heading(f"{plural}, {_SPANS[hours]}")
        found = list(_counts(rows, hours, name).items())[:shown]
        if not found:
            click.echo("no events")
        else:
            columns = (kind.upper(), "SENT", *_HEADS)
            print_table(
                columns,
                [
                    (
                        label or _NAMELESS[kind],
                        counts.of("sent"),
                        *(_percent(rate(share, counts)) for share in RATES),
                    )
                    for label, counts in found
                ],
                right=columns[1:],
            )
        click.echo()
    bounces = Counts()
    for row in rows:
        if row.hours == hours:
            bounces.add(row.type, row.category, row.events)
    if bounces.bounces:
        _heading(f"bounces and refusals, {_SPANS[hours]}")
        most = sorted(bounces.bounces.items(), key=lambda item: (-item[1], item[0]))
        print_table(
            ("CLASS", "EVENTS", "MEANS"),
            [(category, events, CATEGORIES.get(category)) for category, events in most],
            right=("EVENTS",),
        )
        click.echo()


def _heading(words: str) -> None:
    click.echo(click.style(words, bold=True) if is_terminal() else words)


def print_alerts(alerts: Sequence[Alert]) -> None:
    """What is too much, if anything is."""
    for alert in alerts:
        words = f"stream {alert.stream}: {alert.words}{', so it was paused' if alert.level == 'pause' else ''}"
        click.echo(click.style(words, fg="red", bold=True) if is_terminal() else words)
    if alerts:
        click.echo()


def as_json(rows: Sequence[Row], alerts: Sequence[Alert]) -> dict[str, object]:
    """The same as numbers."""
    return {
        "rates": [
            {
                "hours": hours,
                "by": kind,
                "name": label,
                "events": counts.types,
                "bounces": counts.bounces,
                **{share: rate(share, counts) for share in RATES},
            }
            for hours in HOURS
            for kind, _, name in _BY
            for label, counts in _counts(rows, hours, name).items()
        ],
        "alerts": msgspec.to_builtins(alerts),
    }


def _percent(share: float | None) -> str | None:
    """Two digits that count: a complaint rate is judged by its hundredths of a per cent."""
    if share is None:
        return None
    places = 1 if share >= 0.01 or share == 0 else 2 if share >= 0.001 else 3
    return f"{share:.{places}%}"
