"""`mailerd status --rates`: acceptance, deferral, bounces, complaints, opens, clicks and unsubscribes, by what was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import msgspec

from mailerd.cli.output import is_terminal, print_table
from mailerd.flow.rates import RATES, Alert, Counts, rate
from mailerd.store.rates import HOURS, Row

__all__ = ["as_json", "print_alerts", "print_rates"]

_SPANS = {1: "the last hour", 24: "the last 24 hours", 168: "the last 7 days"}
_BY: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("stream", lambda row: row.stream),
    ("provider", lambda row: row.provider),
    ("group", lambda row: row.group),
)


def _counts(rows: Sequence[Row], hours: int, name: Callable[[Row], str]) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    for row in rows:
        if row.hours == hours:
            found.setdefault(name(row), Counts()).add(row.type, row.category, row.events)
    return dict(sorted(found.items(), key=lambda item: (-item[1].of("sent"), item[0])))


def print_rates(rows: Sequence[Row], shown: int = 20) -> None:
    """A table for each span of time: streams, then providers, then domain groups, the largest first."""
    for hours in HOURS:
        table = []
        for kind, name in _BY:
            found = _counts(rows, hours, name)
            for label, counts in list(found.items())[:shown]:
                table.append(
                    (
                        kind,
                        label or {"provider": "(none)", "group": "(other domains)"}.get(kind, "(unknown)"),
                        counts.of("sent"),
                        *(_percent(rate(share, counts)) for share in RATES),
                        _classes(counts),
                    )
                )
        heading = f"{_SPANS[hours]}"
        click.echo(click.style(heading, bold=True) if is_terminal() else heading)
        if table:
            columns = ("BY", "NAME", "SENT", *(name.upper() for name in RATES), "BOUNCES")
            print_table(columns, table, right=columns[2:-1])
        else:
            click.echo("nothing was sent")
        click.echo()


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
            for kind, name in _BY
            for label, counts in _counts(rows, hours, name).items()
        ],
        "alerts": msgspec.to_builtins(alerts),
    }


def _percent(share: float | None) -> str | None:
    if share is None:
        return None
    return f"{share:.1%}" if share >= 0.1 or share == 0 else f"{share:.2%}" if share >= 0.001 else f"{share:.3%}"


def _classes(counts: Counts) -> str:
    most = sorted(counts.bounces.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {n}" for name, n in most[:3])
