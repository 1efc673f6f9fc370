"""The project's own files: what a fresh clone promises, and the house rules that no linter knows."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mailerd

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "mailerd").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_licence_is_apache_2_0_word_for_word() -> None:
    assert hashlib.md5((ROOT / "LICENSE").read_bytes()).hexdigest() == "3b83ef96387f14655fc854ddc3c6bd57"
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", mailerd.__version__)
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "mailerd/__init__.py"


def test_every_import_is_a_declared_dependency() -> None:
    imported: set[str] = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    called = {"dns": "dnspython"}  # where the project has another name than its package
    ours = {called.get(name, name) for name in imported - set(sys.stdlib_module_names) - {"mailerd"}}
    project = PROJECT["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["quickstart"]]
    names = {re.split(r"[><=\[ ]", line)[0].lower().replace("-", "_") for line in declared}
    assert {name.lower() for name in ours} <= names


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_make_builds_its_own_environment_first(target: str, tmp_path: Path) -> None:
    # In a fresh clone: what would it run?
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    plan = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    steps = [line for line in plan.stdout.splitlines() if ".venv" in line]
    assert re.search(r"python3?\S* -m venv \.venv", steps[0])
    assert "pip install" in steps[1]
    assert steps[-1].startswith(".venv/bin/")


def test_ci_runs_the_tests_first_and_asks_nothing() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail\n" in text
    order = [text.index(line) for line in ("\nexec </dev/null\n", "\nmake test\n", "make lint\n", "pytest -m debian\n")]
    assert order == sorted(order)
    subprocess.run(["bash", "-n", script], check=True, timeout=60)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_one_short_file_that_says_what_it_is(module: Path) -> None:
    text = module.read_text()
    assert len(text.splitlines()) <= 500
    if text.strip() and module.name != "__init__.py":
        doc = ast.get_docstring(ast.parse(text))
        assert doc, "begins with a paragraph: what it does, what it never does, its hazards"
