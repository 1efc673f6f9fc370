"""`mailerd dkim new`: a key in a file, the record to publish, and the lines for the configuration.

It changes no configuration and no DNS, and never overwrites a file. Whether the record has arrived, `mailerd check
--connect` tells.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import click

from mailerd.cli.output import Fatal, json_option, print_json

__all__ = ["dkim"]

_SELECTOR = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")


@click.group()
def dkim() -> None:
    """Make keys that sign mail (DKIM)."""


@dkim.command()
@click.option("--domain", required=True, metavar="DOMAIN", help="Of the From addresses, or one above it.")
@click.option("--selector", metavar="NAME", help="Default: mailerd with year and month, as in mailerd202611.")
@click.option("--ed25519", is_flag=True, help="Ed25519, for a second signature beside RSA's (RFC 8463).")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the key goes. Default: dkim-DOMAIN-SELECTOR.pem, here. Never overwritten.",
)
@json_option
def new(domain: str, selector: str | None, ed25519: bool, out: Path | None, as_json: bool) -> None:
    """Make a key, and print the DNS record to publish and the lines for the configuration.

    RSA of 2048 bits, which every receiver verifies. Publish the record first, see that `mailerd check --connect` finds
    it, and sign then.
    """
    from mailerd.compose.dkim import Key
    from mailerd.compose.dkimrecord import name, record, strings, zone_line
    from mailerd.config.dkim import new_key, signing_domain, write_key

    try:
        domain = signing_domain(domain)
    except ValueError as wrong:
        raise click.UsageError(f"--domain {domain}: {wrong}") from None
    if selector is None:
        selector = f"mailerd{datetime.now(UTC):%Y%m}{'e' if ed25519 else ''}"
    elif not _SELECTOR.fullmatch(selector):
        raise click.UsageError(f"--selector {selector}: must be letters, digits, `-` and `.`, as in a host name")
    key = Key(domain, selector, new_key(ed25519=ed25519))
    if len(name(key)) > 253:
        raise click.UsageError(f"--selector {selector}: {name(key)} is longer than a name in the DNS may be")
    file = out if out is not None else Path(f"dkim-{domain}-{selector}.pem")
    try:
        write_key(file, key.private)
    except FileExistsError:
        raise Fatal(f"{file} exists: it is left as it is, choose another --out or --selector") from None
    except OSError as wrong:
        raise Fatal(f"{file}: {wrong.strerror}") from None
    if as_json:
        text = record(key.private)
        found = {"file": str(file), "domain": domain, "selector": selector, "algorithm": key.algorithm}
        print_json({**found, "name": name(key), "record": text, "strings": strings(text)})
        return
    click.echo(f"""\
Wrote {file}, which only you may read. Publish:

{zone_line(key)}

and put below the [[identity]] whose mail it signs:

[[identity.dkim]]
domain = "{domain}"
selector = "{selector}"
key = {json.dumps(str(file.absolute()), ensure_ascii=False)}

`mailerd check --connect` tells when the record has arrived; sign then (`systemctl reload mailerd`, or HUP).""")
