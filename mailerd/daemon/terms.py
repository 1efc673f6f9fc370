"""What one stream's lanes are subject to at the moment: the limits of the pool that sends, the weights of campaigns.

Between the route, which knows the pool, and the lanes, which must not know of either. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from mailerd.config.model import Campaign
from mailerd.daemon.route import Route
from mailerd.flow.bucket import Permit
from mailerd.flow.lanes import Lane, Rules
from mailerd.flow.limits import Limits

__all__ = ["Terms"]


class Terms(Rules):
    """Of `stream`. `on_lane` is told of each domain that comes up."""

    def __init__(
        self,
        stream: str,
        limits: Limits,
        route: Route,
        campaigns: tuple[Campaign, ...],
        on_lane: Callable[[str], None] | None = None,
    ) -> None:
        self._on_lane = on_lane
        self._stream = stream
        self._limits = limits
        self._route = route
        self._weights = {campaign.name: campaign.weight for campaign in campaigns}
        self._pool = route.name
        self._moves = 0
        self.urgent = limits.urgent(stream)

    @property
    def version(self) -> int:  # type: ignore[override]
        return self._limits.version + self._moves

    def moved(self) -> bool:
        """Another pool sends than when this was last asked, and that makes a difference."""
        if self._pool == self._route.name:
            return False
        before, self._pool = self._pool, self._route.name
        self._moves += 1
        return self._limits.differ(before, self._pool)

    def permits(self, lane: Lane) -> tuple[Permit, ...]:
        if self._on_lane is not None:
            self._on_lane(lane.domain)
        return self._limits.of_lane(self._stream, self._pool, lane.domain)

    def weight(self, campaign: str) -> int:
        return self._weights.get(campaign, 1)
