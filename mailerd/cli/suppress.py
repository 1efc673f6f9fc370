"""`mailerd suppress`: the addresses that get no mail, of one stream or all, by hand or as CSV.

CSV has the columns address, stream, reason, until; a heading line names them in any order, without one a line is an
address, or these four in order. Exports of other services are known by their heading (`cli.exports`). Addresses are taken as people write them and stored in normal form.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import PurePath
from re import fullmatch
from typing import IO, Final, Protocol

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.exports import Export, recognise
from mailerd.cli.output import Exit, Fatal, json_option, print_json
from mailerd.cli.records import print_records
from mailerd.cli.times import Instant
from mailerd.message import Failure
from mailerd.store import suppression as store
from mailerd.store.database import Session
from mailerd.store.suppression import Suppression

__all__ = ["suppress"]

_COLUMNS: Final = ("address", "stream", "reason", "until")
_SHOWN: Final = 20  # faulty lines of an import that are named one by one
_LONGEST: Final = 200  # octets of a reason


class _Rows(Protocol):
    """What `csv.reader` gives."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


@click.group()
def suppress() -> None:
    """Manage the addresses that get no mail.

    Without --stream an entry holds for every stream.
    """


@suppress.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@click.option("--stream", default="", help="Only for this stream.")
@click.option("--reason", default="manual", show_default=True, callback=lambda _c, _p, v: _reason(v))
@click.option("--until", type=Instant(), help="Not after then: 2026-12-24, or a length such as 30d.")
@json_option
@click.pass_context
def add(
    ctx: click.Context, addresses: Sequence[str], stream: str, reason: str, until: datetime | None, as_json: bool
) -> None:
    """Add addresses, or renew them."""
    entries = [
        Suppression(address=_normal(address), stream=stream, reason=reason, source="command", until=until)
        for address in addresses
    ]

    async def work(session: Session) -> int:
        number = await store.add(session, entries)
        for entry in entries:
            await store.audit(session, actor(), "suppress add", entry.address, f"{stream or 'all streams'}: {reason}")
        return number

    new = with_database(ctx, work)
    if as_json:
        print_json({"new": new, "addresses": [entry.address for entry in entries]})
    else:
        click.echo(f"{new} added, {len({e.address for e in entries}) - new} renewed")


@suppress.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@click.option("--stream", help="Only this stream's entry; '' is the one for all. Default: every entry.")
@json_option
@click.pass_context
def remove(ctx: click.Context, addresses: Sequence[str], stream: str | None, as_json: bool) -> None:
    """Remove addresses. Exit 1 if one was not there."""
    wanted = [_normal(address) for address in addresses]

    async def work(session: Session) -> list[tuple[str, str]]:
        gone = await store.remove(session, wanted, stream)
        for address, of in gone:
            await store.audit(session, actor(), "suppress remove", address, of or "all streams")
        return gone

    gone = with_database(ctx, work)
    if as_json:
        print_json([{"address": address, "stream": of} for address, of in gone])
    else:
        for address, of in gone:
            click.echo(f"{address}: removed from {of or 'all streams'}")
    missing = sorted(set(wanted) - {address for address, _ in gone})
    if missing:
        raise Fatal([f"{address}: is not suppressed" for address in missing], Exit.FAILED)


@suppress.command("list")
@click.option("--stream", help="'' are the entries for all streams.")
@click.option("--reason")
@click.option("--match", metavar="TEXT", help="A part of the address.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest first.")
@json_option
@click.pass_context
def list_entries(
    ctx: click.Context, stream: str | None, reason: str | None, match: str | None, limit: int, as_json: bool
) -> None:
    """List addresses, the newest first; `export` writes all of them."""

    async def work(session: Session) -> list[Suppression]:
        return await store.listed(session, limit, stream=stream, reason=reason, part=match)

    found = with_database(ctx, work)
    if as_json:
        print_json(found)
        return
    print_records(
        ("SINCE", "UNTIL", "STREAM", "REASON", "ADDRESS"),
        [(_day(e.at), _day(e.until), e.stream or "all", e.reason, e.address) for e in found],
    )


@suppress.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8-sig", errors="surrogateescape"))
@click.option("--stream", default="", help="For lines that name none.")
@click.option(
    "--reason", default="import", show_default=True, callback=lambda _c, _p, v: _reason(v), help="For lines without."
)
@json_option
@click.pass_context
def import_entries(ctx: click.Context, file: IO[str], stream: str, reason: str, as_json: bool) -> None:
    """Read addresses from a CSV file, or `-`.

    Columns: address, stream, reason, until; or what SendGrid, Mailgun, Postmark, Amazon SES, SparkPost, Resend and Brevo
    export, with their reasons. A line that cannot be used is named and left out; exit 1 then.
    """
    name = str(getattr(file, "name", "-"))
    source = f"import {PurePath(name).name}"[:_LONGEST]
    faults: list[str] = []

    async def work(session: Session) -> tuple[int, int]:
        lines = _read(file, stream, reason, source, faults)
        number = new = 0
        while page := list(islice(lines, store.PAGE)):
            new += await store.add(session, page)
            number += len(page)
        await store.audit(session, actor(), "suppress import", name, f"{number} addresses, {new} new")
        return number, new

    number, new = with_database(ctx, work)
    if as_json:
        print_json({"read": number, "new": new, "refused": faults})
    else:
        click.echo(f"{number} read, {new} new")
    if faults:
        more = len(faults) - _SHOWN
        raise Fatal(faults[:_SHOWN] + ([f"and {more} more"] if more > 0 else []), Exit.FAILED)


@suppress.command()
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=False), default="-")
@click.option("--stream", help="Only these; '' are the entries for all streams.")
@click.pass_context
def export(ctx: click.Context, file: IO[str], stream: str | None) -> None:
    """Write every address as CSV, to FILE or standard output."""

    async def work(session: Session) -> None:
        out = csv.writer(file, lineterminator="\n")
        out.writerow((*_COLUMNS, "source", "at"))
        async for page in store.export(session, stream):
            for e in page:
                out.writerow((e.address, e.stream, e.reason, _iso(e.until), e.source or "", _iso(e.at)))

    with_database(ctx, work)


def _read(lines: Iterable[str], stream: str, reason: str, source: str, faults: list[str]) -> Iterator[Suppression]:
    reader = csv.reader(lines)
    columns: Sequence[str] = _COLUMNS
    first = next(reader, None)
    if first is None:
        return
    if known := recognise(first):
        yield from _read_export(reader, *known, stream, reason, source, faults)
        return
    heading = [cell.strip().lower() for cell in first]
    if any(name in heading for name in ("address", "email")):
        columns = ["address" if name == "email" else name for name in heading]
        rows: Iterable[list[str]] = reader
    else:
        rows = chain([first], reader)
    for row in rows:
        cells = {name: cell.strip() for name, cell in zip(columns, row, strict=False)}
        if not any(cells.values()):
            continue
        try:
            yield Suppression(
                address=_normal(cells.get("address", "")),
                stream=cells.get("stream") or stream,
                reason=_reason(cells.get("reason") or reason),
                source=source,
                until=_until(cells.get("until", "")),
            )
        except click.BadParameter as wrong:
            faults.append(f"line {reader.line_num}: {wrong.message}")


def _read_export(
    rows: _Rows, export: Export, columns: Sequence[str], stream: str, reason: str, source: str, faults: list[str]
) -> Iterator[Suppression]:
    for row in rows:
        if not any(row):
            continue
        line = export.line({name: cell.strip() for name, cell in zip(columns, row, strict=False)})
        if line.partial and not stream:
            # For all streams it would stop what this person still wants: their password resets.
            faults.append(
                f"line {rows.line_num}: holds for {line.partial[:40]!a} of {export.service} only: say --stream for it"
            )
            continue
        try:
            yield Suppression(
                address=_normal(line.address), stream=stream, reason=line.reason or reason, source=source, until=None
            )
        except click.BadParameter as wrong:
            faults.append(f"line {rows.line_num}: {wrong.message}")


def _normal(address: str) -> str:
    from mailerd.compose.address import normal

    if fullmatch("erased:[0-9a-f]{32}", address):  # from a list of ours: `store.privacy.pseudonym`
        return address
    try:
        return normal(address)
    except Failure as wrong:
        raise click.BadParameter(wrong.reason) from None


def _reason(text: str) -> str:
    if not text.isprintable() or len(text.encode("utf-8", "replace")) > _LONGEST:
        raise click.BadParameter(f"reason: has a control character, or is longer than {_LONGEST} octets")
    return text


def _until(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"until: {text[:40]!a} is no time such as 2026-12-24T18:00+00:00") from None


def _day(instant: datetime | None) -> str | None:
    return f"{instant.astimezone():%Y-%m-%d}" if instant else None


def _iso(instant: datetime | None) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds") if instant else ""
