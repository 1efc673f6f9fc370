"""Which warm-ups a report counts against: a bounce or a complaint that came back long after its message was sent. Pure.

Of the message its stream and provider are known. The provider's own schedule is found by that; of the pools that the
stream may use the first that has this provider is taken, so mail of a provider that stands in two pools of one stream counts
for one of them. A report counts for the day on which it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailerd.config.resolved import Resolved
from mailerd.flow.warming import OTHERS
from mailerd.flow.warmup import Counts, Schedule, schedule

__all__ = ["WarmReports"]

_COUNTS: Final = {"bounced": Counts(bounced=1), "complained": Counts(complained=1)}


class WarmReports:
    """All schedules of one configuration; false when there are none. `group_of`: the domain group of a domain, or None."""

    def __init__(self, resolved: Resolved, group_of: Callable[[str], str | None]) -> None:
        tables = [(f"pool:{pool.name}", pool.warmup) for pool in resolved.config.pool]
        tables += [(f"provider:{provider.name}", provider.warmup) for provider in resolved.config.provider]
        self._schedules: dict[str, Schedule] = {
            key: found for key, table in tables if (found := schedule(table)) is not None
        }
        self._resolved = resolved
        self._group_of = group_of

    def __bool__(self) -> bool:
        return bool(self._schedules)

    @property
    def zones(self) -> dict[str, str]:
        """The zone of each schedule."""
        return {key: its.zone for key, its in self._schedules.items()}

    def of(self, type_: str, stream: str, provider: str, domain: str) -> dict[tuple[str, str], Counts]:
        """What one report of this type adds, by (schedule, domain group)."""
        one = _COUNTS.get(type_)
        if one is None or not provider:
            return {}
        found: dict[tuple[str, str], Counts] = {}
        for key in (f"provider:{provider}", f"pool:{self._pool(stream, provider)}"):
            if (its := self._schedules.get(key)) is not None:
                found[key, (self._group_of(domain) or OTHERS) if its.domains else ""] = one
        return found

    def _pool(self, stream: str, provider: str) -> str | None:
        its = self._resolved.streams.get(stream)
        if its is None:
            return None
        overflow = [name for pool in its.pools for name in self._resolved.overflow_of(pool)]
        return next((p for p in (*its.pools, *overflow) if provider in self._resolved.pools[p].providers), None)
