"""`mailerd run`: the daemon. Reads the configuration, sets up logging and the event loop, and runs until told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time

import click

from mailerd.cli.output import Fatal, load_config
from mailerd.config.load import Loaded, load
from mailerd.config.model import Log


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class _Text(logging.Formatter):
    """One line a record; control characters of peers and rows made visible, so that no log line can be forged."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.exc_info:
            return line
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def set_up_logging(settings: Log) -> None:
    """Logs to stderr. Under systemd the journal stamps each line, so ours does not."""
    handler = logging.StreamHandler(sys.stderr)
    stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "
    handler.setFormatter(_Json() if settings.format == "json" else _Text(f"{stamp}%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("imapclient").setLevel(logging.WARNING)  # it says who logs in


async def _main(loaded: Loaded, ctx: click.Context) -> int:
    from mailerd.daemon.daemon import Daemon, StartFailure

    path = loaded.path

    def reload() -> Loaded:
        return load(path, os.environ, require_provider=True)

    try:
        return await Daemon(loaded, reload).run()
    except StartFailure as failure:
        raise Fatal(str(failure), failure.code) from None


@click.command()
@click.pass_context
def run(ctx: click.Context) -> None:
    """Run the daemon until TERM (drain) or a second TERM (stop now); HUP reloads the configuration."""
    import uvloop

    loaded = load_config(ctx, require_provider=True)
    set_up_logging(loaded.config.log)
    # Messages make no cycles; collecting the young generation every 700 allocations would cost 4 % of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_main(loaded, ctx))
    if code:
        raise click.exceptions.Exit(code)
