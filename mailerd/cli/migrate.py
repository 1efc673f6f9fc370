"""`mailerd migrate`: brings the schema up to date, or prints the SQL for somebody who will."""

from __future__ import annotations

import click

from mailerd.cli.database import with_database
from mailerd.cli.output import json_option, load_config, print_json
from mailerd.store.database import Session

__all__ = ["migrate"]


@click.command()
@click.option("--print", "only_print", is_flag=True, help="Print the whole schema as SQL instead of applying it.")
@json_option
@click.pass_context
def migrate(ctx: click.Context, only_print: bool, as_json: bool) -> None:
    """Bring the database schema up to date.

    Safe to run at any time and by several at once: it takes a lock, applies what is missing in one transaction, and
    running instances go on. Each time it grants the roles mailerd_app and mailerd_read what they lack, so run it again
    after making one. Needs a user that may create the schema.
    """
    from mailerd.store import migrate as store

    if only_print:
        click.echo(store.script(load_config(ctx).config.database.schema), nl=False)
        return

    async def work(session: Session) -> tuple[list[store.Migration], list[str], str]:
        return await store.migrate(session), await store.missing_roles(session), session.settings.schema

    applied, missing, schema = with_database(ctx, work, check_schema=False)
    if as_json:
        print_json(
            {
                "schema": schema,
                "version": store.SCHEMA_VERSION,
                "applied": [{"version": step.version, "name": step.name} for step in applied],
                "missing_roles": missing,
            }
        )
        return
    for step in applied:
        click.echo(f"applied {step.version:04} {step.name}")
    for role in missing:
        click.echo(
            f"role {role} does not exist, and this user may not create it: "
            f"run CREATE ROLE {role} NOLOGIN; as an administrator, then `mailerd migrate`",
            err=True,
        )
    click.echo(f"schema {schema} is {'now' if applied else 'already'} at version {store.SCHEMA_VERSION}")
