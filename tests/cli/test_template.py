"""`mailerd template`, as its users run it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import Commands


async def test_from_init_to_rollback(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    await commands("template", "init", folder)
    await commands("template", "init", folder, code=1)
    done = json.loads((await commands("template", "push", "--from", folder, "--json")).stdout)
    assert {(d["name"], d["version"], d["new"]) for d in done} == {
        (name, 1, True) for name in ("digest", "newsletter", "password-reset", "receipt", "welcome")
    }
    assert "no fault" in (await commands("template", "push", "welcome", "--from", folder, "--check")).stdout
    (folder / "welcome/subject.j2").write_text("Hello, {{ name }}")
    assert "+Hello, {{ name }}" in (await commands("template", "diff", "welcome", "--from", folder, code=1)).stdout
    await commands("template", "push", "welcome", "--from", folder, "--percent", 10, "--variant", "b")
    shown = json.loads((await commands("template", "list", "welcome", "--json")).stdout)
    assert [(v["version"], v["shares"][0]["percent"]) for v in shown] == [(2, 10.0), (1, 90.0)]
    await commands("template", "share", "welcome", "1=50:a", "2=50:b")
    await commands("template", "share", "welcome", "1=50", code=2)
    assert "Hello" in (await commands("template", "show", "welcome@2")).stdout
    assert "welcome@1" in (await commands("template", "rollback", "welcome")).stdout
    await commands("template", "rollback", "welcome", 9, code=1)


async def test_a_fault_stores_nothing(commands: Commands, tmp_path: Path) -> None:
    home = tmp_path / "t" / "bad"
    home.mkdir(parents=True)
    (home / "html.j2").write_text("<p>{{ name </p>")
    refused = await commands("template", "push", "--from", tmp_path / "t", code=1)
    assert "bad/html.j2, line 1, column" in refused.stderr
    assert json.loads((await commands("template", "list", "--json")).stdout) == []


async def test_preview_writes_files_and_a_page(commands: Commands, tmp_path: Path) -> None:
    folder, out = tmp_path / "templates", tmp_path / "out"
    await commands("template", "init", folder)
    await commands("template", "preview", "receipt", "--from", folder, "--to", out)
    assert "A-10234" in (out / "receipt.html").read_text()
    assert "A-10234" in (out / "receipt.txt").read_text()
    page = (out / "receipt.preview.html").read_text()
    assert page.count("<iframe") == 2
    assert 'width="360"' in page
