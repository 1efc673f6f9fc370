"""The jinja2 environment that templates run in: no Python, no files, no endless loops, no text without end.

The immutable sandbox keeps templates away from Python's internals and from changing what they are given. This adds
what it leaves open, so that a mistaken template, or a row that carries one, ends as `TooMuch` and not as a stalled or
dead process: loop, macro and include bodies are metered in CPU time, `range` and every operator, method and filter
that can multiply its input is measured before it runs, and output is counted while it is made.

It never reads a clock but for the thread's CPU time, and that only from the 1000th metered step on, so usual mail is
rendered without. Hazards: one call into C cannot be interrupted, which is why operations are measured beforehand; an
author who looks for it can still waste some seconds (`sort` of a large list of lists, say), so whoever may insert
templates is trusted that far. Values in `params` are data and cannot do any of this.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, MutableMapping
from functools import wraps
from itertools import islice
from time import thread_time
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.loaders import BaseLoader
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import escape, soft_str

try:
    from markupsafe._speedups import _escape_inner
except ImportError:  # a platform without the compiled part
    from markupsafe._native import _escape_inner

__all__ = ["Sandbox", "TooMuch", "start_meter"]

CPU_LIMIT = 0.5  # seconds of one rendering, checked every STEPS metered steps
FREE_STEPS, STEPS = 1000, 200
VALUE_LIMIT = 8_388_608  # characters or elements of one value made inside a template
SLOW_FILTER_LIMIT = 65_536  # characters, for filters whose work grows with the square of them
RANGE_LIMIT = 10_000
BITS_LIMIT = 4096  # of an integer


class TooMuch(Exception):
    """A template wants more time or space than a mail can need."""


class _Meter(threading.local):
    left = FREE_STEPS
    started = 0.0

    def refill(self) -> None:
        now = thread_time()
        if not self.started:
            self.started = now
        elif now - self.started > CPU_LIMIT:
            raise TooMuch(f"still rendering after {CPU_LIMIT} s of CPU time")
        self.left = STEPS


_meter = _Meter()


def start_meter() -> None:
    """Give the rendering that begins now in this thread its allowance."""
    _meter.left = FREE_STEPS
    _meter.started = 0.0


def _check(size: int) -> None:
    if size > VALUE_LIMIT:
        raise TooMuch(f"a value of {size} characters or elements, at most {VALUE_LIMIT} are allowed")


class _Buffer(list[str]):
    """What a macro or a set block has written so far."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def append(self, text: str) -> None:
        self.size += len(text)
        _check(self.size)
        super().append(text)

    def extend(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.append(text)


class _Metered(CodeGenerator):
    """jinja2's compiler, with a toll at the head of every body that can be run over and over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tolls: list[Any] = []

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        if any(nodes is body for body in self.tolls):
            self.writeline(f"environment.spend({1 + _outputs(nodes)})")
        super().blockvisit(nodes, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        self.tolls.append(node.body)
        super().visit_For(node, frame)

    def macro_body(self, node: Any, frame: Frame) -> Any:
        self.tolls.append(node.body)
        return super().macro_body(node, frame)

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        self.tolls.append(node.body)
        self.tolls += [block.body for block in node.find_all(nodes.Block)]
        super().visit_Template(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.measured(")
        super().visit_Concat(node, frame)
        self.write(")")

    def buffer(self, frame: Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.buffer()")


def _outputs(body: Iterable[nodes.Node]) -> int:
    return sum(len(output.nodes) for node in body for output in node.find_all(nodes.Output))


def _escape(value: Any) -> str:
    """What `{{ value }}` writes into HTML. As `markupsafe.escape`, but for a plain string without building a Markup
    that is joined away at once: six times as fast."""
    if type(value) is str:
        return _escape_inner(value)
    return escape(value)


class _Template(Template):
    """A compiled template whose output goes through `_escape`."""

    @classmethod
    def _from_namespace(
        cls,
        environment: Environment,
        namespace: MutableMapping[str, Any],
        globals: MutableMapping[str, Any],  # noqa: A002
    ) -> Template:
        if "escape" in namespace:
            namespace["escape"] = _escape
        return super()._from_namespace(environment, namespace, globals)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one kind of text. `limit` is the most characters that one rendering may give."""

    code_generator_class = _Metered
    template_class = _Template
    intercepted_binops = frozenset(("*", "**", "%", "+"))
    buffer = _Buffer

    def __init__(self, loader: BaseLoader | None, limit: int, html: bool, **options: Any) -> None:
        super().__init__(
            loader=loader, undefined=StrictUndefined, autoescape=html, auto_reload=False, cache_size=1024, **options
        )
        self.limit = limit
        self.globals["range"] = _range
        del self.globals["lipsum"]
        self.filters.update(_FILTERS)

    @staticmethod
    def spend(steps: int) -> None:
        meter = _meter
        meter.left -= steps
        if meter.left < 0:
            meter.refill()

    @staticmethod
    def measured(text: str) -> str:
        _check(len(text))
        return text

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a generator of parts, read in small batches, or of a buffer."""
        source = iter(parts)
        batch = list(islice(source, 64))
        if len(batch) < 64:  # nearly every mail
            text = "".join(batch)
            if len(text) > self.limit:
                raise TooMuch(f"more than {self.limit} characters of output")
            return text
        done, size = [], 0
        while batch:
            size += sum(map(len, batch))
            if size > self.limit:
                raise TooMuch(f"more than {self.limit} characters of output")
            done += batch
            batch = list(islice(source, 64))
        return "".join(done)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # `order.items` means the key of the JSON object, not Python's method of that name.
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        # `order['items']` never means the method: a key that is missing is undefined, whatever it is called.
        if type(obj) is dict and isinstance(argument, str):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            if operator == "*" and left.bit_length() + right.bit_length() > BITS_LIMIT:
                raise TooMuch("a number too large to print")
            if operator == "**" and left.bit_length() * abs(right) > BITS_LIMIT:
                raise TooMuch("a number too large to print")
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(sequence, "__len__"):
                    _check(len(sequence) * times)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            _check(_percent(left, right if isinstance(right, tuple) else (right,)))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes):
            args = _check_method(owner, __obj.__name__, args)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @wraps(wrapped)
        def measured(*args: Any, **kwargs: Any) -> str:
            form = value.__self__
            if _wide_field(form):
                raise TooMuch("a format with a field of 1000 characters or more, or of a width given elsewhere")
            _check((form.count("{") + 1) * _longest([*args, *kwargs.values()]))
            return wrapped(*args, **kwargs)

        return measured


_wide_field = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)").search
_wide_percent = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\*|\d{4}|\d*\.(?:\*|\d{4}))").search


def _longest(values: Iterable[Any]) -> int:
    return max((len(v) for v in values if hasattr(v, "__len__")), default=0)


def _percent(form: str, values: Iterable[Any]) -> int:
    if _wide_percent(form):
        raise TooMuch("a format with a field of 1000 characters or more, or of a width given elsewhere")
    values = list(values)
    values += [v for value in values if isinstance(value, dict) for v in value.values()]
    return (form.count("%") + 1) * _longest(values)


def _check_method(owner: str | bytes, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse the call of a string's method whose result would be too long. Answers with the arguments to use."""
    if name in ("ljust", "rjust", "center", "zfill", "expandtabs"):
        width = max((a for a in args if isinstance(a, int)), default=8)
        _check(width * (len(owner) if name == "expandtabs" else 1))
    elif name == "replace" and len(args) >= 2 and hasattr(args[0], "__len__") and hasattr(args[1], "__len__"):
        _check(len(owner) + (owner.count(args[0]) if len(args[0]) < len(args[1]) else 0) * len(args[1]))
    elif name == "join" and args:
        items = list(args[0])
        _check(sum(len(i) for i in items if hasattr(i, "__len__")) + len(items) * len(owner))
        return (items,)
    elif name == "translate":
        raise TooMuch("str.translate is not available in templates")
    return args


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > RANGE_LIMIT:
        raise TooMuch(f"range() of {len(numbers)} numbers, at most {RANGE_LIMIT} are allowed")
    return numbers


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    return int(len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(width)))


def _replaced(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    text, old, new = soft_str(text), soft_str(old), soft_str(new)
    return len(text) + (text.count(old) * len(new) if len(new) > len(old) else 0)


def _quadratic(text: Any, *_: Any, **__: Any) -> int:
    return VALUE_LIMIT + len(text) if len(text) > SLOW_FILTER_LIMIT else 0


# How large the result of a filter becomes, from the filter's own arguments.
_SIZES: dict[str, Callable[..., int]] = {
    "batch": lambda value, linecount, *_, **__: linecount,
    "center": lambda value, width=80: width,
    "format": lambda form, *args, **kwargs: _percent(soft_str(form), [*args, *kwargs.values()]),
    "indent": _indented,
    "replace": _replaced,
    "round": lambda value, precision=0, *_, **__: VALUE_LIMIT * (abs(precision) > 300) + 1,
    "slice": lambda value, slices, *_, **__: slices,
    "striptags": _quadratic,
    "tojson": lambda value, indent=None: VALUE_LIMIT * ((indent or 0) > 100) + 1,
    "urlize": _quadratic,
    "wordwrap": lambda text, width=79, long=True, wrapstring=None, *_, **__: (
        _quadratic(text) or len(text) * (1 + len(wrapstring or "\n"))
    ),
}


def _sized(name: str) -> Callable[..., Any]:
    """The filter `name` behind its measure. A measure that cannot be taken leaves the complaint to the filter."""
    original, size = FILTERS[name], _SIZES[name]
    skip = 1 if hasattr(original, "jinja_pass_arg") else 0

    @wraps(original)
    def measured(*args: Any, **kwargs: Any) -> Any:
        try:
            estimate = size(*args[skip:], **kwargs)
        except (TypeError, ValueError, AttributeError):
            estimate = 0
        _check(estimate)
        return original(*args, **kwargs)

    return measured


@wraps(FILTERS["join"])
def _join(eval_ctx: Any, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
    items = list(value)
    if attribute is not None:
        items = list(map(make_attrgetter(eval_ctx.environment, attribute), items))
    _check(sum(len(i) for i in items if isinstance(i, str)) + len(items) * len(d))
    return FILTERS["join"](eval_ctx, items, d)


_FILTERS = {**{name: _sized(name) for name in _SIZES}, "join": _join}
