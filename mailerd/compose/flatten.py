"""A template with its layouts and partials as one source: what `extends`, `include` and `from` name is put in its place.

So a stored version needs nothing but itself, styles can be inlined over all of it at once, and a rendering runs through
one template. `{% extends %}` with blocks and `super()`, `{% include %}` and `{% from … import %}` of files named by a
constant are resolved; a name that is computed, and `{% import … as … %}`, are refused with the line. Where a tag goes,
a comment with the same white space control stays.

Pure: texts come from `read`. Hazard: lines of the result are not lines of the files, so syntax is checked before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from mailerd.message import Failure

__all__ = ["flatten"]

_tag = re.compile(r"\{#.*?#\}|\{%([-+]?)\s*(\w+)\b(.*?)([-+]?)%\}|\{\{.*?\}\}", re.DOTALL)
_super = re.compile(r"\{\{[-+]?\s*super\(\)\s*[-+]?\}\}").fullmatch
_constant = re.compile(r"""\s*["']([^"']+)["'](.*)""", re.DOTALL).fullmatch
_DEPTH: Final = 20
_LIMIT: Final = 2_000_000  # characters of the result


class _Block:
    def __init__(self, name: str, before: str) -> None:
        self.name, self.before, self.after = name, before, ""
        self.children: list[_Node] = []


class _Call:
    """A file to put here (`include`, `from`), or the parent (`extends`)."""

    def __init__(self, kind: str, name: str, left: str, right: str) -> None:
        self.kind, self.name, self.left, self.right = kind, name, left, right


_Node = str | _Block | _Call
_Chain = Mapping[str, Sequence[Sequence[_Node]]]


def flatten(name: str, read: Callable[[str], str]) -> str:
    """The source of `name` on its own. `read` gives a file's text or raises `Failure`. Raises `Failure`."""
    text = "".join(_file(name, read, {}, 0))
    if len(text) > _LIMIT:
        raise Failure(f"{name}: more than {_LIMIT} characters with its layouts", "template")
    return text


def _file(name: str, read: Callable[[str], str], chain: _Chain, depth: int) -> Iterator[str]:
    if depth > _DEPTH:
        raise Failure(f"{name}: layouts or partials that name each other", "template")
    nodes = _parse(name, read(name))
    parent = next((node for node in nodes if isinstance(node, _Call) and node.kind == "extends"), None)
    if parent is None:
        yield from _emit(nodes, read, chain, depth, None)
        return
    own: dict[str, list[Sequence[_Node]]] = {block.name: [block.children] for block in _blocks(nodes)}
    merged = {key: [*chain.get(key, ()), *own.get(key, ())] for key in {*chain, *own}}
    for node in nodes:  # what a child says outside its blocks is not shown, but may set names
        if isinstance(node, _Call) and node.kind == "from":
            yield from _file(node.name, read, {}, depth + 1)
        elif isinstance(node, str) and (found := _tag.fullmatch(node)) and found[2] == "set" and "=" in found[3]:
            yield node
    yield from _file(parent.name, read, merged, depth + 1)


def _emit(
    nodes: Sequence[_Node],
    read: Callable[[str], str],
    chain: _Chain,
    depth: int,
    above: Sequence[Sequence[_Node]] | None,
) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Block):
            stack = [*chain.get(node.name, ()), node.children]
            yield node.before
            yield from _emit(stack[0], read, chain, depth, stack[1:])
            yield node.after
        elif isinstance(node, _Call):
            yield "{#" + node.left + "#}" if node.left else ""
            yield from _file(node.name, read, {}, depth + 1)
            yield "{#" + node.right + "#}" if node.right else ""
        elif above and _super(node):
            yield from _emit(above[0], read, chain, depth, above[1:])
        else:
            yield node


def _blocks(nodes: Sequence[_Node]) -> Iterator[_Block]:
    for node in nodes:
        if isinstance(node, _Block):
            yield node
            yield from _blocks(node.children)


def _parse(name: str, source: str) -> list[_Node]:
    root: list[_Node] = []
    open_: list[_Block] = []
    end, raw = 0, False
    for found in _tag.finditer(source):
        into = open_[-1].children if open_ else root
        if found.start() > end:
            into.append(source[end : found.start()])
        end = found.end()
        left, word, rest, right = found[1] or "", found[2], found[3] or "", found[4] or ""
        line = source.count("\n", 0, found.start()) + 1
        if word in ("raw", "endraw"):
            raw = word == "raw"
        if raw or word not in ("block", "endblock", "extends", "include", "from", "import"):
            into.append(found[0])
        elif word == "block":
            block = _Block(rest.split()[0] if rest.split() else "", _comment(left, right))
            into.append(block)
            open_.append(block)
        elif word == "endblock":
            if not open_:
                raise Failure(f"{name}, line {line}: endblock without block", "template")
            open_.pop().after = _comment(left, right)
        else:
            constant = _constant(rest)
            if word == "import" or constant is None:
                fix = "use `from … import …`" if word == "import" else "name the file by a constant"
                raise Failure(f"{name}, line {line}: {word} cannot be resolved at push time: {fix}", "template")
            into.append(_Call(word, constant[1], left, right))
    (open_[-1].children if open_ else root).append(source[end:])
    return root


def _comment(left: str, right: str) -> str:
    return "{#" + left + " " + right + "#}" if left or right else ""
