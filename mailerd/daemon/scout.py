"""Finds work for all streams of the instance, and moves what has come due.

Three loops: the scout looks at the outbox's tail, at once when a notification comes and every 50 ms otherwise, and
moves due messages; the sweeper walks the lanes of each stream, never sooner than 20 times its own last duration; the
listener keeps one direct connection for LISTEN. None of them leases: they only tell pipelines which lanes to ask.

Hazards: a notification is anybody's text, and is taken for a lane only when it could be one. A LISTEN connection can be
dead without a word, so it is asked for a sign of life every few seconds; without it, or behind PgBouncer, polling
serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Protocol

import asyncpg

from mailerd.config.model import Database
from mailerd.store.database import Session, Unavailable
from mailerd.store.work import Lane, due, sweep, tail

__all__ = ["Hinted", "Scout", "notified_lane"]

log = logging.getLogger("mailerd.scout")

DUE_EVERY = 0.1
LOOK_LEAST = 0.01  # seconds between looks at the tail, however many notifications come
SWEEP_LEAST, SWEEP_MOST, SWEEP_FACTOR = 0.05, 30.0, 20.0
SWEEP_PAGE = 1000
PING = 5.0
MOST_BACKOFF = 5.0
_TROUBLE = (Unavailable, asyncpg.PostgresError)


def notified_lane(payload: str) -> Lane | None:
    """The lane that a notification names; None when it could be no row's. Whoever may connect may also notify.

    The bounds are those of the outbox's constraints: a lane beyond them would fail each lease that asks for it.
    """
    stream, _, rest = payload.partition("\t")
    priority, _, rest = rest.partition("\t")
    domain, tab, campaign = rest.partition("\t")
    if not tab or len(priority) != 1 or priority not in "0123456789":
        return None
    if not 0 < len(domain.encode(errors="replace")) <= 253 or len(campaign.encode(errors="replace")) > 200:
        return None
    if any(unicodedata.category(character) == "Cc" for character in domain + campaign):
        return None
    return Lane(stream, int(priority), domain, campaign)


class Hinted(Protocol):
    """A pipeline, as the scout sees it."""

    def hint(self, lanes: Iterable[Lane], *, swept: bool = False) -> None: ...


class Scout:
    """`run` until cancelled. `pipelines` by stream; a reload may put another mapping in its place."""

    def __init__(self, settings: Database, pipelines: Mapping[str, Hinted], poll: float) -> None:
        self._settings = settings
        self.pipelines = pipelines
        self._poll = poll
        self._look = asyncio.Event()
        self.listening = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again(self._scout, "scout"), name="scout")
            group.create_task(self._again(self._sweep, "sweep"), name="sweep")
            if self._listen_url() is not None:
                group.create_task(self._again(self._listen, "listen"), name="listen")

    def _listen_url(self) -> str | None:
        """Where to LISTEN; None when there is no direct connection for it."""
        given = self._settings.listen_url
        if given == "off":
            return None
        return given or (self._settings.url if self._settings.prepare == "auto" else None)

    async def _again(self, loop: object, name: str) -> None:
        """Runs a loop for ever: whatever Postgres does to it, it starts again."""
        failures = 0
        while True:
            started = time.monotonic()
            session = Session(self._settings, f"mailerd:{name}", url=self._listen_url() if name == "listen" else None)
            try:
                await loop(session)  # type: ignore[operator]
            except Exception as error:  # a defect, too: without us nothing would be found, and nobody would know
                failures = 1 if time.monotonic() - started > 30 else failures + 1
                if failures == 1:
                    known = isinstance(error, _TROUBLE)
                    log.warning("%s: %s; trying again", name, error, exc_info=None if known else error)
            finally:
                session.drop()
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), MOST_BACKOFF) * (0.5 + random.random() / 2))

    def _tell(self, lanes: Iterable[Lane], *, swept: bool = False) -> None:
        by_stream: dict[str, list[Lane]] = {}
        for lane in lanes:
            by_stream.setdefault(lane.stream, []).append(lane)
        for stream, found in by_stream.items():
            pipeline = self.pipelines.get(stream)
            if pipeline is not None:
                pipeline.hint(found, swept=swept)

    # The tail and what is due.

    async def _scout(self, session: Session) -> None:
        seen = 0
        due_at = 0.0
        hungry: list[str] = []  # streams of which more is due than one statement moved
        while True:
            self._look.clear()
            failed: Exception | None = None
            more = False
            try:
                lanes, seen, more = await tail(session, seen)
                self._tell(lanes)
            except _TROUBLE as error:  # what is due has its turn all the same
                failed = error
            # All streams every tenth of a second; in between only the hungry, who share the whole limit.
            streams = [stream for stream in hungry if stream in self.pipelines]
            if time.monotonic() >= due_at:
                streams, due_at = list(self.pipelines), time.monotonic() + DUE_EVERY
            if streams:
                moved, hungry = await due(session, streams)
                self._tell(moved)
            if failed is not None:
                raise failed
            if more or hungry:
                await asyncio.sleep(0.002)  # a burst: others on this loop get their turn
                continue
            # A notification names its lane, which is told at once; this look is for those who committed beside it.
            await asyncio.sleep(LOOK_LEAST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(self._poll - LOOK_LEAST, 0.0)):
                    await self._look.wait()

    # The sweep.

    async def _sweep(self, session: Session) -> None:
        while True:
            took = 0.0
            failed: Exception | None = None
            for stream in list(self.pipelines):
                started = time.monotonic()
                try:
                    took += await self._walk(session, stream)
                except _TROUBLE as error:  # the streams behind it have their turn all the same
                    took += time.monotonic() - started
                    failed = failed or error
            await asyncio.sleep(min(max(took * SWEEP_FACTOR, SWEEP_LEAST), SWEEP_MOST))
            if failed is not None:
                raise failed

    async def _walk(self, session: Session, stream: str) -> float:
        """Tells all lanes of a stream; the seconds that Postgres took."""
        took = 0.0
        after: Lane | None = None
        while True:
            started = time.monotonic()
            page = await sweep(session, stream, after, SWEEP_PAGE)
            took += time.monotonic() - started
            self._tell(page, swept=True)
            if len(page) < SWEEP_PAGE:
                return took
            after = page[-1]
            await asyncio.sleep(0.01)

    # LISTEN.

    async def _listen(self, session: Session) -> None:
        lost = asyncio.Event()

        def notified(payload: str) -> None:
            lane = notified_lane(payload)
            if lane is not None:
                self._tell([lane])
            self._look.set()  # others may have committed beside it without notifying

        await session.listen("mailerd.wake", notified, lost.set)
        self.listening = True
        self._look.set()  # what was committed while nobody listened
        try:
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PING):
                        await lost.wait()
                if not lost.is_set():
                    await session.value("SELECT 1", timeout=PING)
        finally:
            self.listening = False
        raise Unavailable("the LISTEN connection was closed")
