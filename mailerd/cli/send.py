"""`mailerd send`: puts one message into the outbox by hand, as an application would, and can follow it to its end."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import Any, Final

import asyncpg
import click

from mailerd.cli.database import with_database
from mailerd.cli.output import Exit, Fatal, json_option, print_json, visible
from mailerd.cli.times import Instant, local
from mailerd.store.database import Session

__all__ = ["send"]

_COLUMNS: Final = """stream priority:int send_at:timestamptz expires_at:timestamptz dedup_key sender cc:text[] bcc:text[] reply_to subject
text_body html_body template params:jsonb locale headers:jsonb thread_key campaign topic tags:text[] metadata:jsonb"""
_ENDS: Final = frozenset(
    ("sent", "delivered", "bounced", "rejected", "failed", "suppressed", "expired", "cancelled", "in_doubt")
)
_FINE: Final = frozenset(("sent", "delivered"))
_STATUS: Final = (
    "SELECT status, attempts, next_attempt_at, provider, provider_message_id, last_reply FROM mailerd.status($1)"
)


@click.command()
@click.argument("to")
@click.option("--subject")
@click.option("--text", help="Plain text.")
@click.option("--html", help="HTML; without --text a text part is made from it.")
@click.option("--template", help="A template's name, instead of --text and --html.")
@click.option("--params", metavar="JSON", help="The template's parameters, a JSON object.")
@click.option("--locale", metavar="TAG", help="Language of the template, such as pt-BR.")
@click.option(
    "--from", "sender", metavar="SENDER", help="An identity's name, or a mailbox. Default: the stream's identity."
)
@click.option("--cc", multiple=True, metavar="MAILBOX", help="May be given several times.")
@click.option("--bcc", multiple=True, metavar="MAILBOX", help="May be given several times.")
@click.option("--reply-to", metavar="MAILBOX")
@click.option("--stream", help="Default: transactional.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 (most urgent) to 9. Default: 5.")
@click.option("--campaign")
@click.option("--topic", help="A [[topic]] of the stream: only who wants it gets it.")
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="May be given several times.")
@click.option("--metadata", metavar="JSON", help="A JSON object that events carry.")
@click.option("--thread-key", metavar="KEY", help="Messages with one key show as one thread.")
@click.option("--dedup-key", metavar="KEY", help="A second message with this key, in this stream, is not queued.")
@click.option("--send-at", type=Instant(), help="Not before then: 2026-12-24T18:00, or a length such as 10m.")
@click.option("--expires-at", type=Instant(), help="Not after then.")
@click.option(
    "--wait",
    is_flag=False,
    flag_value="60",
    type=click.FloatRange(0, 86400),
    metavar="[SECONDS]",
    help="Follow it to its end, at most 60 seconds or as many as given.",
)
@json_option
@click.pass_context
def send(ctx: click.Context, /, to: str, wait: float | None, as_json: bool, **given: Any) -> None:
    """Enqueue one message to the mailbox TO and print its id.

    With --wait the exit status says how it ended: 0 sent, 1 not sent, 75 not ended in time.
    """
    row = _row(given)

    async def work(session: Session) -> tuple[int, dict[str, Any] | None]:
        message = await _enqueue(session, to, row)
        if not as_json:
            click.echo(str(message))
        return message, await _follow(session, message, wait, quiet=as_json) if wait is not None else None

    message, end = with_database(ctx, work)
    if as_json:
        print_json({"id": message, **(end or {})})
    if end is not None and end["status"] not in _FINE:
        if end["status"] not in _ENDS:
            raise Fatal(f"{message}: {end['status']} after {wait:g} s: `mailerd explain {message}`", Exit.TRY_AGAIN)
        raise Fatal(f"{message}: {end['status']}{': ' if end['last_reply'] else ''}{end['last_reply'] or ''}")


def _row(given: dict[str, Any]) -> dict[str, Any]:
    """Options to columns of the outbox; what was not given is left out."""
    row = {"text_body": given.pop("text"), "html_body": given.pop("html"), **given}
    for name in ("params", "metadata"):
        if row[name] is not None:
            row[name] = _object(name, row[name])
    if row["headers"]:
        pairs = [header.partition("=") for header in row["headers"]]
        for header, (name, equals, _) in zip(row["headers"], pairs, strict=True):
            if not equals or not name:
                raise click.BadParameter(f"'{header}' is not NAME=VALUE", param_hint="--header")
        row["headers"] = json.dumps({name: value for name, _, value in pairs})
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in row.items()
        if value not in (None, ())
    }


def _object(name: str, text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError as wrong:
        raise click.BadParameter(f"no JSON: {wrong}", param_hint=f"--{name}") from None
    if not isinstance(value, dict):
        raise click.BadParameter('must be a JSON object such as {"name": "Ann"}', param_hint=f"--{name}")
    return text


async def _enqueue(session: Session, to: str, row: dict[str, Any]) -> int:
    types = dict(column.partition(":")[::2] for column in _COLUMNS.split())
    names = list(row)
    arguments = ", ".join(f"{name} => ${n}::{types[name] or 'text'}" for n, name in enumerate(names, start=2))
    sql = f"SELECT mailerd.enqueue($1::text{', ' if arguments else ''}{arguments})"
    try:
        message = await session.value(sql, to, *(row[name] for name in names))
    except asyncpg.CheckViolationError as refused:
        # A constraint's name is its message.
        raise Fatal(str(getattr(refused, "constraint_name", None) or refused)) from None
    except asyncpg.DataError as refused:
        raise Fatal(f"the row is refused: {str(refused).splitlines()[0]}") from None
    return int(message)


async def _follow(session: Session, message: int, seconds: float, *, quiet: bool) -> dict[str, Any]:
    """Waits for the end and says what changes; the last status read."""
    deadline = time.monotonic() + seconds
    shown = ""
    while True:
        last = dict((await session.fetch(_STATUS, message))[0])
        line = _line(last)
        if line != shown and not quiet:
            click.echo(line)
            shown = line
        left = deadline - time.monotonic()
        if last["status"] in _ENDS or left <= 0:
            return last
        await asyncio.sleep(min(0.1, left))


def _line(status: dict[str, Any]) -> str:
    at: datetime | None = status["next_attempt_at"]
    parts = [
        status["status"],
        f"next attempt {local(at)}" if at else "",
        f"by {status['provider']}" if status["provider"] else "",
        visible(status["last_reply"] or ""),
    ]
    return "  ".join(filter(None, parts))
