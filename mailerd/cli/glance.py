"""The overview as operators want it: with what each of the longest lanes waits for, and the limits that hold for now.

Reads; changes nothing. Costs what `store.overview` costs, and one look-up for each lane that is shown.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mailerd.config.resolved import Resolved
from mailerd.store.database import Session
from mailerd.store.inspect import throttles
from mailerd.store.overview import Overview, overview
from mailerd.store.throttle import Listed, listing, present

__all__ = ["Glance", "glance"]


class Glance(msgspec.Struct, frozen=True):
    """`waits`: number of a lane in `overview.lanes` → what it waits for."""

    overview: Overview
    waits: Mapping[int, str]
    rates: list[Listed]


async def glance(session: Session, resolved: Resolved, *, lanes: int, exact: bool = False) -> Glance:
    """All of it now. `exact` counts the queue, which is slow on millions."""
    found = await overview(session, exact=exact, lanes=lanes)
    rates = [rate for rate in await listing(session) if rate.source]
    return Glance(found, await _waits(session, resolved, found), rates)


async def _waits(session: Session, resolved: Resolved, found: Overview) -> dict[int, str]:
    """What each of the shown lanes waits for: a pause, or the slowest limit that has no token."""
    paused = {(p.kind, p.name) for p in found.paused}
    limits = await present(session, resolved)
    waits: dict[int, str] = {}
    for number, lane in enumerate(found.lanes):
        stop = next(
            (
                f"{kind}:{name} is paused"
                for kind, name in (
                    ("stream", lane.stream),
                    ("domain", lane.domain),
                    ("domain", limits.groups.of(lane.domain) or ""),
                    ("campaign", lane.campaign),
                )
                if (kind, name) in paused
            ),
            None,
        )
        if stop is None and lane.stream in resolved.streams and resolved.streams[lane.stream].pools:
            pool = resolved.streams[lane.stream].pools[0]
            names = [provider.name for provider in resolved.providers_of(lane.stream)]
            mine = await throttles(session, found.at, limits.of_message(lane.stream, pool, lane.domain, names))
            short = sorted((t for t in mine if t.opens is not None or t.stopped), key=lambda t: t.rate)
            stop = f"{short[0].key}, {short[0].words}" if short else None
        if stop is not None:
            waits[number] = stop
    return waits
