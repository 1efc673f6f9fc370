"""What this instance may believe of the others, from its heartbeats: how many share the providers' connections.

A limit holds only if nobody counts on room that others have not made yet. So a newcomer is `acquainted` once each of
the others has had a heartbeat that saw it, and has given up its share; and after our own heartbeats were interrupted
(Postgres was away, we stood still) the others are not taken for gone because they have had no chance to say a word.

Pure: heartbeats and the time come in. Hazard: an instance that was killed is a neighbour for 15 more seconds; a
newcomer waits for its word for four heartbeats only.
"""

from __future__ import annotations

from typing import Final

from mailerd.store.instances import ALIVE_SECONDS, Shared

__all__ = ["Neighbours"]

PATIENCE: Final = 4  # heartbeats after which those that still did not see us are taken for dead
GAP: Final = 3.0  # seconds without a heartbeat of ours after which it was interrupted


class Neighbours:
    """`shared` is what holds now; None before the first heartbeat."""

    def __init__(self) -> None:
        self.shared: Shared | None = None
        self._beats = 0
        self._last = 0.0
        self._steady_since = 0.0

    def heard(self, shared: Shared, now: float) -> Shared:
        """A heartbeat of ours went through and brought this; what is to be believed."""
        if not self._beats or now - self._last > GAP:
            self._steady_since = now
        self._beats += 1
        self._last = now
        if self.shared is not None and now - self._steady_since < ALIVE_SECONDS:
            shared = shared._replace(instances=max(shared.instances, self.shared.instances))
        self.shared = shared
        return shared

    @property
    def acquainted(self) -> bool:
        """Everybody who sends knows of us."""
        return self.shared is not None and (not self.shared.strangers or self._beats > PATIENCE)
