"""`mailerd bench`: a load test of this machine that anybody can repeat; every figure comes with its settings."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailerd.cli.output import Exit, Fatal, json_option, print_json, print_table
from mailerd.cli.shape import NAMES as SHAPES
from mailerd.cli.shape import shape
from mailerd.cli.sink import DIALECTS, KINDS, host_and_port

if TYPE_CHECKING:
    from mailerd.bench.result import Result

__all__ = ["bench"]


class _Number(click.ParamType[int]):
    """`20000`, `20k`, `5M`; as sizes also `4kB`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower().removesuffix("b")
        factor = {"k": 1_000, "m": 1_000_000}.get(text[-1:], 1)
        try:
            number = float(text[:-1] if factor > 1 else text) * factor
        except ValueError:
            number = -1.0
        if number < 0 or number != int(number):
            self.fail(f"{value!r} is not a number such as 20000, 20k or 5M", param, ctx)
        return int(number)


NUMBER = _Number()


@click.command()
@click.option(
    "--scenario", type=click.Choice(["throughput", "backlog", "latency", "isolation", *SHAPES]), default="throughput",
    show_default=True, help="What is measured, see above.",
)  # fmt: skip
@click.option(
    "--messages", type=NUMBER, metavar="N", help="Messages measured. Default: 20k; latency 400, isolation 1k."
)
@click.option("--size", type=NUMBER, default=4096, show_default=True, metavar="N", help="Octets of HTML, about.")
@click.option(
    "--content", type=click.Choice(["template", "inline"]), default="template", show_default=True,
    help="HTML and text from a file template, or in each row.",
)  # fmt: skip
@click.option(
    "--streams", type=click.IntRange(1, 100), default=1, show_default=True, help="Streams they are spread over."
)
@click.option("--domains", type=click.IntRange(1), default=200, show_default=True, help="Recipient domains.")
@click.option("--campaigns", type=click.IntRange(1), default=1, show_default=True, help="Campaigns in each domain.")
@click.option("--rate", type=NUMBER, default=0, metavar="N", help="Enqueue N/s while sending. Default: all before it.")
@click.option("--backlog", type=NUMBER, default=0, metavar="N", help="Rows that stand waiting (backlog, isolation).")
@click.option("--paused", type=NUMBER, default=0, metavar="N", help="More rows, of one paused domain (backlog).")
@click.option(
    "--interval", type=click.FloatRange(1), metavar="MS", help="Between single messages. Default: 50; isolation 20."
)
@click.option(
    "--wake", type=click.Choice(["notify", "poll"]), default="notify", show_default=True,
    help="Single messages by enqueue() and LISTEN, or by plain INSERT and polling only.",
)  # fmt: skip
@click.option("--instances", type=click.IntRange(1, 64), default=1, show_default=True, help="Daemons.")
@click.option(
    "--connections", type=click.IntRange(1, 10_000), default=20, show_default=True, help="To the sink, a stream."
)
@click.option(
    "--on-uncertain", type=click.Choice(["resend", "hold"]), default="resend", show_default=True,
    help="Of the streams; `hold` commits an intent before each dot.",
)  # fmt: skip
@click.option(
    "--provider", type=click.Choice(DIALECTS), default="smtp", show_default=True,
    help="How it is sent: by SMTP, or by the HTTP API of a provider, which the sink plays.",
)  # fmt: skip
@click.option("--limited", is_flag=True, help="Five limits for each message, too high to hold it up: what they cost.")
@click.option("--tls", is_flag=True, help="With a verified certificate: STARTTLS, or HTTPS.")
@click.option("--dkim", is_flag=True, help="Sign the messages, with an RSA key of 2048 bits.")
@click.option(
    "--faults", type=click.FloatRange(0, 100), default=0, metavar="PCT", help="Messages that the sink treats badly."
)
@click.option("--fault", "kinds", type=click.Choice(KINDS), multiple=True, help="How; may be repeated. Default: all.")
@click.option(
    "--latency", type=click.FloatRange(0), default=0, metavar="MS", help="Every answer of the sink is this late."
)
@click.option("--sink", callback=host_and_port, metavar="HOST:PORT", help="Another sink than our own. No faults then.")
@click.option(
    "--sink-processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes of our own."
)
@click.option("--database", metavar="URL", help="Another Postgres than an embedded one; a schema is made and dropped.")
@click.option("--postgres", type=int, metavar="VERSION", help="Of the embedded one. Default: the newest there is.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the faults.")
@click.option(
    "--deadline", type=click.FloatRange(0), default=0, metavar="S", help="Give up after. Default: by messages."
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a page with charts. Samples the daemons for it, which costs them half a per cent.",
)
@click.option(
    "--chaos", multiple=True, metavar="SCENARIO",
    help="Break things instead, and see which promises hold: `list`, `all`, or names, of which more may follow.",
)  # fmt: skip
@click.option("--long", is_flag=True, help="The long form of chaos and flow-control scenarios.")
@click.argument("more", nargs=-1, metavar="[SCENARIO]...")
@json_option
def bench(
    messages: int | None,
    interval: float | None,
    kinds: tuple[str, ...],
    faults: float,
    latency: float,
    html: Path | None,
    chaos: tuple[str, ...],
    more: tuple[str, ...],
    long: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Load-test this machine: real daemons, a real Postgres, a sink; a schema and files of its own, gone afterwards.

    \b
    throughput  N messages wait, then the daemons start; or they come at --rate
    backlog     a window of N messages out of --backlog waiting rows
    latency     N single messages to an idle daemon: commit to 250
    isolation   N single transactional messages while marketing sends --backlog

    \b
    throttled       what five limits cost that hold nobody up
    rate            a limit over instances that come, go and are killed
    blocked-domain  one slow domain with a long queue, beside free ones
    campaigns       99 small campaigns beside a large one, in one limited domain
    failover        one of two providers dies at full speed
    hidden-limit    a receiver with a limit that nobody is told
    These six have sizes of their own (--long for the larger ones); exit 1 when a promise broke.

    With --chaos it plays failure scenarios instead (`--chaos list` shows them): several instances under load, faults on
    a schedule that --seed repeats, and then an audit of every message. Exit 1 when a promise broke.

    Everything runs on this machine, so Postgres, sink and daemons share its cores. Exit 1 when a message was lost or
    sent twice, or the deadline passed.
    """
    if chaos:
        from mailerd.cli.chaos import chaos as play
        from mailerd.cli.chaos import names_asked, show_scenarios

        if "list" in chaos:
            show_scenarios()
            return
        play(names_asked((*chaos, *more)), long=long, seed=asked["seed"], as_json=as_json)
        return
    if asked["scenario"] in SHAPES:
        shape(asked["scenario"], long=long, as_json=as_json)
        return
    if more:
        raise click.UsageError(f"unexpected argument {more[0]!r} (scenarios of --chaos may follow it)")
    if asked["sink"] and (faults or latency or asked["tls"]):
        raise click.UsageError("--faults, --latency and --tls belong to our own sink; leave out --sink.")
    from mailerd.bench.fault import Kind
    from mailerd.bench.settings import Settings

    scenario = asked["scenario"]
    pause = interval if interval is not None else (20 if scenario == "isolation" else 50)
    settings = Settings(
        messages=messages or {"latency": 400, "isolation": 1000}.get(scenario, 20_000),
        interval=pause / 1000,
        kinds=tuple(map(Kind, kinds)) or tuple(Kind),
        faults=faults / 100,
        latency=latency / 1000,
        stages=html is not None,
        **asked,
    )
    result = _measure(settings)
    if html is not None:
        from mailerd.bench.page import page

        html.write_text(page(result), "utf-8")
    if as_json:
        print_json(result)
    else:
        _print(result)
    if result.lost or result.duplicates:
        raise Fatal(f"{result.lost} messages were lost, {result.duplicates} were sent twice")


def _measure(settings: Any) -> Result:
    from mailerd.bench.child import ChildFailed
    from mailerd.bench.ending import ended_by_signals
    from mailerd.bench.postgres import PostgresMissing
    from mailerd.bench.progress import Progress
    from mailerd.bench.run import Overdue, run
    from mailerd.store.database import Unavailable
    from mailerd.store.migrate import SchemaProblem

    try:
        with ended_by_signals(), Progress() as show:
            return asyncio.run(run(settings, show))
    except Overdue as late:
        raise Fatal(str(late)) from None
    except ChildFailed as failed:
        raise Fatal(str(failed).splitlines()) from None
    except (PostgresMissing, Unavailable, SchemaProblem) as missing:
        raise Fatal(str(missing), Exit.UNAVAILABLE) from None


def _print(result: Result) -> None:
    def figure(value: float | None, unit: str = "") -> str:
        return "-" if value is None else f"{value:,.0f}{unit}" if abs(value) >= 100 else f"{value:,.1f}{unit}"

    cpu, latency = result.cpu_us_per_message, result.latency_ms
    stages = result.stages_us_per_message
    rows: list[tuple[str, str]] = [
        ("messages", f"{result.messages:,} in {result.seconds:,.2f} s"),
        ("throughput", f"{result.messages_per_second:,.0f} messages/s"),
    ]
    if latency is not None:
        rows += [
            (
                "latency",
                f"p50 {latency.p50:,.1f}  p95 {latency.p95:,.1f}  p99 {latency.p99:,.1f}  max {latency.max:,.1f} ms",
            ),
            ("", f"commit to 250, {result.latency_of}"),
        ]
    rows += [
        ("CPU a message", "  ".join(f"{group} {figure(cpu[group], ' µs')}" for group in cpu)),
        *([("of it, sampled", "  ".join(f"{stage} {figure(us)}" for stage, us in stages.items()))] if stages else []),
        (
            "memory",
            f"{result.memory_mb.first:,.0f} → {result.memory_mb.last:,.0f} MB, peak {result.peak_rss_mb:,.0f} MB",
        ),
        ("lost", f"{result.lost:,}"),
        ("duplicates", "unknown" if result.duplicates is None else f"{result.duplicates:,}"),
    ]
    if result.refused:
        rows.append(("refused", f"{result.refused:,} for good, as the sink was told to"))
    if result.resent_in_doubt:
        rows.append(("in doubt", f"{result.resent_in_doubt:,} sent again after no answer"))
    if result.waiting:
        rows.append(("still waiting", f"{result.waiting:,}"))
    rows += [
        ("instances", str(result.instances)),
        ("Postgres", f"{result.versions['postgres']}, synchronous_commit {result.synchronous_commit}"),
        ("machine", f"{result.machine['cores']} cores, {result.machine['cpu']}"),
    ]
    if not sys.stdout.isatty():
        rows = [(name or "(latency of)", value) for name, value in rows]
    print_table([result.scenario, ""], rows)
