"""`mailerd cancel`: takes unsent messages back, and says of each other one why not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, json_option, print_json
from mailerd.store.database import Session

__all__ = ["cancel"]

_STATUS = "SELECT x.id, (mailerd.status(x.id)).* FROM unnest($1::bigint[]) AS x(id)"


@click.command()
@click.argument("ids", metavar="ID...", type=click.IntRange(1, (1 << 53) - 1), nargs=-1, required=True)
@json_option
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[int], as_json: bool) -> None:
    """Cancel unsent messages.

    What an instance has leased may be on the wire already and is not cancelled. Exit 1 if any was not.
    """
    from mailerd.store.control import cancel as store_cancel

    wanted = list(dict.fromkeys(ids))

    async def work(session: Session) -> list[tuple[int, bool, str]]:
        done = await store_cancel(session, wanted, actor())
        left = [message for message in wanted if not done[message]]
        found = {row[0]: dict(row) for row in await session.fetch(_STATUS, left)} if left else {}
        return [(m, done[m], "cancelled" if done[m] else _why(found.get(m, {}))) for m in wanted]

    results = with_database(ctx, work)
    if as_json:
        print_json([{"id": m, "cancelled": ok, "detail": words} for m, ok, words in results])
    else:
        for message, ok, words in results:
            if ok:
                click.echo(f"{message}: {words}")
    failed = [f"{message}: {words}" for message, ok, words in results if not ok]
    if failed:
        raise Fatal(failed, Exit.FAILED)


def _why(status: dict[str, Any]) -> str:
    at: datetime | None = status.get("last_event_at")
    when = f" at {at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
    match status.get("status"):
        case None:
            return "there is no such message"
        case "leased":
            return "an instance is sending it at this moment"
        case "in_doubt":
            return "may have been sent: see `mailerd doubt list`"
        case "ready" | "scheduled" | "deferred":
            return "was on its way from one table to another: try again"
        case state:
            return f"already {state}{when}"
