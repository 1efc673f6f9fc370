"""`mailerd events`: what happens to messages, as it happens, for people's eyes or as JSON lines.

Following is a subscription: from its first line on, every event that is written comes, also those whose transaction
commits late; lines stand in the order of commits. Postgres is asked twice a second for what waits for us, and never
looks through the log. When the command ends, so does the subscription; if it dies, a minute later.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Sequence

import click
import msgspec

from mailerd.cli.database import with_database
from mailerd.cli.output import error, is_terminal, json_option, visible
from mailerd.config.outgoing import EVENT_TYPES
from mailerd.store import notices
from mailerd.store.database import Session, Unavailable
from mailerd.store.notices import Event

__all__ = ["events"]

_KEYS = ("type", "stream")
_POLL = 0.5
_ALIVE = 60.0  # seconds that a subscription outlives its last renewal
_BACK = (60, 3600, 86400, 7 * 86400)  # how far we look for the last lines: the nearest span that has enough
_BAD = frozenset({"bounced", "rejected", "failed", "complained", "expired"})
_UNSURE = frozenset({"deferred", "in_doubt", "suppressed", "cancelled", "unsubscribed", "unknown"})


class _Filter(click.ParamType):  # type: ignore[type-arg]  # generic only in later versions
    name = "filter"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[str]]:
        if isinstance(value, tuple):
            return value
        key, equals, rest = str(value).partition("=")
        wanted = [name.strip() for name in rest.split(",") if name.strip()]
        if not equals or key not in _KEYS or not wanted:
            self.fail(f"'{value}' is not KEY=VALUE[,VALUE] with KEY one of {', '.join(_KEYS)}", param, ctx)
        if key == "type" and (strange := [name for name in wanted if name not in EVENT_TYPES]):
            self.fail(f"there is no event type '{strange[0]}': one of {', '.join(EVENT_TYPES)}", param, ctx)
        return key, wanted


@click.group()
def events() -> None:
    """Follow what happens to messages."""


@events.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until interrupted.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, 10_000),
    default=10,
    show_default=True,
    help="So many of the last ones first.",
)
@click.option(
    "--filter",
    "filters",
    type=_Filter(),
    multiple=True,
    metavar="KEY=VALUE",
    help="type=bounced,complained, or stream=NAME.",
)
@json_option
@click.pass_context
def tail(ctx: click.Context, follow: bool, lines: int, filters: Sequence[tuple[str, list[str]]], as_json: bool) -> None:
    """Show the last events, and with --follow those to come.

    While it follows, no event is missed, whenever its transaction commits; one may be shown twice after a lost
    connection to Postgres. `--json` prints a JSON object a line.
    """
    types = [name for key, names in filters if key == "type" for name in names]
    streams = [name for key, names in filters if key == "stream" for name in names]

    async def work(session: Session) -> None:
        name = f"tail:{secrets.token_hex(8)}"
        if follow:  # before the last lines are read, so that nothing falls in between
            await notices.subscribe(session, name, types, streams, _ALIVE)
        try:
            shown = await _last(session, lines, types, streams) if lines else []
            _show(shown, as_json)
            if follow:
                await _follow(session, name, types, streams, {event.id for event in shown}, as_json)
        finally:
            if follow:
                with contextlib.suppress(Unavailable):
                    await notices.unsubscribe(session, name)

    with contextlib.suppress(BrokenPipeError):
        with_database(ctx, work)


async def _last(session: Session, lines: int, types: Sequence[str], streams: Sequence[str]) -> list[Event]:
    found: list[Event] = []
    for seconds in _BACK:
        found = await notices.recent(session, seconds, lines, types, streams)
        if len(found) >= lines:
            break
    return found


async def _follow(
    session: Session, name: str, types: Sequence[str], streams: Sequence[str], seen: set[int], as_json: bool
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    renewed, troubled = time.monotonic(), False

    async def tell(found: list[Event]) -> None:
        _show([event for event in found if event.id not in seen], as_json)
        seen.difference_update(event.id for event in found)

    while not stop.is_set():
        some = 0
        try:
            if time.monotonic() - renewed > _ALIVE / 3 or troubled:
                await notices.subscribe(session, name, types, streams, _ALIVE)
                renewed, troubled = time.monotonic(), False
            some = await notices.tell(session, name, tell)
        except Unavailable as trouble:
            if not troubled:
                error(f"{trouble}; waiting for it")
            troubled = True
        if not some:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLL)


def _show(found: Sequence[Event], as_json: bool) -> None:
    for event in found:
        click.echo(msgspec.json.encode(event).decode() if as_json else _line(event))


def _line(event: Event) -> str:
    there = event.at.astimezone()
    words = f"{event.type:<12}"
    if is_terminal():
        colour = "red" if event.type in _BAD else "yellow" if event.type in _UNSURE else "green"
        words = click.style(words, fg=colour)
    reply = " ".join(str(part) for part in (event.code, event.enhanced_code, event.detail) if part)
    rest = "  ".join(
        visible(part)
        for part in (
            event.recipient or "-",
            f"{event.stream or '-'}/{event.provider or '-'}",
            event.category or "",
            reply,
        )
        if part
    )
    return f"{there:%H:%M:%S}.{there.microsecond // 1000:03}  {words}  {event.message_id}  {rest}"
