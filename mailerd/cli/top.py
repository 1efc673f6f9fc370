"""`mailerd top`: what `status` shows, live, with how much is happening.

It reads every few seconds and never counts the queue: those figures come from the instance that counts for all, every
15 s. The speed is that of the events' serial number, over the last half minute: instances take numbers in hundreds,
so it is rough below some hundred a second. Without a database it says so, and goes on when that is back.

Hazard: it draws with the words of strangers (reasons, replies); each becomes one line without control characters.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Final

import asyncpg
import click

from mailerd.cli.glance import Glance, glance
from mailerd.cli.output import Exit, Fatal, is_terminal, load_config, visible
from mailerd.cli.panels import Panel, panels
from mailerd.store.database import Session, Unavailable
from mailerd.store.migrate import SchemaProblem, verify

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mailerd.config.resolved import Resolved

__all__ = ["Speed", "top"]

_SERIAL: Final = "SELECT last_value FROM mailerd.event_serial"
_WINDOW: Final = 30.0  # seconds
_RED: Final = frozenset({"open", "gone", "stopped", "no instance"})
_YELLOW: Final = frozenset({"paused", "half-open", "draining"})


class Speed:
    """How fast a number grows, over the last `_WINDOW` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, number: int) -> float | None:
        """Growth a second; None at the first look, and after the number fell (another database)."""
        if self._seen and number < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, number))
        while now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        (since, first), (until, last) = self._seen[0], self._seen[-1]
        return (last - first) / (until - since) if until > since else None


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.5, 60),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--lanes", type=click.IntRange(0, 100), default=10, show_default=True, help="How many of the longest lanes."
)
@click.pass_context
def top(ctx: click.Context, interval: float, lanes: int) -> None:
    """Show queues, providers and instances, live. Control-C ends it.

    For scripts there is `mailerd status --json`.
    """
    if not is_terminal():
        raise Fatal("top draws on a terminal; elsewhere use `mailerd status`, with --json for programs", Exit.USAGE)
    loaded = load_config(ctx)
    settings = loaded.config.database
    looks = _looks(Session(settings, "mailerd:top"), loaded.resolved, interval, lanes)
    try:
        asyncio.run(_watch(looks))
    except KeyboardInterrupt:
        pass
    except SchemaProblem as wrong:
        raise Fatal(str(wrong), Exit.CONFIG) from None
    except asyncpg.PostgresError as refused:
        raise Fatal(f"the database refuses: {str(refused).splitlines()[0]}") from None


async def _looks(
    session: Session, resolved: Resolved, interval: float, lanes: int
) -> AsyncIterator[tuple[Glance | None, str]]:
    """(what there is to see, how fast it goes or what is wrong), every `interval` seconds, for ever."""
    speed = Speed()
    verified = False
    async with session:
        while True:
            try:
                if not verified:
                    await verify(session)
                    verified = True
                found = await glance(session, resolved, lanes=lanes)
                rate = speed.add(monotonic(), int(await session.value(_SERIAL)))
                yield found, "measuring …" if rate is None else f"{rate:,.0f} events/s"
            except Unavailable as trouble:
                yield None, str(trouble)
            await asyncio.sleep(interval)


async def _watch(looks: AsyncIterator[tuple[Glance | None, str]]) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        last: Glance | None = None
        async for seen, words in looks:
            last = seen or last
            live.update(screen(last, words, stale=seen is None), refresh=True)


def screen(seen: Glance | None, words: str, *, stale: bool) -> RenderableType:
    """One picture: the first line says how it goes, below it the panels of the last look that there was."""
    from rich.console import Group
    from rich.text import Text

    title = Text("mailerd top  ", style="bold")
    title.append(visible(words), style="bold red" if stale else "green")
    if seen is None:
        return Group(title)
    title.append(f"  {seen.overview.at:%Y-%m-%d %H:%M:%S} UTC", style="dim")
    late = [p.table for p in seen.overview.partitions if not p.ok]
    if late:
        title.append(f"  {', '.join(late)}: no partition for tomorrow", style="bold red")
    return Group(title, Text(), *_tables(panels(seen.overview, seen.waits, seen.rates)))


def _tables(found: Iterable[Panel]) -> Iterable[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    for panel in found:
        yield Text(panel.heading, style="bold cyan")
        if panel.rows:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
            for column in panel.columns:
                table.add_column(column, justify="right" if column in panel.right else "left", overflow="ellipsis")
            for row in panel.rows:
                table.add_row(*(_cell(value) for value in row))
            yield table
        else:
            yield Text(panel.none, style="dim")
        yield Text()


def _cell(value: object) -> RenderableType:
    from rich.text import Text

    if isinstance(value, int):
        return Text(f"{value:,}", style="" if value else "dim")
    text = "-" if value is None else visible(str(value))
    style = "bold red" if text in _RED else "yellow" if text in _YELLOW else "dim" if value is None else ""
    return Text(text, style=style)
