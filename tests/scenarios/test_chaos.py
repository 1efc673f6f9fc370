"""Every chaos scenario in its short form: real instances, real faults, and the promises held against the facts.

How fast things go is no matter here: promises that a busy machine may break are for `make chaos`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mailerd.bench.chaos.run import SCENARIOS

DEBIAN = {"pgbouncer"}  # needs a package


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.debian] if name in DEBIAN else []) for name in SCENARIOS]
)
def test_promises(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailerd", "bench", "--chaos", name, "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout, done.stderr
    (report,) = json.loads(done.stdout)
    if report["skipped"]:
        pytest.skip(report["skipped"])
    assert not report["error"], report["error"]
    broken = [promise for promise in report["verdict"]["promises"] if not promise["kept"] and not promise["timed"]]
    assert not broken, report
    assert report["faults"]
    assert report["verdict"]["accepted"] > 0


def test_an_unknown_scenario_is_told_with_those_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailerd", "bench", "--chaos", "earthquake"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "kill-9" in done.stderr
