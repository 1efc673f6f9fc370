"""`mailerd status`: queues by stream and state, providers, instances, what is paused, whether partitions are made."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec

from mailerd.cli.database import with_database
from mailerd.cli.glance import Glance, glance
from mailerd.cli.output import error, is_terminal, json_option, load_config, print_json, print_table
from mailerd.cli.panels import Panel, panels
from mailerd.cli.rates import WINDOWS, print_alerts, print_rates
from mailerd.cli.rates import as_json as rates_json
from mailerd.flow.rates import Alert
from mailerd.store.database import Session
from mailerd.store.rates import Row, alerts_now, gauged

__all__ = ["status"]


@click.command()
@click.option(
    "--exact", is_flag=True, help="Count the queue now instead of showing the last figures. Slow on millions."
)
@click.option(
    "--lanes", type=click.IntRange(0, 1000), default=5, show_default=True, help="How many of the longest lanes."
)
@click.option(
    "--rates",
    "window",
    type=click.Choice(list(WINDOWS)),
    is_flag=False,
    flag_value="24h",
    help="Show shares of bounces, complaints, opens and the like instead. Alone: of 24h.",
)
@json_option
@click.pass_context
def status(ctx: click.Context, exact: bool, lanes: int, window: str | None, as_json: bool) -> None:
    """Show queues, providers and instances."""

    if window is not None:
        counted, alerts = with_database(ctx, _counted)
        if as_json:
            print_json(rates_json(counted, alerts))
        else:
            print_alerts(alerts)
            print_rates(counted, window)
        return
    resolved = load_config(ctx).resolved

    async def work(session: Session) -> tuple[Glance, list[Alert]]:
        return await glance(session, resolved, lanes=lanes, exact=exact), await alerts_now(session)

    seen, alerts = with_database(ctx, work)
    found = seen.overview
    if as_json:
        shown = msgspec.to_builtins(found, builtin_types=(datetime,))
        for number, lane in enumerate(shown["lanes"]):
            lane["waits_for"] = seen.waits.get(number)
        shown["rates"] = [
            {"limit": r.key, "rate": r.rate, "by": r.source, "until": r.until, "reason": r.reason} for r in seen.rates
        ]
        shown["alerts"] = msgspec.to_builtins(alerts)
        print_json(shown)
        return
    print_alerts(alerts)
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


async def _counted(session: Session) -> tuple[list[Row], list[Alert]]:
    return await gauged(session), await alerts_now(session)


def _print(panel: Panel) -> None:
    click.echo(click.style(panel.heading, bold=True) if is_terminal() else panel.heading)
    if panel.rows:
        print_table(panel.columns, panel.rows, panel.right)
    else:
        click.echo(panel.none)
    click.echo()
