"""In a stream that holds what is uncertain: which messages may be sent next, with word of it left in the store first.

Some 30 ms of work are committed ahead, as a turn of the pipeline takes about 10. What is cleared and not started counts
against the cap on unsettled messages: our death would put all of it in doubt.

Hazard: `commit` is called by the pipeline's one task alone, never beside its other statements.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from mailerd.daemon.backlog import Backlog
from mailerd.daemon.unsettled import Unsettled
from mailerd.store.database import Session
from mailerd.store.lease import intend
from mailerd.web.metrics import Metrics

__all__ = ["Intents"]

LEAST = 20


class Intents:
    """One stream's. `timed` measures a statement by its name."""

    def __init__(
        self,
        stream: str,
        backlog: Backlog,
        session: Session,
        unsettled: Unsettled,
        metrics: Metrics,
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._stream = stream
        self._backlog = backlog
        self._session = session
        self._unsettled = unsettled
        self._metrics = metrics
        self._timed = timed

    async def commit(self, depth: int) -> bool:
        """Those of the next messages, `depth` being what the backlog holds; False: there was nothing to do. Raises what Postgres
        raises; they are tried again then."""
        backlog = self._backlog
        window = max(LEAST, depth // 8)
        backlog.cleared_low = window // 2
        if backlog.cleared > backlog.cleared_low or not backlog.waiting or self._unsettled.full:
            return False
        room = min(window, self._unsettled.cap - self._unsettled.count) - backlog.cleared
        jobs = backlog.intentions(max(room, 0))
        if not jobs:
            return False
        try:
            with self._timed("intend"):
                gone = await intend(self._session, self._stream, jobs)
        except BaseException:
            backlog.unintended(jobs)
            raise
        if gone:
            self._metrics.fenced(len(gone))
        backlog.intended(jobs, gone)
        return True
