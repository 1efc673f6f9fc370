"""The command `mailerd`: a table of sub-commands, each imported only when it is called.

`--help` reads the table and imports nothing, so it stays fast and survives a command whose module is broken. Errors
end here: `Fatal` and wrong usage print one line each, anything unexpected prints one line and asks for MAILERD_DEBUG=1,
which shows the traceback. No command calls `sys.exit` with a traceback or prints one.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import click

from mailerd import __version__
from mailerd.cli.output import Exit, Fatal, error

__all__ = ["COMMANDS", "Entry", "main"]


class Entry(NamedTuple):
    """One line of the command table: where the command lives, and its help without importing it."""

    target: str
    group: str
    help: str


COMMANDS: dict[str, Entry] = {
    "demo": Entry("mailerd.cli.demo:demo", "First steps", "Try it: embedded Postgres, local sink, 1 000 messages."),
    "init": Entry("mailerd.cli.init:init", "First steps", "Write a commented mailerd.toml."),
    "check": Entry("mailerd.cli.check:check", "First steps", "Report every configuration error at once."),
    "config": Entry("mailerd.cli.config:config", "First steps", "Show the effective values, or explain every key."),
    "dkim": Entry("mailerd.cli.dkim:dkim", "First steps", "Make a key that signs mail, and its DNS record."),
    "migrate": Entry("mailerd.cli.migrate:migrate", "First steps", "Bring the database schema up to date."),
    "run": Entry("mailerd.cli.run:run", "Operation", "Run the daemon."),
    "status": Entry("mailerd.cli.status:status", "Operation", "Show queues, providers and instances."),
    "top": Entry("mailerd.cli.top:top", "Operation", "Show what `status` shows, live."),
    "events": Entry("mailerd.cli.events:events", "Operation", "Follow what happens to messages."),
    "webhook": Entry("mailerd.cli.webhook:webhook", "Operation", "Watch, test and replay outgoing webhooks."),
    "pause": Entry(
        "mailerd.cli.control:pause", "Operation", "Stop sending for a stream, provider, domain or campaign."
    ),
    "resume": Entry("mailerd.cli.control:resume", "Operation", "Undo `pause`."),
    "warmup": Entry("mailerd.cli.warmup:warmup", "Operation", "Show warm-up schedules against what was sent."),
    "throttle": Entry("mailerd.cli.throttle:throttle", "Operation", "Show limits, and set other rates for a while."),
    "domains": Entry("mailerd.cli.domains:domains", "Operation", "List the domain groups, or name that of a domain."),
    "template": Entry("mailerd.cli.template:template", "Messages", "Push, compare, roll out and preview templates."),
    "send": Entry("mailerd.cli.send:send", "Messages", "Enqueue one message by hand."),
    "explain": Entry("mailerd.cli.explain:explain", "Messages", "Tell the whole story of one message."),
    "cancel": Entry("mailerd.cli.cancel:cancel", "Messages", "Cancel unsent messages."),
    "dead": Entry("mailerd.cli.dead:dead", "Messages", "List, retry or drop dead letters."),
    "doubt": Entry("mailerd.cli.doubt:doubt", "Messages", "Decide about messages that may have been sent."),
    "suppress": Entry("mailerd.cli.suppress:suppress", "Messages", "Manage the addresses that get no mail."),
    "privacy": Entry("mailerd.cli.privacy:privacy", "Messages", "Tell or erase what is held about an address."),
    "bounce": Entry("mailerd.cli.bounce:bounce", "Messages", "Read bounces, complaints and automatic replies."),
    "inbound": Entry("mailerd.cli.inbound:inbound", "Messages", "Show mail that came back, and read it again."),
    "bench": Entry("mailerd.cli.bench:bench", "Measuring", "Load-test this machine, with its own schema and sink."),
    "sink": Entry("mailerd.cli.sink:sink", "Measuring", "Run the SMTP sink by itself, with faults and latency."),
}


def _remember_config(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.find_root().ensure_object(dict)["config_path"] = value


def _config_option() -> click.Option:
    return click.Option(
        ["--config", "config_path"],
        type=click.Path(path_type=Path),
        metavar="PATH",
        expose_value=False,
        callback=_remember_config,
        help="Configuration file. Default: $MAILERD_CONFIG, ./mailerd.toml, /etc/mailerd/mailerd.toml.",
    )


def _accept_config(command: click.Command) -> None:
    """`mailerd run --config X` is as good as `mailerd --config X run`."""
    if not any("--config" in parameter.opts for parameter in command.params):
        command.params.append(_config_option())
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _accept_config(child)


class Commands(click.Group):
    """The lazy group. `COMMANDS` is read at each call, so tests may extend it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module_name, _, attribute = entry.target.partition(":")
        try:
            command = getattr(import_module(module_name), attribute)
        except ModuleNotFoundError as missing:
            if missing.name != module_name:
                raise
            raise Fatal(f"{cmd_name}: not part of this installation ({module_name} is missing)") from None
        assert isinstance(command, click.Command)
        _accept_config(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command '{args[0]}'.{f' Did you mean `{near[0]}`?' if near else ''}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for group in dict.fromkeys(entry.group for entry in COMMANDS.values()):
            with formatter.section(group):
                formatter.write_dl(
                    [(name.ljust(width), entry.help) for name, entry in COMMANDS.items() if entry.group == group]
                )

    def invoke(self, ctx: click.Context) -> None:
        super().invoke(ctx)  # the return value is no exit status

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs and exits. Every error becomes lines on stderr and one of `output.Exit`."""
        try:
            code = super().main(args, prog_name or "mailerd", complete_var, standalone_mode=False, **extra)
        except click.UsageError as wrong:
            where = wrong.ctx.command_path if wrong.ctx else "mailerd"
            words = wrong.format_message()
            error(f"{words}{'' if words.endswith(('.', '?')) else '.'} See `{where} --help`.")
            code = Exit.USAGE
        except Fatal as known:
            known.show()
            code = known.code
        except click.ClickException as known:
            error(known.format_message())
            code = known.exit_code
        except (click.Abort, KeyboardInterrupt):
            error("interrupted")
            code = 130
        except Exception as unexpected:
            if os.environ.get("MAILERD_DEBUG"):
                traceback.print_exc()
            words = str(unexpected) or "no further words"
            error(f"unexpected {type(unexpected).__name__}: {words} (MAILERD_DEBUG=1 shows where)")
            code = Exit.FAILED
        sys.exit(code or 0)


@click.group(
    name="mailerd", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="mailerd %(version)s")
def main() -> None:
    """mailerd: sends the mail that applications put into a Postgres outbox."""


_accept_config(main)
