"""`mailerd dead`: looks through the dead-letter queue, sends letters again, or forgets them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, error, is_terminal, json_option, print_json
from mailerd.cli.records import print_fields, print_records
from mailerd.cli.times import Instant, local
from mailerd.store import deadletter
from mailerd.store.database import Session
from mailerd.store.deadletter import Filter, Letter, Verdict

__all__ = ["dead"]

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = 20  # letters named one by one when many could not be retried


def _filters(command: F) -> F:
    for option in (
        click.option(
            "--since", type=Instant(past=True), help="Died after then: 2026-12-24T18:00, or a length such as 2d."
        ),
        click.option("--recipient", metavar="ADDRESS", help="This address, or everybody at @example.org."),
        click.option("--reason", metavar="TEXT", help="A part of the reason."),
        click.option("--class", "category", metavar="CLASS", help="As `dead list` shows it."),
        click.option("--stream"),
    ):
        command = option(command)
    return command


_ids = click.argument("ids", metavar="[ID]...", type=click.IntRange(1, (1 << 53) - 1), nargs=-1)
_limit = click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest first.")


@click.group()
def dead() -> None:
    """List, retry or drop dead letters.

    A dead letter is a message, or some of its recipients, that was given up: refused for good, out of attempts,
    expired after an attempt, or impossible to compose.
    """


@dead.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest first.")
@json_option
@click.pass_context
def list_letters(
    ctx: click.Context,
    stream: str | None,
    category: str | None,
    reason: str | None,
    recipient: str | None,
    since: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, the newest first."""
    which = Filter(stream=stream, category=category, reason=reason, recipient=recipient, since=since)

    async def work(session: Session) -> tuple[list[Letter], int]:
        found = await deadletter.letters(session, which, limit)
        return found, len(found) if len(found) < limit else await deadletter.count(session, which)

    letters, total = with_database(ctx, work)
    if as_json:
        print_json(letters)
        return
    print_records(
        ("ID", "DIED", "STREAM", "RECIPIENT", "TRIES", "CLASS", "REASON"),
        [
            (d.message_id, f"{d.at.astimezone():%m-%d %H:%M}", d.stream, d.recipient, d.attempts, d.category, d.reason)
            for d in letters
        ],
        right=("TRIES",),
    )
    if total > len(letters):
        error(f"{len(letters)} of {total} shown: --limit shows more")


@dead.command()
@click.argument("message", metavar="ID", type=click.IntRange(1, (1 << 53) - 1))
@json_option
@click.pass_context
def show(ctx: click.Context, message: int, as_json: bool) -> None:
    """Show one dead letter; `mailerd explain ID` tells its whole story."""

    async def work(session: Session) -> list[Letter]:
        return await deadletter.letters(session, Filter(ids=[message]), 1)

    found = with_database(ctx, work)
    if not found:
        raise Fatal(f"{message}: not in the dead-letter queue")
    letter = found[0]
    if as_json:
        print_json(letter)
        return
    print_fields(
        [
            ("message", letter.message_id),
            ("died", local(letter.at)),
            ("recipient", letter.recipient),
            ("stream", letter.stream),
            ("campaign", letter.campaign or None),
            ("attempts", letter.attempts),
            ("class", letter.category),
            ("provider", letter.provider or None),
            ("reason", letter.reason),
            ("last words", letter.detail if letter.detail != letter.reason else "as above"),
            ("content", "kept" if letter.payload else "gone: it cannot be retried"),
        ],
    )


@dead.command()
@_ids
@_filters
@_limit
@click.option("--all", "everything", is_flag=True, help="Every dead letter, when nothing else is given.")
@json_option
@click.pass_context
def retry(
    ctx: click.Context,
    ids: Sequence[int],
    stream: str | None,
    category: str | None,
    reason: str | None,
    recipient: str | None,
    since: datetime | None,
    limit: int | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Queue dead letters again, as new ones: no attempts, a new age.

    By ID, by filter, or --all. Exit 1 if a letter could not be queued.
    """
    which = _which(ids, everything, stream=stream, category=category, reason=reason, recipient=recipient, since=since)
    _apply(ctx, which, "queued again", lambda session: deadletter.retry(session, which, actor(), limit), as_json)


@dead.command()
@_ids
@_filters
@_limit
@click.option("--all", "everything", is_flag=True, help="Every dead letter, when nothing else is given.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def drop(
    ctx: click.Context,
    ids: Sequence[int],
    stream: str | None,
    category: str | None,
    reason: str | None,
    recipient: str | None,
    since: datetime | None,
    limit: int | None,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Forget dead letters. Their events stay.

    By ID, by filter, or --all. Asks first on a terminal, unless IDs or --yes are given.
    """
    which = _which(ids, everything, stream=stream, category=category, reason=reason, recipient=recipient, since=since)
    if not ids and not yes:
        if not is_terminal():
            raise click.UsageError("dropping by filter needs --yes where nobody can be asked.")

        async def size(session: Session) -> int:
            return await deadletter.count(session, which)

        number = with_database(ctx, size)
        click.confirm(f"Drop {min(number, limit or number)} dead letters?", abort=True, err=True)
    _apply(ctx, which, "dropped", lambda session: deadletter.drop(session, which, actor(), limit), as_json)


def _which(ids: Sequence[int], everything: bool, **conditions: Any) -> Filter:
    which = Filter(ids=list(ids) or None, **conditions)
    if not which and not everything:
        raise click.UsageError("name letters by ID, by a filter, or say --all.")
    return which


def _apply(
    ctx: click.Context,
    which: Filter,
    done: str,
    act: Callable[[Session], AsyncIterator[list[Verdict]]],
    as_json: bool,
) -> None:
    async def work(session: Session) -> tuple[int, list[Verdict]]:
        number, refused = 0, []
        async for batch in act(session):
            number += sum(verdict.done for verdict in batch)
            refused += [verdict for verdict in batch if not verdict.done]
            missing.difference_update(verdict.id for verdict in batch)
        return number, refused

    missing = set(which.ids or ())
    number, refused = with_database(ctx, work)
    refused += [Verdict(message, False, "not in the dead-letter queue") for message in sorted(missing)]
    if as_json:
        print_json({"done": number, "refused": refused})
    else:
        click.echo(f"{number} {done}")
    if refused:
        lines = [f"{verdict.id}: {verdict.words}" for verdict in refused[:_SHOWN]]
        more = len(refused) - _SHOWN
        raise Fatal([*lines, f"and {more} more"] if more > 0 else lines, Exit.FAILED)
