"""HTML templates compiled for the wire: what a rendering gives is quoted-printable already, with its links tracked.

A template is compiled to a plan. What it says itself is encoded once, when it is compiled; a value is escaped, encoded and put on
lines of its own, between soft line breaks, so that no piece depends on what stands beside it. Links are found in the
template, not in each message: `<a href="…{{ x }}…">` becomes a call that says where this message's link leads. What comes out
decodes to what `compose.template` renders and `compose.track` makes of it, character for character.

A plan is for the plain case. `Unplanned` says that a template, or one message, is none: a statement within a tag or
a `|safe` where links are tracked, a block that is written as it is (`{% filter %}`, `{% call %}`), NUL, a lone CR. Then the
template is rendered as text, and all the rest is done to the text.

Hazard: everything that can write must go through `_wire`, `quoted.piece` or a buffer; whoever adds a statement to the sandbox says in `_REFUSED`
what a plan thinks of it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from html import escape as escape_html
from html import unescape
from typing import Any, Final, Protocol

from jinja2 import nodes, pass_context
from jinja2.compiler import Frame
from jinja2.loaders import BaseLoader
from jinja2.runtime import Context, Macro
from markupsafe import Markup

from . import quoted
from .anchors import Anchor, as_followed, cut, opaque
from .kept import Kept
from .ration import made
from .sandbox import Metered, Sandbox, TooLong, escaped

__all__ = ["Trail", "Unplanned", "Wire", "following"]

_LINK: Final = "a link"  # names of filters that no template can write
_LINK_IN_MACRO: Final = "a link in a macro"
_SPARED: Final = "a spared link"
_PICTURE: Final = "the picture"
_OURS = frozenset((_LINK, _LINK_IN_MACRO, _SPARED, _PICTURE))
_WIDTH: Final = 74  # of a value on a line of its own

# Stand for a child of an output, and for what is put into it.
_CHILD, _ADDED, _END = "\ue000", "\ue001", "\ue002"
_children = re.compile(f"{_CHILD}[0-9]+{_END}").split
_place = re.compile(f"([{_CHILD}{_ADDED}])([0-9]+){_END}")
_tag = re.compile(r"""(?:/?+[a-z](?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+|[!?/][^>]*+)>""", re.IGNORECASE).match
_values = re.compile(r"""=\s*+(?:"[^"]*+"|'[^']*+')""").sub
_cut_reference = re.compile(r"&#?[0-9A-Za-z]*+\Z").search
_marks = re.compile("[<>\"']").search

_REFUSED: Final = (
    nodes.Import,
    nodes.FilterBlock,
    nodes.CallBlock,
    nodes.ScopedEvalContextModifier,
    nodes.EvalContextModifier,
)
_REFUSED_WITH_LINKS: Final = (nodes.AssignBlock,)


class Unplanned(Exception):
    """This has to be rendered as text. `lasting`: because of the template, not of this message."""

    def __init__(self, why: str, *, lasting: bool = True) -> None:
        super().__init__(why)
        self.lasting = lasting


class Trail(Protocol):
    """Where the links of one message lead. `spared` are the URLs that are to be left alone in its text, too."""

    spared: set[str]

    def link(self, url: str) -> str | None: ...
    def picture(self) -> str: ...


class _Current(threading.local):
    trail: Trail | None = None
    drawn = False


_current = _Current()


def following(trail: Trail | None) -> None:
    """The rendering that begins now in this thread is of the message with this trail."""
    _current.trail = trail
    _current.drawn = False


def _piece(text: str) -> str:
    if "\r" in text or "\0" in text:
        raise Unplanned("a control character that the text's line ends depend on, or that is refused", lasting=False)
    made(len(text))  # an output is joined before anybody looks how long it is
    try:
        return quoted.piece(text)
    except UnicodeEncodeError:
        raise Unplanned("text that is not valid Unicode", lasting=False) from None


_pieces = Kept(_piece)


def _encoded(text: str) -> str:
    # RFC 2045 §6.7: printable ASCII but "=" stands for itself.
    if len(text) <= _WIDTH and text.isascii() and text.isprintable() and "=" not in text:
        return text + "=\r\n" if text else ""
    return _pieces[text]


def _wire(value: Any) -> str:
    """What `{{ value }}` writes."""
    text = escaped(value)
    # A Markup would escape whatever it is joined with.
    return _encoded(text if type(text) is str else str(text))


class _Known(Markup):
    """What a macro gave: HTML whose links are tracked."""


class _Macro(Macro):
    def _invoke(self, arguments: list[Any], autoescape: bool) -> str:
        return _Known(self._func(*arguments))


def _seen(value: Any) -> str:
    """What `{{ value }}` writes where links are tracked: no HTML, whose links would pass unseen."""
    text = escaped(value)
    if type(text) is not str:
        text = str(text)
        if _marks(text):
            raise Unplanned("HTML in a value")
    return text


def _known(value: Any) -> str:
    """What `{{ macro(…) }}` writes where links are tracked."""
    return str(value) if type(value) is _Known else _seen(value)


def _wire_seen(value: Any) -> str:
    return _encoded(_seen(value))


def _wire_known(value: Any) -> str:
    return _encoded(_known(value))


Between = tuple[str, ...]  # what stands between the values of a link's target


def _url(plain: Between, values: tuple[Any, ...]) -> str:
    texts = []
    for value in values:
        text = str(value)
        if hasattr(value, "__html__"):
            if _marks(text):
                raise Unplanned("HTML in a link")
            text = unescape(text)
        texts.append(text)
    return as_followed(_woven(plain, texts))


def _woven(between: Between, values: list[str]) -> str:
    if not values:
        return between[0]
    return "".join([text for pair in zip(between, values, strict=False) for text in pair]) + between[-1]


class _Planned(Metered):
    """The compiler of plans."""

    buffered = False

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        before, self.buffered = self.buffered, frame.buffer is not None
        if self.buffered or frame.require_output_check:
            super().visit_Output(node, frame)
        else:
            self._yield(node, frame)
        self.buffered = before

    def _yield(self, node: nodes.Output, frame: Frame) -> None:
        """An output as one string: each that is yielded by itself goes through every layout."""
        finalize = self._make_finalize()
        body: list[list[str] | nodes.Expr] = []
        for child in node.nodes:
            try:
                const = self._output_child_to_const(child, frame, finalize)
            except Exception:  # it is no constant, or says when it is rendered what is wrong with it
                body.append(child)
                continue
            if body and isinstance(body[-1], list):
                body[-1].append(const)
            else:
                body.append([const])
        self.writeline('yield "".join((')
        self.indent()
        for item in body:
            if isinstance(item, list):
                self.writeline(self._output_const_repr(item))
            else:
                self.newline(item)
                self._output_child_pre(item, frame, finalize)
                self.visit(item, frame)
                self._output_child_post(item, frame, finalize)
            self.write(",")
        self.outdent()
        self.writeline("))")

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        text = "".join(map(str, group))
        return repr(text if self.buffered else _piece(text))

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if isinstance(node, nodes.Filter) and node.name in _OURS:
            self.write("(")
        elif getattr(self.environment, "links", False):
            wire = "" if self.buffered else "wire_"
            self.write(f"{wire}{'known' if _calls(node) else 'seen'}(")
        else:
            self.write("escape(" if self.buffered else "wire(")

    def visit_Include(self, node: nodes.Include, frame: Frame) -> None:
        if frame.buffer is not None:
            raise Unplanned("an include in a macro")
        super().visit_Include(node, frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.recursive:
            raise Unplanned("a recursive loop")
        super().visit_For(node, frame)


class Wire(Sandbox):
    """Compiles HTML templates to plans, with `links` tracked or as they are. Compiling and rendering raise `Unplanned`."""

    code_generator_class = _Planned

    def __init__(self, loader: BaseLoader | None, limit: int, *, links: bool) -> None:
        super().__init__(loader, limit, html=True, keep_trailing_newline=True)
        self.links = links
        self.writers = dict(self.writers) | (_WRITERS_BESIDE_LINKS if links else {"wire": _wire})
        self.filters.update(_FILTERS)

    def concat(self, parts: Iterable[str]) -> str:
        try:
            return super().concat(parts)
        except TooLong as e:  # it counts characters of the text, not octets
            raise Unplanned(str(e), lasting=False) from None

    def octets(self, text: str) -> bytes:
        """The whole of what was rendered."""
        if self.links and not _current.drawn:
            text += _picture()
        if text.count("=") * 6 > len(text):
            raise Unplanned("base64 is shorter", lasting=False)
        return quoted.joined(text)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        refused = _REFUSED + _REFUSED_WITH_LINKS if self.links else _REFUSED
        for node in tree.find_all(refused):
            raise Unplanned(f"line {node.lineno}: a {type(node).__name__}")
        for name_ in tree.find_all(nodes.Name):
            if name_.name in ("self", "super"):
                raise Unplanned(f"line {name_.lineno}: {name_.name}")
        written = "".join(data.data for data in tree.find_all(nodes.TemplateData))
        if "\r" in written or "\0" in written or any(c in written for c in (_CHILD, _ADDED, _END)):
            raise Unplanned("a character that a plan has no place for")
        octets = len(written.encode("utf-8", "surrogatepass"))
        if sum(c > "\x7f" for c in written) * 12 > octets:  # at least two octets each: base64 is shorter
            raise Unplanned("base64 is shorter")
        if self.links:
            in_macro = {id(output) for macro in tree.find_all(nodes.Macro) for output in macro.find_all(nodes.Output)}
            for output in tree.find_all(nodes.Output):
                output.nodes = self._tracked(output.nodes, output.lineno, id(output) in in_macro)
        return tree

    def _tracked(self, children: list[nodes.Expr], line: int, in_macro: bool) -> list[nodes.Expr]:
        """The children of an output, with calls where its links lead, and where the picture stands."""
        html = "".join(
            child.data if isinstance(child, nodes.TemplateData) else f"{_CHILD}{i}{_END}"
            for i, child in enumerate(children)
        )
        covered = opaque(html)
        if covered is None:
            raise Unplanned(f"line {line}: a statement within a tag, a comment, or an element whose content is no HTML")
        pieces, found = cut(html)
        calls = [f"{_CHILD}{i}{_END}" for i, child in enumerate(children) if _calls(child)]
        for i, piece in enumerate(pieces[1:], 1):
            tag = _tag(piece)
            if _CHILD in (_values("", tag[0]) if tag else piece[:2]):
                raise Unplanned(f"line {line}: a value in a tag and not in quotation marks")
            # HTML of a macro counts as HTML only where it is some.
            if any(call in (piece if i in covered else tag[0] if tag else "") for call in calls):
                raise Unplanned(f"line {line}: a macro in a tag, a comment, or an element whose content is no HTML")
        added: list[nodes.Expr] = []

        def put(filter_: str, *args: nodes.Expr) -> str:
            node = nodes.Filter(args[0], filter_, list(args[1:]), [], None, None, lineno=line)
            node.set_environment(self)
            added.append(node)
            return f"{_ADDED}{len(added) - 1}{_END}"

        def target(url: str, source: str) -> list[nodes.Expr]:
            values = [children[int(place[2])] for place in _place.finditer(source)]
            between, plain = tuple(_children(source)), tuple(_children(url))
            if any(_cut_reference(text) for text in between[:-1]):
                raise Unplanned(f"line {line}: a character reference that a value ends")
            return [nodes.Const((between, plain)), *values]

        for i, kind in found:
            if not isinstance(kind, Anchor):
                if in_macro:
                    raise Unplanned(f"line {line}: the end of the body in a macro")
                pieces[i - 1] += put(_PICTURE, nodes.Const(0))
            elif kind.spared:
                if _CHILD in kind.url:  # and to be written as well: it might say something else the second time
                    raise Unplanned(f"line {line}: a value in a link that is to be left alone")
                pieces[i - 1] += put(_SPARED, *target(kind.url, kind.url))
                pieces[i] = kind.before
            else:
                name = kind.before[:-1]
                source = pieces[i][len(name) : len(pieces[i]) - len(kind.after)]
                pieces[i] = f"{name}{put(_LINK_IN_MACRO if in_macro else _LINK, *target(kind.url, source))}{kind.after}"
        return list(self._nodes("<".join(pieces), children, added, line))

    def _nodes(self, html: str, children: list[nodes.Expr], added: list[nodes.Expr], line: int) -> Iterator[nodes.Expr]:
        def data(text: str) -> nodes.Expr:
            node = nodes.TemplateData(text, lineno=line)
            node.set_environment(self)
            return node

        done = 0
        for place in _place.finditer(html):
            if place.start() > done:
                yield data(html[done : place.start()])
            yield (children if place[1] == _CHILD else added)[int(place[2])]
            done = place.end()
        if done < len(html):
            yield data(html[done:])


def _calls(node: nodes.Node) -> bool:
    """Is this `name(…)`, which a macro's call is?"""
    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name)


def _leads(target: tuple[Between, Between], values: tuple[Any, ...]) -> str | None:
    new = None if _current.trail is None else _current.trail.link(_url(target[1], values))
    return None if new is None else f'="{escape_html(new)}"'


def _as_it_was(target: tuple[Between, Between], values: tuple[Any, ...]) -> str:
    return _woven(target[0], [_seen(value) for value in values])


@pass_context  # without which jinja2 would ask at once where it leads
def _link(_: Context, target: tuple[Between, Between], *values: Any) -> str:
    new = _leads(target, values)
    # A link is of one message alone, so it is not kept.
    return _encoded(_as_it_was(target, values)) if new is None else quoted.piece(new)


@pass_context
def _link_in_macro(_: Context, target: tuple[Between, Between], *values: Any) -> str:
    new = _leads(target, values)
    return _as_it_was(target, values) if new is None else new


@pass_context
def _spare(_: Context, target: tuple[Between, Between], *values: Any) -> str:
    if _current.trail is not None:
        _current.trail.spared.add(_url(target[1], values))
    return ""


@pass_context
def _body(_: Context, __: int) -> str:
    return _picture()


def _picture() -> str:
    """The picture, at the end of the body: the last one, so there must not be two."""
    if _current.drawn:
        raise Unplanned("two ends of the body")
    _current.drawn = True
    return "" if _current.trail is None else _encoded(_current.trail.picture())


_WRITERS_BESIDE_LINKS: Final = {
    "seen": _seen,
    "known": _known,
    "wire_seen": _wire_seen,
    "wire_known": _wire_known,
    "Macro": _Macro,
}
_FILTERS: Final = {_LINK: _link, _LINK_IN_MACRO: _link_in_macro, _SPARED: _spare, _PICTURE: _body}
