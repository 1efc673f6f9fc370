"""`mailerd bounce parse`: files, a Maildir, standard input, JSON; no configuration and no database needed."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from mailerd.cli.bounce import bounce
from tests.inbound import mails


def test_a_maildir_and_a_file(tmp_path: Path) -> None:
    box = tmp_path / "box"
    for name in ("new", "cur", "tmp"):
        (box / name).mkdir(parents=True)
    (box / "new" / "1").write_bytes(mails.QMAIL)
    (box / "tmp" / "2").write_bytes(mails.DSN)
    (tmp_path / "away.eml").write_bytes(mails.AWAY)
    done = CliRunner().invoke(bounce, ["parse", str(box), str(tmp_path / "away.eml")])
    assert done.exit_code == 0, done.output
    header, *rows = done.output.splitlines()
    assert header.split()[:4] == ["FILE", "KIND", "RECIPIENT", "ACTION"]
    assert [row.split()[1:4] for row in rows] == [
        ["bounce", "una@gone.example", "failed"],
        ["bounce", "vito@full.example", "failed"],
        ["bounce", "wim@wary.example", "failed"],
        ["auto_reply", "-", "-"],
    ]
    assert "<m5@shop.example>" in rows[0]


def test_standard_input_as_json() -> None:
    done = CliRunner().invoke(bounce, ["parse", "-", "--json"], input=mails.DSN)
    (entry,) = json.loads(done.output)
    assert entry["file"] == "-"
    assert entry["report"]["results"][0]["status"] == "5.1.1"
    assert entry["report"]["trace"]["message_ids"] == ["m1077@shop.example"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(bounce, ["parse", str(tmp_path / "none.eml")])
    assert done.exit_code == 1
    assert done.output == f"mailerd: {tmp_path / 'none.eml'}: No such file or directory\n"
