"""The part of `mailerd bench --scenario` that plays flow-control scenarios and prints what came out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import click

from mailerd.cli.output import Exit, Fatal, print_json, print_table

__all__ = ["NAMES", "shape", "show"]

NAMES = ("rate", "throttled", "blocked-domain", "campaigns", "failover", "hidden-limit")

Result = tuple[Mapping[str, float], Sequence[tuple[str, bool, str]]]


def shape(name: str, *, long: bool, as_json: bool) -> None:
    """Plays one scenario. Raises `Fatal` when a promise broke."""
    from rich.console import Console

    from mailerd.bench.child import ChildFailed
    from mailerd.bench.ending import ended_by_signals
    from mailerd.bench.postgres import PostgresMissing
    from mailerd.bench.run import Overdue
    from mailerd.bench.shape.rig import NothingSent
    from mailerd.store.database import Unavailable

    try:
        with ended_by_signals(), Console(stderr=True).status(f"{name} …", spinner="dots") as status:
            figures, promises = asyncio.run(_play(name, long, lambda text: status.update(f"{name}: {text} …")))
    except (PostgresMissing, Unavailable) as missing:
        raise Fatal(str(missing), Exit.UNAVAILABLE) from None
    except (ChildFailed, NothingSent, Overdue) as failed:
        raise Fatal(str(failed).splitlines()) from None
    show(name, figures, promises, long=long, as_json=as_json)


async def _play(name: str, long: bool, say: Callable[[str], None]) -> Result:
    from mailerd.bench.shape.rig import Rig
    from mailerd.bench.shape.scenarios import SCENARIOS
    from mailerd.bench.shape.throttled import throttled

    if name == "throttled":
        return await throttled(long=long, say=say)
    async with Rig() as rig:
        return await SCENARIOS[name].play(rig, long)


def show(
    name: str, figures: Mapping[str, float], promises: Sequence[tuple[str, bool, str]], *, long: bool, as_json: bool
) -> None:
    """Prints what came out; `promises` are (name, kept, detail). Raises `Fatal` when one broke."""
    if as_json:
        told = [{"name": what, "kept": kept, "detail": detail} for what, kept, detail in promises]
        print_json({"scenario": name, "long": long, "figures": figures, "promises": told})
    else:
        rows = [(what, "yes" if kept else "NO", detail) for what, kept, detail in promises]
        print_table(["promise", "kept", "measured"], rows)
        click.echo(", ".join(f"{key} {value:,.4g}" for key, value in figures.items()))
    broken = [what for what, kept, _ in promises if not kept]
    if broken:
        raise Fatal(f"{name}: broken: {'; '.join(broken)}")
