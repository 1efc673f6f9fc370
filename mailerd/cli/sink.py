"""`mailerd sink`: the SMTP or HTTP sink by itself, for people's own tests. Accepts everything, keeps nothing, counts."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Literal

import click

from mailerd.cli.output import Exit, Fatal, json_option, print_json, print_table

__all__ = ["DIALECTS", "KINDS", "host_and_port", "sink"]

DIALECTS = (  # SMTP, and those of bench.api: named here for the same reason
    "smtp",
    "ses",
    "resend",
    "sendgrid",
    "mailgun",
    "postmark",
    "sparkpost",
    "brevo",
    "mailjet",
    "mailersend",
)

KINDS = (  # as bench.fault.Kind: named here so that `--help` imports little
    "mail-4xx",
    "mail-421",
    "rcpt-4xx",
    "rcpt-5xx",
    "dot-4xx",
    "dot-5xx",
    "dot-421",
    "dot-close",
    "slow",
)


def host_and_port(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """A click callback: `127.0.0.1:2525`, `[::1]:2525`, `:2525` → (host, port)."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


@click.command()
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:2525", show_default=True, callback=host_and_port,
    help="Where to listen; port 0 picks a free one.",
)  # fmt: skip
@click.option(
    "--dialect", type=click.Choice(DIALECTS), default="smtp", show_default=True,
    help="What it speaks: SMTP, or the HTTP API of a provider.",
)  # fmt: skip
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes on that port.")
@click.option("--latency", type=click.FloatRange(0), default=0, metavar="MS", help="Every answer is this late.")
@click.option("--faults", type=click.FloatRange(0, 100), default=0, metavar="PCT", help="Messages treated badly.")
@click.option("--fault", "kinds", type=click.Choice(KINDS), multiple=True, help="How; may be repeated. Default: all.")
@click.option(
    "--limit",
    type=click.FloatRange(0),
    default=0,
    metavar="N",
    help="Recipients a second that are taken; 451 above it.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same faults (with one process).")
@click.option(
    "--record", type=click.Path(file_okay=False, path_type=Path), help="Folder for ledgers of what was taken."
)
@click.option(
    "--tls", type=click.Choice(["none", "starttls", "implicit"]), default="none", show_default=True,
    help="With a certificate for localhost, signed by an authority made for it, unless --certificate gives one.",
)  # fmt: skip
@click.option(
    "--certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM file: key and certificate."
)
@click.option(
    "--ca", type=click.Path(file_okay=False, path_type=Path), help="Folder to write the made authority's ca.pem to."
)
@json_option
def sink(
    listen: tuple[str, int],
    dialect: str,
    processes: int,
    latency: float,
    faults: float,
    kinds: tuple[str, ...],
    limit: float,
    seed: int,
    record: Path | None,
    tls: Literal["none", "starttls", "implicit"],
    certificate: Path | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Take mail by SMTP or a provider's HTTP API and drop it, until interrupted; then say how much it was.

    Speaks PIPELINING, 8BITMIME, SMTPUTF8, SIZE, ENHANCEDSTATUSCODES, AUTH (any user, any password). As an HTTP API it
    takes any key; faults are 500, 503, 429, a message refused, no answer, or a late one.
    """
    import tempfile

    from mailerd.bench.fault import Kind
    from mailerd.bench.listener import PortTaken, bind, serve
    from mailerd.bench.sink import Settings

    if dialect != "smtp" and tls == "starttls":
        raise click.UsageError("--tls starttls is SMTP's; an HTTP API has implicit")
    settings = Settings(
        dialect="" if dialect == "smtp" else dialect,
        latency=latency / 1000,
        faults=faults / 100,
        kinds=tuple(map(Kind, kinds)) or tuple(Kind),
        seed=seed,
        limit=limit / processes,  # each process has its part of the connections
        tls=tls,
    )
    host, port = listen
    try:
        sockets = bind(host, port, processes)
    except PortTaken as taken:
        raise Fatal(f"{taken}: choose another --listen", Exit.UNAVAILABLE) from None
    name = sockets[0].getsockname()
    where = f"{name[0]}:{name[1]}"
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        if record is not None:
            record.mkdir(parents=True, exist_ok=True)
        if tls != "none" and certificate is None:
            from mailerd.bench.certificate import issue

            folder = ca or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mailerd-sink-")))
            folder.mkdir(parents=True, exist_ok=True)
            certificate, authority = issue(folder)
            click.echo(f"certificates are signed by {authority}", err=True)
        try:
            tally = serve(
                settings,
                sockets,
                record=record,
                certificate=certificate,
                started=lambda: click.echo(f"listening on {where}; Ctrl-C ends", err=True),
            )
        except RuntimeError as died:
            raise Fatal(str(died)) from None
    seconds = time.monotonic() - begin
    if as_json:
        import msgspec

        print_json({"seconds": round(seconds, 3), **msgspec.structs.asdict(tally)})
        return
    rows = [
        ("connections", tally.connections),
        ("at once", tally.peak),
        ("messages", tally.messages),
        ("recipients", tally.recipients),
    ]
    rows += [("octets", tally.octets), ("refused", tally.refused)]
    rows += [("over the limit", tally.limited)] if tally.limited else []
    rows += sorted(tally.faults.items())
    print_table(["taken", "count"], rows, right=["count"])
