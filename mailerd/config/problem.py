"""What is wrong with a configuration, as values: where (key path and line) and in words that say what to do.

A loader collects problems and raises them together as one `ConfigError`; nobody fixes five mistakes in five runs.
Messages never hold the value of a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import msgspec

__all__ = ["ConfigError", "Problem", "suggestion"]


class Problem(msgspec.Struct, frozen=True):
    """One mistake. `path` is the key path (`provider.relay.port`; '' for the file itself), `line` its line or None."""

    path: str
    line: int | None
    message: str

    def render(self, source: str = "") -> str:
        """One line: `mailerd.toml:12: provider.relay.port: must be …`; `source` is the file's name, if there is one."""
        parts = [f"{source}:{self.line}" if source and self.line else source if not self.path else "", self.path]
        line = ": ".join([part for part in parts if part] + [self.message])
        # Names and values come from a file: a line break in one must not make two lines of this, nor play with a terminal.
        return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class ConfigError(Exception):
    """The configuration cannot be used. `problems` is never empty and in order of lines; `source` names the file."""

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        self.problems = sorted(problems, key=lambda p: (p.line is None, p.line or 0))
        self.source = source
        super().__init__("; ".join(self.lines()))

    def lines(self) -> list[str]:
        """The problems, one line each."""
        return [problem.render(self.source) for problem in self.problems]


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` if a known word is near, else all of them if they are few, else nothing."""
    words: Sequence[str] = sorted(set(known))
    folded = {name.lower(): name for name in words}
    near = get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean `{folded[near[0]]}`?"
    if words and len(words) <= 6:
        return f"; there is {', '.join(f'`{name}`' for name in words)}"
    return ""
