"""Jinja's filters and tests behind measures: what one is given is weighed, and what it would make is known, before it runs.

A filter is one call into C or into a loop of Python that nothing can interrupt, so each has its bounds: on the size of
what it makes (`_SIZES`), on what it takes if its work grows faster than its input (`_TEXTS`, `_LISTS`), and all of them on
what is inside the lists they are given. What a filter gives one by one is metered like a loop.

Pure. Hazard: a filter that Jinja adds is weighed only; if its work grows with the square of something, it belongs into
a table here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import wraps
from types import GeneratorType
from typing import Any, Final

from jinja2.filters import FILTERS, make_attrgetter
from jinja2.tests import TESTS
from markupsafe import soft_str

from .ration import LARGE, TooMuch, elements, made, ticking, weigh, weighed

__all__ = ["FILTERS_MEASURED", "SQUARE_LIMIT", "TESTS_MEASURED", "WORD_LIMIT", "percent"]

SQUARE_LIMIT: Final = 65_536  # characters, where work grows with the square of them
SORT_LIMIT: Final = 20_000  # elements, where each costs some microseconds
SLOW_LIMIT: Final = 1_048_576  # characters, where each costs some of a microsecond
DIGITS_LIMIT: Final = 4300  # as Python's own, for a number in base ten
INDENT_LIMIT: Final = 16
WORD_LIMIT: Final = 1000  # characters of a name, or of what is looked for
ENDLESS: Final = 1 << 50  # characters that nobody may make

_wide = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d{4}|\d*\.(?:\*|\d{4}))").search

# They look at none, or at one, of what they are given.
_CHEAP: Final = frozenset(("abs", "attr", "count", "d", "default", "first", "last", "length", "random", "safe"))
# Their other arguments are names or single words.
_WORDS: Final = frozenset(
    ["groupby", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "trim", "unique"]
)
# They hand on what is in a list, and do not look into it.
_SHALLOW: Final = frozenset(
    ("batch", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice")
)
_PLAIN: Final = frozenset((int, float, bool, type(None)))
_LISTS: Final = {
    **dict.fromkeys(("dictsort", "groupby", "max", "min", "sort", "unique"), SORT_LIMIT),
    "pprint": SORT_LIMIT // 2,
}
_TEXTS: Final = {
    **dict.fromkeys(("striptags", "urlize", "wordwrap"), SQUARE_LIMIT),
    **dict.fromkeys(("pprint", "title", "urlencode", "wordcount", "list", "reverse"), SLOW_LIMIT),
    **dict.fromkeys(("int", "float"), DIGITS_LIMIT),
}


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    return int(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))


def _replaced(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    text, old, new = soft_str(text), soft_str(old), soft_str(new)
    return len(text) + (text.count(old) * len(new) if len(new) > len(old) else 0)


def _urlized(text: Any, *_: Any, **kwargs: Any) -> int:
    words = sum(len(v) for v in (*_, *kwargs.values()) if isinstance(v, str))
    return len(text) + (soft_str(text).count(".") + 1) * words


# How large the result of a filter becomes, from the filter's own arguments.
_SIZES: Final[dict[str, Callable[..., int]]] = {
    "batch": lambda value, linecount, *_, **__: linecount,
    "center": lambda value, width=80: width,
    "format": lambda form, *args, **kwargs: percent(soft_str(form), [*args, *kwargs.values()]),
    "indent": _indented,
    "replace": _replaced,
    "round": lambda value, precision=0, *_, **__: ENDLESS * (abs(precision) > 300) + 1,
    "slice": lambda value, slices, *_, **__: slices,
    "tojson": lambda value, indent=None: ENDLESS * ((indent or 0) > INDENT_LIMIT) + 1,
    "truncate": lambda text, length=255, killwords=False, end="...", leeway=None: len(text) + len(end),
    "urlize": _urlized,
    "wordwrap": lambda text, width=79, long=True, wrapstring=None, *_, **__: (
        len(text) * (1 + len(wrapstring or "\n")) + ENDLESS * (width < 1)
    ),
}


def percent(form: str, values: list[Any]) -> int:
    """The most characters of `form % values`, if each field is as long as the longest value and a width allows."""
    if _wide(form):
        raise TooMuch("a format with a field of 1000 characters or more, or of a width given elsewhere")
    values = values + [v for value in values if isinstance(value, dict) for v in value.values()]
    return (form.count("%") + 1) * max([1000 if "%" in form else 0, *map(weigh, values)])


def _measured(name: str) -> Callable[..., Any]:
    """The filter `name` behind its measures. A measure that cannot be taken leaves the complaint to the filter."""
    original: Callable[..., Any] = FILTERS[name]
    size = _SIZES.get(name)
    skip = 1 if hasattr(original, "jinja_pass_arg") else 0
    most, longest = _LISTS.get(name), _TEXTS.get(name)

    least = LARGE if longest is None else min(LARGE, longest)
    shallow, words = name in _SHALLOW, name in _WORDS

    def weigh_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if shallow and isinstance(value, list | tuple):
                elements(len(value))
                continue
            if longest is not None and isinstance(value, str | bytes) and len(value) > longest:
                raise TooMuch(f"{name} of {len(value)} characters, at most {longest} are allowed")
            weighed(value)
        if words and any(isinstance(v, str) and len(v) > WORD_LIMIT for v in (*args[1:], *kwargs.values())):
            raise TooMuch(f"{name} with a name or word of more than {WORD_LIMIT} characters")
        if most is not None and args and hasattr(args[0], "__len__") and len(args[0]) > most:
            raise TooMuch(f"{name} of {len(args[0])} elements, at most {most} are allowed")

    @wraps(original)
    def measured(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            weigh_in(args[skip:], kwargs)
        else:
            for value in args[skip:]:
                kind = type(value)
                if kind not in _PLAIN and (kind is not str or len(value) > least):
                    weigh_in(args[skip:], kwargs)
                    break
        if size is not None:
            try:
                estimate = size(*args[skip:], **kwargs)
            except (TypeError, ValueError, AttributeError):
                estimate = 0
            made(estimate)
        result = original(*args, **kwargs)
        return result if type(result) is str and len(result) <= LARGE else _checked(result)

    return measured


def _checked(result: Any) -> Any:
    if isinstance(result, str):
        made(len(result))
    elif isinstance(result, list | tuple):
        elements(len(result))
    elif isinstance(result, GeneratorType):
        return ticking(result)
    return result


@wraps(FILTERS["join"])
def _join(eval_ctx: Any, value: Any, d: Any = "", attribute: str | int | None = None) -> Any:
    items = _few(value)
    if attribute is not None:
        _short(attribute)
        items = list(map(make_attrgetter(eval_ctx.environment, attribute), items))
    made(weigh(items) + len(items) * (len(d) if isinstance(d, str) else weigh(d)))
    return FILTERS["join"](eval_ctx, items, d)


@wraps(FILTERS["sum"])
def _sum(eval_ctx: Any, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    """Of numbers alone: lists are copied for each one that is added."""
    if not isinstance(start, int | float):
        raise TooMuch("sum is for numbers")
    _short(attribute)
    return FILTERS["sum"](eval_ctx, _few(iterable), attribute, start)


def _short(attribute: Any) -> None:
    if isinstance(attribute, str) and len(attribute) > WORD_LIMIT:
        raise TooMuch(f"the name of an attribute of more than {WORD_LIMIT} characters")


def _few(value: Any) -> list[Any]:
    """As a list; of what comes one by one, no more than a list may have."""
    if hasattr(value, "__len__"):
        elements(len(value))
        return list(value)
    items: list[Any] = []
    for item in value:
        items.append(item)
        if len(items) & 1023 == 0:
            elements(len(items))
    return items


def _sorts(name: str) -> Callable[..., Any]:
    """A filter that wants all of its input: what comes one by one is counted first."""
    inner = _measured(name)
    skip = 1 if hasattr(inner, "jinja_pass_arg") else 0

    @wraps(inner)
    def few(*args: Any, **kwargs: Any) -> Any:
        if len(args) > skip and isinstance(args[skip], Iterator):
            args = (*args[:skip], _few(args[skip]), *args[skip + 1 :])
        return inner(*args, **kwargs)

    return few


def _test(name: str) -> Callable[..., Any]:
    original: Any = TESTS[name]

    @wraps(original)
    def measured(*args: Any) -> Any:
        return original(*map(weighed, args))

    return measured


FILTERS_MEASURED: Final = {
    **{name: _measured(name) for name in FILTERS if name not in _CHEAP},
    **{name: _sorts(name) for name in ("batch", "groupby", "list", "max", "min", "slice", "sort", "unique")},
    "join": _join,
    "sum": _sum,
}
_COMPARE: Final = [
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    ">=",
    "ge",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
    "in",
]
TESTS_MEASURED: Final = {name: _test(name) for name in _COMPARE if name in TESTS}
