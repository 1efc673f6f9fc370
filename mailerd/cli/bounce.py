"""`mailerd bounce parse`: what the reader of inbound mail makes of bounces, complaints and automatic replies.

It touches nothing: no database, no configuration, no network. Files are read up to what the reader looks at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from mailerd.cli.output import Fatal, json_option, print_json, print_table
from mailerd.inbound.mime import OCTETS
from mailerd.inbound.reader import read
from mailerd.inbound.report import Report

__all__ = ["bounce"]


@click.group()
def bounce() -> None:
    """Read mail that came back."""


@bounce.command("parse")
@click.argument("sources", nargs=-1, metavar="[FILE|-|MAILDIR]...")
@json_option
def parse(sources: tuple[str, ...], as_json: bool) -> None:
    """Show what bounces, complaints and automatic replies say: one row a recipient.

    Each FILE is one mail; a directory stands for the files in it, or in its `new` and `cur` if it is a Maildir. Without
    any, or for `-`, a mail is read from standard input.
    """
    reports = [(name, read(octets)) for name, octets in _mails(sources or ("-",))]
    if as_json:
        print_json([{"file": name, "report": report} for name, report in reports])
        return
    print_table(
        ("FILE", "KIND", "RECIPIENT", "ACTION", "STATUS", "HARDNESS", "CATEGORY", "FOUND BY", "REASON"),
        [row for name, report in reports for row in _rows(name, report)],
    )


def _rows(name: str, report: Report) -> Iterator[tuple[object, ...]]:
    by = _found_by(report)
    if not report.results:
        yield (name, report.kind, None, None, None, None, None, by, None)
    for result in report.results:
        yield (
            name,
            report.kind,
            result.recipient or None,
            result.action or report.feedback_type or None,
            result.status or (str(result.code) if result.code else None),
            result.hardness or None,
            result.category or None,
            by,
            result.reason[:120] or None,
        )


def _found_by(report: Report) -> str | None:
    trace = report.trace
    if trace.provider_ids:
        return trace.provider_ids[0]
    if trace.message_ids:
        return f"<{trace.message_ids[0]}>"
    return trace.envelope_id or (trace.sent_to[0] if trace.sent_to else None)


def _mails(sources: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for source in sources:
        if source == "-":
            yield "-", _start(sys.stdin.buffer)
            continue
        path = Path(source)
        places = [path / "new", path / "cur"] if (path / "cur").is_dir() else [path]
        try:
            files = (
                sorted(file for place in places if place.is_dir() for file in place.iterdir() if file.is_file())
                if path.is_dir()
                else [path]
            )
            for file in files:
                with file.open("rb") as opened:
                    yield str(file) if path.is_dir() else source, _start(opened)
        except OSError as problem:
            raise Fatal(f"{source}: {problem.strerror or problem}") from None


def _start(file: IO[bytes]) -> bytes:
    return file.read(OCTETS + 1)
