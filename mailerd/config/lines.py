"""Where in a TOML text each key stands: key path to line number, for the errors of the loader.

`tomllib` keeps no positions. This scanner finds them in a text that `tomllib` has already accepted, so it checks
nothing; on anything it does not understand it would only miss a line, never a value. It reads each character once.
"""

from __future__ import annotations

import re
import tomllib

__all__ = ["Path", "positions"]

Path = tuple[str | int, ...]

DEEPEST = 32  # parts of a path: no key of ours is half as deep, and work grows with the square of it

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\"]|\\.|"(?!""))*"{3,5}', re.DOTALL),
    re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def positions(text: str) -> dict[Path, int]:
    """Every key path (array elements by number, from 0) with the line, from 1, where it is first set."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.counted = 0  # newlines before this offset are in `line`
        self.found: dict[Path, int] = {}
        self.tables: dict[Path, int] = {}  # arrays of tables: how many elements so far

    def run(self) -> dict[Path, int]:
        table: Path = ()
        while self.skip(_BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(re.compile(r"[^\n]*"))  # a comment behind it
        return self.found

    def skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def mark(self, path: Path, offset: int) -> None:
        self.line += self.text.count("\n", self.counted, offset)
        self.counted = offset
        for end in range(1, min(len(path), DEEPEST) + 1):
            self.found.setdefault(path[:end], self.line)

    def header(self) -> Path:
        start = self.at
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        keys = self.key()
        self.at += 2 if array else 1
        path: Path = ()
        for index, key in enumerate(keys):
            path = (*path, key)
            last = index == len(keys) - 1
            if array and last:
                self.tables[path] = self.tables.get(path, 0) + 1
            if path in self.tables:  # "[a.b]" below "[[a]]" belongs to the newest a
                path = (*path, self.tables[path] - 1)
        self.mark(path, start)
        return path

    def key(self) -> list[str]:
        keys: list[str] = []
        while True:
            self.skip(_SPACE)
            start = self.at
            if self.text[start] in "\"'":
                self.string()
                keys.append(tomllib.loads(f"k = {self.text[start : self.at]}")["k"])
            else:
                keys.append(self.text[start : self.skip(_BARE)])
            self.skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def pair(self, table: Path) -> None:
        start = self.at
        path = (*table, *self.key())
        self.mark(path, start)
        self.at += 1  # "="
        self.skip(_SPACE)
        self.value(path)

    def value(self, path: Path) -> None:
        opening = self.text[self.at : self.at + 1]
        if opening in ("[", "{"):
            self.at += 1
            self.inside(path, "]" if opening == "[" else "}")
        elif not self.string():
            self.skip(_SCALAR)

    def inside(self, path: Path, closing: str) -> None:
        index = 0
        while self.skip(_BLANK) < len(self.text) and not self.text.startswith(closing, self.at):
            if closing == "]":
                self.mark((*path, index), self.at)
                self.value((*path, index))
                index += 1
            else:
                self.pair(path)
            self.skip(_BLANK)
            if self.text.startswith(",", self.at):
                self.at += 1
        self.at += 1

    def string(self) -> bool:
        for pattern in _STRINGS:
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return True
        return False
