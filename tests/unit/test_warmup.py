"""Warm-up: what each day may send, in any zone and through its clock changes."""

from __future__ import annotations

import asyncio
import json
import re
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mailerd.cli import warmup as cli
from mailerd.cli.warmup import Look, Plan, draw, read
from mailerd.config.model import Config, Pool
from mailerd.config.provider import Provider, Warmup
from mailerd.config.resolved import Resolved
from mailerd.flow.warmup import (
    ENOUGH,
    LEAST,
    QUICKEST,
    STANDARD,
    Counts,
    Schedule,
    course,
    limit,
    place,
    schedule,
    spread,
    standing,
    stood,
    today,
    window,
)
from mailerd.store.warmup import Counted

DAY = timedelta(days=1)
ZONES = sorted(zoneinfo.available_timezones())
instants = st.integers(631_152_000, 2_114_380_800).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)  # 1990-2036
# Around the clock changes of zones where these touch midnight, or a day is missing.
AWKWARD = [
    ("Europe/Vienna", datetime(2026, 10, 25, tzinfo=UTC)),
    ("Europe/Vienna", datetime(2027, 3, 28, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 11, 1, tzinfo=UTC)),  # 01:00 becomes 00:00: midnight comes twice
    ("America/Havana", datetime(2026, 3, 8, tzinfo=UTC)),  # 00:00 becomes 01:00: midnight is missing
    ("America/Santiago", datetime(2026, 4, 5, tzinfo=UTC)),  # 24:00 becomes 23:00
    ("America/St_Johns", datetime(2010, 11, 7, tzinfo=UTC)),  # 00:01 becomes 23:01 of the day before
    ("Pacific/Apia", datetime(2011, 12, 30, tzinfo=UTC)),  # there was no such day
    ("Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC)),  # half an hour
    ("Asia/Pyongyang", datetime(2018, 5, 4, tzinfo=UTC)),  # 23:30 becomes 24:00
]
awkward = st.builds(
    lambda place, off: (place[0], place[1] + timedelta(seconds=off)),
    st.sampled_from(AWKWARD),
    st.integers(-36 * 3600, 36 * 3600),
)
anywhen = st.one_of(st.tuples(st.sampled_from(ZONES), instants), awkward)


def plan(*days: int, begin: date = date(2026, 11, 1), **more: Any) -> Schedule:
    return Schedule(begin=begin, days=days or (10, 20, 30), **more)


# -- days ----------------------------------------------------------------------------------------------------------------


@given(anywhen)
def test_every_instant_is_in_one_day_and_the_days_are_without_gaps(when: tuple[str, datetime]) -> None:
    zone, now = when
    the_plan = plan(zone=zone)
    start, end = window(the_plan, now)
    assert start <= now < end
    assert timedelta(hours=20) <= end - start <= timedelta(hours=28)  # stations in Antarctica change by three hours
    last = end - timedelta(microseconds=1)
    assert window(the_plan, start) == window(the_plan, last) == (start, end)
    assert window(the_plan, end)[0] == end
    assert today(the_plan, start) == today(the_plan, last) == today(the_plan, now) < today(the_plan, end)


@given(anywhen)
def test_the_day_is_what_a_calendar_there_shows(when: tuple[str, datetime]) -> None:
    """Its middle at least: within an hour or so of midnight clocks may be put back over it."""
    zone, now = when
    start, end = window(plan(zone=zone), now)
    middle = start + (end - start) / 2
    assert middle.astimezone(zoneinfo.ZoneInfo(zone)).date() == today(plan(zone=zone), now)


def test_days_of_clock_changes_have_their_own_length() -> None:
    vienna = plan(zone="Europe/Vienna")
    long, short = datetime(2026, 10, 25, 12, tzinfo=UTC), datetime(2027, 3, 28, 12, tzinfo=UTC)
    assert window(vienna, long) == (datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC))
    assert window(vienna, short) == (datetime(2027, 3, 27, 23, tzinfo=UTC), datetime(2027, 3, 28, 22, tzinfo=UTC))


def test_midnight_in_its_zone_begins_the_next_day() -> None:
    tokyo = plan(10, 20, zone="Asia/Tokyo")
    midnight = datetime(2026, 10, 31, 15, tzinfo=UTC)
    assert limit(tokyo, midnight - timedelta(microseconds=1)) == 0
    assert limit(tokyo, midnight) == 10
    assert limit(tokyo, midnight + DAY - timedelta(microseconds=1)) == 10
    assert limit(tokyo, midnight + DAY) == 20
    assert limit(tokyo, midnight + 2 * DAY) is None


def test_the_zone_of_the_instant_does_not_matter() -> None:
    now = datetime(2026, 11, 1, 20, tzinfo=UTC)
    there = now.astimezone(zoneinfo.ZoneInfo("Asia/Tokyo"))  # already the second
    assert limit(plan(10, 20), there) == limit(plan(10, 20), now) == 10


@given(st.dates(date(2000, 1, 1), date(2800, 1, 1)), st.integers(0, 400))
def test_a_day_follows_a_day_also_over_leap_days(begin: date, after: int) -> None:
    the_plan = plan(*range(1, 366), begin=begin)
    now = datetime(begin.year, begin.month, begin.day, 12, tzinfo=UTC) + after * DAY
    assert limit(the_plan, now) == (after + 1 if after < 365 else None)
    assert place(the_plan, now.date()) == after


def test_the_leap_day_is_a_day() -> None:
    leap = plan(1, 2, 3, begin=date(2028, 2, 28))
    assert limit(leap, datetime(2028, 2, 29, tzinfo=UTC)) == 2
    assert limit(leap, datetime(2028, 3, 1, tzinfo=UTC)) == 3
    assert limit(plan(1, 2, 3, begin=date(2027, 2, 28)), datetime(2027, 3, 1, tzinfo=UTC)) == 2


@given(anywhen, st.lists(st.integers(1, 10**9), min_size=1, max_size=365), st.integers(-400, 400))
def test_a_limit_is_nothing_or_of_the_table_or_over(when: tuple[str, datetime], days: list[int], before: int) -> None:
    zone, now = when
    bare = plan(zone=zone)
    the_plan = plan(*days, zone=zone, begin=today(bare, now) - before * DAY)
    expected = 0 if before < 0 else days[before] if before < len(days) else None
    assert limit(the_plan, now) == expected


# -- days that do not count ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "paused"),
    [
        (Counts(), False),
        (Counts(sent=100), False),
        (Counts(sent=100, bounced=5), False),  # as many as may be
        (Counts(sent=100, bounced=6), True),
        (Counts(sent=95, rejected=5), False),
        (Counts(sent=94, rejected=6), True),
        (Counts(sent=96, bounced=3, rejected=4), True),  # together
        (Counts(sent=99, bounced=99), False),  # too few to mean something
        (Counts(rejected=ENOUGH), True),
        (Counts(sent=1000, complained=1), False),
        (Counts(sent=1000, complained=2), True),
        (Counts(sent=99, complained=99), False),
        (Counts(rejected=ENOUGH, complained=1), True),
    ],
)
def test_a_day_stands_above_its_shares(counts: Counts, paused: bool) -> None:
    assert (standing(plan(), counts) is not None) is paused


def test_the_reason_has_the_figures() -> None:
    assert standing(plan(), Counts(sent=1200, bounced=40, rejected=60)) == (
        "100 of 1,260 messages bounced or were refused: 7.94 %, more than 5 %"
    )
    assert standing(plan(complaints=0.0005), Counts(sent=4000, complained=3)) == (
        "3 of 4,000 messages were complained about: 0.075 %, more than 0.05 %"
    )


def test_the_shares_are_the_schedules() -> None:
    counts = Counts(sent=1000, bounced=100, complained=10)
    assert standing(plan(bounces=0.1, complaints=0.01), counts) is None
    assert standing(plan(bounces=0.099, complaints=0.01), counts)
    assert standing(plan(bounces=0.1, complaints=0.0099), counts)
    assert standing(plan(bounces=0), Counts(sent=100, bounced=1))
    assert standing(plan(bounces=1, complaints=1), Counts(sent=100, bounced=100, complained=100)) is None


BAD = Counts(sent=100, bounced=50)


def test_a_bad_day_is_done_again() -> None:
    the_plan, first = plan(10, 20, 30), date(2026, 11, 1)
    steps = course(the_plan, {first + DAY: BAD, first + 2 * DAY: BAD, first + 5 * DAY: BAD}, first + 6 * DAY)
    assert [step.limit for step in steps] == [10, 20, 20, 20, 30, None, None]
    assert [step.standing is not None for step in steps] == [False, True, True, False, False, False, False]
    assert [step.day for step in steps] == [first + n * DAY for n in range(7)]
    assert steps[1].counts == BAD
    assert course(the_plan, {}, first - DAY) == []


def test_today_does_not_change_todays_limit() -> None:
    the_plan, first = plan(10, 20, 30), date(2026, 11, 1)
    now = datetime(2026, 11, 2, 12, tzinfo=UTC)
    counted = {first: BAD, first + DAY: BAD}
    assert stood(the_plan, counted, first + DAY) == 1
    assert limit(the_plan, now, 1) == 10
    assert limit(the_plan, now + DAY, stood(the_plan, counted, first + 2 * DAY)) == 10


def test_what_was_bad_before_the_schedule_began_is_nothing_to_it() -> None:
    first = date(2026, 11, 1)
    assert stood(plan(), {first - DAY: BAD}, first + DAY) == 0
    assert limit(plan(), datetime(2026, 10, 31, tzinfo=UTC), 5) == 0


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 40))
def test_the_way_and_the_limit_agree(bad: list[bool], length: int) -> None:
    the_plan = plan(*range(1, length + 1))
    counted = {the_plan.begin + n * DAY: BAD for n, is_bad in enumerate(bad) if is_bad}
    last = the_plan.begin + len(bad) * DAY
    steps = course(the_plan, counted, last)
    assert len(steps) == len(bad) + 1
    for step in steps:
        noon = datetime(step.day.year, step.day.month, step.day.day, 12, tzinfo=UTC)
        assert step.limit == limit(the_plan, noon, stood(the_plan, counted, step.day))
    limits = [step.limit or length + 1 for step in steps]
    for step, a, b in zip(steps, limits, limits[1:], strict=False):
        assert b == a if step.standing else b == min(a + 1, length + 1)


# -- rates ---------------------------------------------------------------------------------------------------------------

START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + DAY


def test_the_rest_of_the_limit_flows_over_the_rest_of_the_day() -> None:
    assert spread(86_400, START, END, START, 0) == pytest.approx(1.0)
    assert spread(86_400, START, END, START + DAY / 2, 43_200) == pytest.approx(1.0)
    assert spread(86_400, START, END, START + DAY / 2, 64_800) == pytest.approx(0.5)
    assert spread(86_400, START, END, START - DAY, 0) == pytest.approx(1.0)
    assert spread(50, START, END, START, 0) == LEAST
    assert spread(50, START, END, START, 50) == spread(50, START, END, START, 51) == 0.0


def test_a_day_of_another_length_has_another_rate() -> None:
    assert spread(90_000, START, START + timedelta(hours=25), START, 0) == pytest.approx(1.0)
    assert spread(82_800, START, START + timedelta(hours=23), START, 0) == pytest.approx(1.0)


@given(
    st.integers(1, 10**9), st.floats(0, 90_000), st.floats(0, 1.2), st.sampled_from([23 * 3600, 24 * 3600, 25 * 3600])
)
def test_it_is_never_a_burst_and_never_a_standstill(most: int, after: float, part: float, length: int) -> None:
    used = int(most * part)
    end = START + timedelta(seconds=length)
    rate = spread(most, START, end, START + timedelta(seconds=after), used)
    if used >= most:
        assert rate == 0.0
    else:
        assert LEAST <= rate <= max(LEAST, most / QUICKEST)


@given(st.integers(1, 10**7))
def test_a_day_that_follows_it_uses_the_limit_up_and_no_more(most: int) -> None:
    used, now = 0.0, START
    while now < END:
        used += spread(most, START, END, now, int(used)) * 600
        now += timedelta(seconds=600)
        if now == START + DAY / 2:
            # LEAST is worth ten messages of a step.
            assert used <= max(most * 0.52, most / 2 + 10, 720)
    assert min(most, used) >= most * 0.97
    assert used <= max(most * 1.01, most + 10)


# -- the file ------------------------------------------------------------------------------------------------------------


def test_the_standard_curve_rises_and_then_there_is_no_limit() -> None:
    standard = plan(*STANDARD)
    assert standard.days == STANDARD
    assert standard.days[:5] == (50, 100, 500, 1000, 5000)
    assert list(STANDARD) == sorted(set(STANDARD))
    assert limit(standard, datetime(2026, 11, 17, 23, tzinfo=UTC)) == STANDARD[-1]
    assert limit(standard, datetime(2026, 11, 18, tzinfo=UTC)) is None


def test_a_table_becomes_a_schedule() -> None:
    assert schedule(None) is None
    assert schedule(Warmup(begin="2026-11-01")) == Schedule(begin=date(2026, 11, 1), days=STANDARD)
    whole = Warmup(
        begin="2026-11-01",
        days=(50, 100, 40),
        zone="Europe/Vienna",
        domains=False,
        overflow=("warm",),
        bounces=0.1,
        complaints=0.002,
    )
    assert schedule(whole) == Schedule(
        begin=date(2026, 11, 1),
        days=(50, 100, 40),
        zone="Europe/Vienna",
        domains=False,
        overflow=("warm",),
        bounces=0.1,
        complaints=0.002,
    )


# -- as it is drawn ------------------------------------------------------------------------------------------------------

FIRST = date(2026, 11, 18)
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def counted(*days: Counts, group: str = "gmail", schedule: str = "pool:bulk") -> list[Counted]:
    return [Counted(schedule, FIRST + n * DAY, group, counts) for n, counts in enumerate(days)]


def shown(rows: list[Counted], now: datetime = NOON, **more: Any) -> Plan:
    return read("pool", "bulk", plan(*STANDARD, begin=FIRST, **more), now, rows)


USUAL = [Counts(sent=limit // 2) for limit in STANDARD[:9]]


def test_a_plan_has_what_was_counted_for_it() -> None:
    rows = [
        *counted(Counts(sent=10, bounced=1)),
        *counted(Counts(sent=4), group="*"),
        *counted(Counts(sent=3), schedule="pool:other"),
        *counted(Counts(sent=2), group=""),  # when the schedule had one limit for all mail
    ]
    apart = shown(rows)
    assert [(group, steps[0].counts.sent) for group, steps in apart.groups] == [("gmail", 10), ("*", 4)]
    assert any(line.startswith("all other domains  ") for line in draw(apart, Look()))
    together = shown(rows, domains=False)
    assert [(group, steps[0].counts.sent) for group, steps in together.groups] == [("", 2)]


def test_a_chart_has_the_days_up_to_tomorrow_and_marks_today() -> None:
    lines = draw(shown(counted(*USUAL)), Look())
    assert lines[0] == "pool bulk  warm-up of 17 days, began 2026-11-18 (UTC)"
    assert "gmail  35,000 of 70,000 today, day 9 of 17, no limit from Dec 05" in lines
    days = [line for line in lines if " Nov " in line]
    assert [line[:12] for line in days[-3:]] == [
        "   8  Nov 25",
        "\N{BLACK RIGHT-POINTING TRIANGLE}  9  Nov 26",
        "  10  Nov 27",
    ]
    assert sum("\N{BLACK RIGHT-POINTING TRIANGLE}" in line for line in lines) == 1
    assert "70,000  35,000  50 %" in days[-2]
    assert "100,000" in days[-1]
    assert "%" not in days[-1]


def test_bars_are_as_long_as_their_figures() -> None:
    days = [line for line in draw(shown(counted(*USUAL)), Look(blocks=False)) if " Nov " in line]
    bars = [line.rpartition("  ")[2] for line in days]
    room = len(bars[-1])  # tomorrow's 100,000
    assert bars[-1] == "." * room
    assert len(bars[-2]) == round(0.7 * room)
    assert abs(bars[-2].count("#") - 0.35 * room) <= 1
    assert bars[0] == "#"  # what is there can be seen


def test_what_exceeds_the_limit_is_set_apart() -> None:
    lines = draw(shown(counted(*USUAL[:8], Counts(sent=140_000))), Look(blocks=False, width=120))
    bar = next(line for line in lines if "Nov 26" in line).rpartition("  ")[2]
    assert 0.9 <= bar.count("#") / bar.count("+") <= 1.1
    assert "." not in bar
    assert lines[-1] == "# sent  + sent above the limit  . left of the day's limit"


def test_a_day_that_did_not_count_says_why() -> None:
    bad = Counts(sent=4000, bounced=400)
    past = draw(shown(counted(*USUAL[:4], bad, *USUAL[4:8])), Look(width=100))
    assert any(line.startswith("!  5  Nov 22   5,000") for line in past)
    assert "! Nov 22: 400 of 4,000 messages bounced or were refused: 10 %, more than 5 %" in past
    assert any("day 8 of 17 (1 repeated)" in line for line in past)
    now = draw(shown(counted(*USUAL[:8], bad)), Look(width=100))
    assert "stands still for 12h00m: 400 of 4,000 messages bounced or were refused: 10 %, more than 5 %" in now
    assert [line[:22].split()[-4:] for line in now if "Nov 27" in line] == [["9", "Nov", "27", "70,000"]]


def test_before_it_begins_its_first_days_are_shown() -> None:
    lines = draw(shown([], now=datetime(2026, 11, 15, 12, tzinfo=UTC)), Look())
    assert lines[0].endswith("begins 2026-11-18 (UTC)")
    assert "any domain group  begins in 2d12h" in lines
    assert len([line for line in lines if " Nov " in line]) == 7


def test_when_it_is_over_there_is_nothing_to_draw() -> None:
    now = NOON + 20 * DAY
    lines = draw(shown([Counted("pool:bulk", now.date(), "gmail", Counts(sent=7))], now=now), Look())
    assert lines[2:] == ["", "gmail  7 today, no limit since 2026-12-05"]


def test_only_the_busiest_groups_have_charts() -> None:
    rows = [row for n in range(20) for row in counted(*[Counts(sent=40 - n)] * 9, group=f"d{n:02}")]
    rows += counted(*[Counts()] * 8, Counts(rejected=100), group="bad")
    lines = draw(shown(rows), Look())
    assert [line.split()[0] for line in lines if "no limit from" in line] == [
        "d00",
        "d01",
        "d02",
    ]
    below = lines[lines.index("other groups today") :]
    assert [line.split()[0] for line in below[2:5]] == ["!", "d03", "d04"]
    assert "! bad: 100 of 100 messages bounced or were refused: 100 %, more than 5 %" in below
    assert "  and 8 more, with 196 messages" in below


def test_long_schedules_show_their_last_days() -> None:
    long = Schedule(begin=date(2026, 1, 1), days=tuple(range(1, 366)))
    lines = draw(read("provider", "relay", long, NOON, []), Look())
    assert "  the first 309 days are not shown" in lines
    assert len([line for line in lines if " Nov " in line]) == 22


counts = st.builds(
    Counts,
    sent=st.integers(0, 5_000_000),
    bounced=st.integers(0, 5000),
    rejected=st.integers(0, 5000),
    complained=st.integers(0, 500),
)


@given(
    st.lists(counts, max_size=20),
    st.sampled_from([80, 100, 120, 200]),
    st.booleans(),
    st.integers(-3, 25),
    st.booleans(),
)
def test_every_line_fits(days: list[Counts], width: int, blocks: bool, after: int, domains: bool) -> None:
    now = datetime(2026, 11, 18, 12, tzinfo=UTC) + after * DAY
    rows = [
        row for name in (("gmail", "yahoo", "icloud", "*") if domains else ("",)) for row in counted(*days, group=name)
    ]
    drawn = shown(rows, now=now, domains=domains, overflow=("warm", "other"))
    lines = draw(drawn, Look(width=width, blocks=blocks))
    used = [share for line in lines for share in re.findall(r"(\d+) %", line)]
    if all(len(share) < 6 for share in used):  # a share of many thousand per cent may break the line
        assert max(map(len, lines)) <= width
    assert all("\n" not in line and "\x1b" not in line for line in lines)
    if not blocks:
        assert all(line.isascii() for line in lines)
    styled = draw(drawn, Look(width=width, blocks=blocks, bold=True, colour=True))
    assert [click.unstyle(line) for line in styled] == lines
    assert not re.search(r"\x1b\[3\d", "".join(draw(drawn, Look(width=width, blocks=blocks, bold=True)))), "a colour"


class Terminal:
    """`mailerd warmup show` without a file and without a database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: list[Counted], config: Config) -> None:
        async def counted(session: object, schedules: Sequence[str]) -> tuple[datetime, list[Counted]]:
            return NOON, [row for row in rows if row.schedule in schedules]

        monkeypatch.setattr(cli, "load_config", lambda ctx: SimpleNamespace(resolved=Resolved(config)))
        monkeypatch.setattr(cli, "with_database", lambda ctx, work: asyncio.run(work(None)))
        monkeypatch.setattr(cli, "counted", counted)

    def __call__(self, *arguments: str, code: int = 0, **env: str) -> str:
        result = CliRunner().invoke(cli.warmup, ["show", *arguments], env=env)
        assert result.exit_code == code, result.output
        return result.output


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    later = Warmup(begin="2026-12-01")
    config = Config(
        pool=(
            Pool(name="bulk", providers=("relay", "second"), warmup=Warmup(begin="2026-11-18", zone="Asia/Tokyo")),
            Pool(name="plain", providers=("relay",)),
        ),
        provider=(
            Provider(name="relay", source=("192.0.2.1", "192.0.2.2"), warmup=later),
            Provider(name="second"),
        ),
    )
    return Terminal(monkeypatch, counted(*USUAL), config)


def test_the_command_shows_all_plans(terminal: Terminal) -> None:
    output = terminal(COLUMNS="100")
    heads = [line.partition("  warm-up")[0] for line in output.splitlines() if "  warm-up of" in line]
    assert heads == ["pool bulk", "provider relay@192.0.2.1", "provider relay@192.0.2.2"]
    assert "\n\nprovider relay@192.0.2.1" in output
    assert "\x1b" not in output
    assert 90 <= max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("bulk", ["pool bulk"]),
        ("pool:bulk", ["pool bulk"]),
        ("relay", ["provider relay@192.0.2.1", "provider relay@192.0.2.2"]),
        ("provider:relay@192.0.2.2", ["provider relay@192.0.2.2"]),
    ],
)
def test_one_is_shown_by_its_name(terminal: Terminal, name: str, heads: list[str]) -> None:
    output = terminal(name)
    assert [line.partition("  ")[0] for line in output.splitlines() if "  warm-up of" in line] == heads


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bulc", "no pool or provider is called bulc; did you mean bulk?"),
        ("provider:bulk", "no pool or provider is called provider:bulk"),
        ("plain", "pool plain has no `warmup`"),
    ],
)
def test_a_name_without_a_plan_is_an_error(terminal: Terminal, name: str, words: str) -> None:
    assert words in terminal(name, code=1)


def test_json_has_all_groups_and_days(terminal: Terminal) -> None:
    (found,) = json.loads(terminal("bulk", "--json"))
    assert (found["pool"], found["zone"], found["today"]) == ("bulk", "Asia/Tokyo", "2026-11-26")
    assert found["ends"] == "2026-11-26T15:00:00Z"
    (group,) = found["groups"]
    assert {key: group[key] for key in ("group", "limit", "sent", "stands_still")} == {
        "group": "gmail",
        "limit": 70_000,
        "sent": 35_000,
        "stands_still": None,
    }
    assert group["days"][0] == {
        "day": "2026-11-18",
        "limit": 50,
        "sent": 25,
        "bounced": 0,
        "rejected": 0,
        "complained": 0,
        "did_not_count": None,
    }
    assert group["days"][-1] == {"day": "2026-11-27", "limit": 100_000, "did_not_count": None}


def test_without_any_plan_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Terminal(monkeypatch, [], Config(provider=(Provider(name="relay"),)))
    assert bare() == "no pool and no provider has a `warmup`\n"
    assert json.loads(bare("--json")) == []
