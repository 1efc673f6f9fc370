"""What one rendering may use: CPU time, values of so many characters and elements, and so much of them altogether.

Time is asked for only from the 1000th step on, so that usual mail is rendered without a look at a clock. A step is a turn
of a loop or a macro; whatever works on a large value counts as so many more, so that a thousand free turns over
megabytes are not free. Space is counted where a value is made, and never given back: what is measured is what a
template wants, not what happens to be alive.

`weigh` looks into lists and dictionaries before something turns them into text, compares or hashes them: since a
template can put a list twice into another one, sixty lines make a value that no machine can write down. It counts what
would be written, and stops at its limit.

Each thread has its own; `start_meter` begins a rendering.
"""

from __future__ import annotations

import threading
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from time import thread_time
from typing import Any

from jinja2.utils import Namespace
from markupsafe import Markup

__all__ = ["LARGE", "VALUE_LIMIT", "TooMuch", "elements", "made", "spend", "start_meter", "ticking", "weigh", "weighed"]

CPU_LIMIT = 0.5  # seconds of one rendering, checked every STEPS steps
FREE_STEPS, STEPS = 1000, 200
VALUE_LIMIT = 8_388_608  # characters of one value made inside a template
NODES = 100_000  # elements of one value, with those of all values in it
SPACE = 67_108_864  # characters of all values that one rendering makes; an element counts as eight
LARGE = 1024  # characters below which nothing is counted
_SCALARS = frozenset((int, float, bool, type(None)))
_LISTS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)
_PER_STEP, _PER_NODE_STEP = 8, 3  # bits: 256 characters, or 8 elements, are a step


class TooMuch(Exception):
    """A template wants more time or space than a mail can need."""


class _Meter(threading.local):
    left = FREE_STEPS
    started = 0.0
    space = SPACE
    scale = 1

    def refill(self) -> None:
        now = thread_time()
        if not self.started:
            self.started = now
        elif now - self.started > CPU_LIMIT * self.scale:
            raise TooMuch(f"still rendering after {CPU_LIMIT * self.scale:g} s of CPU time")
        self.left = STEPS


_meter = _Meter()


def start_meter(scale: int = 1) -> None:
    """Give the rendering that begins now in this thread its allowance: so many times that of a mail."""
    _meter.left = FREE_STEPS
    _meter.started = 0.0
    _meter.space = SPACE * scale
    _meter.scale = scale


def spend(steps: int) -> None:
    """So many steps are about to be taken."""
    meter = _meter
    meter.left -= steps
    if meter.left < 0:
        meter.refill()


def made(size: int) -> None:
    """A value of so many characters is about to be made, or has been."""
    if size > LARGE:
        meter = _meter
        if size > VALUE_LIMIT * meter.scale:
            raise TooMuch(f"a value of {size} characters, at most {VALUE_LIMIT * meter.scale} are allowed")
        meter.space -= size
        if meter.space < 0:
            raise TooMuch(f"values of more than {SPACE} characters in all")
        spend(size >> _PER_STEP)


def elements(count: int) -> None:
    """A list of so many elements is about to be made, or has been."""
    if count > NODES:
        raise TooMuch(f"a value of {count} elements, at most {NODES} are allowed")
    made(count * 8)


def weighed(value: Any) -> Any:
    """`value`, which is about to be looked at from end to end."""
    kind = type(value)
    if kind is str or kind is Markup:
        if len(value) > LARGE:
            spend(len(value) >> _PER_STEP)
    elif kind not in _SCALARS:
        weigh(value)
    return value


def weigh(value: Any) -> int:
    """About how many characters `value` has when it is written down. Raises `TooMuch` for too many, or too many elements."""
    nodes = chars = 0
    most = VALUE_LIMIT * _meter.scale
    stack = [value]
    while stack:
        one = stack.pop()
        kind = type(one)
        if kind is str:
            chars += len(one)
            if chars > most and one is not value:
                raise TooMuch(f"a value with more than {most} characters in it")
            continue
        if kind in _SCALARS:
            continue
        if kind is dict or isinstance(one, dict):
            nodes += len(one)
            if nodes <= NODES:
                stack += one
                stack += one.values()
        elif kind is list or isinstance(one, _LISTS):
            nodes += len(one)
            if nodes <= NODES:
                stack += one
        elif isinstance(one, str | bytes):  # Markup
            chars += len(one)
        elif isinstance(one, Namespace):  # it may hold itself
            nodes += 64
            stack.append(one._Namespace__attrs)
        if nodes > NODES:
            raise TooMuch(f"a value of more than {NODES} elements, with those inside them")
    if nodes > LARGE or chars > LARGE:
        spend((nodes >> _PER_NODE_STEP) + (chars >> _PER_STEP))
    return chars + nodes * 24


def ticking(items: Iterator[Any]) -> Iterator[Any]:
    """What a filter gives one by one, each of them a step."""
    for item in items:
        spend(2)
        yield item
