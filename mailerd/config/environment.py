"""Values from outside the file: `MAILERD_…` variables, secret files, systemd credentials, libpq's variables.

`MAILERD_DATABASE__URL` sets `database.url`; in a named table the name follows, in capitals, with `-` and `.` written
as `_`: `MAILERD_PROVIDER__MY_RELAY__PASSWORD`. A variable can set keys of tables that exist; it cannot make a table.
A secret may also stand in a file named by `…_FILE`, or in `$CREDENTIALS_DIRECTORY` under its key path (`database.url`,
`provider.my-relay.password`); the private key of an [[identity.dkim]] stays in its credential. Variable before credential before file. An empty variable counts as unset.

Hazard: a misspelt variable must not pass silently, so any `MAILERD_` name with `__` in it has to be a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from mailerd.config.decode import Source, Tree, table_name
from mailerd.config.later import LATER
from mailerd.config.lines import Path
from mailerd.config.model import Config
from mailerd.config.problem import Problem, suggestion
from mailerd.config.schema import Key, keys

__all__ = ["overlay", "variable"]

PREFIX = "MAILERD_"
SECRET_LIMIT = 65_536  # octets of a secret file: more is the wrong file

# libpq's own variables. asyncpg reads them for whatever the URL leaves open; with a database or a service among them
# the URL has to leave that open as well.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGDATABASE", "PGSERVICE")


def variable(*path: str) -> str:
    """The name of the variable that sets a key: variable("provider", "my-relay", "port")."""
    return PREFIX + "__".join(part.replace("-", "_").replace(".", "_").upper() for part in path)


def overlay(tree: Tree, env: Mapping[str, str]) -> None:
    """Sets in `tree` what variables and credentials say, with their sources; problems go to the tree."""
    names = _Names(tree)
    _variables(tree, env, names)
    _credentials(tree, env, names)
    _libpq(tree, env)


class _Names:
    """Every settable key of the tree under the name of its variable, and of its credential."""

    def __init__(self, tree: Tree) -> None:
        self.variables: dict[str, tuple[Path, Key]] = {}
        self.credentials: dict[str, tuple[Path, Key]] = {}
        for words, path, key in _settable(tree):
            name = variable(*words)
            if name in self.variables:
                other = tree.label(self.variables[name][0][:-1])
                tree.problem(path[:2], f"its variables would be those of {other}: rename one ({name})")
            self.variables.setdefault(name, (path, key))
            if key.extra.get("secret"):
                self.credentials[".".join(words)] = (path, key)


def _settable(tree: Tree) -> Iterator[tuple[tuple[str, ...], Path, Key]]:
    for top in keys(Config).values():
        assert top.of is not None
        raw = tree.data.get(top.name)
        if top.kind == "table":
            yield from _below(top, (top.name,), (top.name,))
            for key in keys(top.of).values():
                if key.kind == "tables" and isinstance(raw, dict):  # [[inbound.imap]]
                    for index, inner in _named(raw.get(key.name)):
                        yield from _below(key, (top.name, key.name, inner), (top.name, key.name, index))
            continue
        seen: set[str] = set()
        for index in range(len(raw) if isinstance(raw, list) else 0):
            name = table_name(tree.data, top.name, index)
            if name and name not in seen:  # the same name twice is `rules`' to tell
                seen.add(name)
                yield from _below(top, (top.name, name), (top.name, index))


def _named(elements: Any) -> Iterator[tuple[int, str]]:
    """(number, name) of the tables in a list that have a name, each name once."""
    seen: set[str] = set()
    for index, element in enumerate(elements if isinstance(elements, list) else ()):
        name = element.get("name") if isinstance(element, dict) else None
        if isinstance(name, str) and name.isprintable() and name and name not in seen:
            seen.add(name)
            yield index, name


def _below(table: Key, words: tuple[str, ...], path: Path) -> Iterator[tuple[tuple[str, ...], Path, Key]]:
    assert table.of is not None
    for key in keys(table.of).values():
        if key.kind == "table":
            yield from _below(key, (*words, key.name), (*path, key.name))
        elif key.kind != "tables" and (len(path) == 1 or key.name != "name"):
            yield (*words, key.name), (*path, key.name), key


def _variables(tree: Tree, env: Mapping[str, str], names: _Names) -> None:
    for name, value in sorted(env.items()):
        if not name.startswith(PREFIX) or "__" not in name or not value:
            continue
        target = names.variables.get(name)
        if target is not None:
            _set(tree, target[0], value, Source(f"env {name}", text=True))
            continue
        plain = name.removesuffix("_FILE")
        target = names.variables.get(plain) if plain != name else None
        if target is None:
            tree.problems.append(Problem(name, None, _unknown(name, names)))
        elif not target[1].extra.get("secret"):
            tree.problems.append(Problem(name, None, "only secrets are read from files"))
        elif env.get(plain):
            tree.problems.append(Problem(name, None, f"{plain} is set as well: which one holds?"))
        else:
            _set_secret(tree, target[0], FilePath(value), f"env {name}")


def _unknown(name: str, names: _Names) -> str:
    table = name.removeprefix(PREFIX).partition("__")[0].lower()
    if table in LATER:
        return f"not available in this version ({LATER[table]})"
    near = suggestion(name, names.variables)
    if near:
        return f"unknown variable{near}"
    below = [other for other in names.variables if other.startswith(f"{PREFIX}{table.upper()}__")]
    named = keys(Config).get(table)
    if named is not None and named.kind == "tables":
        return f"unknown variable: no [[{table}]] with such a name" + (
            f", or no such key ({below[0]} …)" if below else ""
        )
    return "unknown variable: there is no such key"


def _credentials(tree: Tree, env: Mapping[str, str], names: _Names) -> None:
    folder = env.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return
    try:
        files = sorted(FilePath(folder).iterdir())
    except OSError as wrong:
        tree.problems.append(Problem("CREDENTIALS_DIRECTORY", None, f"cannot be read: {wrong.strerror}"))
        return
    secrets = {name.rpartition(".")[2] for name in names.credentials}
    signing = _signing_keys(tree)
    for file in files:
        target = names.credentials.get(file.name)
        if target is not None:
            source = tree.sources.get(target[0])
            if source is None or not source.text:  # a variable goes first
                _set_secret(tree, target[0], file, "credential")
        elif file.name in signing:
            # Its name, not its content: a key stays in its file until it signs.
            _set(tree, signing[file.name], str(file.absolute()), Source("credential", text=True))
        elif file.name.partition(".")[0] in keys(Config) and file.name.rpartition(".")[2] in (*secrets, "key"):
            near = suggestion(file.name, (*names.credentials, *signing))
            tree.problems.append(Problem(f"credential {file.name}", None, f"belongs to no key{near}"))


def _signing_keys(tree: Tree) -> dict[str, Path]:
    """The credentials that stand in for `key` of an [[identity.dkim]]: identity.NAME.dkim.SELECTOR.key."""
    found: dict[str, Path] = {}
    for name, path in tree.names("identity").items():
        raw = tree.data["identity"][path[1]].get("dkim")
        for index, table in enumerate(raw if isinstance(raw, list) else ()):
            if isinstance(table, dict) and isinstance(table.get("selector"), str):
                found[f"identity.{name}.dkim.{table['selector']}.key"] = (*path, "dkim", index, "key")
    return found


def _set_secret(tree: Tree, path: Path, file: FilePath, origin: str) -> None:
    source = Source(origin, text=True)
    # A name that is no absolute path may be the secret itself, given in place of the file that holds it.
    named = str(file) if file.is_absolute() else "the file that is named"
    try:
        with file.open("rb") as stream:
            content = stream.read(SECRET_LIMIT + 1)
        if len(content) > SECRET_LIMIT:
            raise ValueError("is larger than 64 kB")
        text = content.decode("utf-8").rstrip("\r\n")
    except OSError as wrong:
        tree.problems.append(Problem(tree.label(path), None, f"{named}: {wrong.strerror} (from {origin})"))
    except ValueError as wrong:
        words = "is not UTF-8" if isinstance(wrong, UnicodeDecodeError) else wrong
        tree.problems.append(Problem(tree.label(path), None, f"{named} {words} (from {origin})"))
    else:
        _set(tree, path, text, source)


def _set(tree: Tree, path: Path, value: str, source: Source) -> None:
    table: Any = tree.data
    for part in path[:-1]:
        table = table.setdefault(part, {}) if isinstance(table, dict) else table[part]
        if not isinstance(table, dict | list):
            break
    if isinstance(table, dict):  # otherwise the file has something else there, and `decode` tells
        table[path[-1]] = value
        tree.sources[path] = source


def _libpq(tree: Tree, env: Mapping[str, str]) -> None:
    table = tree.data.get("database", {})
    if not isinstance(table, dict) or "url" in table:
        return
    present = [name for name in _LIBPQ if env.get(name)]
    if env.get("DATABASE_URL"):
        _set(tree, ("database", "url"), env["DATABASE_URL"], Source("env DATABASE_URL", text=True))
    elif "PGDATABASE" in present or "PGSERVICE" in present:
        _set(tree, ("database", "url"), "postgresql://", Source(f"env {', '.join(present)}", text=True))
    elif present:
        tree.sources["database", "url"] = Source(f"default, with env {', '.join(present)}")
