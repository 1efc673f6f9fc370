"""The pool for each kind of provider, and what they all offer: nobody else needs to know which one it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from mailerd.config.provider import Provider
from mailerd.flow.breaker import State
from mailerd.http.kinds import DIALECTS
from mailerd.http.pool import HttpPool
from mailerd.message import Source, Trouble
from mailerd.smtp.budget import ConnectionBudget
from mailerd.smtp.pool import make_pool as make_smtp_pool
from mailerd.smtp.timing import Timing

__all__ = ["Pool", "make_pool"]


class Timings(Protocol):
    """Durations by phase."""

    def items(self) -> Iterable[tuple[str, Timing]]: ...


class Pool(Protocol):
    """One stream's connections to one provider, or its calls (`smtp.pool.SmtpPool` has the words for each of these)."""

    @property
    def provider(self) -> Provider: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def last_trouble(self) -> Trouble | None: ...
    @property
    def state(self) -> State: ...
    @property
    def open_until(self) -> float: ...
    @property
    def eager(self) -> bool: ...
    @property
    def reachable(self) -> bool: ...
    def counts(self) -> dict[str, int]: ...
    def wake(self) -> None: ...
    def tick(self, now: float) -> None: ...
    async def drain(self, deadline: float) -> None: ...
    def abort(self) -> None: ...


def make_pool(
    provider: Provider,
    source: Source,
    *,
    stream: str,
    budget: ConnectionBudget,
    concurrency: int = 20,
    on_state: Callable[[], None] = lambda: None,
) -> Pool:
    """The pool for this kind of provider."""
    dialect = DIALECTS.get(provider.kind)
    if dialect is None:
        return make_smtp_pool(
            provider, source, stream=stream, budget=budget, concurrency=concurrency, on_state=on_state
        )
    return HttpPool(
        provider,
        dialect(provider),
        source,
        stream=stream,
        budget=budget,
        concurrency=concurrency,
        on_state=on_state,
    )
