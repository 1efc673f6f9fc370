"""`mailerd privacy`: what is held about one address, as JSON, and its erasure.

Neither writes the address anywhere: what is audited is its pseudonym.
"""

from __future__ import annotations

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, json_option, load_config, print_json
from mailerd.message import Failure
from mailerd.store import privacy as store
from mailerd.store.database import Session

__all__ = ["privacy"]


@click.group()
def privacy() -> None:
    """Tell or erase what is held about an address."""


@privacy.command()
@click.argument("address")
@click.pass_context
def export(ctx: click.Context, address: str) -> None:
    """Write everything held about ADDRESS as JSON."""
    wanted = _normal(address)
    key = store.key(load_config(ctx).config.public.secret)

    async def work(session: Session) -> dict[str, list[object]]:
        return await store.export(session, wanted, key)

    print_json({"address": wanted, **with_database(ctx, work)})


@privacy.command()
@click.argument("address")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def erase(ctx: click.Context, address: str, yes: bool, as_json: bool) -> None:
    """Cancel what is unsent to ADDRESS, and erase what is held about it.

    Events keep a pseudonym, and so does the suppression list, which goes on holding. Exit 1 if a message is being sent
    or in doubt at the moment: it is left, and the command is to be repeated.
    """
    wanted = _normal(address)
    key = store.key(load_config(ctx).config.public.secret)
    if key is None:
        raise Fatal(
            "privacy erase needs [public] secret: the pseudonyms are made with a key derived from it", Exit.CONFIG
        )
    if not yes:
        click.confirm(f"Erase {wanted}? This cannot be undone.", abort=True, err=True)

    async def work(session: Session) -> store.Erased:
        return await store.erase(session, wanted, key, actor())

    erased = with_database(ctx, work)
    if as_json:
        print_json(erased)
    else:
        click.echo(
            f"{erased.pseudonym}: {erased.cancelled} cancelled, {erased.messages} messages emptied, {erased.events} events "
            f"pseudonymised, {erased.dead_letters} dead letters and {erased.inbound_mail} inbound mails removed"
        )
    if erased.held:
        shown = ", ".join(map(str, erased.held[:10])) + (" …" if len(erased.held) > 10 else "")
        raise Fatal(f"still being sent or in doubt, repeat this later: {shown}", Exit.FAILED)


def _normal(address: str) -> str:
    from mailerd.compose.address import normal

    try:
        return normal(address)
    except Failure as wrong:
        raise click.BadParameter(wrong.reason) from None
