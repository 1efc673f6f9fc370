"""The model, read as data: one `Key` for each key of a table, from the Structs and their `Meta`.

The loader, the environment, the reference and the sample all walk these; nothing else looks at annotations. It knows
no file and no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from mailerd.config.base import Cap, Duration, Quota, Rate, Section, Size
from mailerd.config.model import Config

__all__ = ["Key", "documented", "keys"]

# The types of the file, in the words of the reference.
KINDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    Duration: "duration",
    Size: "size",
    Rate: "rate",
    Quota: "quota",
    Cap: "cap",
}


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key. `kind`: a word of KINDS, or `choice`, `list` (of text), `numbers` (a list), `table`, `tables` (`[[…]]`).

    `of` is the Struct of the last two. `extra` holds the marks that `model` explains.
    """

    name: str  # as in the file
    attribute: str  # as in the Struct
    kind: str
    of: type[Section] | None = None
    choices: tuple[str, ...] = ()
    default: Any = msgspec.NODEFAULT
    description: str = ""
    example: Any = None
    ge: float | None = None
    le: float | None = None
    min_length: int = 0
    pattern: str | None = None
    extra: dict[str, Any] = {}

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT


@cache
def keys(section: type[Section]) -> dict[str, Key]:
    """The keys of a table by their name in the file, in order of declaration."""
    hints = get_type_hints(section, include_extras=True)
    found: dict[str, Key] = {}
    for field in msgspec.structs.fields(section):
        base, metas = _unwrap(hints[field.name])
        about: dict[str, Any] = {"extra": {}}
        for meta in metas:
            about["extra"] |= meta.extra or {}
            for name in ("description", "ge", "le", "min_length", "pattern"):
                if (value := getattr(meta, name)) is not None:
                    about[name] = value
            if meta.examples:
                about["example"] = meta.examples[0]
        kind, of, choices = _kind(base)
        found[field.encode_name] = Key(
            name=field.encode_name,
            attribute=field.name,
            kind=kind,
            of=of,
            choices=choices,
            default=field.default,
            **about,
        )
    return found


def documented() -> Iterator[tuple[str, type[Section], bool]]:
    """(name, Struct, is `[[…]]`) of each top-level table, in order; those in it that may be several follow, `pool.domain`."""
    for key in keys(Config).values():
        assert key.of is not None
        yield key.name, key.of, key.kind == "tables"
        for inner in keys(key.of).values():
            if inner.kind == "tables":
                assert inner.of is not None
                yield f"{key.name}.{inner.name}", inner.of, True


def _unwrap(hint: Any) -> tuple[Any, list[msgspec.Meta]]:
    metas: list[msgspec.Meta] = []
    while get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        metas.extend(meta for meta in more if isinstance(meta, msgspec.Meta))
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (arm for arm in get_args(hint) if arm is not type(None))
    return hint, metas


def _kind(base: Any) -> tuple[str, type[Section] | None, tuple[str, ...]]:
    if get_origin(base) is Literal:
        return "choice", None, get_args(base)
    if get_origin(base) is tuple:
        element = get_args(base)[0]
        if element is int:
            return "numbers", None, ()
        return (
            ("tables", element, ())
            if isinstance(element, type) and issubclass(element, Section)
            else ("list", None, ())
        )
    if isinstance(base, type) and issubclass(base, Section):
        return "table", base, ()
    return KINDS[base], None, ()
