"""Consent in the store: what applications say and are told, what stops a message, and that both sides spell addresses alike."""

from __future__ import annotations

import json
import secrets
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mailerd.compose.address import base, normal
from mailerd.config.topic import Topic
from mailerd.feedback import Feedback
from mailerd.message import Failure
from mailerd.store import gates, suppression
from mailerd.store.database import Session
from mailerd.store.erased import pseudonym
from mailerd.store.feedback import apply
from mailerd.store.gates import Look, unwanted
from mailerd.store.instances import publish_topics
from mailerd.store.suppression import Suppression
from tests.store.rows import STREAM, fill
from tests.store.test_plans import explain, reads, scans

Connection = asyncpg.Connection
TOPICS = (
    Topic(name="offers", title="Weekly offers", stream=STREAM),
    Topic(name="news", stream=STREAM, double_opt_in=True),
)
ANN = "ann@example.org"


@pytest.fixture
async def topics(session: Session) -> None:
    await publish_topics(session, TOPICS)


async def gate(session: Session, address: str, topic: str, key: bytes | None = None) -> str | None:
    confirmed = next(t.double_opt_in for t in TOPICS if t.name == topic)
    return (await unwanted(session, STREAM, [Look(address, topic, confirmed)], [key] if key else ())).get(
        (address, topic)
    )


async def test_topics_are_published(session: Session, connection: Connection) -> None:
    await publish_topics(session, ())
    await publish_topics(session, TOPICS)
    await publish_topics(session, (Topic(name="news", title="News!", stream=STREAM),))
    rows = await connection.fetch("SELECT name, stream, title, double_opt_in FROM mailerd.topic ORDER BY name")
    assert [tuple(row) for row in rows] == [
        ("news", STREAM, "News!", False),
        ("offers", STREAM, "Weekly offers", False),
    ]


@pytest.mark.usefixtures("topics")
async def test_what_a_subscriber_said(session: Session, connection: Connection) -> None:
    assert await gate(session, ANN, "offers") is None
    assert await gate(session, ANN, "news") == "not subscribed to news"
    subscribe = "SELECT mailerd.subscribe($1, $2, 'form', '{\"page\": \"/\"}')"
    assert await connection.fetchval(subscribe, " Ann@Example.ORG", "news") == "pending"
    assert await gate(session, ANN, "news") == "not confirmed: news"
    assert await connection.fetchval("SELECT mailerd.subscribe($1, $2, confirmed => true)", ANN, "news") == "subscribed"
    assert await gate(session, ANN, "news") is None
    assert await connection.fetchval(subscribe, ANN, "news") == "subscribed", "who confirmed stays so"
    await connection.execute("SELECT mailerd.unsubscribe($1, 'news', 'settings page')", ANN)
    assert await gate(session, ANN, "news") == "unsubscribed from news"
    assert await connection.fetchval(subscribe, ANN, "news") == "pending", "a new consent is to be confirmed"
    await connection.execute("SELECT mailerd.unsubscribe($1, 'offers')", ANN)
    assert await gate(session, ANN, "offers") == "unsubscribed from offers"
    assert await connection.fetchval("SELECT mailerd.subscription_state($1, 'offers')", ANN.upper()) == "unsubscribed"
    assert await connection.fetchval("SELECT mailerd.subscription_state('bob@example.org', 'offers')") is None
    assert await connection.fetchval(subscribe, ANN, "offers") == "subscribed"
    assert await connection.fetch("SELECT * FROM mailerd.subscribers('offers')") == [(ANN,)]
    said = await connection.fetch("SELECT actor, action, target, detail FROM mailerd.audit ORDER BY id")
    assert {row["target"] for row in said} == {ANN}
    assert {row["actor"] for row in said} == {await connection.fetchval("SELECT session_user")}
    assert [(row["action"].removeprefix("subscription "), row["detail"]) for row in said] == [
        ("pending", "news, form"),
        ("subscribed", "news, application"),
        ("unsubscribed", "news, settings page"),
        ("pending", "news, form"),
        ("unsubscribed", "offers, application"),
        ("subscribed", "offers, form"),
    ]


@pytest.mark.usefixtures("topics")
async def test_who_left_the_stream_and_came_back_for_a_topic(session: Session, connection: Connection) -> None:
    assert await connection.fetchval("SELECT mailerd.subscribe($1, 'news', confirmed => true)", ANN) == "subscribed"
    await suppression.add(session, [Suppression(address=ANN, stream=STREAM, reason="unsubscribe")])
    assert await gate(session, ANN, "news") == "unsubscribe"
    assert await gate(session, ANN, "offers") == "unsubscribe"
    assert await connection.fetchval("SELECT mailerd.subscribe($1, 'news')", ANN) == "pending", "his yes was older"
    assert await gate(session, ANN, "news") == "unsubscribe"
    assert await connection.fetchval("SELECT mailerd.subscribe($1, 'offers')", ANN) == "subscribed"
    assert await gate(session, ANN, "offers") is None
    await suppression.add(session, [Suppression(address=ANN, stream=STREAM, reason="complaint")])
    assert await gate(session, ANN, "offers") == "complaint", "only an unsubscribe is overruled"
    await suppression.remove(session, [ANN])
    await suppression.add(session, [Suppression(address=ANN, reason="bounce")])
    assert await gate(session, ANN, "offers") == "bounce"


@pytest.mark.usefixtures("topics")
async def test_an_unsubscribe_of_a_topic(session: Session, connection: Connection) -> None:
    (id_,) = await fill(connection, 1, topic="offers")
    whom = "u1@d0.example"
    report = Feedback(type="unsubscribed", message_id=id_, rcpt=0, topic="offers", source="one-click")
    assert await apply(session, [report, report]) == 2
    assert await gate(session, whom, "offers") == "unsubscribed from offers"
    assert await connection.fetchval("SELECT count(*) FROM mailerd.suppression") == 0
    row = await connection.fetchrow("SELECT state, source, proof FROM mailerd.subscription WHERE address = $1", whom)
    assert row is not None
    assert (row["state"], row["source"], json.loads(row["proof"])) == ("unsubscribed", "one-click", {"message": id_})
    actor = await connection.fetchval("SELECT actor FROM mailerd.audit WHERE action = 'subscription unsubscribed'")
    assert actor == "recipient"
    # Its message is gone for years: the token said who and from what.
    late = Feedback(type="unsubscribed", message_id=77, recipient=ANN, stream=STREAM, topic="offers", source="page")
    assert await apply(session, [late]) == 1
    assert await gate(session, ANN, "offers") == "unsubscribed from offers"


async def test_an_erased_address_stays_unsubscribed(session: Session, connection: Connection) -> None:
    key = b"k" * 32
    hidden = pseudonym(key, ANN)
    await connection.execute("INSERT INTO mailerd.subscription VALUES ($1, 'offers', 'unsubscribed')", hidden)
    assert await gate(session, ANN, "offers") is None
    assert await gate(session, ANN, "offers", key) == "unsubscribed from offers"
    await connection.execute("INSERT INTO mailerd.subscription VALUES ($1, 'offers', 'subscribed')", ANN)
    assert await gate(session, ANN, "offers", key) is None, "what he says now goes first"


REFUSED = {
    "SELECT mailerd.subscribe('ann@example.org', 'offerz')": 'there is no [[topic]] "offerz"',
    "SELECT mailerd.unsubscribe('ann@example.org', NULL)": "there is no [[topic]]",
    "SELECT mailerd.subscribe('ann', 'offers')": "not an address such as ann@example.org: ann",
    "SELECT mailerd.subscribe(NULL, 'offers')": "address: is NULL",
    "SELECT mailerd.subscribe('ann@büro.example', 'offers')": "write its domain as IDNA does",
    "SELECT mailerd.subscribe('a@b.example', 'offers', proof => '[1]')": "proof: not a JSON object",
    "INSERT INTO mailerd.outbox (recipient, text_body, topic) VALUES ('a@b.example', '', 'a b')": "topic: not a plain name",
}


@pytest.mark.usefixtures("topics")
async def test_what_is_refused(connection: Connection) -> None:
    for statement, words in REFUSED.items():
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.execute(statement)
        assert words in str(caught.value)


@pytest.mark.usefixtures("topics")
async def test_an_application_may_subscribe_and_read_nothing(database: str, connection: Connection) -> None:
    name = f"app_{secrets.token_hex(4)}"
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE mailerd_app")
    parts = urlsplit(database)
    app = await asyncpg.connect(urlunsplit(parts._replace(netloc=f"{name}:x@{parts.netloc.rpartition('@')[2]}")))
    try:
        assert await app.fetchval("SELECT mailerd.subscribe($1, 'offers')", ANN) == "subscribed"
        assert await app.fetchval("SELECT mailerd.subscription_state($1, 'offers')", ANN) == "subscribed"
        assert await app.fetchval("SELECT mailerd.enqueue($1, text_body => 'x', topic => 'offers')", ANN) > 0
        await app.execute("INSERT INTO mailerd.outbox (recipient, text_body, topic) VALUES ($1, 'x', 'offers')", ANN)
        for table in ("subscription", "topic"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.fetch(f"SELECT * FROM mailerd.{table}")
        assert await connection.fetchval("SELECT actor FROM mailerd.audit") == name
    finally:
        await app.close()
        await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_the_look_keeps_its_plan(connection: Connection) -> None:
    await connection.execute("ANALYZE")
    for table in ("suppression", "subscription"):
        await connection.execute(f"ALTER TABLE mailerd.{table} SET (autovacuum_enabled = off)")
    await connection.execute("ALTER TABLE mailerd.subscription DISABLE TRIGGER subscription_written")
    await connection.execute(
        "INSERT INTO mailerd.subscription SELECT 'a' || i || '@x.example', 'offers', 'subscribed' FROM generate_series(1, 50000) i"
    )
    await connection.execute(
        f"INSERT INTO mailerd.suppression SELECT 'a' || i || '@x.example', '{STREAM}' FROM generate_series(1, 50000) i"
    )
    addresses = [f"a{i}@x.example" for i in range(1, 501)]
    given_ = (addresses, STREAM, [None] * 500, ["offers"] * 500, [False] * 500)
    plan = await explain(connection, gates.UNWANTED, *given_)
    for table in ("suppression", "subscription"):
        assert {n["Node Type"] for n in scans(plan, table)} <= {"Index Scan", "Index Only Scan"}, table
        assert reads(plan, table) <= 1000, table


LOCAL = st.text("aA0+._-!'/{é ", min_size=0, max_size=66)
DOMAIN = st.lists(st.text("aZ9-", min_size=0, max_size=64), min_size=1, max_size=4).map(".".join)
ADDRESSES = st.one_of(
    st.builds("{}@{}".format, LOCAL, DOMAIN),
    st.builds(" {}@{} ".format, st.text("Ab9+.", min_size=1, max_size=9), st.just("Example.ORG")),
    st.text(st.characters(min_codepoint=1, max_codepoint=0x17F), max_size=30),
)


@given(address=ADDRESSES)
@example(address="a@1.2.3.4")
@example(address="a" * 65 + "@b.example")
@example(address="a@" + ".".join(["b" * 63] * 4))
@example(address="a+b+c@d.example")
@example(address="+b@d.example")
@example(address="a@b.example\n")
@example(address="İ@b.example")
@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
async def test_both_sides_spell_an_address_alike(connection: Connection, address: str) -> None:
    bare = '"' not in address and "<" not in address and "[" not in address and "@" in address
    try:
        ours: str | None = normal(address)
    except Failure:
        ours = None
    try:
        theirs = await connection.fetchval("SELECT mailerd.normal_address($1)", address)
    except asyncpg.PostgresError:
        theirs = None
    if theirs is not None or (bare and address.isascii()):
        assert theirs == ours
    if ours is not None:
        assert await connection.fetchval("SELECT mailerd.base_address($1)", ours) == base(ours)
