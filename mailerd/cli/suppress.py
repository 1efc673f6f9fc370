"""`mailerd suppress`: the addresses that get no mail, of one stream or all, by hand or as CSV.

CSV has the columns address, stream, reason, until; a heading line names them in any order, without one a line is an
address, or these four in order. Files that providers export are read, too (`cli.suppressfile`). Addresses are taken as people
write them and stored in normal form.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import PurePath
from typing import IO, Final

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, json_option, print_json
from mailerd.cli.records import print_records
from mailerd.cli.suppressfile import REASON_LIMIT, UnknownHeading, checked_reason, normal_address, read
from mailerd.cli.times import Instant
from mailerd.store import suppression as store
from mailerd.store.database import Session
from mailerd.store.suppression import Suppression

__all__ = ["suppress"]

_COLUMNS: Final = ("address", "stream", "reason", "until")
_SHOWN: Final = 20  # faulty lines of an import that are named one by one


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
    "--reason",
    callback=lambda _c, _p, v: v and _reason(v),
    help="For lines without one, and all of a provider's file. Default: what the file says, else import.",
)
@json_option
@click.pass_context
def import_entries(ctx: click.Context, file: IO[str], stream: str, reason: str | None, as_json: bool) -> None:
    """Read addresses from a CSV file, or `-`.

    Columns: address, stream, reason, until. Lists that SendGrid, Mailgun, Postmark, SES, SparkPost, Resend and Brevo
    export are known by their heading line (SendGrid's blocks look like its bounces: do not import those). A line that
    cannot be used is named and left out; exit 1 then.
    """
    name = str(getattr(file, "name", "-"))
    source = f"import {PurePath(name).name}"[: REASON_LIMIT - 40]
    faults: list[str] = []

    async def work(session: Session) -> tuple[int, int]:
        lines = read(file, stream, reason, source, faults)
        number = new = 0
        while page := list(islice(lines, store.PAGE)):
            new += await store.add(session, page)
            number += len(page)
        await store.audit(session, actor(), "suppress import", name, f"{number} addresses, {new} new")
        return number, new

    try:
        number, new = with_database(ctx, work)
    except UnknownHeading as wrong:
        raise Fatal(str(wrong), Exit.FAILED) from None
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


def _normal(address: str) -> str:
    try:
        return normal_address(address)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None


def _reason(text: str) -> str:
    try:
        return checked_reason(text)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None


def _day(instant: datetime | None) -> str | None:
    return f"{instant.astimezone():%Y-%m-%d}" if instant else None


def _iso(instant: datetime | None) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds") if instant else ""
