"""`mailerd pause` and `mailerd resume`: stops and starts streams, providers, domains and campaigns, on all instances."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

import click

from mailerd.cli.database import actor, with_database
from mailerd.cli.output import Exit, Fatal, error, json_option, load_config, print_json
from mailerd.store.database import Session

__all__ = ["pause", "resume"]

_KINDS = ("stream", "provider", "domain", "campaign")


class Target(NamedTuple):
    """What to pause: one of the four kinds, and its name."""

    kind: str
    name: str


class _TargetType(click.ParamType):  # type: ignore[type-arg]  # generic only in later versions
    name = "target"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Target:
        kind, colon, name = str(value).partition(":")
        if not colon or kind not in _KINDS:
            near = get_close_matches(kind, _KINDS, n=1)
            hint = f"; did you mean {near[0]}:?" if near and kind not in _KINDS else ""
            self.fail(f"'{value}' is not KIND:NAME with KIND one of {', '.join(_KINDS)}{hint}", param, ctx)
        name = name if kind == "campaign" else name.strip()
        if not name or not name.isprintable():
            self.fail(f"'{value}' has no name behind the colon", param, ctx)
        if kind == "domain":
            name = name.lower().rstrip(".")
            if "@" in name or " " in name:
                self.fail(f"'{name}' is no domain: write what stands behind the @", param, ctx)
        return Target(kind, name)


_target = click.argument("target", metavar="(stream|provider|domain|campaign):NAME", type=_TargetType())
_reason = click.option("--reason", metavar="TEXT", help="Shown by status and explain, and kept in the audit.")


@click.command()
@_target
@_reason
@json_option
@click.pass_context
def pause(ctx: click.Context, target: Target, reason: str | None, as_json: bool) -> None:
    """Stop sending for a stream, provider, domain or campaign.

    Holds on all instances within a second or two, survives restarts, and ends with `mailerd resume`. Messages in
    flight are finished; the others wait and may expire.
    """
    from mailerd.store import control

    configured = _configured(ctx, target.kind)

    async def work(session: Session) -> tuple[bool, set[str]]:
        known = await control.known(session, target.kind) if target.kind in ("stream", "provider") else set()
        return await control.pause(session, *target, actor(), reason), known | configured

    changed, known = with_database(ctx, work)
    if target.kind in ("stream", "provider") and target.name not in known:
        near = get_close_matches(target.name, known, n=1)
        error(f"warning: no instance lists {target.kind} {target.name}{f'; did you mean {near[0]}?' if near else ''}")
    _say(target, "paused" if changed else "already paused", changed, as_json)


@click.command()
@_target
@_reason
@json_option
@click.pass_context
def resume(ctx: click.Context, target: Target, reason: str | None, as_json: bool) -> None:
    """Undo `pause`."""
    from mailerd.store import control

    async def work(session: Session) -> bool:
        return await control.resume(session, *target, actor(), reason)

    changed = with_database(ctx, work)
    if changed or as_json:
        _say(target, "resumed" if changed else "was not paused", changed, as_json)
    if not changed:
        raise Fatal(f"{target.kind}:{target.name} was not paused: `mailerd status` lists what is", Exit.FAILED)


def _say(target: Target, words: str, changed: bool, as_json: bool) -> None:
    if as_json:
        print_json({"kind": target.kind, "name": target.name, "changed": changed, "detail": words})
    else:
        click.echo(f"{target.kind}:{target.name} {words}")


def _configured(ctx: click.Context, kind: str) -> set[str]:
    config = load_config(ctx).config
    return {s.name for s in config.stream} if kind == "stream" else {p.name for p in config.provider}
