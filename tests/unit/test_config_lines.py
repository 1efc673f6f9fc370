"""The position scanner against tomllib: the same paths for any document, and the right line for each value."""

from __future__ import annotations

import tomllib
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mailerd.config.lines import Path, positions


def paths(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Every path of parsed data with its value."""
    found: dict[Path, Any] = {path: value} if path else {}
    if isinstance(value, dict):
        for key, below in value.items():
            found |= paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            found |= paths(below, (*path, index))
    return found


KEYS = st.sampled_from(["a", "b-c", "1", '"q.d"', "'x]'", '"h#\\u00e9"', '""'])
NUMBER = "@"  # replaced by a number that occurs once in the document
STRINGS = [
    '"# no [comment] {"',
    '"\\"]\\\\"',
    '"""\nx = 1 # "\n[t]\\"""" """',
    "'''\n'a' = 2\n'''",
    '"""a""""',
    "'''b''''",
]
SCALARS = st.sampled_from([NUMBER, "true", "1979-05-27T07:32:00Z", "-inf", '""', "''", *STRINGS])
SPACE = st.sampled_from(["", " ", "\n", "\r\n", " # ]}, = 3\n", "\t\n  "])
ARRAYS_OF = st.deferred(lambda: VALUES)


@st.composite
def arrays(draw: st.DrawFn) -> str:
    items = draw(st.lists(st.tuples(SPACE, ARRAYS_OF, SPACE), max_size=3))
    body = ",".join(before + item + after for before, item, after in items)
    return "[" + body + draw(SPACE) + "]"


@st.composite
def inline_tables(draw: st.DrawFn) -> str:
    keys = draw(st.lists(KEYS, unique=True, max_size=3))
    return "{" + ", ".join(f"{key} = {draw(ARRAYS_OF)}" for key in keys) + "}"


VALUES = st.one_of(SCALARS, arrays(), inline_tables())
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)
PAIRS = st.tuples(DOTTED, VALUES, st.sampled_from(["", " # [x]", "\t"])).map(lambda p: f" {p[0]} = {p[1]}{p[2]}")
HEADERS = st.one_of(DOTTED.map(lambda k: f"[ {k} ] # c"), DOTTED.map(lambda k: f"[[{k}]]"), st.just("# c = 1"))


def numbered(text: str) -> str:
    numbers = count(100_001)
    return "".join(str(next(numbers)) if c == NUMBER else c for c in text)


@given(st.lists(st.one_of(PAIRS, HEADERS), max_size=8), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_agrees_with_tomllib(lines: list[str], end: str) -> None:
    # Lines that make the document illegal (a key set twice, …) are left out, so that nearly every example counts.
    text = ""
    for line in map(str, lines):
        try:
            tomllib.loads(numbered(text + line + end))
        except tomllib.TOMLDecodeError:
            continue
        text += line + end
    text = numbered(text)
    expected = paths(tomllib.loads(text))
    found = positions(text)
    assert set(found) == set(expected)
    written = text.split("\n")
    for path, value in expected.items():
        if isinstance(value, int) and value > 100_000:
            assert str(value) in written[found[path] - 1]


def test_the_shapes_people_write() -> None:
    found = positions(
        '[database]\nurl = "x"  # y\n\n[[stream]]\nname = "a"\nretry = {\tfirst = "1s", max = "2s" }\n'
        '[[stream]]\npools = [\n  "one",\n  # none\n  "two",\n]\n[stream.retry]\nfirst = 3\n'
    )
    assert found["database", "url"] == 2
    assert found["stream", 0] == 4
    assert found["stream", 0, "retry", "max"] == 6
    assert found["stream", 1] == 7
    assert found["stream", 1, "pools", 1] == 11
    assert found["stream", 1, "retry"] == 13
    assert found["stream", 1, "retry", "first"] == 14
