"""Alerts as configuration: which shares of a stream's mail are too much, and from how much mail on they say anything."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mailerd.config.base import Section

__all__ = ["Alerts"]

Share = Annotated[float, Meta(ge=0, le=1)]


class Alerts(Section, frozen=True, kw_only=True):
    """When a stream's complaints and bounces of a day are too many. What gets mail refused everywhere else stops by itself."""

    complaints: Annotated[
        Share,
        Meta(description="Share of complaints from which `status` and the log warn (Gmail wants less); 0: never."),
    ] = 0.001
    complaints_pause: Annotated[
        Share, Meta(description="Share of complaints at which a marketing stream is paused, until `resume`; 0: never.")
    ] = 0.003
    bounces: Annotated[Share, Meta(description="Share of bounces and refusals from which they warn; 0: never.")] = 0.05
    minimum: Annotated[int, Meta(ge=1, description="Messages sent in the day below which nothing is said.")] = 1000
    minimum_events: Annotated[int, Meta(ge=1, description="Complaints or bounces below which nothing is said.")] = 5
