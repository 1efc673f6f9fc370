"""Instants and lengths of time on the command line, in and out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from mailerd.config.values import duration

__all__ = ["Instant", "ago", "local", "span"]


class Instant(click.ParamType):  # type: ignore[type-arg]  # generic only in later versions
    """`2026-12-24T18:00` (local time unless it says otherwise), or a length such as `10m`: that much after now, or before."""

    name = "time"

    def __init__(self, *, past: bool = False) -> None:
        self._sign = -1 if past else 1

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        try:
            return datetime.now(UTC) + self._sign * timedelta(seconds=duration(text.lstrip("+-"), zero=True))
        except ValueError:
            self.fail(
                f"'{text}' is no time: write 2026-12-24T18:00, 2026-12-24T18:00+01:00, or a length such as 10m",
                param,
                ctx,
            )


def span(seconds: float) -> str:
    """`12s`, `3m20s`, `5h04m`, `2d03h`: two units, enough to decide by."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def ago(then: datetime, now: datetime | None = None) -> str:
    """How long ago, or ahead: `12s ago`, `in 3m20s`."""
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def local(instant: datetime) -> str:
    """In this machine's time zone, to the second: `2026-12-24 18:00:00 CET`."""
    there = instant.astimezone()
    return f"{there:%Y-%m-%d %H:%M:%S} {there.tzname()}"
