"""What every command prints: tables, JSON, errors, exit codes, and the configuration or the reason there is none.

Results go to stdout, errors to stderr, one line each. Colour and boxes appear on a terminal only and never with
NO_COLOR. This file imports neither rich nor the loader before they are needed: `mailerd --help` stays fast.

Hazard: cells hold the words of strangers (replies, addresses). `visible` takes the control characters out of them, or
a refusal text could move the cursor or retitle an operator's terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mailerd.config.load import Loaded

__all__ = [
    "Exit",
    "Fatal",
    "error",
    "is_terminal",
    "json_option",
    "load_config",
    "print_json",
    "print_table",
    "visible",
]

F = TypeVar("F", bound=Callable[..., Any])


class Exit(IntEnum):
    """Exit statuses (sysexits.h where it has one); scripts and unit files rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69  # a dependency is unavailable at start
    TRY_AGAIN = 75
    CONFIG = 78


class Fatal(click.ClickException):
    """Ends the command: each of `lines` goes to stderr as one line, then the process exits with `code`."""

    def __init__(self, lines: str | Sequence[str], code: int = Exit.FAILED) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        self.code = int(code)
        super().__init__("; ".join(self.lines))

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.lines:
            error(line)


def visible(text: str) -> str:
    """`text` on one line and without control characters: each becomes its escape (`\\n`, `\\x1b`, …)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def error(line: str) -> None:
    """One line on stderr."""
    click.echo(f"mailerd: {visible(line)}", err=True)


def is_terminal() -> bool:
    """Whether stdout is a terminal: people read it, and rich may draw."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"


def json_option(command: F) -> F:
    """Adds `--json` (parameter `as_json`) to a command that reports."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def print_json(value: object) -> None:
    """`value` (Structs, dicts, lists, datetimes, …) as indented JSON on stdout."""
    import msgspec

    def plain(value: object) -> object:  # Duration and Size are numbers; a path, an address is its text
        return float(value) if isinstance(value, float) else int(value) if isinstance(value, int) else str(value)

    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=plain), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """`rows` under `columns`; columns named in `right` are aligned right. None prints as `-`.

    On a terminal rich fits it to the width; elsewhere columns are padded with spaces and nothing is cut, so that
    `awk` and `grep` work.
    """
    cells = [["-" if value is None else visible(str(value)) for value in row] for row in rows]
    if is_terminal():
        _rich_table(columns, cells, right)
        return
    widths = [max(len(column), *(len(row[i]) for row in cells), 0) for i, column in enumerate(columns)]
    for row in [list(columns), *cells]:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def _rich_table(columns: Sequence[str], cells: list[list[str]], right: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))  # Text: cells are not markup
    Console(highlight=False).print(table)


def load_config(ctx: click.Context, *, require_provider: bool = False) -> Loaded:
    """The configuration of this invocation (`--config`, else the search order), or exit 78 with every problem.

    `require_provider`: a configuration without any [[provider]] is a problem too (commands that send).
    """
    from mailerd.config.load import load
    from mailerd.config.problem import ConfigError

    path = (ctx.find_root().obj or {}).get("config_path")
    try:
        return load(path, os.environ, require_provider=require_provider)
    except ConfigError as problems:
        raise Fatal(problems.lines(), Exit.CONFIG) from None
