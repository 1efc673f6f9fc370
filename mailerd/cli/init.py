"""`mailerd init`: writes a commented configuration and says what to do next. It asks nothing and connects nowhere."""

from __future__ import annotations

from pathlib import Path

import click

from mailerd.cli.output import Fatal

__all__ = ["init"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=Path("mailerd.toml"), required=False)
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@click.option("--full", is_flag=True, help="Write every key, not just those that most people change.")
@click.pass_context
def init(ctx: click.Context, path: Path, force: bool, full: bool) -> None:
    """Write a commented configuration to PATH (default: mailerd.toml).

    It names a relay and a sender that you have to put right; `mailerd check` tells when they are.
    """
    from mailerd.config.reference import minimal, sample

    given = (ctx.find_root().obj or {}).get("config_path")
    target = (
        given if given is not None and ctx.get_parameter_source("path") is click.core.ParameterSource.DEFAULT else path
    )
    try:
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(sample() if full else minimal())
    except FileExistsError:
        raise Fatal(f"{target} exists: it is left as it is (--force overwrites it)") from None
    except OSError as wrong:
        raise Fatal(f"{target}: {wrong.strerror}") from None
    option = "" if str(target) == "mailerd.toml" else f" --config {target}"
    click.echo(f"""\
Wrote {target}. Next:
  1. put your relay, your sender and your database into it
  2. mailerd check{option} --connect
  3. mailerd migrate{option}
  4. mailerd run{option}
  5. mailerd send{option} you@example.org --subject Hello --text World""")
