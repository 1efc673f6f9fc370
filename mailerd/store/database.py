"""A connection to Postgres that comes back: `Session` is one connection, used by one task at a time.

It connects when first used, gives every statement a deadline, and after any trouble with the connection drops it and
raises `Unavailable`; the next call connects again. It never retries a statement by itself: only the caller knows
whether it may have been applied. There is no pool: each task that talks to Postgres owns a session, so a slow
statement of one stream cannot make another wait, and serialising lease, renew and settle needs no lock.

With `prepare = "off"` (PgBouncer before 1.21 in transaction mode) nothing is prepared and every statement runs inside
an explicit transaction, which pins the server connection between Parse and Execute.

Hazards: after `Unavailable` a statement may have been applied all the same; settle is written so that this is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from mailerd.config.model import Database

__all__ = ["ROLE_SETTINGS", "DataError", "Run", "Session", "Unavailable", "explain_failure", "qualify"]

# Settings that the plans rely on. They go on the role, since PgBouncer refuses them as start-up parameters. Without
# enable_seqscan = off, the look at the outbox's tail reads a whole partition that was never analysed and sorts it.
#
# client_connection_check_interval: a statement that we gave up must not go on waiting for a lock. One more backend for
# each attempt would, in the end, leave no connections for applications.
ROLE_SETTINGS: Final = {
    "jit": "off",
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "client_connection_check_interval": "5s",
}

_CONNECTION_TROUBLE: Final = (
    OSError,
    TimeoutError,
    ssl.SSLError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,  # admin_shutdown, crash_shutdown, cannot_connect_now
    asyncpg.InsufficientResourcesError,  # too_many_connections, disk_full, out_of_memory
    asyncpg.TransactionRollbackError,  # a deadlock, a recovery conflict: nothing was applied
    asyncpg.ReadOnlySQLTransactionError,  # a demoted primary: reconnecting finds the new one
)

DataError = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""SQLSTATE classes 22 and 23: a value that Postgres refuses. Trying the same statement again cannot help."""


class Run(Protocol):
    """Runs one statement of a transaction."""

    async def __call__(self, sql: str, *args: Any) -> list[asyncpg.Record]: ...


_LAST_WORDS: Final = 1.0  # seconds for the cancel request of a statement that took too long


class Unavailable(Exception):
    """Postgres cannot be used now; the text says why and, where we know, what to do."""


def qualify(sql: str, schema: str) -> str:
    """The statement for another schema than `mailerd`. Statements say `mailerd.` or (grants) `SCHEMA mailerd`."""
    if schema == "mailerd":
        return sql
    return sql.replace("mailerd.", f"{schema}.").replace(" SCHEMA mailerd ", f" SCHEMA {schema} ")


def explain_failure(error: BaseException) -> str:
    """One line for an operator: what happened and what to do about it."""
    match error:
        case asyncpg.InvalidPasswordError():
            return f"{error}: check user and password in database.url (or MAILERD_DATABASE__URL_FILE)"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return f"{error}: check the user in database.url and pg_hba.conf"
        case asyncpg.InvalidCatalogNameError():
            return f"{error}: create it with CREATE DATABASE, or correct database.url"
        case asyncpg.TooManyConnectionsError():
            return f"{error}: raise max_connections, or go through PgBouncer"
        case TimeoutError():
            return "no answer from Postgres in time: check host, port and firewall in database.url"
        case OSError():
            return f"cannot reach Postgres: {error.strerror or error}: check host and port in database.url"
        case _:
            return f"{type(error).__name__}: {error}".splitlines()[0]


def _which_host(url: str) -> SessionAttribute | None:
    """Of several hosts the one that takes writes, unless the URL says otherwise: after a failover, the new primary."""
    return SessionAttribute.read_write if "," in url.partition("?")[0] and "target_session_attrs" not in url else None


class Session:
    """One connection, one user. `name` is shown in pg_stat_activity as the application name."""

    def __init__(self, settings: Database, name: str, *, url: str | None = None) -> None:
        self.settings = settings
        self.name = name
        self._url = url or settings.url
        self._prepare = settings.prepare == "auto"
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._qualified: dict[str, str] = {}

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """The live connection, opened when there is none. Raises `Unavailable`."""
        if self._connection is not None:
            if not self._connection.is_closed():
                return self._connection
            self._connection = None
        try:
            self._connection = await asyncpg.connect(
                self._url,
                timeout=float(self.settings.connect_timeout),
                command_timeout=float(self.settings.statement_timeout),
                target_session_attrs=_which_host(self._url),
                statement_cache_size=200 if self._prepare else 0,
                max_cached_statement_lifetime=0,
                server_settings={"application_name": self.name} if self._prepare else None,
            )
        except _CONNECTION_TROUBLE as error:
            raise Unavailable(explain_failure(error)) from error
        except (ValueError, asyncpg.PostgresError) as error:  # a URL that cannot be parsed, a refused parameter
            raise Unavailable(explain_failure(error)) from error
        return self._connection

    async def fetch(self, sql: str, *args: Any, timeout: float | None = None) -> list[asyncpg.Record]:
        """Rows of one autocommitted statement. Raises `Unavailable`, or asyncpg's error for the statement itself."""
        rows: list[asyncpg.Record] = await self._run(lambda c, s, t: c.fetch(s, *args, timeout=t), sql, timeout)
        return rows

    async def value(self, sql: str, *args: Any, timeout: float | None = None) -> Any:
        """The first column of the first row, or None."""
        rows = await self.fetch(sql, *args, timeout=timeout)
        return rows[0][0] if rows else None

    async def execute(self, sql: str, *args: Any, timeout: float | None = None) -> str:
        """The command tag of one autocommitted statement (or of a script, when there are no arguments)."""
        tag: str = await self._run(lambda c, s, t: c.execute(s, *args, timeout=t), sql, timeout, pin=bool(args))
        return tag

    async def script(self, statements: Sequence[tuple[str, Sequence[Any]]], timeout: float | None = None) -> None:
        """Several statements in one transaction: all or none."""

        async def run(c: asyncpg.Connection[asyncpg.Record], _: str, t: float) -> None:
            async with c.transaction():
                for sql, args in statements:
                    await c.execute(self._sql(sql), *args, timeout=t)

        await self._run(run, "", timeout, pin=False, statements=len(statements))

    async def together(self, work: Callable[[Run], Awaitable[None]], timeout: float | None = None) -> None:
        """Statements that depend on one another, in one transaction: `work` is given what runs one and returns its rows."""

        async def run(c: asyncpg.Connection[asyncpg.Record], _: str, t: float) -> None:
            async def fetch(sql: str, *args: Any) -> list[asyncpg.Record]:
                rows: list[asyncpg.Record] = await c.fetch(self._sql(sql), *args, timeout=t)
                return rows

            async with c.transaction():
                await work(fetch)

        await self._run(run, "", timeout, pin=False, statements=3)

    async def listen(self, channel: str, on_notification: Callable[[str], None], on_loss: Callable[[], None]) -> None:
        """LISTEN on this connection: `on_notification` is given each payload, `on_loss` called when the connection ends."""

        async def run(c: asyncpg.Connection[asyncpg.Record], name: str, _: float) -> None:
            c.add_termination_listener(lambda _: on_loss())
            await c.add_listener(name, lambda _c, _pid, _channel, payload: on_notification(str(payload)))

        await self._run(run, channel, None, pin=False)

    async def _run(
        self,
        call: Callable[[asyncpg.Connection[asyncpg.Record], str, float], Any],
        sql: str,
        timeout: float | None,
        *,
        pin: bool = True,
        statements: int = 1,
    ) -> Any:
        connection = await self.connection()
        limit = float(self.settings.statement_timeout) if timeout is None else timeout
        try:
            # asyncpg bounds a statement; BEGIN, COMMIT and what follows its own time-out are ours to bound.
            async with asyncio.timeout(limit * statements + _LAST_WORDS):
                if self._prepare or not pin:
                    return await call(connection, self._sql(sql), limit)
                async with connection.transaction():
                    return await call(connection, self._sql(sql), limit)
        except _CONNECTION_TROUBLE as error:
            self.drop()
            raise Unavailable(explain_failure(error)) from error
        except asyncio.CancelledError:
            self.drop()  # half-way through a statement: the connection's state is unknown
            raise

    def _sql(self, sql: str) -> str:
        known = self._qualified.get(sql)
        if known is None:
            known = self._qualified[sql] = qualify(sql, self.settings.schema)
        return known

    def drop(self) -> None:
        """Throws the connection away without a word to the server."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Closes politely, within two seconds."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            with contextlib.suppress(*_CONNECTION_TROUBLE, asyncpg.PostgresError):
                await connection.close(timeout=2)

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def apply_role_settings(session: Session) -> bool:
    """Puts the planner settings on our role, in this database only; True when they are in force for new connections.

    A role may always change its own defaults; a read-only or foreign set-up may refuse, then plans are still right,
    only less certain to be.
    """
    wrong = [k for k, v in ROLE_SETTINGS.items() if await session.value("SELECT current_setting($1)", k) != v]
    if not wrong:
        return True
    database, role = (await session.fetch("SELECT quote_ident(current_database()), quote_ident(current_user)"))[0]
    try:
        for key in wrong:
            await session.execute(f"ALTER ROLE {role} IN DATABASE {database} SET {key} = '{ROLE_SETTINGS[key]}'")
    except asyncpg.PostgresError:
        return False
    session.drop()
    return all([await session.value("SELECT current_setting($1)", k) == v for k, v in ROLE_SETTINGS.items()])
