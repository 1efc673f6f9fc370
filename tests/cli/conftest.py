from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Commands


@pytest.fixture
def commands(database: str, tmp_path: Path) -> Commands:
    return Commands(database, tmp_path)
