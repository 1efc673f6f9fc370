"""Parts of the load test: its settings, its figures, its page, its audit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import asyncpg
import jinja2
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from mailerd.bench import ledger
from mailerd.bench.audit import audit
from mailerd.bench.certificate import issue
from mailerd.bench.chart import Line, chart, number, ticks
from mailerd.bench.fault import Kind
from mailerd.bench.load import PAUSED_DOMAIN, Loader
from mailerd.bench.meter import Meter, postmaster
from mailerd.bench.page import page
from mailerd.bench.result import Latency, Memory, Point, Result, machine, percentile, rate_between, versions
from mailerd.bench.settings import Settings, Target, configuration
from mailerd.bench.stages import shares
from mailerd.bench.template import PARAMS, rendered, write_template
from mailerd.cli import main
from mailerd.cli.sink import KINDS
from mailerd.config.load import load
from mailerd.store.database import Session

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


# -- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sink", "127.0.0.1:25", "--faults", "3"], "leave out --sink"),
        (["--sink", "127.0.0.1"], "not HOST:PORT"),
        (["--messages", "12q"], "not a number"),
        (["--messages", "-1"], "not a number"),
        (["--fault", "none"], "Invalid value"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["bench", *arguments])
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_the_command_knows_every_fault() -> None:
    assert tuple(Kind) == KINDS


@pytest.mark.parametrize("scenario", ["throughput", "isolation"])
@pytest.mark.parametrize("wake", ["notify", "poll"])
def test_configuration_is_accepted(scenario: str, wake: str, tmp_path: Path) -> None:
    settings = Settings(scenario=scenario, wake=wake, streams=3, connections=7)  # type: ignore[arg-type]
    templates = tmp_path / 'a "quoted" folder'
    templates.mkdir()
    _, ca = issue(tmp_path)
    target = Target(
        database="postgresql://u:p%22w@h/d", schema="s1", host="localhost", port=26, ops=0, templates=templates, ca=ca
    )
    file = tmp_path / "mailerd.toml"
    file.write_text(configuration(settings, target, "one"))
    config = load(file, {}, require_provider=True).config
    assert config.database.url == target.database
    assert config.database.listen_url == ("off" if wake == "poll" else None)
    assert [stream.name for stream in config.stream] == settings.stream_names
    assert config.provider[0].connections == 7 * len(settings.stream_names)
    assert config.templates.path == str(templates)


@pytest.mark.parametrize("size", [600, 4096, 20_000, 102_400])
def test_template_has_the_size(size: int, tmp_path: Path) -> None:
    write_template(tmp_path / "bench", size)
    html = jinja2.Template((tmp_path / "bench" / "html.j2").read_text(), autoescape=True).render(PARAMS)
    assert abs(len(html.encode()) - size) < 300
    assert html.count("<table") == html.count("</table>")
    subject, text, same = rendered(size)
    assert (subject, same) == ("Your order A-0012345 is on its way", html.strip())
    assert "Blanket Linden" in text


# -- figures -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(0, 1))
def test_percentile_is_the_nearest_rank(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= int(share * len(ordered))


def test_known_percentiles() -> None:
    hundred = [float(n) for n in range(1, 101)]
    assert [percentile(hundred, share) for share in (0, 0.5, 0.95, 0.99, 1)] == [1, 50, 95, 99, 100]


def test_rate_between() -> None:
    assert rate_between([1.0, 1.5, 2.0, 2.5, 9.0], 1.0, 3.0) == 2.0


@linux
def test_meter_counts_children_living_and_dead() -> None:
    burn = "import time\nwhile time.process_time() < .3: pass\n"
    script = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {burn!r}])\n{burn}\nprint(1, flush=True)\ntime.sleep(60)"
    meter = Meter()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        meter.watch("mailerd", process.pid)
        begin = meter.sample(0)
        assert process.stdout is not None
        process.stdout.readline()
        end = meter.sample(1)
        process.kill()
    used = end.cpu["mailerd"] - begin.cpu["mailerd"]
    assert 0.55 < used < 1.2
    assert end.rss["mailerd"] > 1_000_000
    assert meter.peak >= end.rss["mailerd"]
    middle = (begin.at + end.at) / 2
    assert meter.cpu_at("mailerd", middle) == pytest.approx((begin.cpu["mailerd"] + end.cpu["mailerd"]) / 2)
    assert meter.cpu_at("mailerd", begin.at - 1) == begin.cpu["mailerd"]
    assert meter.cpu_at("mailerd", end.at + 1) == end.cpu["mailerd"]


@linux
async def test_postmaster_is_found(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    root = postmaster(backend)
    if os.environ.get("MAILERD_TEST_DSN") is None:
        assert root is not None
        assert b"postgres" in Path(f"/proc/{root}/cmdline").read_bytes()
    assert postmaster(os.getpid()) is None


def test_stages_are_sampled_by_second(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text('{"100": {"smtp": 5}, "101": {"compose": 6, "smtp": 2}, "102": {"smtp": 900}}')
    assert shares([path, tmp_path / "absent"], 101.2, 101.9) == {"compose": 0.75, "smtp": 0.25}
    assert shares([path], 200.0, 300.0) == {}


def test_the_profiler_runs_the_command_and_leaves_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts"
    command = [sys.executable, "-m", "mailerd.bench.stages", str(path), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mailerd ")
    assert isinstance(json.loads(path.read_text()), dict)


# -- loading and auditing ----------------------------------------------------------------------------------------------


async def test_loader_and_audit(
    session: Session, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    settings = Settings(streams=2, domains=3, campaigns=2, wake="poll")
    loader = Loader(session, settings, None)
    await loader.pause(PAUSED_DOMAIN)
    await loader.fill(8)
    await loader.fill(2, domain=PAUSED_DOMAIN)
    await loader.one("transactional")
    await loader.pace(3, 1000)
    rows = await connection.fetch("SELECT id, stream, domain, campaign, params->>'order' AS o FROM mailerd.outbox")
    assert {row["stream"] for row in rows} == {"transactional", "stream2"}
    assert {row["domain"] for row in rows} == {"d0.example", "d1.example", "d2.example", PAUSED_DOMAIN}
    assert {row["campaign"] for row in rows} == {"campaign0", "campaign1", None}
    assert len({row["o"] for row in rows}) == loader.rows == len(rows) == 14
    ids = sorted(loader.committed)
    assert ids == sorted(row["id"] for row in rows)

    # Of the 14: 0 to 3 accepted, 0 twice, 1 without an answer and again, 4 refused, 5 vanished, the rest still waits.
    (tmp_path / "l").mkdir()
    book = ledger.Ledger(tmp_path / "l" / "1.ledger")
    for message_id, answered in [(0, True), (0, True), (1, False), (1, True), (2, True), (3, True)]:
        book.add(ids[message_id], answered)
    book.close()
    await connection.execute("DELETE FROM mailerd.ready WHERE id = ANY($1)", ids[:6])
    await connection.execute("INSERT INTO mailerd.event (message_id, type) VALUES ($1, 'rejected')", ids[4])
    found = await audit(session, loader.rows, loader.committed, tmp_path / "l")
    assert (found.lost, found.duplicates, found.resent_in_doubt) == (1, 1, 1)
    assert (found.refused, found.waiting, len(found.times)) == (1, 8, 6)
    assert found.first.keys() == set(ids[:4])
    # Without knowing the ids, by counting alone: the same.
    counted = await audit(session, loader.rows, {}, tmp_path / "l")
    assert (counted.lost, counted.duplicates, counted.waiting) == (1, 1, 8)


async def test_single_messages_by_enqueue_carry_their_content(
    session: Session, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    loader = Loader(session, Settings(wake="notify"), ("Subject", "Text", "<p>HTML</p>"))
    before = time.monotonic()
    await loader.one("transactional")
    assert before < next(iter(loader.committed.values())) < time.monotonic()
    row = await connection.fetchrow("SELECT subject, text_body, html_body, template FROM mailerd.outbox")
    assert row is not None
    assert tuple(row) == ("Subject", "Text", "<p>HTML</p>", None)


def test_ledger_leaves_out_a_torn_record(tmp_path: Path) -> None:
    path = tmp_path / "1.ledger"
    book = ledger.Ledger(path)
    book.add(5)
    book.add(-1)
    book.close()
    with path.open("ab") as file:
        file.write(b"torn")
    assert [(entry.id, entry.answered) for entry in ledger.read(tmp_path)] == [(5, True), (-1, True)]
    assert ledger.accepted(tmp_path) == 2
    (tmp_path / "2.ledger").write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match="not a ledger"):
        list(ledger.read(tmp_path))


# -- the page ----------------------------------------------------------------------------------------------------------


def result(points: int) -> Result:
    series = [
        Point(float(n), 1000.0 + n, {"mailerd": 0.8, "sink": 0.1}, {"mailerd": 60.0, "sink": 20.0})
        for n in range(points)
    ]
    return Result(
        scenario="throughput",
        messages=1000,
        seconds=2.0,
        messages_per_second=500.0,
        latency_ms=Latency(1.0, 2.0, 3.0, 4.0),
        latency_of="all messages",
        cpu_us_per_message={"mailerd": 100.0, "postgres": None, "sink": 12.0},
        stages_us_per_message={"compose": 60.0, "<smtp>": 40.0},
        peak_rss_mb=60.0,
        memory_mb=Memory(50.0, 60.0, 60.0),
        lost=0,
        duplicates=None,
        resent_in_doubt=0,
        refused=0,
        waiting=0,
        instances=2,
        synchronous_commit="on",
        settings={"seed": "<script>alert(1)</script>"},
        versions=versions("18.4"),
        machine=machine(),
        latency_curve=[(share / 10, share / 100) for share in range(5, 1000, 5)],
        series=series,
    )


class Checker(HTMLParser):
    """Every element is closed, nothing is loaded from anywhere."""

    void = frozenset(("meta", "br", "path"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {"src", "href", "srcset", "data"} & {name for name, _ in attrs}
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


@pytest.mark.parametrize("points", [0, 1, 2, 200])
def test_page_is_one_well_formed_document(points: int) -> None:
    text = page(result(points))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert {"svg", "table", "style"} <= checker.seen
    assert not {"script", "link", "img", "iframe"} & checker.seen
    assert "url(" not in text
    assert "http" not in text
    assert "&lt;script&gt;" in text
    assert ("too short to draw" in text) == (points < 2)


@given(st.floats(1e-6, 1e9), st.integers(1, 8))
def test_ticks_are_round_and_reach_the_top(top: float, count: int) -> None:
    marks = ticks(top, count)
    assert marks[0] == 0
    assert marks[-1] >= top * 0.999
    assert len(marks) <= count + 2


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=20), st.booleans())
@example([(0.0, 0.0), (0.0, 0.0)], True)
@example([(0.0, 0.0), (5e-324, 5e-324)], False)
def test_charts_take_any_numbers(points: list[tuple[float, float]], log: bool) -> None:
    text = chart("t", "n", [Line("l", "a", sorted(points), True)], unit="u", x_label=number, log=log)
    assert "nan" not in text
    assert "inf" not in text.replace("info", "")


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 12345.6, 99.96, 84.52, 0.25, 100.0, 1.25e6)] == [
        "0",
        "12,346",
        "100",
        "84.5",
        "0.25",
        "100",
        "1.25 M",
    ]
