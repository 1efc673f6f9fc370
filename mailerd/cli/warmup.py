"""`mailerd warmup show`: each schedule day by day, what it allowed and what was sent, as bars.

`read` puts the figures together, `draw` makes lines of them, both without a database or a terminal. A bar is as long as
the day's limit on the scale of the largest one shown, and filled as far as it was used: one sees the limit grow, and
the last days exactly. What the first, short ones say stands in figures beside them.

It shows what those who send have counted (`store.warmup`): what was sent before the schedule was configured is not in it.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from difflib import get_close_matches
from typing import Final

import click
import msgspec

from mailerd.cli.database import with_database
from mailerd.cli.output import Fatal, is_terminal, json_option, load_config, print_json, visible
from mailerd.cli.times import span
from mailerd.config.resolved import Resolved, base_of
from mailerd.flow.warming import OTHERS
from mailerd.flow.warmup import Counts, Schedule, Step, course, midnight, schedule, today, window
from mailerd.store.database import Session
from mailerd.store.warmup import Counted, counted

__all__ = ["Look", "Plan", "draw", "read", "warmup"]

_CHARTS: Final = 3  # groups, the busiest first, that are drawn day by day; of the others only today is shown
_OTHERS: Final = 10
_SHOWN: Final = 21  # days, today the last of them
_FIRST: Final = 7  # of a schedule that has not begun
_DAY: Final = timedelta(days=1)
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_LEAST_BAR: Final = 8


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The schedule of one pool or provider at `now`. `groups`: each with its days up to tomorrow (or, if it has
    not begun, its first ones), the busiest first; one without a name if all are counted together, or none was
    sent to yet."""

    kind: str
    name: str
    schedule: Schedule
    now: datetime
    groups: list[tuple[str, list[Step]]]

    @property
    def today(self) -> date:
        return today(self.schedule, self.now)

    @property
    def ends(self) -> datetime:
        """When the day of today ends."""
        return window(self.schedule, self.now)[1]


@click.group()
def warmup() -> None:
    """Watch the schedules by which new addresses are warmed up."""


@warmup.command()
@click.argument("name", required=False, metavar="[POOL|PROVIDER]")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """What each day allowed and what was sent, of all schedules or of one.

    A name that both a pool and a provider have shows both; write pool:NAME or provider:NAME for one of them.
    """
    resolved = load_config(ctx).resolved
    wanted = _wanted(resolved, name)

    async def work(session: Session) -> list[Plan]:
        now, rows = await counted(session, [f"{kind}:{its_name}" for kind, its_name, _ in wanted])
        return [read(kind, its_name, its_schedule, now, rows) for kind, its_name, its_schedule in wanted]

    plans = with_database(ctx, work) if wanted else []
    if as_json:
        print_json([_plain(plan) for plan in plans])
    elif not plans:
        click.echo("no pool and no provider has a `warmup`")
    else:
        look = Look(
            width=shutil.get_terminal_size((80, 24)).columns,
            blocks=(sys.stdout.encoding or "").lower().replace("-", "").startswith("utf"),
            bold=is_terminal(),
            colour=is_terminal() and not os.environ.get("NO_COLOR"),
        )
        for number, plan in enumerate(plans):
            click.echo("\n" * bool(number) + "\n".join(draw(plan, look)))


def _wanted(resolved: Resolved, name: str | None) -> list[tuple[str, str, Schedule]]:
    """(kind, name, schedule) of what is to be shown. Raises `Fatal`."""
    tables = [
        *(("pool", pool.name, pool.warmup) for pool in resolved.config.pool),
        *(("provider", provider.name, provider.warmup) for provider in resolved.config.provider),
    ]
    if name is not None:
        kind, colon, rest = name.rpartition(":")
        # A provider with several addresses is several, `relay@192.0.2.1`, with the schedule of `relay`.
        known = [table for table in tables if rest in (table[1], base_of(table[1])) and (not colon or table[0] == kind)]
        if not known:
            near = get_close_matches(rest, [table[1] for table in tables], n=1)
            raise Fatal(f"no pool or provider is called {name}{f'; did you mean {near[0]}?' if near else ''}")
        tables = [table for table in known if table[2] is not None]
        if not tables:
            raise Fatal(f"{known[0][0]} {known[0][1]} has no `warmup`")
    return [(kind, its_name, its) for kind, its_name, table in tables if (its := schedule(table)) is not None]


def read(kind: str, name: str, schedule: Schedule, now: datetime, rows: Iterable[Counted]) -> Plan:
    """A plan from what was counted; `rows` may have other schedules, too."""
    counted: dict[str, dict[date, Counts]] = {}
    for row in rows:
        # What was counted when the schedule had other groups than now is not shown.
        if row.schedule == f"{kind}:{name}" and bool(row.domain) == schedule.domains:
            counted.setdefault(row.domain, {})[row.day] = row.counts
    if not counted:
        counted[""] = {}
    day = today(schedule, now)
    last = day + _DAY if day >= schedule.begin else schedule.begin + (_FIRST - 1) * _DAY
    return Plan(
        kind=kind,
        name=name,
        schedule=schedule,
        now=now,
        groups=[
            (group, course(schedule, days, last))
            for group, days in sorted(
                counted.items(), key=lambda item: (-sum(c.tried for c in item[1].values()), item[0])
            )
        ],
    )


# -- drawing -------------------------------------------------------------------------------------------------------------


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What the terminal can show: columns, Unicode blocks, bold and dim letters, colours."""

    width: int = 80
    blocks: bool = True
    bold: bool = False
    colour: bool = False

    def style(self, text: str, *, bold: bool = False, dim: bool = False, colour: str | None = None) -> str:
        bold, dim, colour = bold and self.bold, dim and self.bold, colour if self.colour else None
        if not text or not (bold or dim or colour):
            return text
        return click.style(text, fg=colour, bold=bold or None, dim=dim or None)


def draw(plan: Plan, look: Look) -> list[str]:
    """The plan as lines."""
    lines = [*_heading(plan, look)]
    charts, others = plan.groups[:_CHARTS], plan.groups[_CHARTS:]
    for group, steps in charts:
        lines += ["", *_words(plan, group, steps, look), *_days(plan, steps, look)]
    lines += _others(plan, others, look)
    if all(_over(plan, steps) for _, steps in plan.groups):
        return lines
    full, over, rest = _signs(look)
    above = any(step.limit is not None and step.counts.sent > step.limit for _, steps in plan.groups for step in steps)
    words = f"{full} sent  " + f"{over} sent above the limit  " * above + f"{rest} left of the day's limit"
    return [*lines, "", look.style(words, dim=True)]


def _named(group: str) -> str:
    return "all other domains" if group == OTHERS else visible(group)


def _over(plan: Plan, steps: Sequence[Step]) -> bool:
    return any(step.limit is None and step.day <= plan.today for step in steps)


def _signs(look: Look) -> tuple[str, str, str]:
    """For what was sent, what was sent above the limit, and what is left."""
    return ("█", "▓", "░") if look.blocks else ("#", "+", ".")


def _heading(plan: Plan, look: Look) -> Iterator[str]:
    its = plan.schedule
    begins = "begins" if plan.today < its.begin else "began"
    head = f"{plan.kind} {visible(plan.name)}"
    yield from _wrapped(head, f"warm-up of {len(its.days)} days, {begins} {its.begin} ({its.zone})", look)
    whose = "each domain group has a limit of its own" if its.domains else "one limit for all mail"
    pools = f"pool{'s' * (len(its.overflow) > 1)} {', '.join(map(visible, its.overflow))}"
    more = f"what exceeds it goes to {pools}" if its.overflow else "what exceeds it waits"
    yield from _wrapped("", f"{whose}; {more}", look)


def _words(plan: Plan, group: str, steps: Sequence[Step], look: Look) -> Iterator[str]:
    """What is to be said of a group: where it is, until when, why it stands still."""
    head = _named(group) or ("any domain group" if plan.schedule.domains else "all mail")
    now = next((step for step in steps if step.day == plan.today), None)
    if now is None:
        begins = midnight(plan.schedule, plan.schedule.begin)
        yield from _wrapped(head, f"begins in {span((begins - plan.now).total_seconds())}", look)
        return
    if now.limit is None:
        since = next(step.day for step in steps if step.limit is None)
        yield from _wrapped(head, f"{now.counts.sent:,} today, no limit since {since}", look)
        return
    number, days = _number(steps, now), len(plan.schedule.days)
    lost = sum(step.standing is not None for step in steps if step.day < plan.today)
    free = plan.today + (days - number + 1 + (now.standing is not None)) * _DAY
    words = f"{now.counts.sent:,} of {now.limit:,} today, day {number} of {days}"
    words += f" ({lost} repeated)" if lost else ""
    yield from _wrapped(head, f"{words}, no limit from {free:%b %d}", look)
    if now.standing is not None:
        rest = span((plan.ends - plan.now).total_seconds())
        yield from _wrapped("", f"stands still for {rest}: {now.standing}", look, colour="red")


def _number(steps: Sequence[Step], at: Step) -> int:
    """Which day of the schedule it is, from 1: those before that did not count are left out."""
    return 1 + sum(step.standing is None for step in steps if step.day < at.day)


def _wrapped(head: str, text: str, look: Look, colour: str | None = None) -> list[str]:
    first = f"{head}  " if head else ""
    lines = textwrap.wrap(text, max(look.width, 40), initial_indent=" " * len(first), subsequent_indent="  ")
    lines = [look.style(line.strip() if not number else line, colour=colour) for number, line in enumerate(lines)]
    return [look.style(head, bold=True) + ("  " if head else "") + lines[0], *lines[1:]]


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """One bar with its figures. `ahead`: nothing can have been sent yet."""

    label: str
    step: Step
    now: bool = False
    ahead: bool = False


def _days(plan: Plan, steps: Sequence[Step], look: Look) -> Iterator[str]:
    """Day by day, as long as there are limits; nothing when that is over."""
    if _over(plan, steps):
        return
    known = [step for step in steps if step.limit is not None]
    past = sum(step.day <= plan.today for step in known)
    hidden = max(0, past - _SHOWN)
    width = len(str(len(plan.schedule.days)))
    rows = [
        _Row(
            label=f"{_number(steps, step):{width}}  {step.day:%b %d}",
            step=step,
            now=step.day == plan.today,
            ahead=step.day > plan.today,
        )
        for step in known[hidden:]
    ]
    if hidden:
        yield look.style(f"  the first {hidden} days are not shown", dim=True)
    yield from _bars("DAY".rjust(width), rows, look)
    for row in rows:
        if row.step.standing is not None and not row.now:
            yield from _wrapped("", f"! {row.step.day:%b %d}: {row.step.standing}", look, colour="red")


def _others(plan: Plan, groups: Sequence[tuple[str, list[Step]]], look: Look) -> Iterator[str]:
    """Today in the groups that have no chart."""
    now = [(group, step) for group, steps in groups for step in steps if step.day == plan.today]
    now.sort(key=lambda pair: (pair[1].standing is None, -pair[1].counts.tried))
    rest = now[_OTHERS:]
    if not now:
        return
    yield ""
    yield look.style("other groups today", bold=True)
    shown = [(_named(group), step) for group, step in now[:_OTHERS]]
    width = max(20, look.width // 4)
    rows = [_Row(label=name if len(name) <= width else f"{name[: width - 1]}~", step=step) for name, step in shown]
    yield from _bars("GROUP", rows, look)
    for name, step in shown:
        if step.standing is not None:
            yield from _wrapped("", f"! {name}: {step.standing}", look, colour="red")
    if rest:
        yield f"  and {len(rest):,} more, with {sum(step.counts.sent for _, step in rest):,} messages"


def _bars(title: str, rows: Sequence[_Row], look: Look) -> Iterator[str]:
    """Figures and bars on one scale. Columns keep their width; the bars have what is left of the line."""
    cells = [(title, "LIMIT", "SENT", "USED", "BOUNCED", "SPAM"), *(_figures(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = max(look.width - 2 - sum(widths) - 2 * len(widths), _LEAST_BAR)
    scale = max(max(row.step.limit or 0, row.step.counts.sent) for row in rows)
    for number, texts in enumerate(cells):
        row = rows[number - 1] if number else None
        line = "  ".join([texts[0].ljust(widths[0]), *map(str.rjust, texts[1:], widths[1:])])
        if row is None:
            yield look.style(f"  {line}".rstrip(), dim=True)
            continue
        stands = row.step.standing is not None
        mark = ("▶" if look.blocks else ">") if row.now else "!" if stands else " "
        bar = _bar(row, scale, room, look)
        figures = f"{mark} {line}  " if bar else f"{mark} {line}".rstrip()
        yield look.style(figures, bold=row.now, dim=row.ahead, colour="red" if stands else None) + bar


def _figures(row: _Row) -> tuple[str, str, str, str, str, str]:
    counts, limit = row.step.counts, row.step.limit
    if row.ahead:
        return row.label, f"{limit:,}", "", "", "", ""
    return (
        row.label,
        "none" if limit is None else f"{limit:,}",
        f"{counts.sent:,}",
        _share(counts.sent, limit),
        _share(counts.bounced + counts.rejected, counts.tried),
        _share(counts.complained, counts.sent),
    )


def _share(part: int, of: int | None) -> str:
    """`45 %`, `0.07 %`; nothing of nothing is `-`."""
    if not of:
        return "-"
    percent = 100 * part / of
    return (
        f"{percent:.0f} %"
        if percent >= 9.95 or not part
        else f"{percent:.1f} %"
        if percent >= 0.1
        else f"{percent:.2f} %"
    )


def _bar(row: _Row, scale: int, room: int, look: Look) -> str:
    """What was sent, solid, and what is left of the limit behind it. What is there at all can be seen."""
    full, over, rest = _signs(look)
    sent, limit = row.step.counts.sent, row.step.limit or 0
    within = min(sent, limit)
    eighths = max(round(8 * room * within / scale), 1) if within else 0
    if not look.blocks or sent > limit:
        eighths = -(-eighths // 8) * 8
    solid = full * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    ends = max(round(room * limit / scale), 1) if limit else 0
    above = max(round(room * sent / scale) - len(solid), 0) if sent > limit else 0
    colour = "red" if row.step.standing is not None else "cyan" if row.now else "green"
    return (
        look.style(solid, colour=colour)
        + look.style(over * above, colour="yellow")
        + look.style(rest * (ends - len(solid) - above), dim=True)
    )


# -- JSON ----------------------------------------------------------------------------------------------------------------


def _plain(plan: Plan) -> dict[str, object]:
    its = plan.schedule
    return {
        plan.kind: plan.name,
        "begin": its.begin,
        "zone": its.zone,
        "days": its.days,
        "domains": its.domains,
        "overflow": its.overflow,
        "bounces": its.bounces,
        "complaints": its.complaints,
        "at": plan.now,
        "today": plan.today,
        "ends": plan.ends,
        "groups": [_plain_group(plan, group, steps) for group, steps in plan.groups],
    }


def _plain_group(plan: Plan, group: str, steps: Sequence[Step]) -> dict[str, object]:
    now = next((step for step in steps if step.day == plan.today), None)
    return {
        "group": group or None,
        "limit": 0 if now is None else now.limit,
        "sent": 0 if now is None else now.counts.sent,
        "stands_still": None if now is None else now.standing,
        "days": [
            {
                "day": step.day,
                "limit": step.limit,
                **({} if step.day > plan.today else msgspec.structs.asdict(step.counts)),
                "did_not_count": step.standing,
            }
            for step in steps
        ],
    }
