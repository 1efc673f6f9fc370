"""Raw tables to Structs, with every mistake of type, range and spelling on the way.

`msgspec.convert` stops at the first error and knows no lines, so this walks the model itself, key by key. It looks at
one value at a time; what values must be together is `rules`. Where a value is wrong the key's default (or an empty
value) stands in, so that the walk can go on: a tree with problems is never used.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path as FilePath
from typing import Any, TypeVar

import msgspec

from mailerd.config import values
from mailerd.config.base import Cap, Duration, Quota, Rate, Section, Size
from mailerd.config.later import LATER, LATER_CHOICES
from mailerd.config.lines import Path
from mailerd.config.model import Config
from mailerd.config.problem import Problem, suggestion
from mailerd.config.schema import Key, keys

__all__ = ["Source", "Tree", "table_name"]

S = TypeVar("S", bound=Section)

_MISSING: Any = object()
_TYPES = {"text": str, "choice": str, "integer": int, "boolean": bool}
_WORDS = {
    "text": "text in quotes",
    "choice": "text in quotes",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "list": 'a list of names, as in ["relay"]',
    "numbers": "a list of whole numbers, as in [50, 100]",
}
_STAND_INS: dict[str, Any] = {"list": (), "rate": Rate(1)}  # for a required value that is wrong or missing
_FALSE_TRUE = {"false": False, "0": False, "no": False, "off": False, "true": True, "1": True, "yes": True, "on": True}


class Source(msgspec.Struct, frozen=True):
    """Where a value came from. `text`: it is the text of a variable or secret file, so `20` may be a number."""

    origin: str
    line: int | None = None
    text: bool = False


class Tree:
    """One configuration on its way: raw `data`, the `lines` of its keys, the `sources` of its values, its problems.

    Paths are tuples of keys and element numbers, as in the raw data: ("provider", 0, "port").
    """

    def __init__(self, data: dict[str, Any], lines: dict[Path, int], base: FilePath) -> None:
        self.data = data
        self.lines = lines
        self.base = base  # relative paths in the file start here
        self.sources: dict[Path, Source] = {}
        self.problems: list[Problem] = []
        self.wrong: set[Path] = set()  # paths with a problem: what stands there now is a default
        self.decoded: list[tuple[Path, Section]] = []

    def label(self, path: Path) -> str:
        """The path for people: elements by their name (`provider.relay.port`), or by number from 0 (`provider[1]`)."""
        words = ""
        for index, part in enumerate(path):
            if isinstance(part, str):
                words += f".{part}" if words else part
            else:
                name = table_name(self.data, str(path[index - 1]), part) if index == 1 else None
                words += f".{name}" if name else f"[{part}]"
        return words

    def line(self, path: Path) -> int | None:
        """The line of the key, or of the nearest table around it; None if the value came from elsewhere."""
        if path in self.sources:
            return self.sources[path].line
        return next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)

    def problem(self, path: Path, message: str, part: Path = ()) -> None:
        """Notes a problem of the value at `path`; `part` is an element of that value which may have its own line."""
        source = self.sources.get(path)
        where = f" (from {source.origin})" if source and source.text else ""
        at = path if source and source.text else (*path, *part)
        self.problems.append(Problem(self.label(path), self.line(at), message + where))
        self.wrong.add(path)

    def tables(self, section: type[S]) -> Iterator[tuple[Path, S]]:
        """Every decoded table of a kind, with its path."""
        for path, table in self.decoded:
            if isinstance(table, section):
                yield path, table

    def names(self, table: str) -> dict[str, Path]:
        """The names of `[[table]]`, also of those that could not be decoded; the first of several alike."""
        raw = self.data.get(table)
        found: dict[str, Path] = {}
        for index in range(len(raw) if isinstance(raw, list) else 0):
            if name := table_name(self.data, table, index):
                found.setdefault(name, (table, index))
        return found

    def decode(self) -> Config:
        """The Config; look at `problems` before using it."""
        config = self._table(Config, self.data, ())
        assert isinstance(config, Config)
        return config

    def _table(self, section: type[Section], raw: dict[str, Any], path: Path) -> Section:
        known = keys(section)
        for name in raw:
            if name not in known:
                self._unknown(name, (*path, name), known)
        arguments: dict[str, Any] = {}
        for name, key in known.items():
            value = self._value(key, raw[name], (*path, name)) if name in raw else _MISSING
            if value is not _MISSING:
                arguments[key.attribute] = value
            elif key.required:
                arguments[key.attribute] = _STAND_INS.get(key.kind, "")
                if name not in raw:
                    self.problem((*path, name), "must be given")
        table = section(**arguments)
        self.decoded.append((path, table))
        return table

    def _unknown(self, name: str, path: Path, known: dict[str, Key]) -> None:
        later = LATER.get(_generic(path))
        if later:
            self.problem(path, f"not available in this version ({later}): remove it, it would not be kept")
        else:
            kind = "table" if len(path) == 1 else "key"
            self.problem(path, f"unknown {kind}{suggestion(name, known)}")

    def _value(self, key: Key, raw: Any, path: Path) -> Any:
        if key.kind == "tables":
            return self._tables(key, raw, path)
        if key.kind == "table":
            assert key.of is not None
            if isinstance(raw, list) and raw and isinstance(raw[0], dict):
                self.problem(path, f"there is only one: write [{key.name}], with single brackets")
            elif not isinstance(raw, dict):
                self.problem(path, f"must be a table, as in [{self.label(path)}]")
            else:
                return self._table(key.of, raw, path)
            return _MISSING
        source = self.sources.get(path)
        try:
            return self._leaf(key, raw, path, text=source is not None and source.text)
        except ValueError as wrong:
            self.problem(path, str(wrong))
            return _MISSING

    def _tables(self, key: Key, raw: Any, path: Path) -> Any:
        assert key.of is not None
        if not isinstance(raw, list) or not all(isinstance(element, dict) for element in raw):
            self.problem(path, f"there may be several: write [[{key.name}]], with double brackets")
            return ()
        return tuple(self._table(key.of, element, (*path, index)) for index, element in enumerate(raw))

    def _leaf(self, key: Key, raw: Any, path: Path, *, text: bool) -> Any:
        if key.kind == "duration":
            return Duration(values.duration(raw, zero=key.extra.get("zero", False)))
        if key.kind == "size":
            return Size(values.size(raw))
        if key.kind == "rate":
            return Rate(values.rate(raw))
        if key.kind == "quota":
            return Quota(values.quota(raw))
        if key.kind == "cap":
            values.cap(raw)
            return Cap(raw.strip())
        value = _from_text(key, raw) if text else raw
        if key.extra.get("date") and isinstance(value, date) and not isinstance(value, datetime):
            value = value.isoformat()
        if key.kind == "numbers":
            if not isinstance(value, list) or not all(type(item) is int for item in value):
                raise ValueError(f"must be {_WORDS['numbers']}")
            return tuple(value)
        if key.kind == "list":
            if isinstance(value, str) and key.extra.get("one"):
                value = [value]
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"must be {_WORDS['list']}")
            value = tuple(value)
        elif key.kind == "number":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"must be {_WORDS['number']}")
        elif type(value) is not _TYPES[key.kind]:
            raise ValueError(f"must be {_WORDS[key.kind]}")
        return self._checked(key, value, path)

    def _checked(self, key: Key, value: Any, path: Path) -> Any:
        if key.ge is not None and not value >= key.ge:
            raise ValueError(f"must be at least {key.ge:g}")
        if key.le is not None and not value <= key.le:
            raise ValueError(f"must be at most {key.le:g}")
        if key.kind == "number":
            return float(value)
        if key.kind == "choice" and value not in key.choices:
            if value in LATER_CHOICES.get(_generic(path), ()):
                raise ValueError(f"`{value}` is not available in this version; there is {_listed(key.choices)}")
            near = suggestion(value, key.choices)
            hint = near if "did you mean" in near else ""
            raise ValueError(f"must be one of {_listed(key.choices)}, not `{value}`{hint}")
        if key.kind == "list":
            if len(value) < key.min_length:
                raise ValueError("must name at least one")
            twice = next((item for index, item in enumerate(value) if item in value[:index]), None)
            if twice is not None:
                raise ValueError("names one twice" if key.extra.get("secret") else f"names `{twice}` twice")
        if key.kind == "text":
            return self._text(key, value, path)
        return value

    def _text(self, key: Key, value: str, path: Path) -> str:
        if not value and key.default != "":
            raise ValueError("must not be empty")
        if not value.isprintable():
            raise ValueError("must not hold control characters")
        if key.pattern and not re.search(key.pattern, value):
            raise ValueError(f"must be {key.extra.get('words', key.pattern)}")
        if key.extra.get("path"):
            # A variable was written by someone who stood somewhere else than the file.
            source = self.sources.get(path)
            return os.path.normpath(FilePath.cwd() / value if source and source.text else self.base / value)
        return value


def table_name(data: dict[str, Any], table: str, index: int) -> str | None:
    """The `name` of a `[[table]]` element of raw data, if it has a usable one."""
    elements = data.get(table)
    element = elements[index] if isinstance(elements, list) and index < len(elements) else None
    name = element.get("name") if isinstance(element, dict) else None
    return name if isinstance(name, str) and name.isprintable() and name else None


def _generic(path: Path) -> str:
    return ".".join(part for part in path if isinstance(part, str))


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _from_text(key: Key, raw: str) -> Any:
    """The text of a variable as the type of its key; what does not fit is left alone, and refused like the file's."""
    if key.kind == "list":
        return [item.strip() for item in raw.split(",") if item.strip()]
    if key.kind == "numbers":
        items = [item.strip() for item in raw.split(",")]
        return [int(item) for item in items] if all(item.isascii() and item.isdigit() for item in items) else raw
    if key.kind == "boolean":
        return _FALSE_TRUE.get(raw.strip().lower(), raw)
    if key.kind in ("integer", "number"):
        try:
            return int(raw) if key.kind == "integer" else float(raw)
        except ValueError:
            return raw
    return raw
