"""Numbers: adds up what events were written, shows the rates, warns of those that are too high, pauses what must stop.

Every instance runs it; a lock in the store lets one of them count at a time. It has its own connection and is not on the
path of a message. The pause is the operator's own (`lane_control`), so it holds on all instances, is in the audit and
ends with `mailerd resume`; after that only what happens from then on counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import asyncpg

from mailerd.config.model import Config
from mailerd.flow import rates as flow
from mailerd.flow.rates import Counts
from mailerd.store import control, rates
from mailerd.store.database import Session, Unavailable
from mailerd.web.metrics import Metrics

__all__ = ["Numbers", "shares"]

log = logging.getLogger("mailerd.numbers")

COUNT_EVERY = 2.0
GAUGE_EVERY = 30.0
FORGET_EVERY = 3600.0
TROUBLE = 30.0  # seconds after a defect, which would fill the log
_WINDOWS = {1: "1h", 24: "24h", 168: "7d"}


class Numbers:
    """`run` until cancelled. `config` and `group_of` are asked each time: a reload changes them."""

    def __init__(self, config: Callable[[], Config], group_of: Callable[[str], str | None], metrics: Metrics) -> None:
        self._config = config
        self._group_of = group_of
        self._metrics = metrics
        self._gauged = self._forgot = float("-inf")

    async def run(self) -> None:
        session = Session(self._config().database, "mailerd:numbers")
        troubled = False
        try:
            while True:
                try:
                    more = await self.turn(session, time.monotonic())
                    troubled = False
                except Unavailable as error:
                    more = False
                    log.debug("rates: %s", error)  # the heartbeat reports it
                except asyncpg.PostgresError as error:
                    more = False
                    if not troubled:
                        log.warning("rates: %s; trying again", error)
                    troubled = True
                except Exception:  # a defect of ours: figures are no reason to stop sending mail
                    more = False
                    log.exception("rates: unexpected trouble")
                    await asyncio.sleep(TROUBLE)
                await asyncio.sleep(0 if more else COUNT_EVERY)
        finally:
            session.drop()

    async def turn(self, session: Session, now: float) -> bool:
        """What is due; True if there is more to count at once."""
        limit = 2000
        rows, reports = await rates.add_up(session, self._group_of, limit)
        for type_, count in reports.items():
            self._metrics.event(type_, count)
        if now - self._gauged >= GAUGE_EVERY:
            self._gauged = now
            await rates.gauge(session)
            await self.judge(session)
            self._metrics.rates(shares(await rates.gauged(session)), await self._standing(session))
        if now - self._forgot >= FORGET_EVERY:
            self._forgot = now
            await rates.forget(session)
        return rows >= limit

    async def judge(self, session: Session) -> None:
        """Raises alerts and ends them; pauses marketing streams that are complained about too much."""
        config = self._config()
        marketing = frozenset(stream.name for stream in config.stream if stream.marketing)
        counts = await rates.days(session, [stream.name for stream in config.stream])
        for alert in await rates.put_alerts(session, flow.alerts(counts, config.alerts, marketing)):
            log.warning("stream %s: %s", alert.stream, alert.words)
            if alert.level == "pause" and await control.pause(session, "stream", alert.stream, "mailerd", alert.words):
                log.error(
                    "stream %s is paused: find out why, then `mailerd resume stream:%s`", alert.stream, alert.stream
                )

    async def _standing(self, session: Session) -> list[tuple[str, ...]]:
        return [(alert.stream, alert.kind, alert.level) for alert in await rates.alerts_now(session)]


def shares(rows: list[rates.Row]) -> list[tuple[tuple[str, ...], float]]:
    """Each rate by (rate, window, stream, provider, group), where there is one."""
    counts: dict[tuple[str, str, str, str], Counts] = {}
    for row in rows:
        key = (_WINDOWS[row.hours], row.stream, row.provider, row.group)
        counts.setdefault(key, Counts()).add(row.type, row.category, row.events)
    return [
        ((name, *key), share)
        for key, found in sorted(counts.items())
        for name in flow.RATES
        if (share := flow.rate(name, found)) is not None
    ]
