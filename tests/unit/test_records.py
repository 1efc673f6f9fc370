"""Long texts keep their words, and ids stay whole, however narrow the terminal."""

from __future__ import annotations

import pytest

from mailerd.cli import output, records
from mailerd.cli.records import print_fields, print_records

REASON = "550 5.1.1 The email account that you tried to reach does not exist, see https://support.example/?p=NoSuchUser"
COLUMNS = ("ID", "RECIPIENT", "TRIES", "REASON")
ROWS = [(456641703051271, "ann@example.org", 3, REASON), (7, "b@x\x1b[2J", 12, None)]


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int | None) -> None:
    for module in (output, records):
        monkeypatch.setattr(module, "is_terminal", lambda: columns is not None)
    monkeypatch.setenv("COLUMNS", str(columns or 20))
    monkeypatch.setenv("NO_COLOR", "1")


def test_a_narrow_terminal_gets_the_text_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, 60)
    print_records(COLUMNS, ROWS, right=("TRIES",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "456641703051271  ann@example.org      3"
    assert all(len(line) <= 60 for line in lines if "https" not in line)
    assert " ".join(line.strip() for line in lines[2:-1]) == REASON, "words are never broken"
    assert lines[-1] == r"7                b@x\x1b[2J          12", "no line for a text that is not there"


@pytest.mark.parametrize("columns", [200, None])
def test_a_wide_one_and_a_pipe_get_a_row_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None
) -> None:
    terminal(monkeypatch, columns)
    print_records(COLUMNS, ROWS, right=("TRIES",))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].rstrip().endswith(REASON)
    assert "\x1b" not in lines[2].replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_fields_go_on_below_themselves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal(monkeypatch, 60)
    print_fields([("reason", REASON), ("class", None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reason      550 5.1.1 The")
    assert all(line.startswith(" " * 12) for line in lines[1:-1])
    assert lines[-1] == "class       -"
    terminal(monkeypatch, None)
    print_fields([("reason", REASON)])
    assert capsys.readouterr().out == f"reason      {REASON}\n"
