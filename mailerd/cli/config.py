"""`mailerd config show` and `mailerd config reference`: what is in force and why, and what there is to set.

Secrets never leave here in clear: passwords are masked whole, URLs in their password only.
"""

from __future__ import annotations

import re
import shutil
from typing import Any

import click

from mailerd.cli.output import is_terminal, json_option, load_config, print_json, print_table

__all__ = ["config", "masked"]

MASK = "********"
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@?#]*):[^/?#]*(?=@)")
_QUERY_PASSWORD = re.compile(r"(?<=[?&])((?:ssl)?password)=[^&#]*")


def masked(text: str) -> str:
    """A secret for the eye: the password of a URL is hidden, anything else is hidden whole."""
    if "://" not in text:
        return text if text == "off" else MASK
    return _QUERY_PASSWORD.sub(rf"\1={MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}", text))


@click.group()
def config() -> None:
    """Show the effective values, or explain every key."""


@config.command()
@click.option("--changed", is_flag=True, help="Only what is not at its default.")
@json_option
@click.pass_context
def show(ctx: click.Context, changed: bool, as_json: bool) -> None:
    """Print every value in force and where it comes from. Secrets are masked.

    An origin is a file and line, `env` and a variable, `credential`, or `default`.
    """
    from mailerd.config.load import flatten
    from mailerd.config.reference import show as spelled

    loaded = load_config(ctx)
    rows: list[tuple[str, Any, str, str]] = []
    for words, _, key, value in flatten(loaded.config):
        origin = loaded.origins[words]
        if changed and origin == "default":
            continue
        if key.extra.get("secret") and value is not None:
            value = masked(value)
        rows.append((words, value, spelled(key, value), origin))
    if as_json:
        values = {words: {"value": value, "origin": origin} for words, value, _, origin in rows}
        print_json({"file": str(loaded.path) if loaded.path else None, "values": values})
        return
    print_table(("KEY", "VALUE", "ORIGIN"), [(words, shown or "-", origin) for words, _, shown, origin in rows])


@config.command()
@json_option
def reference(as_json: bool) -> None:
    """Print every key with its type, default and meaning (Markdown)."""
    from mailerd.config.reference import reference as text
    from mailerd.config.reference import rows

    if as_json:
        print_json(rows())
        return
    width = min(shutil.get_terminal_size((100, 24)).columns, 100) if is_terminal() else 100
    click.echo(text(max(width, 40)), nl=False)
