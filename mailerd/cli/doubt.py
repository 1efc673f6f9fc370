"""`mailerd doubt`: messages that may have been accepted and are held for an operator."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, json_option, print_json
from mailerd.cli.records import print_records
from mailerd.cli.times import ago
from mailerd.store import doubt as store
from mailerd.store.database import Session

__all__ = ["doubt"]

_ids = click.argument("ids", metavar="ID...", type=click.IntRange(1, (1 << 53) - 1), nargs=-1, required=True)


@click.group()
def doubt() -> None:
    """What may have been sent, and what to do about it.

    The answer to a message's last line never came, and its stream says `on_uncertain = "hold"`. Look into the
    provider's log, then send it again or settle it.
    """


@doubt.command("list")
@click.option("--stream")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest first.")
@json_option
@click.pass_context
def list_doubtful(ctx: click.Context, stream: str | None, limit: int, as_json: bool) -> None:
    """List what is held, the newest first."""

    async def work(session: Session) -> list[store.Doubtful]:
        return await store.doubtful(session, stream, limit)

    found = with_database(ctx, work)
    if as_json:
        print_json(found)
        return
    print_records(
        ("ID", "SINCE", "STREAM", "RECIPIENT", "PROVIDER", "DETAIL"),
        [(d.message_id, ago(d.at), d.stream, d.recipient, d.provider or None, d.detail) for d in found],
    )


@doubt.command()
@_ids
@json_option
@click.pass_context
def resend(ctx: click.Context, ids: Sequence[int], as_json: bool) -> None:
    """Queue them again: whoever got one gets it twice."""

    async def work(session: Session) -> set[int]:
        return await store.resend(session, ids, actor())

    _say(ids, with_database(ctx, work), "queued again", as_json)


@doubt.command()
@_ids
@click.option("--as", "outcome", type=click.Choice(["sent", "failed"]), required=True, help="What you found out.")
@json_option
@click.pass_context
def settle(ctx: click.Context, ids: Sequence[int], outcome: str, as_json: bool) -> None:
    """Write down what became of them, and end them."""

    async def work(session: Session) -> set[int]:
        return await store.settle(session, ids, outcome, actor())

    _say(ids, with_database(ctx, work), f"settled as {outcome}", as_json)


def _say(ids: Sequence[int], done: set[int], words: str, as_json: bool) -> None:
    if as_json:
        print_json([{"id": message, "done": message in done} for message in ids])
    else:
        for message in ids:
            if message in done:
                click.echo(f"{message}: {words}")
    left = [f"{message}: not in doubt" for message in ids if message not in done]
    if left:
        raise Fatal(left, Exit.FAILED)
