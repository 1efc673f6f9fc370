"""Runs commands as a user does, against a test's database."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mailerd.cli import main

__all__ = ["Commands"]


class Commands:
    """`await commands("status", "--json")` in an environment with nothing but a database in it."""

    def __init__(self, url: str, folder: Path, text: str = "") -> None:
        self._file = folder / "mailerd.toml"
        self._file.write_text(f'[database]\nurl = "{url}"\nconnect_timeout = "2s"\n{text}')

    async def __call__(self, *arguments: object, code: int = 0, stdin: str | None = None) -> Result:
        """The result; fails unless the exit status is `code`."""
        env = {name: None for name in os.environ if name.startswith(("MAILERD_", "PG"))}
        words = ["--config", str(self._file), *map(str, arguments)]
        # A command has its own event loop, so it needs a thread of its own.
        result = await asyncio.to_thread(CliRunner().invoke, main, words, stdin, env)
        assert result.exit_code == code, f"exit {result.exit_code}\n{result.output}"
        assert "Traceback" not in result.output
        return result

    async def json(self, *arguments: object, code: int = 0) -> Any:
        """What `--json` prints."""
        return json.loads((await self(*arguments, "--json", code=code)).stdout)
