"""Reads the inbox: stored webhooks become feedback, and feedback is applied. In the background, behind what comes in.

A turn is one transaction that holds some unread requests; what they report is applied on another connection, then the turn
is closed. Dying in between leaves them unread, and applying them twice counts once: every report has an id of its source,
or is given the inbox's.

What cannot be read is kept with the reason, and not tried again. What cannot be applied is found by halving.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import asyncpg
import msgspec

from mailerd.config.model import Database
from mailerd.feedback import Feedback
from mailerd.store import inbox
from mailerd.store.database import Run, Session, Unavailable
from mailerd.store.upkeep import only_one
from mailerd.web.traffic import Traffic
from mailerd.webhook.dialect import Malformed, Webhook

__all__ = ["Reader"]

log = logging.getLogger("mailerd.public")

_TURN: Final = 200  # requests
_LARGE = 65_536  # octets of a body
_APPLY: Final = 500  # reports of one statement
_POLL: Final = 1.0  # seconds; what this instance stored wakes it at once
_BACKOFF: Final = 1.0  # seconds after trouble
_FORGET: Final = 3600.0  # seconds between times when old requests are deleted

Apply = Callable[[Session, Sequence[Feedback]], Awaitable[int]]

_headers = msgspec.json.Decoder(dict[str, str]).decode


class Reader:
    """`run` in a task. `busy` says whether more comes in than is written: then reading waits, a little.

    `webhooks` by the provider's name; they may be replaced while it runs.
    """

    def __init__(
        self,
        settings: Database,
        webhooks: Mapping[str, Webhook],
        apply: Apply,
        traffic: Traffic,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.webhooks = webhooks
        self.wake = asyncio.Event()
        self._settings = settings
        self._apply = apply
        self._traffic = traffic
        self._busy = busy
        self._forgotten = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        async with (
            Session(self._settings, "mailerd:inbox") as turns,
            Session(self._settings, "mailerd:feedback") as applying,
        ):
            said = False
            while True:
                self.wake.clear()  # before the look: what comes during it is looked for again
                try:
                    taken = await self.turn(turns, applying)
                    await self._forget(applying)
                    said = False
                except (Unavailable, asyncpg.PostgresError) as error:
                    if not said:
                        log.warning("inbox: %s", error)
                        said = True
                    await asyncio.sleep(_BACKOFF)
                    continue
                if taken < _TURN:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_POLL):
                            await self.wake.wait()
                elif self._busy():
                    await asyncio.sleep(0.1)

    async def turn(self, turns: Session, applying: Session) -> int:
        """Reads and applies some; how many requests."""
        taken = 0

        async def work(run: Run) -> None:
            nonlocal taken
            raws = await inbox.take(run, _TURN)
            taken = len(raws)
            if not raws:
                return
            refused: dict[int, str] = {}
            reports: list[tuple[int, Feedback]] = []
            for raw in raws:
                try:
                    # Reading takes some 40 µs an event: what is large must not hold up the loop.
                    large = len(raw.body) > _LARGE
                    found = await asyncio.to_thread(self._read, raw) if large else self._read(raw)
                except Malformed as error:
                    refused[raw.id] = str(error)[:500]
                    self._traffic.webhook(raw.provider, "unreadable")
                    log.warning("inbox %d: webhook %s cannot be read: %s", raw.id, raw.provider, error)
                else:
                    for report in found:
                        self._traffic.report(raw.provider, report.type)
                    reports += [(raw.id, report) for report in found]
                    self._traffic.webhook(raw.provider, "read")
            for start in range(0, len(reports), _APPLY):
                await self._apply_all(applying, reports[start : start + _APPLY], refused)
            await inbox.close(run, [raw.id for raw in raws], list(refused.items()))

        await turns.together(work)
        return taken

    def _read(self, raw: inbox.Raw) -> list[Feedback]:
        """Raises `Malformed`."""
        webhook = self.webhooks.get(raw.provider)
        if webhook is None:
            raise Malformed("no provider of this name has a webhook any more")
        try:
            found = webhook.read(raw.body, _headers(raw.headers))
        except Malformed:
            raise
        except Exception as error:  # a defect of ours: its request is kept, the others go on
            log.exception("inbox %d: webhook %s", raw.id, raw.provider)
            raise Malformed(f"a defect of ours: {type(error).__name__}") from error
        reports = []
        for n, report in enumerate(found):
            given = {"provider": report.provider or raw.provider, "source": report.source or f"webhook:{raw.provider}"}
            reports.append(
                msgspec.structs.replace(report, source_id=report.source_id or f"inbox:{raw.id}:{n}", **given)
            )
        return reports

    async def _apply_all(
        self, session: Session, reports: Sequence[tuple[int, Feedback]], refused: dict[int, str]
    ) -> None:
        try:
            await self._apply(session, [report for _, report in reports])
        except Unavailable:
            raise
        except Exception as error:  # Postgres refuses a value, or we have a defect: it concerns one of them
            if len(reports) == 1:
                log.error("inbox %d: cannot be applied: %s: %s", reports[0][0], type(error).__name__, error)
                refused[reports[0][0]] = f"cannot be applied: {type(error).__name__}: {error}".splitlines()[0][:500]
                return
            half = len(reports) // 2
            await self._apply_all(session, reports[:half], refused)
            await self._apply_all(session, reports[half:], refused)

    async def _forget(self, session: Session) -> None:
        if time.monotonic() - self._forgotten > _FORGET or not self._forgotten:
            self._forgotten = time.monotonic()
            if await only_one(session, "inbox"):
                await inbox.forget(session)
