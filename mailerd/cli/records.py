"""One thing as labelled lines, and rows that end in a long text (a reply, a reason).

The text stands beside the other cells where there is room, else on lines of its own: a table that squeezes a refusal
into twelve columns breaks its words and, worse, the ids that people copy. Off a terminal it is the plain table, one
line a row.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

import click

from mailerd.cli.output import is_terminal, print_table, visible

__all__ = ["print_fields", "print_records"]

_ROOM: Final = 44  # columns that a text needs beside the cells to be readable
_GAP: Final = 2
_LABEL: Final = 12


def print_records(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """`rows` under `columns`, the last of which is the text. None prints as `-`."""
    rows = list(rows)
    cells = [["-" if value is None else visible(str(value)) for value in row] for row in rows]
    width = shutil.get_terminal_size((100, 24)).columns
    widths = [max(len(column), *(len(row[i]) for row in cells), 0) for i, column in enumerate(columns[:-1])]
    longest = max((len(row[-1]) for row in cells), default=0)
    if not is_terminal() or sum(widths) + _GAP * len(widths) + min(longest, _ROOM) <= width:
        print_table(columns, rows, right)
        return

    def line(values: Sequence[str]) -> str:
        padded = [
            value.rjust(size) if column in right else value.ljust(size)
            for value, size, column in zip(values, widths, columns, strict=False)
        ]
        return (" " * _GAP).join(padded).rstrip()

    click.secho(line(columns[:-1]), bold=True)
    for row in cells:
        click.echo(line(row[:-1]))
        for words in textwrap.wrap(row[-1], max(20, width - 4)) if row[-1] != "-" else ():
            click.echo(f"    {words}")


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One `label  value` a line; on a terminal long values go on below themselves. None prints as `-`."""
    width = shutil.get_terminal_size((100, 24)).columns if is_terminal() else 0
    for label, value in fields:
        text = "-" if value is None else visible(str(value))
        head = f"{click.style(label, bold=True) if width else label}{' ' * max(1, _LABEL - len(label))}"
        lines = textwrap.wrap(text, max(20, width - _LABEL)) if width else [text]
        click.echo(head + ("\n" + " " * _LABEL).join(lines or [""]))
