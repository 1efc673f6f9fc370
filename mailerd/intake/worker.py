"""Reads what was stored, finds the messages that it is about, and applies what it says.

One mail after the other, the oldest first; several instances share them. A mail that cannot be dealt with waits and is taken
again, at last it is `unreadable`; none holds up those behind it. Reading takes a thread, since a hostile mail of a megabyte
takes longer than the loop may stand still. Applying twice does no harm: each report counts once by the digest of its mail.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from mailerd.compose.tokens import derive
from mailerd.compose.verp import ReturnPaths
from mailerd.config.model import Config
from mailerd.feedback import Feedback
from mailerd.inbound.correlate import clues, feedback, match
from mailerd.inbound.reader import read
from mailerd.message import clean
from mailerd.store import feedback as reports
from mailerd.store import inbound as store
from mailerd.store.database import Session, Unavailable

__all__ = ["Apply", "Worker", "return_paths"]

log = logging.getLogger("mailerd.inbound")

Apply = Callable[[Session, Sequence[Feedback]], Awaitable[int]]
LOOK: Final = 2.0  # seconds between looks for what others stored, or an operator wants read again
TROUBLE: Final = 5.0
FORGET: Final = 3600.0
_BATCH: Final = 20


def return_paths(config: Config) -> ReturnPaths | None:
    """What reads the return paths of this configuration; None if it signs none."""
    domain, secrets = config.inbound.return_path_domain, config.public.secret
    return ReturnPaths(domain, [derive(secret, "verp") for secret in secrets]) if domain and secrets else None


def _providers(config: Config) -> dict[str, str]:
    """The one [[provider]] that gives ids of a kind, over HTTP or SMTP; kinds that several have are left out."""
    hosts = {"ses": "amazonaws.com", "postmark": "postmarkapp.com"}
    found: dict[str, str] = {}
    for kind, host in hosts.items():
        names = [p.name for p in config.provider if p.kind == kind or (p.kind == "smtp" and p.host.endswith(host))]
        if len(names) == 1:
            found[kind] = names[0]
    return found


class Worker:
    """`run` until cancelled or told to `stop`; `wake` when something was stored. `seen` is told the source and kind of each mail read."""

    def __init__(self, config: Config, seen: Callable[[str, str], None], apply: Apply | None = None) -> None:
        self._session = Session(config.database, "mailerd:reports")
        self._seen = seen
        self._apply = apply
        self._some = asyncio.Event()
        self._forget_at = 0.0
        self._stopping = asyncio.Event()
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Another configuration, from the next mail on."""
        self._paths = return_paths(config)
        self._providers = _providers(config)
        self._retention = float(config.inbound.retention)

    def wake(self) -> None:
        self._some.set()

    def stop(self) -> None:
        """`run` returns after the mail in hand; those that were taken with it are given back."""
        self._stopping.set()
        self._some.set()

    async def run(self) -> None:
        trouble = ""
        try:
            while not self._stopping.is_set():
                self._some.clear()
                wait = LOOK
                try:
                    while await self.work():
                        pass
                    await self._forget()
                    trouble = ""
                except Exception as error:  # whatever it is, it must not stop what sends; the database is away, mostly
                    wait = TROUBLE
                    if str(error) != trouble:
                        trouble = str(error)
                        log.warning(
                            "reading inbound mail: %s; trying again", error, exc_info=not isinstance(error, Unavailable)
                        )
                try:
                    async with asyncio.timeout(wait):
                        await (self._stopping if trouble else self._some).wait()
                except TimeoutError:
                    pass
        finally:
            self._session.drop()

    async def work(self) -> int:
        """Deals with some mails; how many. Raises what `Session` raises."""
        mails = await store.take(self._session, _BATCH)
        for number, mail in enumerate(mails):
            if self._stopping.is_set():
                await store.replay(self._session, [left.id for left in mails[number:]])
                return 0
            if mail.attempts > store.ATTEMPTS:  # whoever took it so often has not lived to say why
                self._seen(mail.source, "unreadable")
                await store.give_up(self._session, mail.id, "taken too often without an end", final=True)
                continue
            try:
                await self._deal(mail)
            except Unavailable:
                raise  # the rest comes back by itself
            except Exception as error:
                final = mail.attempts >= store.ATTEMPTS
                log.error("inbound mail %d: %s: %s", mail.id, type(error).__name__, error, exc_info=mail.attempts == 1)
                if final:
                    self._seen(mail.source, "unreadable")
                why = clean(f"{type(error).__name__}: {error}", 500)
                await store.give_up(self._session, mail.id, why, final=final)
        return len(mails)

    async def _deal(self, mail: store.Reading) -> None:
        report = await asyncio.to_thread(read, mail.raw)
        trail = clues(report, mail.recipients, self._paths)
        sent = await store.sent(self._session, trail.ids)
        found = match(trail, {id_: (one.created_at, one.recipients) for id_, one in sent.items()})
        provider = self._providers.get(trail.provider[0][0], "") if trail.provider else ""
        told = feedback(report, found, trail, name=mail.digest.hex(), at=mail.at, provider=provider)
        applied = await (self._apply or reports.apply)(self._session, told) if told else 0
        by = found.by if found else ("provider_id" if trail.provider and told else "recipient" if told else "")
        await store.finish(
            self._session,
            mail.id,
            str(report.kind),
            msgspec.json.encode(report),
            found.message if found else None,
            by,
            applied,
        )
        self._seen(mail.source, str(report.kind))

    async def _forget(self) -> None:
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET
            if gone := await store.forget(self._session, self._retention):
                log.info("%d inbound mails were older than inbound.retention, and are gone", gone)
