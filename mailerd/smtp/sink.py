"""The provider that accepts and drops everything (`kind = "sink"`): a pool without connections, for tests.

It opens nothing and sends nothing, and answers like a relay would. The event loop turns between batches.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from mailerd.config.provider import Provider
from mailerd.message import Outcome, OutcomeKind, Phase, Source, Trouble
from mailerd.smtp.timing import Timings

__all__ = ["SinkPool"]

BATCH = 100  # messages per turn of the event loop


class SinkPool:
    """Same interface as `SmtpPool`."""

    def __init__(self, provider: Provider, source: Source, *, stream: str) -> None:
        self.provider = provider
        self.stream = stream
        self.timings = Timings()
        self.state: Literal["closed", "open", "half_open"] = "closed"
        self.open_until = 0.0
        self.last_trouble: Trouble | None = None
        self._source = source
        self._sent = Outcome(OutcomeKind.SENT, Phase.DOT, 250, "2.0.0", "dropped", provider.name)
        self._handle: asyncio.Handle | None = None
        self._ending = False

    @property
    def reachable(self) -> bool:
        return True

    @property
    def eager(self) -> bool:
        """It takes what it is given, in turns of its own."""
        return not self._ending

    def counts(self) -> dict[str, int]:
        return {"idle": 0, "busy": 0, "connecting": 0}

    def wake(self) -> None:
        """Takes what waits, soon."""
        if self._handle is None and not self._ending:
            self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._handle = None
        for _ in range(BATCH):
            outgoing = None if self._ending else self._source.take(self.provider.name)
            if outgoing is None:
                return
            self._source.done(outgoing, [self._sent] * len(outgoing.recipients))
        self.wake()

    def tick(self, now: float) -> None:
        if self._source.waiting():
            self.wake()

    async def drain(self, deadline: float) -> None:
        self.abort()

    def abort(self) -> None:
        self._ending = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
