"""`mailerd top`: what it draws of an overview, how it measures speed, and a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from click.testing import CliRunner
from rich.console import Console

from mailerd.cli import main
from mailerd.cli.glance import Glance
from mailerd.cli.top import Speed, screen
from mailerd.store.overview import Instance, Lane, Overview, Partitions, Provider, Stream

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
SEEN = Glance(
    Overview(
        at=NOW,
        measured_at=NOW,
        streams=[Stream(name="transactional", ready=1_234_567, live=True), Stream(name="old")],
        providers=[Provider(name="relay", state="open", connections=0, reason="535 \x1b[31mno\nway")],
        instances=[
            Instance(
                id=1,
                name="a",
                pid=32666,
                version="1",
                state="running",
                streams=["transactional"],
                providers=[],
                started_at=NOW,
                seen_at=NOW,
                live=True,
            )
        ],
        paused=[],
        partitions=[Partitions(table="event", count=1, days_ahead=0, ok=False)],
        lanes=[Lane(stream="transactional", priority=5, domain="gmail.com", campaign="", messages=12)],
    ),
    {0: "pool:default/domain:gmail, 20/s"},
    [],
)


def drawn(seen: Glance | None, words: str, *, stale: bool) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(screen(seen, words, stale=stale))
    console.file.close()
    return console.export_text()


def test_a_picture() -> None:
    text = drawn(SEEN, "7 events/s", stale=False)
    for words in (
        "mailerd top  7 events/s  2026-11-26 12:00:00 UTC  event: no partition for tomorrow",
        "1,234,567",
        "no instance",
        "pool:default/domain:gmail, 20/s",
        "32666",
        r"535 \x1b[31mno\nway",
    ):
        assert words in text


def test_without_a_database_the_last_picture_stays() -> None:
    text = drawn(SEEN, "cannot reach Postgres", stale=True)
    assert "cannot reach Postgres" in text
    assert "1,234,567" in text
    assert drawn(None, "cannot reach Postgres", stale=True).strip() == "mailerd top  cannot reach Postgres"


def test_speed() -> None:
    speed = Speed()
    assert speed.add(0.0, 100) is None
    assert speed.add(10.0, 1100) == 100.0
    assert speed.add(31.0, 3200) == 100.0  # the first look is too old to count
    assert speed.add(32.0, 5) is None  # another database


def test_it_wants_a_terminal() -> None:
    result = CliRunner().invoke(main, ["top"])
    assert result.exit_code == 2
    assert "mailerd status" in result.stderr


def test_on_a_real_terminal(tmp_path: Path) -> None:
    (tmp_path / "mailerd.toml").write_text('[database]\nurl = "postgresql://127.0.0.1:9/x"\nconnect_timeout = "1s"\n')
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mailerd", "top", "--interval", "0.5"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs in the background ignores it
    )
    os.close(theirs)
    try:
        shown, end = b"", monotonic() + 20
        while b"cannot reach" not in shown and monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                shown += os.read(ours, 65536)
        assert b"cannot reach" in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown)
        process.send_signal(signal.SIGINT)  # as a terminal does for Control-C
        end = monotonic() + 20
        while process.poll() is None and monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    os.read(ours, 65536)
                except OSError:  # it is gone
                    break
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(ours)
