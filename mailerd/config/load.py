"""From a file and the environment to a Config, with the origin of every value; or to every problem at once.

`load` finds the file and reads it; `parse` does the rest and is what tests and reloads of a text use. Both are all or
nothing: a Config with a problem never comes out. Nothing here connects anywhere.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mailerd.config import rules
from mailerd.config.base import Section
from mailerd.config.decode import Source, Tree
from mailerd.config.environment import overlay
from mailerd.config.lines import Path as KeyPath
from mailerd.config.lines import positions
from mailerd.config.model import Config
from mailerd.config.problem import ConfigError, Problem
from mailerd.config.resolved import DEFAULT_STREAMS, Resolved, complete
from mailerd.config.schema import Key, keys

__all__ = ["SEARCH", "ConfigError", "Loaded", "Problem", "find", "flatten", "load", "parse"]

SEARCH = ("mailerd.toml", "/etc/mailerd/mailerd.toml")
FILE_LIMIT = 4 << 20  # octets: a larger file is the wrong file

_DIGITS = re.compile(r"[0-9][0-9_]{4300}")
_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")


class Loaded(msgspec.Struct, frozen=True):
    """A usable configuration.

    `origins`: key path (`provider.relay.port`) to `default`, `FILE:LINE`, `env NAME` or `credential`. `path`: the file,
    None if there was none.
    """

    config: Config
    origins: dict[str, str]
    path: Path | None

    @property
    def resolved(self) -> Resolved:
        """The configuration by names; made anew each time, so keep it."""
        return Resolved(self.config)


def find(path: Path | None, env: Mapping[str, str]) -> Path | None:
    """The file to read: `path` (the flag), $MAILERD_CONFIG, ./mailerd.toml, /etc/mailerd/mailerd.toml, or none."""
    if path is not None:
        return path
    if env.get("MAILERD_CONFIG"):
        return Path(env["MAILERD_CONFIG"])
    return next((Path(candidate) for candidate in SEARCH if os.path.exists(candidate)), None)


def load(path: Path | None, env: Mapping[str, str], *, require_provider: bool = False) -> Loaded:
    """The configuration of this process. Raises `ConfigError` with every problem.

    `require_provider`: having no [[provider]] is a problem, too (for commands that send).
    """
    found = find(path, env)
    if found is None:
        return parse("", None, env, require_provider=require_provider)
    why = "" if path is not None else " (from MAILERD_CONFIG)" if env.get("MAILERD_CONFIG") else ""
    try:
        with found.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            raise ConfigError([Problem("", None, "is larger than 4 MB: is it the right file?")], str(found))
        text = content.decode("utf-8-sig")
    except OSError as wrong:
        hint = "; `mailerd init` writes one" if isinstance(wrong, FileNotFoundError) else ""
        raise ConfigError([Problem("", None, f"{wrong.strerror}{why}{hint}")], str(found)) from None
    except UnicodeDecodeError as wrong:
        line = content.count(b"\n", 0, wrong.start) + 1
        raise ConfigError([Problem("", line, "is not UTF-8")], str(found)) from None
    return parse(text, found, env, require_provider=require_provider)


def parse(text: str, path: Path | None, env: Mapping[str, str], *, require_provider: bool = False) -> Loaded:
    """The configuration that `text` and `env` make; `path` names the text, and relative paths start in its folder."""
    source = str(path) if path is not None else ""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        message = str(wrong)
        at = _AT.search(message)
        line = int(at[1]) if at else text.count("\n") + 1
        words = f"column {at[2]}: {message[: at.start()]}" if at else message
        raise ConfigError([Problem("", line, f"no TOML: {words}")], source) from None
    except ValueError:  # of `int`, which reads no number of more than 4300 digits
        digits = _DIGITS.search(text)
        near = text.count("\n", 0, digits.start()) + 1 if digits else None
        raise ConfigError([Problem("", near, "no TOML: a number of thousands of digits")], source) from None
    except RecursionError:
        raise ConfigError([Problem("", None, "no TOML: nested too deeply")], source) from None
    lines = positions(text)
    tree = Tree(data, lines, path.parent if path is not None else Path())
    for key, line in lines.items():
        tree.sources[key] = Source(f"{source}:{line}" if source else f"line {line}", line)
    if "stream" not in data:
        data["stream"] = [{"name": name} for name in DEFAULT_STREAMS]
    overlay(tree, env)
    config = tree.decode()
    rules.check(tree, require_provider=require_provider)
    if tree.problems:
        raise ConfigError(tree.problems, source)
    config = complete(_ports(config, data))
    unset = Source("default")
    return Loaded(config, {words: tree.sources.get(at, unset).origin for words, at, _, _ in flatten(config)}, path)


def _ports(config: Config, data: dict[str, Any]) -> Config:
    """Implicit TLS has its own port (RFC 8314 §7.3), unless the file says otherwise."""
    providers = (
        replace(provider, port=465) if provider.tls == "implicit" and "port" not in raw else provider
        for provider, raw in zip(config.provider, data.get("provider", ()), strict=True)
    )
    return replace(config, provider=tuple(providers))


def flatten(config: Config) -> Iterator[tuple[str, KeyPath, Key, Any]]:
    """(key path for people, path, Key, value) of every value, in the order of the model."""
    yield from _flatten(config, "", ())


def _flatten(table: Section, words: str, path: KeyPath) -> Iterator[tuple[str, KeyPath, Key, Any]]:
    for key in keys(type(table)).values():
        value = getattr(table, key.attribute)
        below = f"{words}.{key.name}" if words else key.name
        if key.kind == "table":
            if value is None:
                continue
            yield from _flatten(value, below, (*path, key.name))
        elif key.kind == "tables":
            for index, element in enumerate(value):
                name = getattr(element, "name", None)
                yield from _flatten(
                    element, f"{below}.{name}" if name else f"{below}[{index}]", (*path, key.name, index)
                )
        else:
            yield below, (*path, key.name), key, value
