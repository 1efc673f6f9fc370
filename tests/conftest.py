"""Fixtures that everybody uses: a real Postgres, and a fresh migrated database for each test.

The server is `MAILERD_TEST_DSN` when set (a superuser's URL), else one of the version `MAILERD_TEST_POSTGRES` (default:
the quickstart wheel's newest), started once for the whole run, in a temporary folder, without fsync. Each test gets a database copied from a migrated template.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from mailerd.bench.postgres import Postgres
from mailerd.config import model
from mailerd.store import upkeep
from mailerd.store.database import ROLE_SETTINGS, Session
from mailerd.store.migrate import migrate

_serial = itertools.count()


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A superuser's URL on a running server."""
    given = os.environ.get("MAILERD_TEST_DSN")
    if given:
        yield given
        return
    version = int(os.environ["MAILERD_TEST_POSTGRES"]) if "MAILERD_TEST_POSTGRES" in os.environ else None

    with (
        tempfile.TemporaryDirectory(prefix="mailerd-pg-") as folder,
        Postgres(Path(folder), durable=False, version=version) as server,
    ):
        yield server.url


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """A migrated database that tests copy."""
    name = f"mailerd_tpl_{secrets.token_hex(4)}"

    async def make() -> None:
        admin = await asyncpg.connect(postgres)
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        async with Session(model.Database(url=with_database(postgres, name)), "test") as session:
            await migrate(session)
            # A copy of a database costs by its files: the days beyond tomorrow are made by the tests that want them.
            for parent in ("outbox", "event"):
                for child, _, day in await session.fetch(upkeep.CHILDREN, parent):
                    if day > upkeep.today() + timedelta(days=2):
                        await session.execute(f"DROP TABLE mailerd.{child}")

    async def drop() -> None:
        admin = await asyncpg.connect(postgres)
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()

    asyncio.run(make())
    yield name
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        asyncio.run(drop())


@pytest.fixture
async def database(postgres: str, template: str) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database."""
    name = f"mailerd_{template[-8:]}_{next(_serial)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    # Settings of a role in a database are not copied with the template.
    for setting, value in ROLE_SETTINGS.items():
        await admin.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET {setting} = '{value}'")
    try:
        yield with_database(postgres, name)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A superuser's connection to the test's database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def settings(database: str) -> model.Database:
    return model.Database(url=database)


@pytest.fixture
async def session(settings: model.Database) -> AsyncIterator[Session]:
    async with Session(settings, "test") as session:
        yield session
