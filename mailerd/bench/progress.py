"""What a person sees while a load test runs: a live line on a terminal, one line a phase elsewhere. Writes to stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """`phase(text, total)`, then `step(done)` as often as wanted."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._task: Any = None
        self._began = 0.0

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Live

            self._live = Live(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                refresh_per_second=8,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            if kind is None:
                self._finish()
            self._live.stop()

    def _finish(self) -> None:
        if self._live is not None and self._task is not None:
            task = self._live.tasks[self._task]
            self._live.update(self._task, total=task.total or 1, completed=task.total or 1)

    def phase(self, text: str, total: int | None = None) -> None:
        """What begins now; `total` messages of it, if that can be said."""
        self._began = time.monotonic()
        if self._live is not None:
            self._finish()
            self._task = self._live.add_task(text, total=total, rate="")
        elif not self._quiet:
            print(f"{text}{f': {total:,}' if total else ''} ...", file=sys.stderr, flush=True)  # noqa: T201

    def step(self, done: int) -> None:
        if self._live is not None and self._task is not None:
            seconds = time.monotonic() - self._began
            rate = f"{done / seconds:,.0f}/s" if seconds > 0.5 else ""
            self._live.update(self._task, completed=done, rate=rate)
