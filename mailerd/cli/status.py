"""`mailerd status`: queues by stream and state, providers, instances, what is paused, whether partitions are made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click
import msgspec

from mailerd.cli.database import with_database
from mailerd.cli.output import error, is_terminal, json_option, load_config, print_json, print_table
from mailerd.cli.rates import WINDOWS, print_alerts, print_rates
from mailerd.cli.rates import as_json as rates_json
from mailerd.cli.times import ago, span
from mailerd.config.resolved import Resolved
from mailerd.config.values import show_rate
from mailerd.flow.rates import Alert
from mailerd.store.database import Session
from mailerd.store.inspect import throttles
from mailerd.store.overview import Overview, Stream, overview
from mailerd.store.rates import Row, alerts_now, gauged
from mailerd.store.throttle import Listed, listing, present

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

    async def work(session: Session) -> tuple[Overview, dict[int, str], list[Listed], list[Alert]]:
        seen = await overview(session, exact=exact, lanes=lanes)
        return (
            seen,
            await _waits(session, resolved, seen),
            [r for r in await listing(session) if r.source],
            await alerts_now(session),
        )

    found, waits, rates, alerts = with_database(ctx, work)
    if as_json:
        shown = msgspec.to_builtins(found, builtin_types=(datetime,))
        for number, lane in enumerate(shown["lanes"]):
            lane["waits_for"] = waits.get(number)
        shown["rates"] = [
            {"limit": r.key, "rate": r.rate, "by": r.source, "until": r.until, "reason": r.reason} for r in rates
        ]
        shown["alerts"] = msgspec.to_builtins(alerts)
        print_json(shown)
        return
    print_alerts(alerts)
    _streams(found)
    _lanes(found, waits)
    _rates(found, rates)
    _providers(found)
    _instances(found)
    _paused(found)
    for partitions in found.partitions:
        if not partitions.ok:
            error(
                f"warning: {partitions.table} has no partition for tomorrow: inserts will fail; "
                "start an instance, or run `mailerd migrate`"
            )


async def _counted(session: Session) -> tuple[list[Row], list[Alert]]:
    return await gauged(session), await alerts_now(session)


def _heading(words: str) -> None:
    click.echo(click.style(words, bold=True) if is_terminal() else words)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    if rows:
        print_table(columns, rows, right)
    else:
        click.echo("none")
    click.echo()


def _streams(found: Overview) -> None:
    measured = found.measured_at
    _heading(
        f"streams, counted {'now' if measured == found.at else ago(measured, found.at)}"
        if measured
        else "streams, never counted"
    )
    notes = any(_note(stream) for stream in found.streams)
    _table(
        ("STREAM", "READY", "OLDEST", "LEASED", "SCHEDULED", "DEFERRED", "DOUBT", "DEAD", *(["NOTE"] if notes else [])),
        [
            (
                stream.name,
                stream.ready,
                span(stream.oldest_ready_seconds) if stream.ready else None,
                stream.leased,
                stream.scheduled,
                stream.deferred,
                stream.in_doubt,
                stream.dead,
                *([_note(stream)] if notes else []),
            )
            for stream in found.streams
        ],
        right=("READY", "OLDEST", "LEASED", "SCHEDULED", "DEFERRED", "DOUBT", "DEAD"),
    )


def _note(stream: Stream) -> str:
    return "paused" if stream.paused else "" if stream.live else "no instance"


def _lanes(found: Overview, waits: dict[int, str]) -> None:
    if found.lanes:
        _heading("longest lanes" + (", estimated" if found.sampled else ""))
        _table(
            ("MESSAGES", "STREAM", "PRIORITY", "DOMAIN", "CAMPAIGN", *(["WAITS FOR"] if waits else [])),
            [
                (
                    lane.messages,
                    lane.stream,
                    lane.priority,
                    lane.domain,
                    lane.campaign or None,
                    *([waits.get(number)] if waits else []),
                )
                for number, lane in enumerate(found.lanes)
            ],
            right=("MESSAGES", "PRIORITY"),
        )


async def _waits(session: Session, resolved: Resolved, found: Overview) -> dict[int, str]:
    """What each of the shown lanes waits for: a pause, or the slowest limit that has no token."""
    paused = {(p.kind, p.name) for p in found.paused}
    limits = await present(session, resolved)
    waits: dict[int, str] = {}
    for number, lane in enumerate(found.lanes):
        stop = next(
            (
                f"{kind}:{name} is paused"
                for kind, name in (
                    ("stream", lane.stream),
                    ("domain", lane.domain),
                    ("domain", limits.groups.of(lane.domain) or ""),
                    ("campaign", lane.campaign),
                )
                if (kind, name) in paused
            ),
            None,
        )
        if stop is None and lane.stream in resolved.streams and resolved.streams[lane.stream].pools:
            pool = resolved.streams[lane.stream].pools[0]
            names = [provider.name for provider in resolved.providers_of(lane.stream)]
            mine = await throttles(session, found.at, limits.of_message(lane.stream, pool, lane.domain, names))
            short = sorted((t for t in mine if t.opens is not None or t.stopped), key=lambda t: t.rate)
            stop = f"{short[0].key}, {short[0].words}" if short else None
        if stop is not None:
            waits[number] = stop
    return waits


def _rates(found: Overview, rates: Sequence[Listed]) -> None:
    if rates:
        _heading("limits that hold for now")
        _table(
            ("LIMIT", "RATE", "BY", "UNTIL", "REASON"),
            [
                (r.key, show_rate(r.rate) if r.rate else "stopped", r.source, _when(r.until, found.at), r.reason)
                for r in rates
            ],
            right=("RATE",),
        )


def _providers(found: Overview) -> None:
    _heading("providers")
    _table(
        ("PROVIDER", "STATE", "CONNECTIONS", "UNTIL", "REASON"),
        [
            (p.name, "paused" if p.paused else p.state, p.connections, _when(p.until, found.at), p.reason or None)
            for p in found.providers
        ],
        right=("CONNECTIONS",),
    )


def _instances(found: Overview) -> None:
    _heading("instances")
    if not found.instances:
        click.echo("none is running: start one with `mailerd run`")
    else:
        print_table(
            ("INSTANCE", "STATE", "PID", "VERSION", "UP", "SEEN", "STREAMS"),
            [
                (
                    instance.name,
                    instance.state if instance.live else "gone",
                    instance.pid,
                    instance.version,
                    span((instance.seen_at - instance.started_at).total_seconds()),
                    ago(instance.seen_at, found.at),
                    ", ".join(instance.streams),
                )
                for instance in found.instances
            ],
            right=("PID",),
        )
    click.echo()


def _paused(found: Overview) -> None:
    if found.paused:
        _heading("paused")
        _table(
            ("WHAT", "SINCE", "BY", "REASON"),
            [(f"{p.kind}:{p.name}", ago(p.at, found.at), p.actor, p.reason) for p in found.paused],
        )
    ahead = ", ".join(f"{p.table} {p.days_ahead} days" for p in found.partitions)
    click.echo(f"partitions made ahead: {ahead}")


def _when(until: datetime | None, now: datetime) -> str | None:
    return ago(until, now) if until is not None and until > now else None
