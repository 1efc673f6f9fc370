"""`mailerd demo`: everything at once, to look at: Postgres, sink, daemon, a thousand messages, a table."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailerd.cli.output import Exit, Fatal, is_terminal

if TYPE_CHECKING:
    from rich.console import Console

    from mailerd.bench.demo import Demo

__all__ = ["demo"]


@click.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards, with the status page and psql, until Ctrl-C.")
@click.option("--messages", type=click.IntRange(10, 1_000_000), default=1000, show_default=True, metavar="N")
def demo(keep: bool, messages: int) -> None:
    """Try it: an embedded Postgres, a local SMTP sink, the daemon, and a thousand messages in three streams.

    Needs no root, no Docker and no account; uses free ports and a temporary folder, and leaves nothing behind.
    """
    from rich.console import Console

    from mailerd.bench.child import ChildFailed
    from mailerd.bench.demo import Demo
    from mailerd.bench.ending import ended_by_signals
    from mailerd.bench.postgres import PostgresMissing
    from mailerd.store.database import Unavailable

    console = Console(highlight=False, soft_wrap=True)
    try:
        with ended_by_signals(), Demo() as installation:
            asyncio.run(_show(installation, console, messages))
            if keep:
                _stay(installation, console)
    except PostgresMissing as missing:
        raise Fatal(str(missing), Exit.UNAVAILABLE) from None
    except (ChildFailed, Unavailable) as failed:
        raise Fatal(str(failed).splitlines()) from None


@contextmanager
def _step(console: Console, text: str) -> Iterator[list[str]]:
    """Says what is being done while it is done, and what came of it (what is put into the list) afterwards."""
    said: list[str] = []
    begin = time.monotonic()
    if is_terminal():
        with console.status(f"{text} …", spinner="dots"):
            yield said
    else:
        yield said
    seconds = time.monotonic() - begin
    took = f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    console.print(f"  [green]✓[/] {(said[0] if said else text):<58} [dim]{took:>7}[/]")


async def _show(demo: Demo, console: Console, messages: int) -> None:
    from mailerd.bench.demo import SQL, shares

    console.print()
    console.print("[bold]mailerd demo[/]  [dim]a whole installation, for a minute[/]")
    console.print()
    with _step(console, "start an embedded Postgres") as said:
        said.append(f"Postgres {await demo.start_postgres()}, embedded, durable")
    with _step(console, "create the schema") as said:
        said.append(f"schema mailerd, {await demo.migrate()} migrations")
    with _step(console, "start an SMTP sink") as said:
        demo.start_sink()
        said.append(f"SMTP sink on 127.0.0.1:{demo.sink_port}")
    with _step(console, "start the daemon") as said:
        demo.start_daemon()
        said.append(f"daemon, status page on {demo.ops_url}")

    counts = shares(messages)
    console.print()
    console.print("An application sends mail by inserting rows, in its own transaction, in any language:")
    console.print()
    for stream, count in counts.items():
        _sql(console, SQL[stream].format(count=count))
    with _step(console, "enqueue") as said:
        await demo.enqueue(counts)
        said.append(f"{messages:,} rows committed")
    with _step(console, "send") as said:
        await demo.wait()
        said.append(f"{messages:,} messages leased, rendered, sent, accepted, settled")
    console.print()
    await _table(demo, console, counts)


def _sql(console: Console, text: str) -> None:
    if is_terminal():
        from rich.padding import Padding
        from rich.syntax import Syntax

        console.print(Padding(Syntax(f"{text};", "sql", theme="ansi_dark", background_color="default"), (0, 0, 1, 4)))
    else:
        console.print("\n".join(f"    {line}" for line in f"{text};".splitlines()), markup=False)
        console.print()


async def _table(demo: Demo, console: Console, counts: dict[str, int]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE if is_terminal() else None, pad_edge=True, padding=(0, 2, 0, 1))
    table.add_column("stream")
    for name in ("messages", "sent", "p50", "p95"):
        table.add_column(name, justify="right")
    lines = await demo.summary()
    for line in lines:
        table.add_row(
            line.stream, f"{line.messages:,}", f"{line.sent:,}", f"{line.p50_ms:,.0f} ms", f"{line.p95_ms:,.0f} ms"
        )
    console.print(table)
    sent, total, seconds = sum(line.sent for line in lines), sum(counts.values()), demo.seconds()
    if sent != total:
        raise Fatal(f"{total - sent} of {total} messages are not sent according to mailerd.message_status")
    console.print()
    console.print(
        f"  [bold]{sent:,} messages in {seconds:.2f} s[/], from the first commit to the last 250. "
        "[dim]p50, p95: commit to 250.[/]"
    )
    console.print()
    program = _program()
    wide = len(program) + 14
    console.print(f"  [dim]next:[/] {f'{program} demo --keep':<{wide}}[dim]look around[/]")
    console.print(f"        {f'{program} bench':<{wide}}[dim]measure this machine[/]")
    console.print(f"        {f'{program} init':<{wide}}[dim]write a mailerd.toml for your own database and provider[/]")
    console.print()


def _program() -> str:
    """How this command was called: `mailerd`, or the path to it, as it need not be on PATH."""
    called = Path(sys.argv[0])
    if called.name != "mailerd":
        return f"{sys.executable} -m mailerd"
    return "mailerd" if shutil.which("mailerd") == str(called) else str(called)


def _stay(demo: Demo, console: Console) -> None:
    """Until Ctrl-C; says when more was sent."""
    from mailerd.bench.demo import TRY_IT

    psql = "psql"
    if shutil.which("psql") is None and demo.postgres is not None and (demo.postgres.bin / "psql").exists():
        psql = str(demo.postgres.bin / "psql")
    console.print("It stays up until you press Ctrl-C.")
    console.print()
    console.print(f"  status page    {demo.ops_url}")
    console.print(f"  metrics        {demo.ops_url}metrics")
    console.print(f"  database       {psql} {demo.url}")
    console.print(f"  configuration  {demo.config}")
    console.print(f"  commands       {_program()} --config {demo.config} status")
    console.print()
    console.print("Send something in psql:")
    console.print()
    _sql(console, TRY_IT)
    known = demo.accepted()
    try:
        while True:
            time.sleep(0.25)
            for child in filter(None, (demo.daemon, demo.sink)):
                child.check()
            now = demo.accepted()
            if now > known:
                more = now - known
                console.print(f"  {time.strftime('%H:%M:%S')}  {more:,} more message{'s' * (more > 1)} sent")
                known = now
    except KeyboardInterrupt:
        console.print()
        console.print("[dim]stopping; the folder goes too[/]")
