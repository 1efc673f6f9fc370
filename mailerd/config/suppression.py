"""Suppression as configuration: what of that which comes back stops mail to an address, to how much of it, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from mailerd.config.base import D, Duration, Section

__all__ = ["Suppression", "problems"]

DAY: Final = 86400.0
MOST_DAYS: Final = 90  # soft bounces are remembered for so long


class Suppression(Section, frozen=True, kw_only=True):
    """What stops mail to an address, and for how long. Dead addresses get nothing, of no stream."""

    soft_bounces: Annotated[
        int, Meta(ge=0, le=10_000, description="Soft bounces that stop all mail to an address for a while; 0: none do.")
    ] = 5
    soft_bounce_window: Annotated[Duration, Meta(description="Within so long, in whole days, at most 90.")] = D(7 * DAY)
    soft_bounces_expire: Annotated[Duration, Meta(description="For so long.")] = D(30 * DAY)
    hard_bounces_expire: Annotated[
        Duration, Meta(description="For how long a hard bounce stops all mail; 0: for ever.", extra={"zero": True})
    ] = D(0)
    complaints: Annotated[
        Literal["marketing", "stream", "all"],
        Meta(description="What a complaint stops: all streams that are marketing, that of the message, or everything."),
    ] = "marketing"
    plus_tags: Annotated[
        bool,
        Meta(
            description="ann+shop@example.org counts as ann@example.org: what stops one stops the other. "
            "What is stored stays as it came, so this may be changed at any time."
        ),
    ] = False


def problems(suppression: Suppression) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with its value)."""
    if not DAY <= suppression.soft_bounce_window <= MOST_DAYS * DAY or suppression.soft_bounce_window % DAY:
        yield "soft_bounce_window", f"must be whole days, `1d` to `{MOST_DAYS}d`"
