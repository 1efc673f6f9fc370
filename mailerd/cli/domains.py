"""`mailerd domains`: the domain groups, yours before the shipped ones, and which of them a domain is in."""

from __future__ import annotations

import click

from mailerd.cli.output import Fatal, json_option, load_config, print_json, print_table

__all__ = ["domains"]


@click.command()
@click.argument("domain", required=False)
@json_option
@click.pass_context
def domains(ctx: click.Context, domain: str | None, as_json: bool) -> None:
    """List the groups of recipient domains that share a limit, or name the group of one DOMAIN.

    A group is one receiver: `[[domain]] name = "gmail"` limits all domains that Gmail runs. Yours go first.
    """
    from mailerd.flow.domains import Group, Groups

    own = [Group(d.name, d.match, d.mx) for d in load_config(ctx).config.domain]
    groups = Groups(own)
    if domain is not None:
        name = domain.rpartition("@")[2].lower().rstrip(".")
        found = groups.of(name)
        if as_json:
            print_json({"domain": name, "group": found})
        elif found is not None:
            click.echo(found)
        if found is None and not as_json:
            raise Fatal(f"{name} is in no group: limits name it by itself")
        return
    rows = [
        {"group": group.name, "by": "you" if group in own else "mailerd", "match": group.match, "mx": group.mx}
        for group in groups.all()
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("GROUP", "BY", "DOMAINS", "MX"),
        [(r["group"], r["by"], " ".join(r["match"]) or None, " ".join(r["mx"]) or None) for r in rows],
    )
