"""Parts of the flow-control scenarios: windows of time, promises, configurations; no process is started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mailerd.bench.settings import Target, configuration
from mailerd.bench.shape import throttled as playing
from mailerd.bench.shape.rig import Rig, Times
from mailerd.bench.shape.scenarios import SCENARIOS, _never_above
from mailerd.bench.shape.throttled import Speed, counter, judge, settings, slope
from mailerd.cli import main
from mailerd.cli.shape import NAMES
from mailerd.config.load import load, parse

# -- windows -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 100), max_size=200),
    st.floats(0, 50),
    st.floats(0, 60),
    st.sampled_from([0.5, 1.0, 10.0]),
    st.sampled_from([0.5, 1.0]),
)
def test_windows_count_what_lies_in_them(
    instants: list[float], begin: float, span: float, width: float, step: float
) -> None:
    end = begin + span
    found = Times(instants).windows(begin, end, width, step)
    at = begin
    for count in found:
        assert at + width <= end
        assert count == sum(at <= instant < at + width for instant in instants)
        at += step
    assert at + width > end


def test_an_even_flow_is_the_same_in_every_window() -> None:
    times = Times([n / 50 for n in range(3000)])
    assert set(times.windows(3.0, 55.0, 10.0, 1.0)) == {500}


@pytest.mark.parametrize(("burst", "kept"), [(50, True), (53, False)])
def test_a_burst_may_have_one_second_of_the_rate(burst: int, kept: bool) -> None:
    times = [n / 50 for n in range(1000)]
    assert _never_above(Times([*times, *[10.0] * (burst - 1)]), 50.0, "50/s").kept is kept


# -- throttled ---------------------------------------------------------------------------------------------------------

FREE = Speed(5000.0, 0.02, 0.0)


@pytest.mark.parametrize(
    ("limited", "broken"),
    [
        (Speed(4601.0, 0.25, 2.0), []),
        (Speed(4599.0, 0.02, 1.9), ["five limits"]),
        (Speed(5000.0, 0.02, 2.1), ["tokens take"]),
        (Speed(5000.0, 0.02, 0.0), ["tokens take"]),  # it asked for none: no limit was there
        (Speed(5000.0, 0.26, 1.9), ["urgent mail"]),
    ],
)
def test_each_promise_has_its_edge(limited: Speed, broken: list[str]) -> None:
    figures, promises = judge([FREE] * 3, [limited] * 3)
    assert [name[: len(word)] for name, kept, _ in promises if not kept for word in broken] == broken
    assert sum(not kept for _, kept, _ in promises) == len(broken)
    assert figures["ratio"] == limited.rate / FREE.rate


def test_one_bad_run_decides_nothing_but_statements_count_on_average_and_waits_at_their_worst() -> None:
    bad = Speed(100.0, 0.9, 9.0)
    figures, promises = judge([FREE] * 3, [FREE._replace(statements=1.5), bad, FREE])
    assert figures["ratio"] == 1.0
    assert (figures["lowest pair"], figures["highest pair"]) == (0.02, 1.0)
    assert [kept for _, kept, _ in promises] == [True, False, False]


def test_the_counter_is_found_by_its_whole_name() -> None:
    page = (
        '# TYPE a summary\na_count{statement="lease"} 7\na_count{statement="grant"} 41.0\n'
        'a_count{statement="grant",more="x"} 5\na_sum{statement="grant"} 3\n'
    )
    assert counter(page, 'a_count{statement="grant"}') == 41.0
    assert counter(page, 'a_count{statement="none"}') == 0.0


@pytest.mark.parametrize("statements", [1.5, 2.5])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_broken_promise_is_told_and_fails(statements: float, as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def played(**_: object) -> object:
        return judge([FREE], [FREE._replace(statements=statements)])

    monkeypatch.setattr(playing, "throttled", played)
    done = CliRunner().invoke(main, ["bench", "--scenario", "throttled", *(["--json"] if as_json else [])])
    kept = statements <= 2
    assert done.exit_code == (0 if kept else 1)
    assert ("broken: tokens take" in done.stderr) is not kept
    if as_json:
        told = json.loads(done.stdout)
        assert [promise["kept"] for promise in told["promises"]] == [True, kept, True]
        assert told["figures"]["statements/s"] == statements
    else:
        assert f"{'yes' if kept else 'NO':<4}  {statements:.2f}" in done.stdout


def test_a_slope_is_taken_between_changes() -> None:
    assert slope([]) == slope([(1.0, 5.0)]) == slope([(n, 5.0) for n in range(9)]) == slope([(1, 5.0), (2, 6.0)]) == 0.0
    # Two a second, seen four times a second, from just before a change to just after one.
    assert slope([(n / 4, float((n + 1) // 2)) for n in range(22)]) == 2.0
    assert slope([(0.0, 0.0), (1.0, 5.0), (2.0, 100.0), (5.0, 113.0), (9.0, 113.0)]) == 27.0


@pytest.mark.parametrize("long", [False, True])
def test_a_message_meets_five_limits_or_none(long: bool, tmp_path: Path) -> None:
    for limited, count in ((True, 5), (False, 0)):
        asked = settings(limited=limited, long=long)
        target = Target(database="postgresql://h/d", schema="s", host="h", port=25, ops=1, templates=tmp_path)
        file = tmp_path / "mailerd.toml"
        file.write_text(configuration(asked, target, "one"))
        config = load(file, {}, require_provider=True).config
        rates = [
            *(provider.rate for provider in config.provider),
            *(pool.rate for pool in config.pool),
            *(domain.rate for pool in config.pool for domain in pool.domain),
            *(domain.rate for domain in config.domain),
            next(stream.rate for stream in config.stream if stream.name == "marketing"),
        ]
        assert sum(rate is not None for rate in rates) == count


# -- the rig -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    shutil.rmtree(made.folder)


@pytest.mark.parametrize(
    "extra", ["", '[[domain]]\nname = "b"\nmatch = ["b.example"]\nrate = "20/s"\n', '[[stream]]\nname = "marketing"\n']
)
def test_the_configuration_of_an_instance_is_accepted(rig: Rig, extra: str) -> None:
    for name in ("one", "two"):
        rig.sinks[name] = (None, 2525, rig.folder)  # type: ignore[assignment]
    text = rig.configuration(3, 8025, extra, 'rate = "50/s"\n')
    config = parse(text, None, {}, require_provider=True).config
    assert [(provider.name, provider.rate) for provider in config.provider] == [("one", 50.0), ("two", 50.0)]
    assert "marketing" in {stream.name for stream in config.stream}
    assert config.instance.name == "shape3"


def test_the_command_knows_every_scenario() -> None:
    assert set(SCENARIOS) <= set(NAMES)
