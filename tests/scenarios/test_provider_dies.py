"""A provider dies at full speed, and the other one of its pool takes over: what must hold on a busy machine, too.

How fast things are back is for `mailerd bench --scenario failover`.
"""

from __future__ import annotations

import json
import subprocess
import sys


def test_one_of_two_providers_dies_at_full_speed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailerd", "bench", "--scenario", "failover", "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    kept = {promise["name"]: promise["kept"] for promise in report["promises"]}
    assert kept["nothing is lost"], report
    assert kept["nothing is sent twice without doubt on record"], report
