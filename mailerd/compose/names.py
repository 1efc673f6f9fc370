"""The names that a template uses, held against the JSON Schema of its params, before a message is made of it.

The walk follows values as the template does: into loops over arrays of objects, `set`, `with`, filters that take an
attribute, and macros, each by what it is called with. A name that the schema does not declare is a fault. One that a
message may leave out is a warning, unless the template asks first (`is defined`, `'x' in`, `default`): rendering is
strict, and so the message would fail. A name that is asked for first may be undeclared, but for a schema that says
`additionalProperties: false`, where the question can only be a slip of the pen.

Pure. It never finds a fault where it does not know: what a macro is given by `caller`, what `[index]` finds by a
computed name, or any value that no schema describes has every name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from jinja2 import nodes

from .shape import ANY, Found, Shape, root

__all__ = ["missing"]

_DEPTH: Final = 30  # calls of macros in each other
_CALLS: Final = 2000  # macro bodies walked, so that a template full of them ends
_SAME: Final = frozenset(("list", "sort", "reverse", "unique", "select", "reject", "selectattr", "rejectattr"))
_ELEMENT: Final = frozenset(("first", "last", "random", "min", "max"))
_BY_NAME: Final = frozenset(
    ("map", "sort", "unique", "sum", "min", "max", "join", "groupby", "selectattr", "rejectattr")
)
_FIRST: Final = frozenset(("selectattr", "rejectattr", "groupby"))  # the attribute is their first argument
# These tests look at a missing value without complaint; those in the first row are true of nothing that is missing.
_PROOF: Final = frozenset(
    ("defined", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable")
)
_MILD: Final = _PROOF | {"undefined", "none", "callable", "sameas", "true", "false"}

_Path = tuple[str, ...]
_Facts = frozenset[_Path]
_NOTHING: Final[_Facts] = frozenset()


class _Scope:
    """Names in force. Macros see where they were written, not where they are called."""

    def __init__(self, above: _Scope | None = None) -> None:
        self.above = above
        self.names: dict[str, Shape] = {}
        self.macros: dict[str, tuple[nodes.Macro, _Scope]] = {}
        self.facts: _Facts = above.facts if above is not None else _NOTHING

    def find(self, name: str) -> Shape | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.above
        return None

    def macro(self, name: str) -> tuple[nodes.Macro, _Scope] | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names or name in scope.macros:
                return scope.macros.get(name)
            scope = scope.above
        return None


def missing(tree: nodes.Template, schema: Mapping[str, Any], known: Collection[str]) -> list[tuple[str, bool]]:
    """(what is wrong, is it only a warning) of each name. `known`: names that need no schema."""
    walk = _Walk(root(dict(schema)), known)
    walk.body(tree.body, _Scope())
    for macro, scope in list(walk.uncalled.values()):
        walk.macro(macro, scope, [], {})
    return list(dict.fromkeys(walk.problems))


class _Walk:
    def __init__(self, params: Shape, known: Collection[str]) -> None:
        self._params, self._known = params, known
        self.problems: list[tuple[str, bool]] = []
        self.uncalled: dict[int, tuple[nodes.Macro, _Scope]] = {}
        self._depth = self._calls = 0

    # -- statements -----------------------------------------------------------------------------------------------------

    def body(self, body: Iterable[nodes.Node], scope: _Scope) -> None:
        for node in body:
            self.statement(node, scope)

    def statement(self, node: nodes.Node, scope: _Scope) -> None:
        match node:
            case nodes.For():
                self._for(node, scope)
            case nodes.If():
                self._if(node, scope)
            case nodes.Assign():
                self._assign(node.target, self.value(node.node, scope), scope)
            case nodes.AssignBlock():
                if node.filter is not None:
                    self.value(node.filter, scope)
                self.body(node.body, _Scope(scope))
                self._assign(node.target, ANY, scope)
            case nodes.With():
                inner = _Scope(scope)
                for target, value in zip(node.targets, node.values, strict=True):
                    self._assign(target, self.value(value, scope), inner)
                self.body(node.body, inner)
            case nodes.Macro():
                scope.names.pop(node.name, None)
                scope.macros[node.name] = (node, scope)
                self.uncalled[id(node)] = (node, scope)
            case nodes.CallBlock():
                self.value(node.call, scope)
                inner = _Scope(scope)
                inner.names.update({arg.name: ANY for arg in node.args})
                self.body(node.body, inner)
            case nodes.FilterBlock():
                self.value(node.filter, scope)
                self.body(node.body, _Scope(scope))
            case nodes.Block() | nodes.Scope():
                self.body(node.body, _Scope(scope))
            case nodes.Expr():
                self.value(node, scope)
            case _:
                self.body(node.iter_child_nodes(), scope)

    def _for(self, node: nodes.For, scope: _Scope) -> None:
        over = self.value(node.iter, scope)
        inner = _Scope(scope)
        self._assign(node.target, over.element(), inner, over.pair)
        inner.names["loop"] = ANY
        if node.test is not None:
            self.value(node.test, inner)
            inner.facts |= _facts(node.test)[0]
        self.body(node.body, inner)
        self.body(node.else_, _Scope(scope))

    def _if(self, node: nodes.If, scope: _Scope) -> None:
        before = scope.facts
        fails = _NOTHING  # what is known to be there since no branch so far was taken
        for branch in (node, *node.elif_):
            scope.facts = before | fails
            self.value(branch.test, scope)
            true, false = _facts(branch.test)
            scope.facts = before | fails | true
            self.body(branch.body, scope)
            fails |= false
        scope.facts = before | fails
        self.body(node.else_, scope)
        scope.facts = before

    def _assign(self, target: nodes.Node, value: Shape, scope: _Scope, pair: tuple[Shape, Shape] | None = None) -> None:
        if isinstance(target, nodes.Name):
            scope.names[target.name] = value
        elif isinstance(target, nodes.Tuple):
            parts = pair or value.pair
            for i, item in enumerate(target.items):
                self._assign(item, parts[i] if parts is not None and len(target.items) == 2 else ANY, scope)

    def macro(self, node: nodes.Macro, scope: _Scope, args: list[Shape], named: Mapping[str, Shape]) -> None:
        """Its body, with what it is called with."""
        self.uncalled.pop(id(node), None)
        if self._depth >= _DEPTH or self._calls >= _CALLS:
            return
        self._depth, self._calls = self._depth + 1, self._calls + 1
        inner = _Scope(scope)
        inner.facts = _NOTHING  # of where it is written; it may be called from anywhere
        inner.names.update(dict.fromkeys(("varargs", "kwargs", "caller"), ANY))
        for i, arg in enumerate(node.args):
            given = args[i] if i < len(args) else named.get(arg.name)
            default = i - len(node.args) + len(node.defaults)
            if given is None and default >= 0:
                given = self.value(node.defaults[default], inner)
            inner.names[arg.name] = given if given is not None else ANY
        self.body(node.body, inner)
        self._depth -= 1

    # -- expressions ----------------------------------------------------------------------------------------------------

    def value(self, node: nodes.Node, scope: _Scope, asked: bool = False) -> Shape:
        """What is known of an expression's value. `asked`: the template is ready for it to be missing."""
        match node:
            case nodes.Name():
                return self._name(node, scope, asked)
            case nodes.Getattr():
                return self._below(node, self.value(node.node, scope), node.attr, scope, asked)
            case nodes.Getitem():
                of = self.value(node.node, scope)
                match node.arg:
                    case nodes.Const(value=str() as name):
                        return self._below(node, of, name, scope, asked)
                    case nodes.Slice():
                        self.statement(node.arg, scope)
                        return of
                    case nodes.Const(value=int()):
                        return of.element()
                self.value(node.arg, scope)
                return Shape(path=f"{of.path}[]")
            case nodes.Filter():
                return self._filter(node, scope)
            case nodes.Test():
                if node.name in _MILD:
                    self.value(node.node, scope, asked=True)
                    self.body(node.args, scope)
                else:
                    self.body(node.iter_child_nodes(), scope)
            case nodes.And() | nodes.Or():
                self.value(node.left, scope)
                self._under(node.right, scope, _facts(node.left)[isinstance(node, nodes.Or)])
            case nodes.CondExpr():
                self.value(node.test, scope)
                true, false = _facts(node.test)
                found = self._under(node.expr1, scope, true)
                if node.expr2 is not None:
                    other = self._under(node.expr2, scope, false)
                    return found if found.views and other.views == found.views else ANY
                return found
            case nodes.Call():
                return self._call(node, scope)
            case _:
                self.body(node.iter_child_nodes(), scope)
        return ANY

    def _under(self, node: nodes.Node, scope: _Scope, facts: _Facts) -> Shape:
        before, scope.facts = scope.facts, scope.facts | facts
        try:
            return self.value(node, scope)
        finally:
            scope.facts = before

    def _name(self, node: nodes.Name, scope: _Scope, asked: bool) -> Shape:
        if (own := scope.find(node.name)) is not None:
            return own
        if scope.macro(node.name) is not None:
            return ANY
        found = self._params.below(node.name)
        if not found.declared and node.name in self._known:
            return ANY
        self._report(found, asked or (node.name,) in scope.facts)
        return found.shape

    def _below(self, node: nodes.Node, of: Shape, name: str, scope: _Scope, asked: bool) -> Shape:
        found = of.below(name)
        path = _path(node)
        self._report(found, asked or (path is not None and path in scope.facts))
        return found.shape

    def _report(self, found: Found, asked: bool) -> None:
        if not found.declared and (found.closed or not asked):
            self.problems.append((f"{found.shape.path} is not in schema.json", False))
        elif found.declared and not found.sure and not asked:
            words = "is optional in schema.json: a message without it fails here, for want of `default` or `is defined`"
            self.problems.append((f"{found.shape.path} {words}", True))

    def _filter(self, node: nodes.Filter, scope: _Scope) -> Shape:
        asked = node.name in ("default", "d")
        of = self.value(node.node, scope, asked) if node.node is not None else ANY
        self.body((*node.args, *(one.value for one in node.kwargs)), scope)
        if asked:
            return of
        named = next((one.value for one in node.kwargs if one.key == "attribute"), None)
        if named is None and node.name in _FIRST and node.args:
            named = node.args[0]
        inner = of.element()
        if node.name in _BY_NAME and isinstance(named, nodes.Const) and isinstance(named.value, str):
            ready = any(one.key == "default" for one in node.kwargs)
            ready |= len(node.args) > 1 and isinstance(node.args[1], nodes.Const) and node.args[1].value in _MILD
            inner = self._dotted(inner, named.value, ready)
        match node.name:
            case name if name in _SAME:
                return of
            case name if name in _ELEMENT:
                return of.element()
            case "groupby":
                return Shape(pair=(ANY, of))
            case "dictsort" | "items":
                return Shape(pair=(ANY, of.value()))
        return ANY

    def _dotted(self, of: Shape, dotted: str, asked: bool) -> Shape:
        for name in dotted.split("."):
            if name.isdigit():
                of = of.element()
                continue
            found = of.below(name)
            self._report(found, asked)
            of = found.shape
        return of

    def _call(self, node: nodes.Call, scope: _Scope) -> Shape:
        args = [self.value(arg, scope) for arg in node.args]
        named = {one.key: self.value(one.value, scope) for one in node.kwargs}
        for rest in (node.dyn_args, node.dyn_kwargs):
            if rest is not None:
                self.value(rest, scope)
        called = node.node
        if isinstance(called, nodes.Name):
            if scope.find(called.name) is None and (macro := scope.macro(called.name)) is not None:
                unpacked = node.dyn_args is not None or node.dyn_kwargs is not None
                self.macro(*macro, [] if unpacked else args, {} if unpacked else named)
                return ANY
            self.value(called, scope)
            return ANY
        if isinstance(called, nodes.Getattr):
            of = self.value(called.node, scope)
            if called.attr == "items" and not of.lists("items"):
                return Shape(pair=(ANY, of.value()))
            if not hasattr(dict, called.attr):
                self._below(called, of, called.attr, scope, asked=False)
            return ANY
        self.value(called, scope)
        return ANY


def _path(node: nodes.Node) -> _Path | None:
    """`user.name` and `user['name']` as ('user', 'name'); None for what is not a chain of constant names."""
    match node:
        case nodes.Name():
            return (node.name,)
        case nodes.Getattr():
            name: Any = node.attr
        case nodes.Getitem(arg=nodes.Const(value=str() | int() as name)):
            pass
        case _:
            return None
    above = _path(node.node)
    return None if above is None else (*above, str(name))


def _facts(test: nodes.Node) -> tuple[_Facts, _Facts]:
    """Paths that are surely there where the test is true, and where it is false."""
    match test:
        case nodes.Not():
            true, false = _facts(test.node)
            return false, true
        case nodes.And() | nodes.Or():
            left, right = _facts(test.left), _facts(test.right)
            both = left[0] | right[0], left[1] & right[1]
            either = left[0] & right[0], left[1] | right[1]
            return both if isinstance(test, nodes.And) else either
        case nodes.Test(name=name) if name in _PROOF or name == "undefined":
            path = _path(test.node)
            there: _Facts = frozenset() if path is None else frozenset((path,))
            return (_NOTHING, there) if name == "undefined" else (there, _NOTHING)
        case nodes.Compare(expr=nodes.Const(value=str() as key), ops=[nodes.Operand(op="in" | "notin" as op, expr=of)]):
            path = _path(of)
            there = frozenset() if path is None else frozenset(((*path, key),))
            return (there, _NOTHING) if op == "in" else (_NOTHING, there)
    return _NOTHING, _NOTHING
