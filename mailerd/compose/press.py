"""From a template's folder to a version that can be stored: everything that needs doing once is done here, never for
a message.

    welcome/meta.toml      description, marketing, sample params   welcome/schema.json   JSON Schema of the params
    welcome/subject.j2     html.j2 or body.mjml, text.j2, amp.html, preheader.j2
    welcome/pt/…           what another language replaces (pt-BR, then pt, then the default)

Layouts and partials lie in the same root, are shared by name and bundled into each version (`compose.flatten`): a
change to a layout reaches a template when that is pushed again, so a version that was looked at stays what it was.
MJML becomes HTML (mrml), styles are inlined (css-inline) around Jinja's tags, which are masked meanwhile.

`press` answers with the version, its files and its `Problem`s. It reads files under `root`, and no network.
"""

from __future__ import annotations

import re
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import css_inline
import jinja2
import jsonschema_rs
import mrml
import msgspec
from jinja2 import nodes

from mailerd.message import Failure

from .bundle import Edition, Version, validator_of
from .flatten import flatten
from .judge import Problem, judge
from .sandbox import Sandbox

__all__ = ["Meta", "Pressed", "press", "templates_in"]

_locale = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*").fullmatch
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*").fullmatch
_jinja = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
_masked = re.compile(r'<!--jx(\d+)x-->|&lt;!--jx(\d+)x--&gt;|jx(\d+)x=""|jx(\d+)x')
_opening = re.compile(r"<!doctype|<html[\s>]|<mjml[\s>]", re.IGNORECASE)
_macro = re.compile(r"\{%[-+]?\s*macro\b.*?\{%[-+]?\s*endmacro\s*[-+]?%\}", re.DOTALL)
_body = re.compile(r"<body[^>]*>", re.IGNORECASE)
_BODIES: Final = ("html.j2", "body.mjml", "text.j2")
_html_mark = re.compile(r"<!--|-->|</style|<style|</?[A-Za-z]|[>\"']", re.IGNORECASE)
_TEXT: Final = ""
_TAG: Final = ">"
_PAIRED: Final = ("if", "for", "with", "filter", "call", "macro")
_PREHEADER: Final = (
    '<div style="display:none;max-height:0;overflow:hidden;mso-hide:all">{}' + "&#847;&zwnj;&nbsp;" * 20 + "</div>"
)
_inliner = css_inline.CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """meta.toml. `sample`: params for previews and checks; `marketing`: must carry an unsubscribe link."""

    description: str = ""
    marketing: bool = False
    sample: dict[str, Any] = {}


class Pressed(msgspec.Struct, frozen=True):
    """A version without its number (0), the files that made it, and what is wrong with it."""

    version: Version
    meta: Meta
    files: dict[str, str]
    problems: list[Problem]

    @property
    def digest(self) -> str:
        """Of the result, so that the same content is not stored twice."""
        return sha256(msgspec.json.encode([self.version, self.files], order="sorted")).hexdigest()


def templates_in(root: Path) -> list[str]:
    """The names of the templates under `root`: folders with a body, that are no language of another one."""
    found = {p.parent for body in _BODIES for p in root.rglob(body)}
    names = {f.parent if _locale(f.name) and any((f.parent / b).is_file() for b in _BODIES) else f for f in found}
    return sorted(n for f in names if f != root and _name(n := f.relative_to(root).as_posix()))


def press(root: Path, name: str) -> Pressed:
    """Raises `Failure` where there is nothing to judge: no such folder, a meta.toml or schema.json that cannot be read."""
    home = root / name
    if not _name(name) or not home.is_dir():
        raise Failure(f"template {name[:80]!a}: no folder {home}", "template")
    files: dict[str, str] = {}
    problems: list[Problem] = []

    def read(file: str) -> str:
        path = (root / file).resolve()
        if not path.is_relative_to(root.resolve()):
            raise Failure(f"{file}: outside the templates folder", "template")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{file}: {getattr(error, 'strerror', None) or error}", "template") from None
        if file not in files and path.suffix not in (".toml", ".json"):
            _parse(file, text)
        files[file] = text
        return text

    meta, schema = _meta(home, name, read), _schema(home, name, read)
    languages = {d.name.lower().replace("_", "-"): d for d in sorted(home.iterdir()) if d.is_dir() and _locale(d.name)}
    editions: dict[str, Edition] = {}
    for tag in ("", *languages):
        prefixes = [languages[t] for t in _wider(tag) if t in languages]
        try:
            editions[tag] = _edition(root, [*prefixes, home], read)
        except Failure as failure:
            problems.append(Problem(failure.reason))
            continue
        problems += judge(f"{name}/{tag}" if tag else name, editions[tag], meta.marketing)
        problems += _undefined(name, editions[tag], schema)
    version = Version(name, 0, editions, schema)
    if meta.sample and not problems:
        try:
            version.check(meta.sample)
        except Failure as failure:
            problems.append(Problem(f"{name}/meta.toml: sample: {failure.reason}"))
    return Pressed(version, meta, files, list(dict.fromkeys(problems)))


def _wider(tag: str) -> list[str]:
    parts = tag.split("-")
    return ["-".join(parts[:n]) for n in range(len(parts), 0, -1)] if tag else []


def _edition(root: Path, places: list[Path], read: Any) -> Edition:
    def get(file: str, among: list[Path]) -> str | None:
        place = next((p for p in among if (p / file).is_file()), None)
        return None if place is None else flatten((place / file).relative_to(root).as_posix(), read)

    body = next((p for p in places if any((p / b).is_file() for b in _BODIES)), None)
    if body is None:
        raise Failure(f"{places[-1].name}: none of {', '.join(_BODIES)}", "template")
    html = get("html.j2", [body])
    mjml = get("body.mjml", [body])
    if html is not None and mjml is not None:
        raise Failure(f"{body.relative_to(root).as_posix()}: html.j2 and body.mjml, only one of them can be sent")
    if mjml is not None or html is not None:
        html = _html(body.relative_to(root).as_posix(), html, mjml, get("preheader.j2", places))
    return Edition(get("subject.j2", places), html, get("text.j2", [body]), get("amp.html", [body]))


def _html(where: str, html: str | None, mjml: str | None, preheader: str | None) -> str:
    """The finished HTML source. Jinja's tags sleep through it as comments, attributes or words."""
    tags: list[str] = []
    source = mjml if mjml is not None else html or ""
    if (word := _masked.search(source)) or (preheader and _masked.search(preheader)):
        raise Failure(f"{where}: {word[0] if word else 'jx1x'} is a word that the press needs for itself", "template")
    start = _opening.search(source)
    front, macros = "", ""
    if start:  # what stands before the document: names stay there, macros hold markup that belongs into its body
        front, source = source[: start.start()], source[start.start() :]
        macros = "".join(_macro.findall(front))
        front = _macro.sub("", front).strip()
    source = _mask(source, tags)
    if macros and mjml is None:
        source = _body.sub(lambda m: m[0] + _mask(macros, tags), source, count=1)
    try:
        if mjml is not None:
            source = str(mrml.to_html(source).content)
        if re.search(r"<html[\s>]", source, re.IGNORECASE):
            source = _inliner.inline(source)
    except (OSError, ValueError, css_inline.InlineError) as error:
        raise Failure(f"{where}: {error}", "template") from None
    if preheader is not None:
        hidden = _PREHEADER.format(_mask(preheader.strip(), tags))
        source = _body.sub(lambda m: m[0] + hidden, source, count=1)
    if mjml is not None:
        front += macros
    return front + _masked.sub(lambda m: tags[int(m[1] or m[2] or m[3] or m[4])], source)


def _mask(source: str, tags: list[str]) -> str:
    """Jinja's tags as words that HTML parsers leave where they are. A condition around attributes becomes one
    attribute as a whole, because parsers put attributes into an order of their own."""
    out: list[str] = []
    end = depth = started = 0
    state = _TEXT
    for found in _jinja.finditer(source):
        if not depth:
            plain = source[end : found.start()]
            out.append(plain)
            state = _after(state, plain)
            started = found.start()
        end = found.end()
        word = re.match(r"\{%[-+]?\s*(\w+)", found[0])
        if state == _TAG and word:
            depth += (word[1] in _PAIRED) - (word[1].startswith("end") and depth > 0)
            if depth:
                continue
        mask = f"jx{len(tags)}x"
        tags.append(source[started:end])
        if state == _TAG:
            mask = mask if source[started - 1 : started] == "=" else f" {mask} "
        out.append(mask if state != _TEXT or found[0].startswith("{{") else f"<!--{mask}-->")
    out.append(source[started if depth else end :])
    return "".join(out)


def _after(state: str, text: str) -> str:
    """Where in HTML one is behind `text`: in text, a comment, a style, a tag, or a quoted value of one."""
    for mark in _html_mark.findall(text):
        if state == _TEXT:
            if mark[0] == "<":
                state = {"<!--": "-->", "<style": "</style"}.get(mark.lower(), _TAG)
        elif state == _TAG:
            state = _TEXT if mark == ">" else mark if mark in ('"', "'") else state
        elif mark.lower() == state:
            state = _TEXT if state == "-->" else _TAG
    return state


def _parse(file: str, text: str) -> None:
    """Raises `Failure` with line and column of what does not parse."""
    try:
        _environment.parse(text)
    except jinja2.TemplateSyntaxError as error:
        line = text.splitlines()[error.lineno - 1] if 0 < error.lineno <= len(text.splitlines()) else ""
        word = re.search(r"'([^']+)'", error.message or "")
        tag = _jinja.search(line)
        column = line.find(word[1]) if word and word[1] in line else tag.start() if tag else max(line.find("{"), 0)
        raise Failure(f"{file}, line {error.lineno}, column {column + 1}: {error.message}", "template") from None
    except RecursionError:
        raise Failure(f"{file}: nested too deeply", "template") from None


_environment = Sandbox(None, 1 << 20, html=True)


def _undefined(name: str, edition: Edition, schema: dict[str, Any] | None) -> list[Problem]:
    """What does not parse once it is finished, and names that no message can have, since the schema does not declare them."""
    from jinja2.meta import find_undeclared_variables

    problems = []
    for part in ("subject", "html", "text", "amp"):
        source = getattr(edition, part)
        if source is None:
            continue
        try:
            tree = _environment.parse(source)
            used = find_undeclared_variables(tree) - set(_environment.globals)
        except jinja2.TemplateError as error:
            problems.append(Problem(f"{name} ({part}): {error}"))
            continue
        if schema is None:
            continue
        known = schema.get("properties", {})
        problems += [Problem(f"{name} ({part}): {v} is not in schema.json") for v in sorted(used - set(known))]
        for node in tree.find_all(nodes.Getattr):
            if isinstance(node.node, nodes.Name) and node.node.name in used:
                inner = known.get(node.node.name, {}).get("properties")
                if inner is not None and node.attr not in inner:
                    problems.append(Problem(f"{name} ({part}): {node.node.name}.{node.attr} is not in schema.json"))
    return problems


def _meta(home: Path, name: str, read: Any) -> Meta:
    if not (home / "meta.toml").is_file():
        return Meta()
    try:
        return msgspec.convert(tomllib.loads(read(f"{name}/meta.toml")), Meta)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Failure(f"{name}/meta.toml: {error}", "template") from None


def _schema(home: Path, name: str, read: Any) -> dict[str, Any] | None:
    if not (home / "schema.json").is_file():
        return None
    try:
        schema = msgspec.json.decode(read(f"{name}/schema.json"), type=dict[str, Any])
        validator_of(schema)
    except (msgspec.MsgspecError, jsonschema_rs.ValidationError, ValueError) as error:
        raise Failure(f"{name}/schema.json: {str(error).splitlines()[0]}", "template") from None
    return schema
