"""`mailerd webhook`: how outgoing webhooks fare; disables, enables, tests and replays them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from difflib import get_close_matches

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, json_option, load_config, print_json, visible
from mailerd.cli.records import print_records
from mailerd.cli.times import Instant, ago
from mailerd.store import webhooks
from mailerd.store.database import Session
from mailerd.store.webhooks import Standing

__all__ = ["webhook"]

_name = click.argument("name")


@click.group()
def webhook() -> None:
    """Watch, test and replay outgoing webhooks."""


@webhook.command("list")
@json_option
@click.pass_context
def list_webhooks(ctx: click.Context, as_json: bool) -> None:
    """List webhooks: what waits for each, and how the last requests ended."""
    found = with_database(ctx, webhooks.standings)
    if as_json:
        print_json(found)
        return
    print_records(
        ("NAME", "STATE", "WAITING", "LAST TAKEN", "EVENTS", "STREAMS", "URL", "LAST ANSWER"),
        [
            (
                hook.name,
                state(hook),
                hook.waiting,
                ago(hook.succeeded_at) if hook.succeeded_at else None,
                ", ".join(hook.types) if hook.types else "all",
                ", ".join(hook.streams) if hook.streams else "all",
                hook.url,
                hook.reason or hook.last_answer,
            )
            for hook in found
        ],
    )


def state(hook: Standing) -> str:
    """In a few words."""
    if hook.disabled_at is not None:
        return f"disabled {ago(hook.disabled_at)}"
    return f"failing {ago(hook.failing_since).removesuffix(' ago')}" if hook.failing_since is not None else "ok"


@webhook.command()
@_name
@click.pass_context
def enable(ctx: click.Context, name: str) -> None:
    """Send to a disabled webhook again, beginning with what waits. What happened meanwhile: `replay`."""

    async def work(session: Session) -> None:
        await _known(session, name)
        if not await webhooks.enable(session, name, actor()):
            raise Fatal(f"webhook {name} was not disabled", Exit.FAILED)

    with_database(ctx, work)
    click.echo(f"webhook {name} enabled")


@webhook.command()
@_name
@click.option("--reason", metavar="TEXT", help="Shown by `list`, and kept in the audit.")
@click.pass_context
def disable(ctx: click.Context, name: str, reason: str | None) -> None:
    """Send nothing to a webhook, on all instances. New events do not wait for it; what waits already does."""

    async def work(session: Session) -> None:
        await _known(session, name)
        if not await webhooks.disable(session, name, actor(), reason):
            raise Fatal(f"webhook {name} was disabled already", Exit.FAILED)

    with_database(ctx, work)
    click.echo(f"webhook {name} disabled")


@webhook.command()
@_name
@click.option(
    "--since", type=Instant(past=True), required=True, help="From then on: 2026-12-24T18:00, or a length such as 2h."
)
@click.option("--until", type=Instant(past=True), help="Up to then. Default: now.")
@click.pass_context
def replay(ctx: click.Context, name: str, since: datetime, until: datetime | None) -> None:
    """Send the events of a span of time again, with the same event ids, in new requests."""

    async def work(session: Session) -> int:
        await _known(session, name)
        return await webhooks.replay(session, name, since, until or datetime.now(UTC), actor())

    click.echo(f"{with_database(ctx, work)} events will be sent to {name} again")


@webhook.command()
@_name
@click.pass_context
def test(ctx: click.Context, name: str) -> None:
    """Post one signed request without events from here, and show the answer. Changes nothing."""
    from mailerd.http.hook import probe

    hooks = {hook.name: hook for hook in load_config(ctx).config.webhook}
    if name not in hooks:
        raise _unknown(name, list(hooks), "the configuration")
    answer = asyncio.run(probe(hooks[name]))
    if not answer.taken:
        raise Fatal(f"webhook {name}: {answer.text}", Exit.FAILED)
    click.echo(f"webhook {name}: {visible(answer.text)}")


async def _known(session: Session, name: str) -> None:
    names = [hook.name for hook in await webhooks.standings(session)]
    if name not in names:
        raise _unknown(name, names, "any running configuration")


def _unknown(name: str, names: list[str], where: str) -> Fatal:
    near = get_close_matches(name, names, n=1)
    return Fatal(f"there is no webhook {name} in {where}{f'; did you mean {near[0]}?' if near else ''}")
