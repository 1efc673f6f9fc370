"""What applications and readers may do, tried as them; what they may not, refused."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from mailerd.config.model import Database
from mailerd.store.database import Session
from mailerd.store.migrate import migrate, missing_roles

Connection = asyncpg.Connection

# Every column of the contract that an application may write.
WRITABLE = (
    "stream",
    "priority",
    "send_at",
    "expires_at",
    "dedup_key",
    "sender",
    "recipient",
    "cc",
    "bcc",
    "reply_to",
    "subject",
    "text_body",
    "html_body",
    "template",
    "params",
    "locale",
    "raw",
    "headers",
    "attachments",
    "thread_key",
    "campaign",
    "tags",
    "metadata",
    "topic",
)
TABLES = (
    "ready",
    "scheduled",
    "event",
    "in_doubt",
    "dead_letter",
    "suppression",
    "subscription",
    "topic",
    "dedup_0",
    "dedup_1",
    "dedup",
    "stream",
    "instance",
    "provider_state",
    "lane_control",
    "audit",
    "queue_gauge",
    "unlisted",
    "outbox_kept",
    "schema_version",
    "schema_migration",
    "message_status",
)


async def login(database: str, connection: Connection, role: str) -> tuple[Connection, str]:
    """A connection as a new user that is a member of `role`, and the user's name."""
    user = f"t_{secrets.token_hex(6)}"
    await connection.execute(f"CREATE ROLE {user} LOGIN IN ROLE {role}")
    parts = urlsplit(database)
    host = parts.netloc.rpartition("@")[2]
    return await asyncpg.connect(urlunsplit(parts._replace(netloc=f"{user}@{host}"))), user


@pytest.fixture
async def app(database: str, connection: Connection) -> AsyncIterator[Connection]:
    member, user = await login(database, connection, "mailerd_app")
    yield member
    await member.close()
    await connection.execute(f"DROP ROLE {user}")


@pytest.fixture
async def reader(database: str, connection: Connection) -> AsyncIterator[Connection]:
    member, user = await login(database, connection, "mailerd_read")
    yield member
    await member.close()
    await connection.execute(f"DROP ROLE {user}")


async def refused(connection: Connection, sql: str, *args: object) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(sql, *args)


async def test_an_application_inserts_and_reads_its_id(app: Connection, connection: Connection) -> None:
    message = await app.fetchval(
        "INSERT INTO mailerd.outbox (recipient, text_body) VALUES ('ann@example.org', 'x') RETURNING id"
    )
    assert message < 1 << 53
    assert await app.fetchval("SELECT id FROM mailerd.outbox WHERE id = $1", message) == message
    assert await connection.fetchval("SELECT id FROM mailerd.ready") == message


async def test_an_application_writes_every_column_but_two(app: Connection) -> None:
    values = dict.fromkeys(WRITABLE, "NULL") | {"recipient": "'ann@example.org'", "text_body": "'x'"}
    await app.execute(f"INSERT INTO mailerd.outbox ({', '.join(values)}) VALUES ({', '.join(values.values())})")
    await refused(app, "INSERT INTO mailerd.outbox (id, recipient, text_body) VALUES (1, 'a@b.c', 'x')")
    await refused(app, "INSERT INTO mailerd.outbox (created_at, recipient, text_body) VALUES (now(), 'a@b.c', 'x')")


async def test_an_application_uses_the_functions(app: Connection) -> None:
    message = await app.fetchval("SELECT mailerd.enqueue(recipient => 'ann@example.org', text_body => 'x')")
    assert (await app.fetchrow("SELECT * FROM mailerd.status($1)", message))["status"] == "ready"
    assert await app.fetchval("SELECT mailerd.cancel($1)", message) is True
    assert (await app.fetchrow("SELECT * FROM mailerd.status($1)", message))["status"] == "cancelled"


async def test_an_application_may_do_nothing_else(app: Connection) -> None:
    for table in TABLES:
        await refused(app, f"SELECT * FROM mailerd.{table} LIMIT 1")
    for column in ("recipient", "text_body", "created_at", "params"):
        await refused(app, f"SELECT {column} FROM mailerd.outbox")
    await refused(app, "UPDATE mailerd.outbox SET subject = 'x'")
    await refused(app, "DELETE FROM mailerd.outbox")
    await refused(app, "TRUNCATE mailerd.outbox")
    await refused(app, "INSERT INTO mailerd.ready (stream, priority, domain, id) VALUES ('x', 1, 'y', 1)")
    await refused(app, "INSERT INTO mailerd.suppression (address) VALUES ('a@b.c')")
    await refused(app, "SELECT mailerd.create_partition('outbox', '2031-01-01')")
    await refused(app, "SELECT mailerd.grant_roles()")
    await refused(app, "SELECT mailerd.turn_dedup()")
    await refused(app, "SELECT mailerd.turn_dedup()")
    await refused(app, "SELECT nextval('mailerd.message_serial')")
    await refused(app, "CREATE TABLE mailerd.mine (x int)")


async def test_an_applications_search_path_cannot_steer_the_functions(app: Connection) -> None:
    """They are SECURITY DEFINER: a temporary table of the same name must not be what they write to."""
    await app.execute("CREATE TEMP TABLE ready (id bigint); SET search_path = pg_temp, mailerd, public")
    message = await app.fetchval("SELECT mailerd.enqueue(recipient => 'ann@example.org', text_body => 'x')")
    assert (await app.fetchrow("SELECT * FROM mailerd.status($1)", message))["status"] == "ready"
    assert await app.fetchval("SELECT count(*) FROM pg_temp.ready") == 0


async def test_a_reader_reads_what_dashboards_need_and_writes_nothing(
    reader: Connection, connection: Connection
) -> None:
    message = await connection.fetchval("SELECT mailerd.enqueue(recipient => 'ann@example.org', text_body => 'secret')")
    for table in ("message_status", "event", "dead_letter", "in_doubt", "suppression", "stream", "instance"):
        await reader.fetch(f"SELECT * FROM mailerd.{table} LIMIT 1")
    for table in ("provider_state", "lane_control", "queue_gauge", "audit"):
        await reader.fetch(f"SELECT * FROM mailerd.{table} LIMIT 1")
    assert (await reader.fetchrow("SELECT * FROM mailerd.status($1)", message))["status"] == "ready"
    assert await reader.fetchval("SELECT status FROM mailerd.message_status WHERE id = $1", message) == "ready"
    await refused(reader, "SELECT text_body FROM mailerd.outbox")
    await refused(reader, "SELECT mailerd.enqueue(recipient => 'a@b.c', text_body => 'x')")
    await refused(reader, "SELECT mailerd.cancel(1)")
    await refused(reader, "INSERT INTO mailerd.outbox (recipient, text_body) VALUES ('a@b.c', 'x')")
    await refused(reader, "DELETE FROM mailerd.event")
    await refused(reader, "DELETE FROM mailerd.lane_control")


async def test_a_stranger_may_do_nothing(database: str, connection: Connection) -> None:
    user = f"t_{secrets.token_hex(6)}"
    await connection.execute(f"CREATE ROLE {user} LOGIN")
    parts = urlsplit(database)
    stranger = await asyncpg.connect(urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}")))
    try:
        await refused(stranger, "SELECT id FROM mailerd.outbox")
        await refused(stranger, "SELECT mailerd.enqueue(recipient => 'a@b.c', text_body => 'x')")
        await refused(stranger, "SELECT * FROM mailerd.message_status")
    finally:
        await stranger.close()
        await connection.execute(f"DROP ROLE {user}")


async def test_another_schema_name_works_for_applications_too(database: str, connection: Connection) -> None:
    await connection.execute("DROP SCHEMA mailerd CASCADE")
    async with Session(Database(url=database, schema="post"), "test") as session:
        await migrate(session)
    app, user = await login(database, connection, "mailerd_app")
    try:
        message = await app.fetchval("SELECT post.enqueue(recipient => 'ann@example.org', text_body => 'x')")
        assert (await app.fetchrow("SELECT * FROM post.status($1)", message))["status"] == "ready"
        await refused(app, "SELECT post.turn_dedup()")
        await refused(app, "SELECT text_body FROM post.outbox")
    finally:
        await app.close()
        await connection.execute(f"DROP ROLE {user}")


ACLS = """
SELECT 'table ' || c.relname AS what, x.* FROM pg_class c, aclexplode(c.relacl) x WHERE c.relnamespace = 'mailerd'::regnamespace
UNION ALL SELECT 'column ' || c.relname || '.' || a.attname, x.* FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid,
  aclexplode(a.attacl) x WHERE c.relnamespace = 'mailerd'::regnamespace
UNION ALL SELECT 'function ' || p.proname, x.* FROM pg_proc p, aclexplode(p.proacl) x WHERE p.pronamespace = 'mailerd'::regnamespace
UNION ALL SELECT 'schema', x.* FROM pg_namespace n, aclexplode(n.nspacl) x WHERE n.nspname = 'mailerd'
"""
OURS = f"""
SELECT grantee::regrole::text, what, privilege_type FROM ({ACLS}) a
WHERE grantee <> 0 AND grantee::regrole::text IN ('mailerd_app', 'mailerd_read') ORDER BY 1, 2, 3
"""


async def test_a_role_that_is_made_later_is_granted_all_by_the_next_migrate(
    session: Session, connection: Connection, database: str
) -> None:
    """What a migration grants must stand in grants.sql too."""
    before = [tuple(row) for row in await connection.fetch(OURS)]
    assert {role for role, *_ in before} == {"mailerd_app", "mailerd_read"}
    await connection.execute("DROP OWNED BY mailerd_app, mailerd_read")  # in this database: as roles without a past
    assert await connection.fetch(OURS) == []
    assert await migrate(session) == []
    assert [tuple(row) for row in await connection.fetch(OURS)] == before
    app, user = await login(database, connection, "mailerd_app")
    try:
        assert await app.fetchval("SELECT mailerd.pinned('welcome')") == "welcome"
        assert await app.fetchval("SELECT mailerd.enqueue(recipient => 'ann@example.org', text_body => 'x')")
    finally:
        await app.close()
        await connection.execute(f"DROP ROLE {user}")
    # Where nothing is lacking, nothing is written.
    versions = "SELECT oid, xmin::text FROM pg_class WHERE relnamespace = 'mailerd'::regnamespace ORDER BY oid"
    written = await connection.fetch(versions)
    await migrate(session)
    assert await connection.fetch(versions) == written
    assert await missing_roles(session) == []
