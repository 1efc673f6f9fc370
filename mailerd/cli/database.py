"""The database for one command: opened, checked, closed, and every trouble with it turned into one line.

Exit 69: it cannot be reached. 78: the configuration, or a schema that is not ours. 1: it refuses what was asked.
A configuration without any provider will do: an operator's machine may have none.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
import click

from mailerd.cli.output import Exit, Fatal, load_config
from mailerd.store.database import Session, Unavailable
from mailerd.store.migrate import SchemaProblem, verify

__all__ = ["actor", "with_database"]

T = TypeVar("T")


def with_database(ctx: click.Context, work: Callable[[Session], Awaitable[T]], *, check_schema: bool = True) -> T:
    """What `work` returns, given a session. Raises `Fatal`."""
    settings = load_config(ctx).config.database

    async def run() -> T:
        async with Session(settings, f"mailerd:{ctx.command.name}") as session:
            if check_schema:
                await verify(session)
            return await work(session)

    try:
        return asyncio.run(run())
    except Unavailable as trouble:
        raise Fatal(str(trouble), Exit.UNAVAILABLE) from None
    except SchemaProblem as wrong:
        raise Fatal(str(wrong), Exit.CONFIG) from None
    except asyncpg.InsufficientPrivilegeError as refused:
        raise Fatal(f"{refused}: connect as the user that `mailerd run` uses") from None
    except asyncpg.PostgresError as refused:
        raise Fatal(f"the database refuses: {str(refused).splitlines()[0]}") from None


def actor() -> str:
    """Who runs this command, for the audit: `ann@ops1`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"
