"""The unit files: what the daemon relies on, that systemd accepts them, and how little they may do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mailerd.config.model import Shutdown
from mailerd.config.reference import rows

ROOT = Path(__file__).parents[2]
UNITS = ("mailerd.service", "mailerd@.service")


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (ROOT / "systemd" / name).read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.mark.parametrize("name", UNITS)
def test_what_the_daemon_relies_on(name: str) -> None:
    unit = settings(name)
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["30"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["RestartPreventExitStatus"] == ["2 78"]
    assert unit["ExecStart"] == ["/opt/mailerd/bin/mailerd run --config /etc/mailerd/mailerd.toml"]
    assert float(unit["TimeoutStopSec"][0]) > Shutdown().grace
    assert "KillSignal" not in unit  # TERM drains


def test_the_template_differs_in_its_name_and_port_only() -> None:
    single, template = (settings(name) for name in UNITS)
    assert template.pop("Environment") == ["MAILERD_INSTANCE__NAME=%H-%i", "MAILERD_OPS__LISTEN=127.0.0.1:802%i"]
    assert template.pop("EnvironmentFile") == [*single.pop("EnvironmentFile"), "-/etc/mailerd/%i.env"]
    assert template.pop("Description") == [f"{single.pop('Description')[0]} (instance %i)"]
    assert single == template
    variables = {row["variable"] for row in rows()}
    assert {"MAILERD_INSTANCE__NAME", "MAILERD_OPS__LISTEN"} <= variables


@pytest.mark.debian
@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_it(name: str, tmp_path: Path) -> None:
    # `verify` wants the program to be there; any that is, will do.
    text = (ROOT / "systemd" / name).read_text().replace("/opt/mailerd/bin/mailerd", sys.executable)
    (tmp_path / name).write_text(text)
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.debian
@pytest.mark.parametrize("name", UNITS)
def test_it_may_do_little(name: str) -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", ROOT / "systemd" / name],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)
    assert overall is not None, result.stdout
    assert float(overall[1]) <= 2.0, result.stdout
