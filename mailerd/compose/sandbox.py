"""The jinja2 environment that templates run in: no Python, no files, no endless loops, no text without end.

The immutable sandbox keeps templates away from Python's internals and from changing what they are given. This adds
what it leaves open, so that a mistaken template, or a row that carries one, ends as `TooMuch` and not as a stalled or
dead process. `ration` says how much there is of time and space, and this where it is asked for: at the head of loop,
macro and include bodies, before every operator, method and filter (`measured`) that can multiply its input, wherever a
value is compared, hashed or written down, and while output is made.

Hazards: one call into C cannot be interrupted, which is why operations are measured beforehand; the least of them add
up to some tenths of a second beyond the limit. Whoever adds a global, a filter or a method adds its measure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import wraps
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from jinja2 import Environment, StrictUndefined, Template, nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.loaders import BaseLoader
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape

from .measured import FILTERS_MEASURED, SQUARE_LIMIT, TESTS_MEASURED, WORD_LIMIT, percent
from .ration import LARGE, VALUE_LIMIT, TooMuch, elements, made, spend, start_meter, weigh, weighed

try:
    from markupsafe._speedups import _escape_inner
except ImportError:  # a platform without the compiled part
    from markupsafe._native import _escape_inner

__all__ = ["Metered", "Sandbox", "TooLong", "TooMuch", "escaped", "start_meter"]

RANGE_LIMIT = 10_000
LOADED_LIMIT = 1024  # templates that are kept by the name that was asked for
BITS_LIMIT = 4096  # of an integer
SPLIT_LIMIT = 1_048_576  # characters of a text that is cut into a list, or of a format
_DICT: Final = frozenset(name for name in dir(dict) if not name.startswith("_"))
_CODECS: Final = ("utf-8", "utf8", "ascii", "latin-1", "latin1")


class TooLong(TooMuch):
    """A rendering gives more characters than it may."""


class _Buffer(list[str]):
    """What a macro or a set block has written so far."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def append(self, text: str) -> None:
        self.size += len(text)
        if self.size > VALUE_LIMIT:
            made(self.size)
        super().append(text)

    def extend(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.append(text)


class Metered(CodeGenerator):
    """jinja2's compiler, with a toll at the head of every body that can be run over and over."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tolls: list[Any] = []
        self.called: list[nodes.Node] = []  # what calls are of

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

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        self.called.append(node.node)
        super().visit_Call(node, frame, forward_caller=forward_caller)

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        # `order.items` means the key, and nothing if that is missing; only `order.items()` may be the method.
        if node.attr not in _DICT or any(node is called for called in self.called):
            super().visit_Getattr(node, frame)
            return
        self.write("environment.key(")
        self.visit(node.node, frame)
        self.write(f", {node.attr!r})")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._weighed(node.expr, frame)
        for op in node.ops:
            self.visit(op, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:
        self.write(f" {operators[node.op]} ")
        self._weighed(node.expr, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for item in node.items:
            self._weighed(item.key, frame)
            self.write(": ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self._weighed(node.node, frame)
        self.write("[")
        self.visit(node.arg, frame)
        self.write("]")

    def _weighed(self, node: nodes.Node, frame: Frame) -> None:
        """The code of an expression whose value is about to be read to its end: compared, hashed, copied."""
        if isinstance(node, nodes.Const):
            self.visit(node, frame)
            return
        self.write("environment.weighed(")
        self.visit(node, frame)
        self.write(")")

    def buffer(self, frame: Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.buffer()")


def _outputs(body: Iterable[nodes.Node]) -> int:
    return sum(len(output.nodes) for node in body for output in node.find_all(nodes.Output))


def escaped(value: Any) -> str:
    """What `{{ value }}` writes into HTML. As `markupsafe.escape`, but for a plain string without building a Markup
    that is joined away at once: six times as fast."""
    kind = type(value)
    if kind is str:
        return _escape_inner(value)
    return str(value) if kind is int else escape(value if kind is Markup else weighed(value))


def _text(value: Any) -> str:
    """What `{{ value }}` writes into text."""
    return value if type(value) is str else str(weighed(value))


def _joined(values: Iterable[Any]) -> str:
    """`a ~ b` in text."""
    text = "".join(map(_text, values))
    made(len(text))
    return text


def _markup_joined(values: Iterable[Any]) -> str:
    """`a ~ b` in HTML: Markup, and what is not escaped, as soon as one of them is Markup."""
    parts = list(values)
    if any(hasattr(part, "__html__") for part in parts):
        text: str = Markup("").join(map(weighed, parts))
        made(len(text))
        return text
    return _joined(parts)


class _Template(Template):
    """A compiled template whose output and `~` go through its environment's `writers`."""

    @classmethod
    def _from_namespace(
        cls,
        environment: Environment,
        namespace: MutableMapping[str, Any],
        globals: MutableMapping[str, Any],  # noqa: A002
    ) -> Template:
        assert isinstance(environment, Sandbox)
        namespace.update(environment.writers)
        return super()._from_namespace(environment, namespace, globals)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one kind of text. `limit` is the most characters that one rendering may give."""

    code_generator_class = Metered
    template_class = _Template
    intercepted_binops = frozenset(("*", "**", "%", "+", "-", "/", "//"))
    buffer = _Buffer
    # What compiled templates call in place of jinja2's.
    writers: Mapping[str, Any] = MappingProxyType(
        {"escape": escaped, "str": _text, "str_join": _joined, "markup_join": _markup_joined}
    )

    def __init__(self, loader: BaseLoader | None, limit: int, html: bool, **options: Any) -> None:
        super().__init__(
            loader=loader, undefined=StrictUndefined, autoescape=html, auto_reload=False, cache_size=1024, **options
        )
        self.limit = limit
        self._loaded: dict[str, Template] = {}
        self.globals["range"] = _range
        del self.globals["lipsum"]
        self.filters.update(FILTERS_MEASURED)
        self.tests.update(TESTS_MEASURED)

    def get_template(
        self,
        name: str | Template,
        parent: str | None = None,
        globals: MutableMapping[str, Any] | None = None,  # noqa: A002
    ) -> Template:
        # A layout is asked for in every rendering, and files are never loaded anew.
        found = self._loaded.get(name) if type(name) is str else None
        if found is None:
            found = super().get_template(name, parent, globals)
            if type(name) is str:
                if len(self._loaded) >= LOADED_LIMIT:  # a name may be a value's
                    self._loaded.clear()
                self._loaded[name] = found
        return found

    spend = staticmethod(spend)
    weighed = staticmethod(weighed)

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a generator of parts, read in small batches, or of a buffer."""
        source = iter(parts)
        batch = list(islice(source, 64))
        if len(batch) < 64:  # nearly every mail
            text = "".join(batch)
            if len(text) > self.limit:
                raise TooLong(f"more than {self.limit} characters of output")
            if type(parts) is _Buffer:
                made(len(text))
            return text
        done, size = [], 0
        while batch:
            size += sum(map(len, batch))
            if size > self.limit:
                raise TooLong(f"more than {self.limit} characters of output")
            done += batch
            batch = list(islice(source, 64))
        if type(parts) is _Buffer:
            made(size)
        return "".join(done)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # `order.items()` means the key of the JSON object, if there is one, not Python's method of that name.
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def key(self, obj: Any, name: str) -> Any:
        """`obj.name` that is not called."""
        return self.getitem(obj, name) if type(obj) is dict else self.getattr(obj, name)

    def getitem(self, obj: Any, argument: Any) -> Any:
        # A key that is missing is undefined, whatever methods a dictionary has.
        if type(obj) is dict and isinstance(argument, str):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        if type(argument) is tuple:
            weigh(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if (bits if operator != "**" else left.bit_length() * abs(right)) > BITS_LIMIT:
                raise TooMuch("a number too large to print")
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(sequence, "__len__"):
                    (made if isinstance(sequence, str | bytes) else elements)(len(sequence) * times)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            (made if isinstance(left, str | bytes) else elements)(len(left) + len(right))
        elif operator == "%" and isinstance(left, str | bytes):
            made(_percent(left, right if isinstance(right, tuple) else (right,)))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if type(__obj) is Macro or type(__obj) is LoopContext:  # they hand on what they are given
            return super().call(__context, __obj, *args, **kwargs)
        for arg in args:
            if type(arg) is not str or len(arg) > LARGE:
                weighed(arg)
        for name, arg in kwargs.items():
            if name != "_loop_vars" and name != "_block_vars":  # Jinja's own
                weighed(arg)
        owner = getattr(__obj, "__self__", None)
        if owner is None:
            return super().call(__context, __obj, *args, **kwargs)
        if isinstance(owner, str | bytes):
            args = _check_method(owner, __obj.__name__, args, kwargs)
        elif isinstance(owner, int | float) or owner in _NUMBERS:
            raise TooMuch(f"{__obj.__name__} of a number is not available in templates")
        elif isinstance(owner, list | tuple | dict) and __obj.__name__ not in _LOOKS:
            weigh(owner)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str | bytes):
            made(len(result))
        elif isinstance(result, list | tuple):
            elements(len(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        @wraps(wrapped)
        def measured(*args: Any, **kwargs: Any) -> str:
            form = value.__self__
            if len(form) > SPLIT_LIMIT:
                raise TooMuch(f"a format of {len(form)} characters, at most {SPLIT_LIMIT} are allowed")
            if _wide_field(form):
                raise TooMuch("a format with a field of 1000 characters or more, or of a width given elsewhere")
            fields = form.count("{") + 1
            made(len(form) + fields * max([1000 * (":" in form), *map(weigh, (*args, *kwargs.values()))]))
            return wrapped(*args, **kwargs)

        return measured


_wide_field = re.compile(r"\{[^{}]*:[^{}]*(?:\d{4}|\{)").search


def _percent(form: str | bytes, values: Iterable[Any]) -> int:
    text = form if isinstance(form, str) else form.decode("latin-1")
    return len(text) + percent(text, list(values))


# From the end, and for one of many characters, Python looks in the simple way: its work is the product of both lengths.
_NAIVE: Final = frozenset(("rfind", "rindex", "rpartition", "rsplit", "strip", "lstrip", "rstrip"))
_LOOKS: Final = ("get", "items", "keys", "values", "copy")  # their work does not grow with what is inside
_NUMBERS: Final = (int, float)


def _check_method(owner: str | bytes, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Refuse the call of a string's method whose result would be too long. Answers with the arguments to use."""
    weighed(owner)
    if name in ("ljust", "rjust", "center", "zfill", "expandtabs"):
        width = max((a for a in (*args, *kwargs.values()) if isinstance(a, int)), default=8)
        made(width * (len(owner) if name == "expandtabs" else 1))
    elif name == "replace" and len(args) >= 2 and hasattr(args[0], "__len__") and hasattr(args[1], "__len__"):
        made(len(owner) + (owner.count(args[0]) if len(args[0]) < len(args[1]) else 0) * len(args[1]))
    elif name == "join" and args:
        items = list(islice(args[0], SPLIT_LIMIT))
        elements(len(items))
        made(weigh(items) + len(items) * len(owner))
        return (items,)
    elif name in ("translate", "maketrans"):
        raise TooMuch(f"str.{name} is not available in templates")
    elif name in ("encode", "decode"):
        if any(str(codec).lower() not in _CODECS for codec in (*args[:1], *kwargs.values())):
            raise TooMuch(f"{name} knows {', '.join(_CODECS)} only")
    elif name in ("split", "rsplit", "splitlines", "unescape") and len(owner) > SPLIT_LIMIT:
        raise TooMuch(f"{name} of {len(owner)} characters, at most {SPLIT_LIMIT} are allowed")
    elif name in _NAIVE and any(len(a) > WORD_LIMIT for a in (*args, *kwargs.values()) if isinstance(a, str | bytes)):
        raise TooMuch(f"{name} with more than {WORD_LIMIT} characters to look for")
    elif name == "striptags" and len(owner) > SQUARE_LIMIT:
        raise TooMuch(f"{name} of {len(owner)} characters, at most {SQUARE_LIMIT} are allowed")
    return args


def _range(*args: int) -> range:
    numbers = range(*args)
    try:
        count = len(numbers)
    except OverflowError:
        count = 1 << 62
    if count > RANGE_LIMIT:
        raise TooMuch(f"range() of {count} numbers, at most {RANGE_LIMIT} are allowed")
    return numbers
