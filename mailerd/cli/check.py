"""`mailerd check`: every problem of the configuration at once; with `--connect`, whether what it names answers.

It changes nothing and sends no mail: databases are asked for their version, providers are greeted, logged in to and
left. Each failure is one line that says what to do. Every wait has the deadline that the daemon would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING

import click
import msgspec

from mailerd.cli.output import Exit, Fatal, error, json_option, print_json

if TYPE_CHECKING:
    from mailerd.config.inbound import Imap
    from mailerd.config.load import Loaded
    from mailerd.config.model import Config, Database
    from mailerd.config.provider import Provider
    from mailerd.message import Trouble

__all__ = ["Finding", "check"]

POSTGRES = 150_000  # the oldest server that the schema works on
FAREWELL = 0.5  # seconds to wait for a peer's
AT_ONCE = 10  # providers that are tried at the same time


class Finding(msgspec.Struct, frozen=True):
    """One thing that was tried. `subject`: `database`, `provider.NAME`, `identity.NAME.dkim.SELECTOR`, …; `detail`: what
    it said, or what to do. `warning`: it serves as it is, and not well."""

    subject: str
    ok: bool
    detail: str
    warning: bool = False


@click.command()
@click.option(
    "--connect",
    is_flag=True,
    help="Also try the database, every provider (TCP, TLS, AUTH), every IMAP mailbox, and DNS.",
)
@json_option
@click.pass_context
def check(ctx: click.Context, connect: bool, as_json: bool) -> None:
    """Report every configuration error at once.

    With --connect also: can the database be reached, and has it the right schema; does each provider, and each IMAP
    mailbox, accept a connection, TLS and the password; is the DKIM record of each key published, and its own; have the
    domains of identities SPF, DMARC and MX records, and our own addresses a reverse name (these are warnings).

    Exit status: 0 all is well, 78 the configuration has errors, 69 something it names cannot be used.
    """
    from mailerd.config.load import ConfigError, load

    path = (ctx.find_root().obj or {}).get("config_path")
    try:
        loaded = load(path, os.environ, require_provider=True)
    except ConfigError as wrong:
        if as_json:
            print_json({"ok": False, "file": wrong.source or None, "problems": wrong.problems, "checks": []})
            ctx.exit(Exit.CONFIG)
        raise Fatal(wrong.lines(), Exit.CONFIG) from None
    wrong_rules, warnings = _rules(loaded.config)
    warnings += _keys(loaded.config) + _streams(loaded) + _folders(loaded.config)
    if wrong_rules:
        if as_json:
            problem = {"path": wrong_rules.partition(":")[0], "line": None, "message": wrong_rules}
            print_json({"ok": False, "file": _file(loaded), "problems": [problem], "checks": []})
            ctx.exit(Exit.CONFIG)
        raise Fatal(wrong_rules, Exit.CONFIG)
    findings = _try(loaded.config) if connect else []
    warnings += [f"{finding.subject}: {finding.detail}" for finding in findings if finding.warning]
    findings = [finding for finding in findings if not finding.warning]
    failed = [finding for finding in findings if not finding.ok]
    code = Exit.UNAVAILABLE if failed else Exit.OK
    if as_json:
        checks = [{"subject": f.subject, "ok": f.ok, "detail": f.detail} for f in findings]
        print_json({"ok": not failed, "file": _file(loaded), "problems": [], "warnings": warnings, "checks": checks})
        ctx.exit(code)
    for warning in warnings:
        error(f"warning: {warning}")
    click.echo(_summary(loaded))
    for finding in findings:
        if finding.ok:
            click.echo(f"{finding.subject}: {finding.detail}")
    if failed:
        raise Fatal([f"{finding.subject}: {finding.detail}" for finding in failed], code)


def _rules(config: Config) -> tuple[str, list[str]]:
    """(what is wrong with the reply rules or a call's template, warnings about limits that hold for nothing)."""
    from mailerd.daemon.engine import reply_rules
    from mailerd.flow.domains import Group, Groups, matches_nothing
    from mailerd.http.kinds import DIALECTS
    from mailerd.message import Failure

    own = [Group(domain.name, domain.match, domain.mx) for domain in config.domain]
    warnings = [
        f"domain.{name}: matches nothing: it has no `match` and no `mx`, and no shipped group has this name"
        for name in matches_nothing(own)
    ]
    names = Groups(own).names()
    warnings += [
        f"pool.{pool.name}.domain: `{limit.name}` is no domain group and no domain: this limit holds for nothing"
        for pool in config.pool
        for limit in pool.domain
        if limit.name not in names and "." not in limit.name
    ]
    try:
        reply_rules(config)
        for provider in config.provider:
            if dialect := DIALECTS.get(provider.kind):
                dialect(provider)
    except Failure as failure:
        return failure.reason, warnings
    return "", warnings


def _keys(config: Config) -> list[str]:
    """Warnings about keys that sign."""
    warnings: list[str] = []
    for identity in config.identity:
        if not identity.dkim:
            continue
        from mailerd.compose.dkim import keys_of

        if all(key.algorithm != "rsa-sha256" for key in keys_of(identity)):
            words = "only Ed25519 keys, which most receivers do not verify: add an RSA key"
            warnings.append(f"identity.{identity.name}.dkim: {words}")
        warnings += [
            f"identity.{identity.name}.dkim: everybody on this machine may read {dkim.key} (chmod o-r)"
            for dkim in identity.dkim
            if dkim.key and os.stat(dkim.key).st_mode & 0o004
        ]
    return warnings


def _streams(loaded: Loaded) -> list[str]:
    """Warnings about streams of the file that bulk mail could harm: what receivers think of the one holds for the other."""
    from mailerd.config.resolved import Resolved

    resolved = Resolved(loaded.config)
    written = [s for s in resolved.config.stream if loaded.origins.get(f"stream.{s.name}.name", "default") != "default"]
    taken = loaded.config.inbound.return_path_domain
    warnings = [
        f"identity.{i.name}.verp: bounces go to {path}, and [inbound] return_path_domain is {taken or 'not set'}: "
        "nothing here will read them"
        for i in loaded.config.identity
        if i.verp
        and (path := (i.return_path or i.sender).rpartition("@")[2].strip("> ").lower()) != (taken or "").lower()
    ]
    warnings += [
        f"topic.{topic.name}: nobody can leave it by a link: `one_click` of stream {topic.stream} is off"
        for topic in resolved.config.topic
        if not resolved.streams[topic.stream].one_click
    ]
    for bulk in (stream for stream in written if stream.marketing):
        if not bulk.one_click:
            words = "large receivers want `one_click = true` of bulk mail (RFC 8058); it needs [public]"
            warnings.append(f"stream.{bulk.name}: {words}")
        for other in (stream for stream in written if not (stream.marketing or stream.shared or bulk.shared)):
            common = [f"pool `{name}`" for name in bulk.pools if name in other.pools]
            ours, theirs = resolved.identity_of(bulk.name), resolved.identity_of(other.name)
            if ours is not None and theirs is not None:
                if ours.name == theirs.name:
                    common.append(f"identity `{ours.name}`")
                elif (ours.return_path or ours.sender) == (theirs.return_path or theirs.sender):
                    common.append(f"return path `{ours.return_path or ours.sender}`")
            if common:
                words = f"shares {', '.join(common)} with stream {other.name}: complaints about the one hurt the other"
                warnings.append(f"stream.{bulk.name}: {words} (`shared = true` if that is meant)")
    return warnings


def _folders(config: Config) -> list[str]:
    """Warnings about folders of attachments. It starts without them: a share may be mounted later."""
    named = [("directories", folder) for folder in config.attachments.directories]
    if config.attachments.digests is not None and os.path.isabs(config.attachments.digests):
        named.append(("digests", config.attachments.digests))
    return [
        f"attachments.{key}: {folder} is no folder that can be read: its messages will be deferred"
        for key, folder in named
        if not (os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK))
    ]


def _file(loaded: Loaded) -> str | None:
    return str(loaded.path) if loaded.path else None


def _summary(loaded: Loaded) -> str:
    config = loaded.config
    counts = (
        (config.stream, "stream"),
        (config.pool, "pool"),
        (config.provider, "provider"),
        (config.identity, "identity"),
    )
    words = ", ".join(f"{len(tables)} {_plural(name, len(tables))}" for tables, name in counts)
    return f"{_file(loaded) or 'no file, environment and defaults'}: no errors ({words})"


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word.removesuffix('y')}ies" if word.endswith("y") else f"{word}s"


def _try(config: Config) -> list[Finding]:
    import uvloop

    # The daemon's event loop, so that what works here works there.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_connect(config))


async def _connect(config: Config) -> list[Finding]:
    room = asyncio.Semaphore(AT_ONCE)

    async def within(attempt: Awaitable[Finding]) -> Finding:
        async with room:
            return await attempt

    attempts: list[Awaitable[Finding]] = [_database(config.database)]
    if config.database.listen_url not in (None, "off"):
        attempts.append(_listener(config.database))
    attempts += [_provider(provider) for provider in config.provider]
    attempts += [_mailbox(box) for box in config.inbound.imap]
    found = list(await asyncio.gather(*map(within, attempts)))
    if any(identity.dkim for identity in config.identity):
        from mailerd.cli.published import findings

        found += await findings(config)
    if config.identity:
        from mailerd.cli import domainrecords

        found += await domainrecords.findings(config)
    return found


async def _database(settings: Database) -> Finding:
    from mailerd.store.database import Session, Unavailable
    from mailerd.store.migrate import SchemaProblem, verify

    subject = "database"
    async with Session(settings, "mailerd check") as session:
        try:
            number = int(await session.value("SELECT current_setting('server_version_num')"))
            if number < POSTGRES:
                return Finding(
                    subject, False, f"PostgreSQL {number // 10_000} is too old: {POSTGRES // 10_000} or newer"
                )
            version = await verify(session)
        except Unavailable as wrong:
            return Finding(subject, False, str(wrong))
        except SchemaProblem as wrong:
            return Finding(subject, False, str(wrong))
    words = f"PostgreSQL {number // 10_000}.{number % 10_000}, schema {settings.schema} at version {version}"
    return Finding(subject, True, words)


async def _listener(settings: Database) -> Finding:
    from mailerd.store.database import Session, Unavailable

    async with Session(settings, "mailerd check", url=settings.listen_url) as session:
        try:
            await session.execute("LISTEN mailerd_check")
        except Unavailable as wrong:
            return Finding("database.listen_url", False, str(wrong))
    return Finding("database.listen_url", True, "answers")


async def _provider(provider: Provider) -> Finding:
    from mailerd.http.kinds import DIALECTS
    from mailerd.http.probe import probe
    from mailerd.message import Trouble
    from mailerd.smtp.handshake import Dialer

    subject = f"provider.{provider.name}"
    if provider.kind in DIALECTS:
        return Finding(subject, *await probe(provider))
    if provider.kind == "sink":
        return Finding(subject, True, "accepts and drops everything")
    found = await Dialer(provider).open()
    if isinstance(found, Trouble):
        return Finding(subject, False, f"{found}: {_advice(found, provider)}")
    cipher = found.get_extra_info("cipher")
    await _leave(found)
    words = [f"{provider.host} port {provider.port} answers", cipher[1] if cipher else "not encrypted"]
    if provider.username is not None:
        words.append(f"logged in as {provider.username}")
    return Finding(subject, True, ", ".join(words))


async def _mailbox(box: Imap) -> Finding:
    from mailerd.intake.mailbox import Mailbox, Trouble

    subject = f"inbound.imap.{box.name}"
    try:
        mailbox = await Mailbox.open(box)
    except Trouble as trouble:
        advice = {
            "connect": "check host and port",
            "tls": 'check host and tls_ca, and that port and tls go together: "implicit" on 993, "starttls" on 143',
            "login": "check username and password",
            "folder": "check folder",
        }
        return Finding(subject, False, f"{trouble}: {advice.get(trouble.kind, 'ask who runs it, or its log')}")
    await mailbox.leave()
    told = "tells of new mail" if mailbox.idles else f"is asked for new mail every {float(box.poll):g} s"
    return Finding(subject, True, f"{box.host} port {box.port} answers, logged in as {box.username}, {told}")


class _Ending(asyncio.Protocol):
    """Reads nothing, and knows when the connection is gone."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


async def _leave(transport: asyncio.Transport) -> None:
    """Says QUIT and waits until the connection is gone: an event loop that ends in the middle of a farewell over TLS fails."""
    ending = _Ending()
    transport.set_protocol(ending)
    # Nobody reads the reply, but a server that logs politeness sees it.
    transport.write(b"QUIT\r\n")
    transport.close()
    try:
        async with asyncio.timeout(FAREWELL):
            await ending.gone.wait()
    except TimeoutError:  # the peer does not answer it
        transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await ending.gone.wait()


def _advice(trouble: Trouble, provider: Provider) -> str:
    """What to do about a session that could not be opened."""
    from mailerd.message import Phase

    match trouble.phase:
        case Phase.CONNECT:
            return "check host, port and firewall"
        case Phase.GREETING if provider.tls == "implicit" or provider.port == 465:
            return 'check that port and tls go together: "implicit" on 465, "starttls" on 587'
        case Phase.STARTTLS if "offer" in trouble.text:
            return 'try tls = "implicit" on port 465, or accept plain text with tls = "none"'
        case Phase.STARTTLS if "certificate" in trouble.text.lower():
            return "check host; set tls_name to the name in the certificate, or tls_ca to who signed it"
        case Phase.STARTTLS:
            return 'check that port and tls go together: "implicit" on 465, "starttls" on 587'
        case Phase.AUTH:
            return "check username and password"
        case _:
            return "ask who runs it, or its log"
