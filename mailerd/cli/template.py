"""`mailerd template`: versions of templates, from folders into Postgres and back to eyes.

`push` refuses a template with a fault and stores nothing then; warnings it only prints. What a bare name means is set
by `push --percent`, `share` and `rollback`; instances follow within two seconds. `init` and `preview` need no database.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, json_option, load_config, print_json
from mailerd.cli.records import print_records
from mailerd.compose.bundle import Share
from mailerd.config.model import Stream
from mailerd.message import Failure
from mailerd.store import templates as store
from mailerd.store.database import Session

if TYPE_CHECKING:
    from mailerd.compose.judge import Problem
    from mailerd.compose.press import Pressed

__all__ = ["template"]

_folder = click.option(
    "--from", "root", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Default: templates.path."
)


@click.group()
def template() -> None:
    """Push, compare, roll out and preview templates."""


@template.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("templates"))
def init(folder: Path) -> None:
    """Write five example templates and their layout into FOLDER (default: templates)."""
    if folder.exists() and any(folder.iterdir()):
        raise Fatal(f"{folder} is not empty: it is left as it is")
    _copy(resources.files("mailerd.examples").joinpath("templates"), folder)
    click.echo(f"Wrote {folder}. Next: mailerd template preview welcome --from {folder}")


@template.command()
@click.argument("names", nargs=-1)
@_folder
@click.option(
    "--percent", type=click.FloatRange(0, 100), default=100.0, help="Of the recipients; the others keep theirs."
)
@click.option("--variant", default="", help="What events call it, such as b.")
@click.option("--stream", "stream_name", help="Judge them as mail of this stream, too: is it marketing?")
@click.option("--links", is_flag=True, help="Ask after the web links of the rendered samples, too.")
@click.option("--check", "only_check", is_flag=True, help="Report faults, store nothing.")
@json_option
@click.pass_context
def push(
    ctx: click.Context,
    names: Sequence[str],
    root: Path | None,
    percent: float,
    variant: str,
    stream_name: str | None,
    links: bool,
    only_check: bool,
    as_json: bool,
) -> None:
    """Check templates and store them as new versions. Without NAMES, every template of the folder."""
    from mailerd.compose.press import press, templates_in

    root = _root(ctx, root)
    _label(variant)
    try:
        known = _streams(ctx, stream_name)
        # Without a file nobody knows which streams there are: templates are checked where no mail is sent, too.
        streams = known if stream_name or load_config(ctx).path is not None else None
        also = [stream_name] if stream_name else []
        pressed = [press(root, name, streams, also) for name in names or templates_in(root)]
    except Failure as failure:
        raise Fatal(failure.reason) from None
    if not pressed:
        raise Fatal(f"{root}: no templates in it")
    problems = [problem for one in pressed for problem in one.problems]
    if links:
        problems += _asked(ctx, pressed)
    for problem in problems:
        if problem.warning:
            click.echo(f"warning: {problem.text}", err=True)
    if faults := [problem.text for problem in problems if not problem.warning]:
        raise Fatal(faults, Exit.FAILED)
    if only_check:
        click.echo(f"{len(pressed)} templates, no fault")
        return

    async def work(session: Session) -> list[store.Pushed]:
        return [
            await store.push(session, one.version, one.files, one.digest, actor(), percent, variant) for one in pressed
        ]

    done = with_database(ctx, work)
    if as_json:
        print_json(done)
        return
    for one in done:
        click.echo(f"{one.name}@{one.version}: {'pushed' if one.new else 'unchanged'}, {percent:g} %")


@template.command("list")
@click.argument("name", required=False)
@json_option
@click.pass_context
def list_versions(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """List every version, and which recipients get it."""

    async def work(session: Session) -> list[store.Stored]:
        return await store.listed(session, name)

    found = with_database(ctx, work)
    if as_json:
        print_json(found)
        return
    print_records(
        ("TEMPLATE", "SHARE", "PUSHED", "BY"),
        [
            (
                f"{v.name}@{v.version}",
                ", ".join(f"{s.percent:g} % {s.variant}".rstrip() for s in v.shares),
                f"{v.at.astimezone():%Y-%m-%d %H:%M}",
                v.actor,
            )
            for v in found
        ],
    )


@template.command()
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Write the files into this folder.")
@click.pass_context
def show(ctx: click.Context, name: str, to: Path | None) -> None:
    """Show the files of a version, as they were pushed."""
    _, files = _source(ctx, name)
    for path, text in sorted(files.items()):
        if to is None:
            click.echo(f"==> {path}\n{text}")
            continue
        target = to / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
        click.echo(str(target))


@template.command()
@click.argument("old", metavar="NAME[@VERSION]")
@click.argument("new", metavar="[NAME@VERSION]", required=False)
@_folder
@click.pass_context
def diff(ctx: click.Context, old: str, new: str | None, root: Path | None) -> None:
    """Compare a version with another one, or with the folder. Exit 1 if they differ."""
    number, before = _source(ctx, old)
    if new is not None:
        other, after = _source(ctx, new)
        label = f"@{other}"
    else:
        from mailerd.compose.press import press

        try:
            after, label = press(_root(ctx, root), old.partition("@")[0]).files, "folder"
        except Failure as failure:
            raise Fatal(failure.reason) from None
    differ = False
    for path in sorted({*before, *after}):
        lines = difflib.unified_diff(
            before.get(path, "").splitlines(),
            after.get(path, "").splitlines(),
            f"@{number}/{path}",
            f"{label}/{path}",
            lineterm="",
        )
        for line in lines:
            differ = True
            click.echo(line)
    ctx.exit(1 if differ else 0)


@template.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@click.pass_context
def rollback(ctx: click.Context, name: str, version: int | None) -> None:
    """Give all recipients VERSION, or the one before the newest that is in use."""

    async def work(session: Session) -> int:
        found = await store.listed(session, name)
        used = [v.version for v in found if v.shares]
        target = version or max((v.version for v in found if used and v.version < max(used)), default=0)
        if not target or not await store.share(session, name, [Share(target, 100.0)], actor()):
            return 0
        return target

    done = with_database(ctx, work)
    if not done:
        raise Fatal(f"{name}: there is no {f'version {version}' if version else 'version before it'}")
    click.echo(f"{name}@{done}: for all recipients")


@template.command()
@click.argument("name")
@click.argument("shares", metavar="VERSION=PERCENT[:VARIANT]...", nargs=-1, required=True)
@click.pass_context
def share(ctx: click.Context, name: str, shares: Sequence[str]) -> None:
    """Divide the recipients among versions: `share welcome 3=50:a 4=50:b`.

    By a hash of the address, so everybody keeps theirs. Events say which one it was.
    """
    wanted = []
    for text in shares:
        found = re.fullmatch(r"(\d{1,9})=(\d{1,3}(?:\.\d+)?)(?::(\S+))?", text)
        if not found:
            raise click.BadParameter(f"{text!a} is not VERSION=PERCENT[:VARIANT]")
        _label(found[3] or "")
        wanted.append(Share(int(found[1]), float(found[2]), found[3] or ""))
    if abs(sum(s.percent for s in wanted) - 100) > 0.01:
        raise click.BadParameter("the percentages do not make 100")

    async def work(session: Session) -> bool:
        return await store.share(session, name, wanted, actor())

    if not with_database(ctx, work):
        raise Fatal(f"{name}: one of these versions does not exist")
    click.echo(f"{name}: {', '.join(shares)}")


@template.command()
@click.argument("name")
@_folder
@click.option("--params", help="JSON; default: `sample` of meta.toml.")
@click.option("--locale", help="Language, such as pt-BR.")
@click.option("--stream", "stream_name", help="As mail of this stream. Default: the first that fits meta.toml.")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), default=Path("preview"), show_default=True)
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
@click.pass_context
def preview(
    ctx: click.Context,
    name: str,
    root: Path | None,
    params: str | None,
    locale: str | None,
    stream_name: str | None,
    to: Path,
    browse: bool,
) -> None:
    """Compose a template of the folder into files, and a page that shows header, HTML and text side by side."""
    from mailerd.cli.preview import compose, page, write
    from mailerd.compose.press import press
    from mailerd.compose.template import LINK, decode_params

    root = _root(ctx, root)
    config = load_config(ctx).config
    streams = _streams(ctx, stream_name)
    try:
        pressed = press(root, name, streams, [stream_name] if stream_name else [])
        for problem in pressed.problems:
            click.echo(f"{'warning' if problem.warning else 'fault'}: {problem.text}", err=True)
        if "" not in pressed.version.editions:
            raise Fatal(f"{name}: nothing can be rendered")
        named = next((s for s in ([stream_name] if stream_name else pressed.meta.streams) if s in streams), None)
        fitting = [s for s in config.stream if s.marketing == pressed.meta.marketing]
        stream = streams[named] if named else (fitting or config.stream)[0]
        given = decode_params(params) if params is not None else dict(pressed.meta.sample)
        if params is None and stream.one_click:
            given.pop(LINK, None)  # a sample's own is for streams that bring none
        shown = compose(config, stream, pressed.version, given, locale)
    except Failure as failure:
        raise Fatal(failure.reason) from None
    drawn = page(name, stream, shown, [(p.text, p.warning) for p in pressed.problems])
    written = write(to / name.replace("/", "-"), shown, drawn)
    click.echo(str(written))
    if browse:
        click.launch(str(written))


def _root(ctx: click.Context, given: Path | None) -> Path:
    if given is not None:
        return given
    configured = load_config(ctx).config.templates.path
    if configured is None:
        raise Fatal("templates.path is not configured: say --from FOLDER", Exit.CONFIG)
    return Path(configured)


def _streams(ctx: click.Context, named: str | None) -> dict[str, Stream]:
    """The configured streams. Raises `Fatal` if the one that was named is none of them."""
    streams = {stream.name: stream for stream in load_config(ctx).config.stream}
    if named is not None and named not in streams:
        raise Fatal(f"no stream {named[:80]!a} is configured (there are: {', '.join(streams)})", Exit.USAGE)
    return streams


def _asked(ctx: click.Context, pressed: Sequence[Pressed]) -> list[Problem]:
    """What is wrong with the places that links lead to."""
    from mailerd.cli.linkcheck import ask
    from mailerd.compose.judge import Problem
    from mailerd.compose.links import find, origin, reserved
    from mailerd.compose.template import LINK
    from mailerd.compose.trial import PLACEHOLDER, rendered

    base = load_config(ctx).config.public.base_url
    ours = [f"{base}/{path}/" for path in "uco"] if base else []
    places: dict[str, str] = {}
    for one in pressed:
        spare = [PLACEHOLDER, str(one.meta.sample.get(LINK) or ""), *ours]
        for tag in one.version.editions:
            try:
                content = rendered(one.version, tag, one.meta.sample, one_click=True)
            except Failure:
                continue  # it has been said
            for link in find(content, spare):
                places.setdefault(link.url, f"{one.version.name}: {origin(link, one.files)}")
    wanted = [url for url in places if not reserved(url)]
    answers = asyncio.run(ask(wanted))
    left = f", {len(places) - len(wanted)} lead to names for examples" if len(places) > len(wanted) else ""
    click.echo(f"{len(wanted)} links asked after{left}", err=True)
    return [
        Problem(f"{places[url]}: {url[:200]}: {answer.text}", warning=not answer.broken)
        for url, answer in answers.items()
        if answer.text
    ]


def _label(variant: str) -> None:
    if variant and not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", variant):
        raise click.BadParameter(f"variant {variant[:60]!a}: letters, digits, _ . - only, at most 40")


def _source(ctx: click.Context, name: str) -> tuple[int, dict[str, str]]:
    async def work(session: Session) -> tuple[int, dict[str, str]] | None:
        return await store.source(session, name)

    found = with_database(ctx, work)
    if found is None:
        raise Fatal(f"{name}: is not stored")
    return found


def _copy(source: Any, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            _copy(entry, target / entry.name)
        elif not entry.name.endswith((".py", ".pyc")):
            (target / entry.name).write_text(entry.read_text("utf-8"), "utf-8")
