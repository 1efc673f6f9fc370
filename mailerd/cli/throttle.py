"""`mailerd throttle`: what limits there are, and other rates for a while. Holds on all instances within two seconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, error, json_option, load_config, print_json, print_table
from mailerd.config import values
from mailerd.config.resolved import Resolved
from mailerd.store.database import Session

__all__ = ["throttle"]

_KINDS = ("provider", "pool", "stream", "domain")
_FORM = "provider:NAME, pool:NAME, stream:NAME, domain:NAME or pool:NAME/domain:NAME"


class _Key(click.ParamType):  # type: ignore[type-arg]  # generic only in later versions
    name = "limit"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        first, slash, second = str(value).partition("/")
        kind, _, name = first.partition(":")
        if kind == "quota":
            self.fail("a quota is changed in the configuration (HUP reloads it); `set` changes rates", param, ctx)
        if kind not in _KINDS or not name or not str(value).isprintable():
            near = get_close_matches(kind, _KINDS, n=1)
            hint = f"; did you mean {near[0]}:?" if near and kind not in _KINDS else ""
            self.fail(f"'{value}' is not {_FORM}{hint}", param, ctx)
        if kind == "domain":
            first = first.lower().rstrip(".")
        if slash:
            inner, _, domain = second.partition(":")
            if kind != "pool" or inner != "domain" or not domain:
                self.fail(f"'{value}' is not {_FORM}", param, ctx)
            return f"{first}/domain:{domain.lower().rstrip('.')}"
        return first


class _Written(click.ParamType):  # type: ignore[type-arg]
    """A value as the configuration file writes it."""

    def __init__(self, name: str, read: Callable[[object], float]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return self._read(value)
        except ValueError as wrong:
            self.fail(f"'{value}' {wrong}", param, ctx)


_key = click.argument("limit", metavar="LIMIT", type=_Key())


@click.group()
def throttle() -> None:
    """Show limits, and set other rates for a while.

    A LIMIT is provider:NAME, pool:NAME, stream:NAME, domain:NAME or pool:NAME/domain:NAME, where a domain is a domain
    group of the configuration, a shipped one, or a single domain.
    """


@throttle.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """Every limit that is configured or holds now: its rate, why, and until when."""
    from mailerd.flow.limits import Held, Limits
    from mailerd.store import throttle as store

    limits = Limits(Resolved(load_config(ctx).config))
    rows = with_database(ctx, store.listing)
    configured = {bucket.limit.key: bucket.limit for bucket in limits.buckets()}
    limits.hold([Held(row.key, row.source, row.rate) for row in rows if row.rate is not None and row.source])
    found: list[dict[str, object]] = []
    for key in sorted({*configured, *(row.key for row in rows)}):
        limit = configured.get(key)
        held = [row for row in rows if row.key == key and row.source]
        state = next((row for row in rows if row.key == key and not row.source), None)
        if limit is None and not held:
            continue  # of an earlier configuration
        now = f"{limit.quota}/{limit.period}" if limit and limit.quota else _shown(limits.rate(key))
        found.append(
            {
                "limit": key,
                "configured": None if limit is None else now if limit.quota else values.show_rate(limit.rate),
                "now": now,
                "by": ", ".join(row.source for row in held) or "configuration",
                "until": next((row.until for row in held if row.until), None),
                "reason": next((row.reason for row in held if row.reason), None),
                "used": state.used if state and limit and limit.quota else None,
            }
        )
    if as_json:
        print_json(found)
        return
    columns = ("LIMIT", "CONFIGURED", "NOW", "USED", "BY", "UNTIL", "REASON")
    print_table(
        columns,
        [(f["limit"], f["configured"], f["now"], f["used"], f["by"], _time(f["until"]), f["reason"]) for f in found],
        right=("CONFIGURED", "NOW", "USED"),
    )


@throttle.command("set")
@_key
@click.argument("rate", type=_Written("rate", values.rate), metavar="RATE")
@click.option(
    "--for",
    "seconds",
    type=_Written("duration", values.duration),
    metavar="DURATION",
    help="Until then; without it, until `clear`.",
)
@click.option("--reason", metavar="TEXT", help="Shown by `list` and `explain`, and kept in the audit.")
@json_option
@click.pass_context
def set_(ctx: click.Context, limit: str, rate: float, seconds: float | None, reason: str | None, as_json: bool) -> None:
    """Another RATE (100/s, 20/m, 5000/h, 50000/d) instead of the configured one, higher or lower."""
    from mailerd.store import throttle as store

    known = _known(Resolved(load_config(ctx).config))
    for part in limit.split("/"):
        kind, _, name = part.partition(":")
        if kind in known and name not in known[kind]:
            near = get_close_matches(name, known[kind], n=1)
            error(f"warning: the configuration has no {kind} {name}{f'; did you mean {near[0]}?' if near else ''}")
    shown = values.show_rate(rate)
    words = shown + (f" for {values.show_duration(seconds)}" if seconds else "") + (f": {reason}" if reason else "")

    async def work(session: Session) -> float | None:
        return await store.set_rate(session, limit, "operator", rate, seconds, reason, actor(), words)

    before = with_database(ctx, work)
    if as_json:
        print_json({"limit": limit, "rate": shown, "before": None if before is None else values.show_rate(before)})
    else:
        click.echo(f"{limit} {words}" + (f" (was {values.show_rate(before)})" if before is not None else ""))


@throttle.command()
@_key
@json_option
@click.pass_context
def clear(ctx: click.Context, limit: str, as_json: bool) -> None:
    """Back to the configuration: forgets what operators, replies and experience said about this LIMIT."""
    from mailerd.store import throttle as store

    async def work(session: Session) -> list[str]:
        return await store.clear_rate(session, limit, actor())

    gone = with_database(ctx, work)
    if as_json:
        print_json({"limit": limit, "cleared": gone})
    elif gone:
        click.echo(f"{limit} back to the configuration (was set by: {', '.join(gone)})")
    if not gone:
        raise Fatal(f"nothing was set for {limit}: `mailerd throttle list` shows what is", Exit.FAILED)


def _known(resolved: Resolved) -> dict[str, list[str]]:
    return {"provider": list(resolved.providers), "pool": list(resolved.pools), "stream": list(resolved.streams)}


def _shown(rate: float | None) -> str:
    return "-" if rate is None else values.show_rate(rate) if rate > 0 else "stopped"


def _time(at: object) -> str | None:
    return at.astimezone().strftime("%m-%d %H:%M") if isinstance(at, datetime) else None
