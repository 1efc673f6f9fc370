"""Brings the schema up to date: numbered SQL files, each applied once, with its checksum, under an advisory lock.

`migrate` applies what is missing, all in one transaction, and grants the roles what they lack (`grants.sql`, each time);
`verify` says whether a daemon of this version may run on the schema it finds. It never changes an applied file's effect and
never goes backwards: migrations expand first and contract in a later release, so that instances can be rolled one by one.

Hazards: the lock is held for the whole transaction; `lock_timeout` keeps a forgotten open transaction from turning a
migration into an outage.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import asyncpg

from mailerd.store.database import Session, Unavailable, apply_role_settings, explain_failure, qualify

__all__ = [
    "MIN_DAEMON",
    "SCHEMA_VERSION",
    "Migration",
    "SchemaProblem",
    "grants",
    "migrate",
    "migrations",
    "missing_roles",
    "verify",
]


@dataclass(frozen=True)
class Migration:
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()[:32]


class SchemaProblem(Exception):
    """The schema is not one that this version can run on; the text names the fix."""


def migrations() -> list[Migration]:
    """Every migration shipped, in order."""
    found = []
    for entry in resources.files("mailerd.store").joinpath("migrations").iterdir():
        number, _, rest = entry.name.partition("_")
        if entry.name.endswith(".sql"):
            found.append(Migration(int(number), rest.removesuffix(".sql"), entry.read_text("utf-8")))
    return sorted(found, key=lambda m: m.version)


def grants() -> str:
    """What the roles may do, as SQL that may run any number of times."""
    return resources.files("mailerd.store").joinpath("grants.sql").read_text("utf-8")


SCHEMA_VERSION = max(m.version for m in migrations())
ROLES = ("mailerd_app", "mailerd_read")
MIN_DAEMON = 1  # the oldest daemon (by its schema version) that still works on the newest schema

_BOOK = """
CREATE SCHEMA IF NOT EXISTS mailerd;
CREATE TABLE IF NOT EXISTS mailerd.schema_migration (
  version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS mailerd.schema_version (
  one boolean PRIMARY KEY DEFAULT true CHECK (one), version int NOT NULL, min_daemon int NOT NULL);
"""


def script(schema: str) -> str:
    """The whole schema as one script for a DBA to read or to run in psql."""
    parts = [_BOOK.replace("CREATE SCHEMA IF NOT EXISTS mailerd;", f"CREATE SCHEMA IF NOT EXISTS {schema};")]
    parts += [
        f"-- {m.version:04} {m.name}\n{m.sql}\nINSERT INTO mailerd.schema_migration (version, name, checksum) "
        f"VALUES ({m.version}, '{m.name}', '{m.checksum}');"
        for m in migrations()
    ]
    parts += [grants(), _version_row()]
    return "BEGIN;\n" + qualify("\n".join(parts), schema) + "\nCOMMIT;\n"


def _version_row() -> str:
    return (
        f"INSERT INTO mailerd.schema_version (version, min_daemon) VALUES ({SCHEMA_VERSION}, {MIN_DAEMON}) "
        "ON CONFLICT (one) DO UPDATE SET version = excluded.version, min_daemon = excluded.min_daemon;"
    )


async def migrate(session: Session) -> list[Migration]:
    """Applies what is missing and returns it. Raises `SchemaProblem`, `Unavailable`."""
    schema = session.settings.schema
    connection = await session.connection()
    applied: list[Migration] = []
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock(hashtextextended('{schema}.migrate', 0))")
            encoding = await connection.fetchval("SHOW server_encoding")
            if encoding != "UTF8":
                raise SchemaProblem(
                    f"the database's encoding is {encoding}: create one WITH ENCODING 'UTF8' TEMPLATE template0"
                )
            await connection.execute("SET LOCAL lock_timeout = '10s'; SET LOCAL client_min_messages = warning")
            # Without the check, CREATE SCHEMA IF NOT EXISTS would ask for CREATE on the database even when it exists.
            if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", schema):
                await connection.execute(f"CREATE SCHEMA {schema}")
            await connection.execute(
                qualify(_BOOK.replace("CREATE SCHEMA IF NOT EXISTS mailerd;", ""), schema),
            )
            rows = await connection.fetch(qualify("SELECT version, checksum FROM mailerd.schema_migration", schema))
            known = {row["version"]: row["checksum"] for row in rows}
            if known and max(known) > SCHEMA_VERSION:
                raise SchemaProblem(_too_new(max(known)))
            for step in migrations():
                if step.version in known:
                    if known[step.version] != step.checksum:
                        raise SchemaProblem(
                            f"migration {step.version:04} {step.name} was applied with other content "
                            f"(checksum {known[step.version]}, shipped {step.checksum}): this schema was not made by a released version"
                        )
                    continue
                await connection.execute(qualify(step.sql, schema))
                await connection.execute(
                    qualify(
                        "INSERT INTO mailerd.schema_migration (version, name, checksum) VALUES ($1, $2, $3)", schema
                    ),
                    step.version,
                    step.name,
                    step.checksum,
                )
                applied.append(step)
            await connection.execute(qualify(grants(), schema))
            await connection.execute(qualify(_version_row(), schema))
    except asyncpg.LockNotAvailableError as error:
        raise SchemaProblem(
            "another transaction holds a table for over 10 s: find it in pg_stat_activity, then run again"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaProblem(f"{error}: run `mailerd migrate` as a user who may create schema {schema}") from error
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        session.drop()
        raise Unavailable(explain_failure(error)) from error
    await apply_role_settings(session)
    return applied


async def missing_roles(session: Session) -> list[str]:
    """Those that applications and dashboards need and nobody made: whoever migrated was not allowed to."""
    sql = "SELECT r FROM unnest($1::text[]) r WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)"
    return [row[0] for row in await session.fetch(sql, ROLES)]


def _too_new(version: int) -> str:
    return f"the schema is version {version}, newer than this mailerd's {SCHEMA_VERSION}: install the newer mailerd"


async def verify(session: Session) -> int:
    """The schema's version when this daemon may run on it. Raises `SchemaProblem` naming the fix, `Unavailable`."""
    schema = session.settings.schema
    try:
        rows = await session.fetch("SELECT version, min_daemon FROM mailerd.schema_version")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        raise SchemaProblem(f"the database has no schema {schema}: run `mailerd migrate`") from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaProblem(
            f"{error}: the daemon must own schema {schema}, or run as the user who ran `mailerd migrate`"
        ) from None
    if not rows:
        raise SchemaProblem(f"schema {schema} is incomplete: run `mailerd migrate`")
    version, min_daemon = rows[0]
    if version < SCHEMA_VERSION:
        raise SchemaProblem(
            f"the schema is version {version}, this mailerd needs {SCHEMA_VERSION}: run `mailerd migrate`"
        )
    if min_daemon > SCHEMA_VERSION:
        raise SchemaProblem(_too_new(version))
    return int(version)
