"""The schema belongs to an ordinary role that may not create roles: everything works, and a notice says what is missing."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from mailerd.config import model
from mailerd.store.database import ROLE_SETTINGS, Session
from mailerd.store.migrate import SCHEMA_VERSION, migrate, migrations, script, verify
from mailerd.store.settle import settle
from tests.conftest import with_database
from tests.store.rows import STREAM, done, fill, take


async def test_an_ordinary_owner_in_a_schema_of_another_name(postgres: str) -> None:
    name = f"owner_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"CREATE ROLE {name} LOGIN")
    await admin.execute(f"CREATE DATABASE {name} OWNER {name}")
    parts = urlsplit(with_database(postgres, name))
    url = urlunsplit(parts._replace(netloc=f"{name}@{parts.hostname}:{parts.port}"))
    try:
        async with Session(model.Database(url=url, schema="post"), "test") as session:
            assert len(await migrate(session)) == len(migrations())
            assert await migrate(session) == []
            assert await verify(session) == SCHEMA_VERSION
            for setting, value in ROLE_SETTINGS.items():
                assert await session.value("SELECT current_setting($1)", setting) == value
            assert await session.value("SELECT to_regnamespace('mailerd')") is None
            id_ = await session.value(
                "SELECT post.enqueue('a@d0.example', stream => $1, text_body => 'x', dedup_key => 'k')", STREAM
            )
            assert (
                await session.value(
                    "SELECT post.enqueue('a@d0.example', stream => $1, text_body => 'x', dedup_key => 'k')", STREAM
                )
                == id_
            )
            (job,) = await take(session)
            assert await settle(session, STREAM, [done(job)]) == {id_}
            assert await session.value("SELECT status FROM post.status($1)", id_) == "sent"
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {name}")
        await admin.close()


async def test_the_printed_script_makes_the_same_schema(postgres: str, session: Session) -> None:
    """What `migrate --print` gives to a DBA and what `migrate` does are one."""
    name = f"script_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"CREATE DATABASE {name}")
    columns = "SELECT table_name, column_name, data_type, column_default FROM information_schema.columns WHERE table_schema = 'mailerd' AND table_name !~ '[0-9]{8}$' ORDER BY 1, 2"
    functions = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'mailerd'::regnamespace ORDER BY 1"
    try:
        other = await asyncpg.connect(with_database(postgres, name))
        await other.execute(script("mailerd"))
        assert await other.fetch(columns) == await session.fetch(columns)
        assert await other.fetch(functions) == await session.fetch(functions)
        assert await other.fetchval("SELECT max(version) FROM mailerd.schema_migration") == SCHEMA_VERSION
        await other.close()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def test_a_changed_migration_is_noticed(session: Session, connection: asyncpg.Connection) -> None:
    import pytest

    from mailerd.store.migrate import SchemaProblem

    await connection.execute("UPDATE mailerd.schema_migration SET checksum = 'other' WHERE version = 2")
    with pytest.raises(SchemaProblem, match="0002 queue was applied with other content"):
        await migrate(session)


async def test_two_migrations_at_once(postgres: str) -> None:
    import asyncio

    name = f"twice_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(postgres)
    await admin.execute(f"CREATE DATABASE {name}")
    settings = model.Database(url=with_database(postgres, name))
    try:
        async with Session(settings, "a") as a, Session(settings, "b") as b:
            first, second = await asyncio.gather(migrate(a), migrate(b))
            assert sorted((len(first), len(second))) == [0, len(migrations())]
        await fill_one(settings)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def fill_one(settings: model.Database) -> None:
    connection = await asyncpg.connect(settings.url)
    await fill(connection, 1)
    await connection.close()
