"""`mailerd bench --chaos`: breaks a running installation in one way after another, and shows which promises held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mailerd.cli.output import Exit, Fatal, is_terminal, print_json, print_table

if TYPE_CHECKING:
    from mailerd.bench.chaos.scenario import Report

__all__ = ["chaos", "names_asked", "show_scenarios"]


def names_asked(asked: Sequence[str]) -> list[str]:
    """The scenarios' names; `all` is every one. Raises a usage error for an unknown one, with those there are."""
    from mailerd.bench.chaos.run import SCENARIOS

    names = [name for word in asked for name in word.split(",") if name]
    unknown = [name for name in names if name != "all" and name not in SCENARIOS]
    if unknown:
        raise click.UsageError(f"--chaos: no scenario {unknown[0]!r}; there are: all, {', '.join(SCENARIOS)}")
    return list(SCENARIOS) if "all" in names else list(dict.fromkeys(names))


def show_scenarios() -> None:
    """Prints what there is to play."""
    from mailerd.bench.chaos.run import SCENARIOS

    print_table(["scenario", "what happens"], [(name, kind.what) for name, kind in SCENARIOS.items()])


def chaos(names: Sequence[str], *, long: bool, seed: int, as_json: bool) -> None:
    """Plays the scenarios and prints what came out. Raises `Fatal` when a promise broke."""
    from rich.console import Console

    from mailerd.bench.chaos.run import reports
    from mailerd.bench.ending import ended_by_signals
    from mailerd.bench.postgres import PostgresMissing

    console = Console(stderr=True, highlight=False)
    done: list[Report] = []
    try:
        with ended_by_signals(), console.status("", spinner="dots") as status:
            for report in reports(names, long=long, seed=seed, say=lambda text: status.update(f"{text} …")):
                done.append(report)
                if not as_json and is_terminal():
                    console.print(_line(report))
    except PostgresMissing as missing:
        raise Fatal(str(missing), Exit.UNAVAILABLE) from None
    if as_json:
        print_json([_plain(report) for report in done])
    else:
        _print(done)
    broken = [report.scenario for report in done if not report.kept]
    if broken:
        again = f"mailerd bench --chaos {','.join(broken)} --seed {seed}{' --long' if long else ''}"
        raise Fatal(f"promises were broken in {', '.join(broken)}; again: {again}")


def _plain(report: Report) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(report)
    return {**plain, "kept": report.kept}


def _line(report: Report) -> str:
    mark = "[yellow]-[/]" if report.skipped else "[green]✓[/]" if report.kept else "[red]✗[/]"
    return f"  {mark} {report.scenario:<18} [dim]{report.seconds:>6.1f} s[/]"


def _print(done: Sequence[Report]) -> None:
    rows: list[tuple[str, ...]] = []
    for report in done:
        verdict = report.verdict
        if verdict is None:
            rows.append((report.scenario, "skipped" if report.skipped else "no end", *[""] * 7))
            continue
        twice = verdict.duplicates
        rows.append(
            (
                report.scenario,
                "kept" if report.kept else "BROKEN",
                f"{verdict.messages:,}",
                f"{len(report.faults):,}",
                f"{verdict.lost:,}",
                f"{twice.total:,}",
                f"{twice.worst:,}" if twice.by_death else "",
                f"{verdict.held:,}",
                f"{report.seconds:,.0f}",
            )
        )
    heads = ["scenario", "promises", "messages", "faults", "lost", "twice", "a death", "held", "seconds"]
    print_table(heads, rows, right=heads[2:])
    for report in done:
        for promise in report.verdict.promises if report.verdict else ():
            if not promise.kept:
                click.echo(f"{report.scenario}: broken: {promise.name}: {promise.detail}")
        for words, what in ((report.skipped, "skipped"), (report.error, "no end")):
            if words:
                click.echo(f"{report.scenario}: {what}: {words}")
        if report.figures:
            figures = ", ".join(f"{name} {value:,.4g}" for name, value in report.figures.items())
            click.echo(f"{report.scenario}: {figures}")
