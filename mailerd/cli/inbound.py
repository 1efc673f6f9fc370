"""`mailerd inbound`: mail that came back, what was read in it, and which message it is about."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, error, json_option, print_json, print_table
from mailerd.cli.records import print_fields, print_records
from mailerd.cli.times import ago
from mailerd.store import inbound as store
from mailerd.store.database import Session
from mailerd.store.suppression import audit

__all__ = ["inbound"]

KINDS = ("bounce", "delivered", "complaint", "auto_reply", "challenge", "other", "unreadable")
_id = click.IntRange(1, (1 << 63) - 1)


@click.group()
def inbound() -> None:
    """Mail that came back: bounces, complaints, automatic replies.

    The daemon stores what [inbound] receives, reads it, and applies what it says to the message that it is about.
    `mailerd bounce parse` reads files and touches nothing.
    """


@inbound.command("list")
@click.option("--kind", type=click.Choice(KINDS))
@click.option("--message", type=_id, metavar="ID", help="About this message.")
@click.option("--unmatched", is_flag=True, help="About none that could be proven.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest first.")
@json_option
@click.pass_context
def list_mails(
    ctx: click.Context, kind: str | None, message: int | None, unmatched: bool, limit: int, as_json: bool
) -> None:
    """List what came, the newest first."""

    async def work(session: Session) -> list[store.Row]:
        return await store.listed(session, limit, kind=kind, message=message, unmatched=unmatched)

    found = with_database(ctx, work)
    if as_json:
        print_json([_plain(row) for row in found])
        return
    print_records(
        ("ID", "AT", "SOURCE", "KIND", "MESSAGE", "BY", "RECIPIENT", "STATUS", "HARD", "SAYS"),
        [
            (
                row.id,
                ago(row.at),
                row.source.partition(":")[0],
                row.kind or "waits",
                row.message_id,
                row.matched_by,
                row.recipient or None,
                row.status or None,
                row.hardness or None,
                row.error or row.reason or None,
            )
            for row in found
        ],
    )


@inbound.command()
@click.argument("mail", metavar="ID", type=_id)
@click.option("--raw", is_flag=True, help="Write the mail itself to stdout, as far as it is kept.")
@json_option
@click.pass_context
def show(ctx: click.Context, mail: int, raw: bool, as_json: bool) -> None:
    """Show one mail: where it came from, what was read, what came of it."""

    async def work(session: Session) -> store.Row | None:
        return await store.row(session, mail)

    row = with_database(ctx, work)
    if row is None:
        raise Fatal(f"{mail}: no such mail; it may be older than inbound.retention")
    if raw:
        sys.stdout.buffer.write(row.raw or b"")
        return
    report: dict[str, Any] = msgspec.json.decode(row.report) if row.report else {}
    if as_json:
        print_json({**_plain(row), "report": report or None})
        return
    print_fields(
        (
            ("mail", row.id),
            (
                "came",
                f"{row.at:%Y-%m-%d %H:%M:%S %Z} ({ago(row.at)}) by {row.source}"
                + (f" from {row.peer}" if row.peer else ""),
            ),
            ("envelope", f"<{row.sender}> to {', '.join(row.recipients)}" if row.sender is not None else None),
            ("size", f"{row.size} octets" + (f", {len(row.raw)} kept" if row.raw and len(row.raw) < row.size else "")),
            ("kind", row.kind or f"waits to be read (attempt {row.attempts + 1})"),
            (
                "message",
                f"{row.message_id}, by its {str(row.matched_by).replace('_', ' ')}" if row.message_id else None,
            ),
            ("applied", f"{row.applied or 0} new"),
            ("reporter", report.get("reporting_mta") or None),
            ("feedback", report.get("feedback_type") or None),
            ("error", row.error),
        )
    )
    if results := report.get("results"):
        click.echo()
        keys = ("recipient", "action", "status", "hardness", "category", "reason")
        print_table([key.upper() for key in keys], [[result.get(key) or None for key in keys] for result in results])


@inbound.command()
@click.argument("mails", metavar="ID...", type=_id, nargs=-1, required=True)
@click.pass_context
def replay(ctx: click.Context, mails: Sequence[int]) -> None:
    """Have mails read again, by the next daemon that looks. What was applied before is not applied twice."""

    async def work(session: Session) -> list[int]:
        found = await store.replay(session, mails)
        for mail in found:
            await audit(session, actor(), "inbound.replay", str(mail))
        return found

    found = set(with_database(ctx, work))
    click.echo(f"{len(found)} will be read again")
    missing = [mail for mail in mails if mail not in found]
    for mail in missing:
        error(f"{mail}: no such mail")
    if missing:
        ctx.exit(Exit.FAILED)


def _plain(row: store.Row) -> dict[str, Any]:
    return {key: value for key, value in msgspec.structs.asdict(row).items() if key not in ("raw", "report")}
