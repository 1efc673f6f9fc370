"""What a JSON Schema says about one place of the params: which names there are below it, and whether they must be there.

A `Shape` is the schema's alternatives at that place (`anyOf`, `oneOf`, several types), each a `_View` with `$ref` and
`allOf` resolved; without any, nothing is known and everything is possible. It never judges a value: that is the
validator's work. Only what is surely absent is said to be so.

Pure. Hazard: schemas may refer to themselves, so places are resolved one step at a time, when they are asked for.
Source: JSON Schema 2020-12, Core §10 and Validation §6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote

import msgspec

__all__ = ["ANY", "Found", "Shape", "root"]

_VIEWS: Final = 32  # alternatives of one place that are looked at
_METHODS: Final = {"string": str, "array": list, "object": dict, "integer": int, "number": float, "boolean": bool}
_OPEN: Final = msgspec.UNSET  # additionalProperties is not there


class _View(msgspec.Struct, frozen=True):
    """One alternative: merged keywords that say what is below."""

    types: frozenset[str] = frozenset()  # empty: not said
    properties: dict[str, list[Any]] = {}
    patterns: dict[str, list[Any]] = {}
    required: frozenset[str] = frozenset()
    additional: Any = _OPEN
    items: tuple[Any, ...] = ()

    def joined(self, other: _View) -> _View:
        """What holds where both hold."""
        return _View(
            self.types & other.types if self.types and other.types else self.types or other.types,
            _merged(self.properties, other.properties),
            _merged(self.patterns, other.patterns),
            self.required | other.required,
            other.additional if self.additional is _OPEN else self.additional,
            self.items + other.items,
        )

    @property
    def closed(self) -> bool:
        return self.additional is False


class Found(msgspec.Struct, frozen=True):
    """What there is under a name: `declared` or not, `sure` to be there or not; `closed`: no message can bring it."""

    shape: Shape
    declared: bool = True
    sure: bool = True
    closed: bool = False


class _Document:
    """The whole schema, and what has been made of its parts: each is read once, so that those that go round end."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole
        self.views: dict[int, list[_View]] = {}


class Shape(msgspec.Struct, frozen=True):
    """A place. `path` is how people call it (`items[].price`), `pair` the two of a dictionary's item."""

    views: tuple[_View, ...] = ()
    path: str = ""
    document: _Document | None = None
    pair: tuple[Shape, Shape] | None = None

    def below(self, name: str) -> Found:
        """What `.name` finds."""
        path = f"{self.path}.{name}" if self.path else name
        found = [self._one(view, name) for view in self.views]
        if not found or any(one is None for one in found):
            return Found(Shape(path=path))
        known = [one for one in found if one is not None and one.declared]
        if not known:
            closed = all(one.closed for one in found if one is not None)
            return Found(Shape(path=path), declared=False, sure=False, closed=closed)
        views = () if any(not one.shape.views for one in known) else tuple(v for one in known for v in one.shape.views)
        sure = len(known) == len(found) and all(one.sure for one in known)
        return Found(Shape(views[:_VIEWS], path, self.document), sure=sure)

    def element(self) -> Shape:
        """What iterating over it, or an index, finds."""
        path = f"{self.path}[]"
        views: list[_View] = []
        for view in self.views:
            if view.types and "array" not in view.types:
                if "object" in view.types:
                    return Shape(path=path)  # its keys
                continue
            if not view.items:
                return Shape(path=path)
            for items in view.items:
                views += _views(self.document, items)
        return Shape(tuple(views[:_VIEWS]), path, self.document)

    def value(self) -> Shape:
        """Any of an object's values."""
        path = f"{self.path}[]"
        views: list[_View] = []
        for view in self.views:
            if view.additional is _OPEN or view.additional is True:
                return Shape(path=path)
            schemas = [*_flat(view.properties), *_flat(view.patterns)]
            schemas += [view.additional] if isinstance(view.additional, dict) else []
            for schema in schemas:
                views += _views(self.document, schema)
        return Shape(tuple(views[:_VIEWS]), path, self.document)

    def lists(self, name: str) -> bool:
        """Does the schema name it itself, and not by a pattern or as one of any names?"""
        return any(name in view.properties for view in self.views)

    def _one(self, view: _View, name: str) -> Found | None:
        """None: it is not known what that name is."""
        if view.types and "object" not in view.types:
            has = any(hasattr(_METHODS[t], name) for t in view.types if t in _METHODS)
            return None if has else Found(ANY, declared=False, sure=False, closed=True)
        schemas = view.properties.get(name, [])
        schemas = schemas + [s for pattern, of in view.patterns.items() if _matches(pattern, name) for s in of]
        if not schemas and isinstance(view.additional, dict) and view.additional:
            schemas = [view.additional]
        if schemas:
            views = [_View()]
            for schema in schemas:
                views = [a.joined(b) for a in views for b in _views(self.document, schema)][:_VIEWS]
            return Found(Shape(tuple(views), document=self.document), sure=name in view.required)
        if view.additional is True or view.additional == {}:
            return None
        if not view.properties and not view.patterns and not view.closed:
            return None
        return Found(ANY, declared=False, sure=False, closed=view.closed)


ANY: Final = Shape()


def root(schema: dict[str, Any]) -> Shape:
    """The params themselves: an object, whose names are those that the schema lists."""
    document = _Document(schema)
    views = [view.joined(_View(frozenset(("object",)))) for view in _views(document, schema)]
    return Shape(tuple(views[:_VIEWS]), document=document)


def _views(document: _Document | None, schema: Any) -> list[_View]:
    """The alternatives of a schema; one that says nothing where it cannot be followed."""
    if document is None or not isinstance(schema, dict):
        return [_View()]
    known = document.views.get(id(schema))
    if known is not None:
        return known
    document.views[id(schema)] = [_View()]  # to whom it is part of itself
    views = [_own(schema)]

    def both(others: Iterable[_View]) -> list[_View]:
        found = list(others)[:_VIEWS]
        return [a.joined(b) for a in views for b in found][:_VIEWS]

    if isinstance(reference := schema.get("$ref"), str):
        views = both(_views(document, _referred(document.whole, reference)))
    for part in _list(schema.get("allOf")):
        views = both(_views(document, part))
    for word in ("anyOf", "oneOf"):
        if parts := _list(schema.get(word)):
            views = both(view for part in parts for view in _views(document, part))
    conditional = [schema[word] for word in ("then", "else") if word in schema]
    dependent = schema.get("dependentSchemas")
    conditional += list(dependent.values()) if isinstance(dependent, dict) else []
    for part in conditional:  # they may hold, so what they name may be there
        views = both(_View(properties=v.properties, patterns=v.patterns) for v in _views(document, part))
    document.views[id(schema)] = views
    return views


def _own(schema: dict[str, Any]) -> _View:
    types = schema.get("type")
    named = {types} if isinstance(types, str) else set(types) if isinstance(types, list) else set()
    values = _list(schema.get("enum")) or ([schema["const"]] if "const" in schema else [])
    if not named and values:
        named = {_KINDS.get(type(value), "") for value in values} - {""}
    prefix, items = _list(schema.get("prefixItems")), schema.get("items")
    below = prefix + (items if isinstance(items, list) else [items] if isinstance(items, dict) else [])
    required = schema.get("required")
    properties, patterns = schema.get("properties"), schema.get("patternProperties")
    additional = schema.get("additionalProperties", schema.get("unevaluatedProperties", _OPEN))
    return _View(
        frozenset(named - {"null"}),
        {name: [part] for name, part in properties.items()} if isinstance(properties, dict) else {},
        {name: [part] for name, part in patterns.items()} if isinstance(patterns, dict) else {},
        frozenset(name for name in required if isinstance(name, str)) if isinstance(required, list) else frozenset(),
        additional,
        tuple(below),
    )


_KINDS: Final = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def _referred(whole: dict[str, Any], reference: str) -> Any:
    """What a `$ref` inside the document points at (RFC 6901), by pointer or by `$anchor`."""
    if reference.startswith("#/"):
        found: Any = whole
        for step in reference[2:].split("/"):
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and step.isdigit() and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict) and step in found:
                found = found[step]
            else:
                return None
        return found
    if reference == "#":
        return whole
    return next((part for part in _parts(whole) if f"#{part.get('$anchor')}" == reference), None)


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from _parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _parts(part)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # ECMA 262 has what Python has not
        return True


def _merged(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if not one or not other:
        return one or other
    merged = {name: list(parts) for name, parts in one.items()}
    for name, parts in other.items():
        there = merged.setdefault(name, [])
        there += [part for part in parts if not any(part is known for known in there)]
    return merged


def _flat(named: dict[str, list[Any]]) -> list[Any]:
    return [part for parts in named.values() for part in parts]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
