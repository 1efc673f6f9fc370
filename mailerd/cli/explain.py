"""`mailerd explain`: the whole story of one message, and if it waits, at which gate, until when and what opens it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import click

from mailerd.cli.database import with_database
from mailerd.cli.output import Fatal, json_option, load_config, print_json
from mailerd.cli.records import print_fields, print_records
from mailerd.cli.times import ago, local
from mailerd.flow.explain import Gate, Place
from mailerd.store.database import Session
from mailerd.store.inspect import Flow, Story, story
from mailerd.store.throttle import present

__all__ = ["explain"]


@click.command()
@click.argument("message", metavar="ID", type=click.IntRange(1, (1 << 53) - 1))
@json_option
@click.pass_context
def explain(ctx: click.Context, message: int, as_json: bool) -> None:
    """Tell the whole story of one message: its events, attempts and replies.

    If it waits: at which gate, until when, and the command that would release it.
    """
    resolved = load_config(ctx).resolved

    async def work(session: Session) -> Story | None:
        stream = await session.value("SELECT stream FROM mailerd.outbox WHERE id = $1", message)
        known = bool(resolved.config.provider) and stream in resolved.streams
        names = [provider.name for provider in resolved.providers_of(stream)] if known else None
        if not known:
            return await story(session, message, names)
        limits = await present(session, resolved)
        pool = resolved.streams[stream].pools[0]
        flow = Flow(lambda stream, domain: limits.of_message(stream, pool, domain, names or ()), limits.groups.of)
        return await story(session, message, names, flow)

    found = with_database(ctx, work)
    if found is None:
        raise Fatal(f"{message}: there is no such message (queued messages are kept for 30 days, events for 90)")
    if as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    print_fields([("message", f"{found.id}  {_headline(found)}"), *_fields(found, now)])
    for number, gate in enumerate(found.gates):
        click.echo()
        print_fields(_gate(gate, now, first=number == 0))
    if found.events:
        click.echo()
        _print_events(found)
    if found.operations:
        click.echo()
        print_records(
            ("TIME", "OPERATOR", "DID", "DETAIL"),
            [(f"{o.at.astimezone():%m-%d %H:%M:%S}", o.actor, o.action, o.detail) for o in found.operations],
        )


def _headline(found: Story) -> str:
    if found.place is Place.SETTLED and found.dead is not None:
        return f"{found.status}, in the dead-letter queue"
    return found.status


def _fields(found: Story, now: datetime) -> Iterator[tuple[str, str]]:
    message = found.message
    if message is None:
        yield "note", "its row is gone (rows are kept for 30 days); the events remain"
        return
    several = len(found.recipients) > 1
    for recipient in found.recipients:
        pending = "  (still to do)" if several and recipient.pending else ""
        yield recipient.field, recipient.mailbox + pending
    yield "from", message.sender or "the stream's identity"
    if message.subject:
        yield "subject", message.subject
    content = f"template {message.template}" if message.template else message.content
    yield "content", f"{content}, {message.size:,} octets"
    lane = f"{message.stream}, priority {message.priority}, {message.domain}"
    yield "lane", lane + (f", campaign {message.campaign}" if message.campaign else "")
    yield "queued", f"{local(message.created_at)} ({ago(message.created_at, now)})"
    if message.send_at > message.created_at:
        yield "send_at", f"{local(message.send_at)} ({ago(message.send_at, now)})"
    if found.ends_at:
        yield "expires", f"{local(found.ends_at)} ({ago(found.ends_at, now)})"
    if found.attempts:
        yield "attempts", str(found.attempts)
    for name, value in (("dedup_key", message.dedup_key), ("thread_key", message.thread_key)):
        if value:
            yield name, value
    if message.tags:
        yield "tags", ", ".join(message.tags)


def _gate(gate: Gate, now: datetime, *, first: bool) -> Iterator[tuple[str, str]]:
    yield ("waits at" if first else "then"), f"{gate.name}: {gate.words}"
    if gate.until is not None:
        yield "until", f"{local(gate.until)} ({ago(gate.until, now)})"
    if gate.release is not None:
        yield "to release", gate.release


def _print_events(found: Story) -> None:
    several = len({event.recipient for event in found.events}) > 1
    columns = ["TIME", "EVENT", *(["RECIPIENT"] if several else []), "TRY", "PROVIDER", "REPLY"]
    rows = [
        [
            f"{event.at.astimezone():%m-%d %H:%M:%S}",
            event.type,
            *([event.recipient] if several else []),
            event.attempt,
            event.provider or None,
            event.reply or None,
        ]
        for event in found.events
    ]
    print_records(columns, rows, right=("TRY",))
