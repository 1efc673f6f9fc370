"""The configuration explained: the reference, the full sample file, and the file that `mailerd init` writes.

All derive from the model, so a new key is documented by declaring it. The sample shows every key commented out at its
default, except for what a first working file needs. In it `#key = …` is a setting and `# Words.` is a comment, so that
taking away the `#` in front of a key is all there is to do.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from mailerd.config import values
from mailerd.config.base import Section
from mailerd.config.environment import variable
from mailerd.config.kinds import users
from mailerd.config.schema import Key, documented, keys

__all__ = ["minimal", "reference", "rows", "sample", "show"]

WIDTH = 100

# What a first file says: table -> {key: value}. Everything else in the sample is commented out.
_WORKING: dict[str, dict[str, Any]] = {
    "provider": {"name": "relay", "host": "smtp.example.org"},
    "identity": {"name": "main", "from": "Example Shop <shop@example.org>"},
}

_UNITS = (
    "Durations: 250ms, 30s, 5m, 2h, 2d, or a number of seconds. Sizes: 64kB, 25MB, 1GB, or a number of octets. "
    "Rates: 100/s, 20/m, 5000/h, 50000/d. Quotas: 50000/d, 1000000/month."
)
_ENVIRONMENT = """\
A variable goes before the file: MAILERD_DATABASE__URL, and with a table's name in it, in capitals,
MAILERD_PROVIDER__RELAY__PASSWORD. Secrets are also read from a file (MAILERD_DATABASE__URL_FILE=/run/secrets/url)
or from $CREDENTIALS_DIRECTORY (database.url, provider.relay.password). DATABASE_URL, PGHOST and friends serve where
no database.url is given. Relative paths start in the folder of the file.
"""


def show(key: Key, value: Any) -> str:
    """A value as the file writes it: `30s` in quotes for durations, TOML for the rest, '' for None."""
    if value is None:
        return ""
    if key.kind == "duration":
        return f'"{values.show_duration(value)}"'
    if key.kind == "size":
        return f'"{values.show_size(value)}"'
    if key.kind == "rate" and not isinstance(value, str):  # the model's examples are written as in the file
        return f'"{values.show_rate(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(_quoted(item) if isinstance(item, str) else str(item) for item in value)}]"
    return _quoted(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Key, Any]]:
    """(dotted key, Key, default) of every value of a table, those of nested tables included."""
    for key in keys(section).values():
        if key.kind == "table":
            assert key.of is not None
            yield from _leaves(key.of, f"{prefix}{key.name}.")
        elif key.kind != "tables":  # those have a section of their own
            yield f"{prefix}{key.name}", key, None if key.required else key.default


def _type(key: Key) -> str:
    if key.kind == "choice":
        return " | ".join(f"`{choice}`" for choice in key.choices)
    words = {"list": "list of names", "numbers": "list of numbers"}.get(key.kind, key.kind)
    if key.ge is not None and key.le is not None:
        return f"{words}, {key.ge:g} to {key.le:g}"
    return f"{words}, at least {key.ge:g}" if key.ge is not None else words


def _doc(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


def rows() -> list[dict[str, Any]]:
    """Every key as data: `key`, `type`, `default` (None: it has none), `required`, `meaning`, `variable`, `secret`."""
    found = []
    for table, section, several in documented():
        for name, key, default in _leaves(section):
            path = [table, *(["NAME"] if several else []), *name.split(".")]
            settable = not (several and name == "name") and "." not in table
            found.append(
                {
                    "key": ".".join(path),
                    "type": _type(key).replace("`", ""),
                    "default": show(key, default) or None,
                    "required": key.required,
                    "meaning": key.description,
                    "variable": variable(*path) if settable else None,
                    "secret": bool(key.extra.get("secret")),
                }
            )
    return found


def reference(width: int = WIDTH) -> str:
    """Every key, type, default and meaning, in Markdown that also reads well on a terminal of `width` columns."""
    lines: list[str] = []
    for paragraph in (_UNITS, _ENVIRONMENT):
        lines += [*textwrap.wrap(paragraph.strip(), width, break_on_hyphens=False), ""]
    for table, section, several in documented():
        lines += [f"## {_header(table, several)}", ""]
        if _doc(section):
            lines += [*textwrap.wrap(_doc(section), width), ""]
        for name, key, default in _leaves(section):
            shown = (
                "required"
                if key.required
                else f"default `{show(key, default)}`"
                if show(key, default)
                else "no default"
            )
            head = f"- `{name}` ({_type(key)}; {shown}): {key.description}{_users(table, name)}"
            lines += textwrap.wrap(head, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _header(table: str, several: bool) -> str:
    return f"[[{table}]]" if several else f"[{table}]"


def _comment(text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def sample() -> str:
    """The full sample: every key of the model, each at its default and commented out unless a first file needs it."""
    lines = _comment(
        "mailerd, the full configuration. Every key is here; those with `#` in front are at their default,"
    )
    lines[0] = "# mailerd: every key of the configuration."
    lines += _comment("A key with # in front stands at its default, or shows how it is written where it has none.")
    for paragraph in (_UNITS, _ENVIRONMENT):
        lines += ["#", *_comment(paragraph)]
    for table, section, several in documented():
        working = _WORKING.get(table, {})
        lines += ["", "", *_comment(_doc(section))]
        header = _header(table, several)
        # An empty [table] changes nothing, so it may stand; an empty [[table]] would be one more element.
        lines.append(header if working or not several else f"#{header}")
        for name, key, default in _leaves(section):
            lines.append("")
            lines += _comment(_sentence(key) + _users(table, name))
            value = working.get(name, key.example if default in (None, ()) else default)
            lines.append(f"{'' if name in working else '#'}{name} = {show(key, value)}")
    return "\n".join(lines) + "\n"


def _sentence(key: Key) -> str:
    choices = f" One of {_type(key).replace(' | ', ', ').replace('`', '')}." if key.kind == "choice" else ""
    return f"{key.description}{choices}"


def _users(table: str, name: str) -> str:
    """Which kinds of provider a key is for, where it is not for all of them."""
    kinds = users(name) if table == "provider" else ()
    return f" For kind = {', '.join(kinds)}." if kinds else ""


def minimal() -> str:
    """The file that `mailerd init` writes: enough to start, with what most people change next in reach."""
    return """\
# mailerd: configuration. `mailerd check` finds every mistake, `mailerd config reference` explains every key,
# `mailerd config show` prints what is in force and where it comes from.

[database]
# Also: MAILERD_DATABASE__URL, DATABASE_URL, PGHOST and friends.
#url = "postgresql:///mailerd"

# Who takes the mail. With several, name them in a [[pool]]; without one they share a pool called "default".
[[provider]]
name = "relay"
host = "smtp.example.org"
tls = "starttls"  # or "implicit" (port 465), "opportunistic", "none"
#port = 587
#username = "mailer"
# Keep the password out of this file: MAILERD_PROVIDER__RELAY__PASSWORD_FILE=/run/secrets/relay,
# or a systemd credential named provider.relay.password.
#password = "secret"
#connections = 20  # most connections to it, over all instances

# In whose name mail is sent when a row names no sender: that of the first identity, if its stream names none.
[[identity]]
name = "main"
from = "Example Shop <shop@example.org>"
#return_path = "bounces@example.org"  # where bounces go; default: the address of `from`

# A key that signs its mail (DKIM), unless the relay does: `mailerd dkim new` makes it and prints the DNS record.
#[[identity.dkim]]
#selector = "mailerd1"
#key = "dkim.pem"

# What waits in one stream never delays another. Without any [[stream]] these two exist:
#[[stream]]
#name = "transactional"
#
#[[stream]]
#name = "marketing"
#concurrency = 20        # most connections this stream uses at one provider
#on_uncertain = "hold"   # when a message may have been accepted: wait for an operator, or "resend"

#[ops]
#listen = "127.0.0.1:8025"  # health and metrics

#[templates]
#path = "templates"  # NAME/subject.j2, NAME/html.j2, NAME/text.j2
"""
