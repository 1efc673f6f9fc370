"""`mailerd status`: queues by stream and state, providers, instances, what is paused, whether partitions are made."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec

from mailerd.cli.database import with_database
from mailerd.cli.glance import Glance, glance
from mailerd.cli.output import error, is_terminal, json_option, load_config, print_json, print_table
from mailerd.cli.panels import Panel, panels
from mailerd.store.database import Session

__all__ = ["status"]


@click.command()
@click.option(
    "--exact", is_flag=True, help="Count the queue now instead of showing the last figures. Slow on millions."
)
@click.option(
    "--lanes", type=click.IntRange(0, 1000), default=5, show_default=True, help="How many of the longest lanes."
)
@json_option
@click.pass_context
def status(ctx: click.Context, exact: bool, lanes: int, as_json: bool) -> None:
    """Show queues, providers and instances."""

    resolved = load_config(ctx).resolved

    async def work(session: Session) -> Glance:
        return await glance(session, resolved, lanes=lanes, exact=exact)

    seen = with_database(ctx, work)
    found = seen.overview
    if as_json:
        shown = msgspec.to_builtins(found, builtin_types=(datetime,))
        for number, lane in enumerate(shown["lanes"]):
            lane["waits_for"] = seen.waits.get(number)
        shown["rates"] = [
            {"limit": r.key, "rate": r.rate, "by": r.source, "until": r.until, "reason": r.reason} for r in seen.rates
        ]
        print_json(shown)
        return
    for panel in panels(found, seen.waits, seen.rates):
        _print(panel)
    ahead = ", ".join(f"{p.table} {p.days_ahead} days" for p in found.partitions)
    click.echo(f"partitions made ahead: {ahead}")
    for partitions in found.partitions:
        if not partitions.ok:
            error(
                f"warning: {partitions.table} has no partition for tomorrow: inserts will fail; "
                "start an instance, or run `mailerd migrate`"
            )


def _print(panel: Panel) -> None:
    click.echo(click.style(panel.heading, bold=True) if is_terminal() else panel.heading)
    if panel.rows:
        print_table(panel.columns, panel.rows, panel.right)
    else:
        click.echo(panel.none)
    click.echo()
