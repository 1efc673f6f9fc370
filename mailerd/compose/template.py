"""Templates: a row's `template`, or its inline texts when it has `params`, rendered by jinja2.

File templates live in one folder, a template being a folder in it:

    welcome/subject.j2  welcome/html.j2  welcome/text.j2      the default language
    welcome/pt/html.j2  welcome/pt-BR/subject.j2  …           what another language replaces

For `pt-BR` each of the subject and the body is taken from `pt-BR`, else `pt`, else the default; html and text are
taken from the same place, so that one message never speaks two languages in its two parts. A template must have html or
text; a row's own subject replaces its subject. `{% include "_parts/footer.j2" %}`, `extends` and `import` name files from
the folder's root; nothing outside it can be read. HTML is escaped, whatever file it comes from; text is not.

Each is compiled once and kept until the next configuration reload; inline sources are kept up to a total size. A value that would bring a line break into the subject is refused; line breaks of subject.j2 itself are
spaces. Every error is a `Failure` (category `template`, `params` or `header`) with the file or column, the line and,
where one is missing, the variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import jinja2
import msgspec
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

from mailerd.message import Failure, clean

from .bundle import Library, Version
from .sandbox import Sandbox, TooMuch, start_meter

__all__ = ["Content", "Templates", "decode_params"]

# An inline template compiles while other mail waits: 10 000 tokens take up to 0.4 s, a megabyte of plain text 0.1 s.
TOKEN_LIMIT = 10_000
SOURCE_LIMIT = 1_048_576
CACHE_LIMIT = 8_388_608  # characters of inline sources that are kept compiled
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*").fullmatch
_breaks = re.compile(r"[ \t]*[\r\n][ \t\r\n]*").sub
_decode = msgspec.json.Decoder(dict[str, Any]).decode

Params = dict[str, Any]


class Content(msgspec.Struct, frozen=True):
    """What a template or a row's inline texts give: any of them may be missing."""

    subject: str | None
    text: str | None
    html: str | None


class _Compiled(msgspec.Struct, frozen=True):
    """A compiled template with what a rendering needs of it, and how it is called in errors."""

    where: str
    environment: Sandbox
    root: Callable[[Any], Iterator[str]]
    name: str | None
    blocks: dict[str, Any]
    globals: dict[str, Any]

    def render(self, params: Params) -> str:
        environment = self.environment
        start_meter()
        try:
            context = environment.context_class(
                environment, {**self.globals, **params}, self.name, self.blocks, self.globals
            )
            return environment.concat(self.root(context))
        except Exception as e:
            raise _failure(self.where, e) from None


class _File(msgspec.Struct, frozen=True):
    """A file template in one language."""

    subject: _Compiled | None
    text: _Compiled | None
    html: _Compiled | None


class _Key:
    """A version in one language; versions never change, so their number is all that tells them apart."""

    __slots__ = ("_id", "tag", "version")

    def __init__(self, version: Version, tag: str) -> None:
        self.version, self.tag, self._id = version, tag, (version.name, version.version, tag)

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._id == other._id


def decode_params(params: str | None) -> Params:
    """The row's `params`, {} if it has none. Raises `Failure` if they are not a JSON object."""
    if params is None or params == "{}":
        return {}
    try:
        return _decode(params)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as e:
        raise Failure(f"params: not a JSON object ({e})", "params") from None


class _OneLine(Extension):
    """Line breaks of a subject template itself are spaces, so that one in its result came in with a value."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for token in stream:
            yield Token(token.lineno, "data", _breaks(" ", token.value)) if token.type == "data" else token


class Templates:
    """The compiled templates of one configuration. `folder` holds the file templates, if there are any; `limit` is
    the most characters that one text may come to."""

    def __init__(self, folder: str | None, limit: int, library: Library | None = None) -> None:
        self._library = library
        self._edition = lru_cache(2048)(self._compile_edition)
        self._folder = Path(folder) if folder is not None else None
        loader = jinja2.FileSystemLoader(folder) if folder is not None else None
        self._text = Sandbox(loader, limit, html=False, keep_trailing_newline=True)
        self._html = Sandbox(loader, limit, html=True, keep_trailing_newline=True)
        self._subject = Sandbox(loader, limit, html=False, extensions=[_OneLine])
        self._file = lru_cache(1024)(self._load)
        self._sources: dict[tuple[str, str], _Compiled] = {}
        self._cached = 0

    def file(self, name: str, locale: str | None, params: Params, subject: str | None = None) -> Content:
        """The file template `name` in the language that fits `locale` best, rendered. A row's own `subject` is
        rendered in place of the template's. Raises `Failure`."""
        return self._render(self._file(name, locale), params, subject)

    def _render(self, file: _File, params: Params, subject: str | None) -> Content:
        if subject is not None:
            subject = self._own_subject(subject, params)
        elif file.subject is not None:
            subject = _one_line(file.subject.render(params), file.subject.where)
        return Content(
            subject,
            None if file.text is None else file.text.render(params),
            None if file.html is None else file.html.render(params),
        )

    def knows(self, name: str) -> bool:
        """Is it in the library, or, without a version, in the folder?"""
        if self._library is None or self._library.knows(name):
            return True
        return self._folder is not None and bool(_name(name)) and (self._folder / name).is_dir()

    def stored(
        self, name: str, locale: str | None, params: Params, subject: str | None, recipient: str, added: str = ""
    ) -> tuple[Content, str] | None:
        """The stored template that `name` means for this recipient, rendered, and how events call it; None if it is
        not stored. `added`: the one of the params that the row did not bring. Raises `Failure`."""
        found = self._library.find(name, recipient) if self._library is not None else None
        if found is None:
            if "@" in name:
                raise Failure(f"template {clean(name, 80)}: there is no such version", "template")
            return None
        version, variant = found
        # The link is ours: only a schema that names it looks at it.
        named = (version.schema or {}).get("properties", {})
        version.check({k: v for k, v in params.items() if k != added or k in named} if added else params)
        edition = self._edition(_Key(version, version.edition(_tags(locale))[0]))
        return self._render(edition, params, subject), variant

    def inline(self, subject: str | None, text: str | None, html: str | None, params: Params) -> Content:
        """A row's own texts, rendered. A source without a tag is its own result and is never compiled."""
        return Content(
            None if subject is None else self._own_subject(subject, params),
            None if text is None else self._inline("text_body", text, params),
            None if html is None else self._inline("html_body", html, params),
        )

    def _own_subject(self, source: str, params: Params) -> str:
        return _one_line(self._inline("subject", _one_line(source, "subject"), params), "subject")

    def _inline(self, column: str, source: str, params: Params) -> str:
        if "{{" not in source and "{%" not in source and "{#" not in source:
            return source
        key = (column, source)
        compiled = self._sources.get(key)
        if compiled is None:
            compiled = self._compile(column, source)
            if self._cached + len(source) > CACHE_LIMIT:
                self._sources, self._cached = {}, 0
            self._sources[key] = compiled
            self._cached += len(source)
        return compiled.render(params)

    def _compile(self, column: str, source: str) -> _Compiled:
        environment = {"subject": self._subject, "text_body": self._text, "html_body": self._html}[column]
        if len(source) > SOURCE_LIMIT:
            raise Failure(f"{column}: a template of {len(source)} characters, at most {SOURCE_LIMIT}", "template")
        try:
            tokens = (kind for _, kind, _ in environment.lex(source) if kind != "data")
            if next(islice(tokens, TOKEN_LIMIT, None), None) is not None:
                raise TooMuch(f"a template of more than {TOKEN_LIMIT} tokens")
            template = environment.from_string(source)
        except Exception as e:
            raise _failure(column, e) from None
        return _compiled(column, environment, template)

    def _compile_edition(self, key: _Key) -> _File:
        edition = key.version.editions[key.tag]
        where = f"template {key.version.name}@{key.version.version}{f' ({key.tag})' if key.tag else ''}: "

        def compiled(environment: Sandbox, part: str, source: str | None) -> _Compiled | None:
            if source is None:
                return None
            try:
                return _compiled(where + part, environment, environment.from_string(source))
            except Exception as e:
                raise _failure(where + part, e) from None

        return _File(
            compiled(self._subject, "subject", edition.subject),
            compiled(self._text, "text", edition.text),
            compiled(self._html, "html", edition.html),
        )

    def _load(self, name: str, locale: str | None) -> _File:
        if self._folder is None:
            raise Failure(f"template {name!a}: templates.path is not configured", "template")
        if not _name(name):
            raise Failure(f"template {name[:80]!a}: not a template name", "template")
        home = self._folder / name
        try:
            entries = sorted(home.iterdir())
        except OSError as e:
            raise Failure(f"template {name}: {e.strerror or e} ({home})", "template") from None
        folders = {entry.name.lower().replace("_", "-"): entry for entry in entries if entry.is_dir()}
        places = [folders[tag] for tag in _tags(locale) if tag in folders] + [home]
        subject = next((place / "subject.j2" for place in places if (place / "subject.j2").is_file()), None)
        body = next((p for p in places if (p / "html.j2").is_file() or (p / "text.j2").is_file()), None)
        if body is None:
            raise Failure(f"template {name}: neither html.j2 nor text.j2 in {home}", "template")
        return _File(
            self._get(self._subject, subject) if subject is not None else None,
            self._get(self._text, body / "text.j2") if (body / "text.j2").is_file() else None,
            self._get(self._html, body / "html.j2") if (body / "html.j2").is_file() else None,
        )

    def _get(self, environment: Sandbox, path: Path) -> _Compiled:
        assert self._folder is not None
        name = path.relative_to(self._folder).as_posix()
        try:
            template = environment.get_template(name)
        except Exception as e:
            raise _failure(f"template {name}", e) from None
        return _compiled(f"template {name}", environment, template)


def _compiled(where: str, environment: Sandbox, template: jinja2.Template) -> _Compiled:
    return _Compiled(
        where, environment, template.root_render_func, template.name, template.blocks, dict(template.globals)
    )


def _tags(locale: str | None) -> Iterator[str]:
    """`pt_BR.UTF-8` as pt-br, pt: from the closest to the widest (RFC 4647 §3.4)."""
    parts = re.split(r"[-_]", re.split(r"[.@]", locale or "", maxsplit=1)[0].lower())
    for n in range(len(parts), 0, -1):
        if all(parts[:n]):
            yield "-".join(parts[:n])


def _one_line(subject: str, where: str) -> str:
    if "\n" in subject or "\r" in subject:
        raise Failure(f"{where}: a line break would get into the subject", "header")
    return subject.strip(" ")


def _failure(where: str, error: Exception) -> Failure:
    """What went wrong in a template, as an operator reads it: file or column, line, message."""
    name, line = _place(error)
    if name is not None and not name.startswith("<"):
        where = f"template {name}"
    if isinstance(error, RecursionError):
        problem = "it calls itself too deeply"
    elif isinstance(error, jinja2.TemplateNotFound):
        problem = f"no file {error.name!r} in the templates folder"
    elif isinstance(error, jinja2.TemplateError | TooMuch):
        problem = str(error.message if isinstance(error, jinja2.TemplateSyntaxError) else error)
    elif isinstance(error, SyntaxError | MemoryError):  # of Python's own compiler
        problem = "nested too deeply"
    else:
        problem = f"{type(error).__name__}: {error}"
    return Failure(f"{where}{f', line {line}' if line else ''}: {clean(problem, 300)}", "template")


def _place(error: Exception) -> tuple[str | None, int]:
    """The template and line that `error` comes from: the innermost template frame of its traceback."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.name, error.lineno
    found: tuple[str | None, int] = (None, 0)
    frame: TracebackType | None = error.__traceback__
    while frame is not None:
        template = frame.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, jinja2.Template):
            found = (template.name, template.get_corresponding_lineno(frame.tb_lineno))
        frame = frame.tb_next
    return found
