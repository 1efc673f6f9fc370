"""The preference page and the page that confirms, against a real store: what they show, and what they change."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from urllib.parse import urlencode

import asyncpg
import pytest

from mailerd.compose.tokens import Subscriber
from mailerd.config.model import Database
from mailerd.config.topic import Topic
from mailerd.store import feedback, preference
from mailerd.store.database import Session
from mailerd.store.instances import publish_topics
from mailerd.web.public import PublicServer
from mailerd.web.visitor import network
from tests.web.rig import TOKENS, Reply, ask, listener

Connection = asyncpg.Connection
ANN = "ann@example.org"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TOPICS = (
    Topic(name="offers", title="Weekly <offers>", stream="marketing"),
    Topic(name="news", stream="marketing", double_opt_in=True),
    Topic(name="other", stream="elsewhere"),
)
OF_OFFERS = f"/u/{TOKENS.unsubscribe(Subscriber(7, 0, ANN, 'marketing', 'offers'))}"
OF_STREAM = f"/u/{TOKENS.unsubscribe(Subscriber(8, 0, ANN, 'marketing'))}"
CONFIRM = f"/s/{TOKENS.confirmation(Subscriber(9, 0, ANN, 'marketing', 'news'))}"


@pytest.fixture
async def server(database: str) -> AsyncIterator[PublicServer]:
    async with Session(Database(url=database), "test") as session:
        await publish_topics(session, TOPICS)
    async with listener(database, feedback.apply, topic=TOPICS, trusted_proxies=("127.0.0.1",)) as running:
        yield running


async def post(server: PublicServer, path: str, action: str, topics: Sequence[str] = ()) -> Reply:
    reply = await ask(
        server, "POST", path, FORM, urlencode([("action", action), *(("topic", t) for t in topics)]).encode()
    )
    assert reply.status == 200
    return reply


async def boxes(server: PublicServer, path: str = OF_OFFERS) -> dict[str, bool]:
    """The check boxes that the page shows."""
    body = (await ask(server, "GET", path)).body.decode()
    return {name: bool(on) for name, on in re.findall(r"name=topic value='(\w+)'( checked)?>", body)}


async def states(connection: Connection) -> dict[str, str]:
    rows = await connection.fetch("SELECT topic, state FROM mailerd.subscription WHERE address = $1", ANN)
    return {row["topic"]: row["state"] for row in rows}


async def test_choosing(server: PublicServer, connection: Connection) -> None:
    assert await boxes(server) == await boxes(server, OF_STREAM) == {"offers": True, "news": False}
    assert b"Weekly &lt;offers&gt;</label>" in (await ask(server, "GET", OF_STREAM)).body
    assert await states(connection) == {}, "looking changes nothing"
    for wanted in (["news"], ["news", "offers", "other", "<b>"], []):
        assert b"Your choice is saved" in (await post(server, OF_STREAM, "choose", wanted)).body
        assert await boxes(server) == {"offers": "offers" in wanted, "news": "news" in wanted}
    assert await states(connection) == {"offers": "unsubscribed", "news": "unsubscribed"}
    assert await connection.fetchval("SELECT count(*) FROM mailerd.suppression") == 0
    said = await connection.fetch("SELECT actor, action, detail FROM mailerd.audit ORDER BY id")
    assert [(row["actor"], row["action"].split()[1], row["detail"]) for row in said] == [
        ("recipient", "subscribed", "news, page"),
        ("recipient", "unsubscribed", "offers, page"),
        ("recipient", "subscribed", "offers, page"),
        ("recipient", "unsubscribed", "news, page"),
        ("recipient", "unsubscribed", "offers, page"),
    ]


async def test_one_click_of_a_topics_message(server: PublicServer, connection: Connection) -> None:
    assert (await ask(server, "POST", OF_OFFERS, FORM, b"List-Unsubscribe=One-Click")).status == 200
    assert await states(connection) == {"offers": "unsubscribed"}, "at once, and of the topic"
    assert await connection.fetchval("SELECT count(*) FROM mailerd.suppression") == 0
    page = (await post(server, OF_OFFERS, "unsubscribe")).body
    assert "“Weekly &lt;offers&gt;”".encode() in page
    assert b"Welcome back" in (await post(server, OF_OFFERS, "resubscribe")).body
    assert await states(connection) == {"offers": "subscribed"}


async def test_all_of_it_and_back(server: PublicServer, connection: Connection) -> None:
    page = (await ask(server, "GET", OF_OFFERS)).body
    assert b"unsubscribe-all" in page
    assert b"unsubscribe-all" not in (await ask(server, "GET", OF_STREAM)).body, "its one button says so already"
    assert b"value=resubscribe-all" in (await post(server, OF_OFFERS, "unsubscribe-all")).body
    assert await connection.fetchval("SELECT stream || reason FROM mailerd.suppression") == "marketingunsubscribe"
    assert await boxes(server) == {"offers": False, "news": False}
    await post(server, OF_OFFERS, "choose", ["news"])
    assert await boxes(server) == {"offers": False, "news": True}, "that one topic, and nothing else"
    await post(server, OF_STREAM, "unsubscribe")
    assert await boxes(server) == {"offers": False, "news": False}, "all of it again, and later"
    await post(server, OF_OFFERS, "resubscribe-all")
    assert await boxes(server) == {"offers": True, "news": True}


async def test_confirming(server: PublicServer, connection: Connection) -> None:
    assert b"no longer valid" in (await post(server, CONFIRM, "confirm")).body, "nobody asked for it"
    await connection.execute("SELECT mailerd.subscribe($1, 'news', 'form', '{\"ip\": \"192.0.2.1\"}')", ANN)
    for method, body in (("GET", b""), ("HEAD", b""), ("POST", b""), ("POST", b"action=unsubscribe")):
        assert (await ask(server, method, CONFIRM, FORM, body)).status == 200
    assert await states(connection) == {"news": "pending"}, "what scanners do confirms nothing"
    asked = await ask(server, "GET", CONFIRM)
    assert b"ann@" not in asked.body
    assert b"frame-ancestors 'none'" in asked.headers["content-security-policy"].encode()
    visitor = {**FORM, "X-Forwarded-For": "2001:db8:1:2:3::4"}
    for _ in range(2):
        reply = await ask(server, "POST", CONFIRM, visitor, b"action=confirm")
        assert b"You are subscribed" in reply.body
    row = await connection.fetchrow("SELECT state, source, at, proof FROM mailerd.subscription")
    assert row is not None
    proof = json.loads(row["proof"])
    assert (row["state"], row["source"], proof["ip"]) == ("subscribed", "confirmation", "192.0.2.1")
    assert proof["requested"]["source"] == "form"
    assert proof["confirmed"].keys() == {"at", "message", "token", "visitor"}
    assert (proof["confirmed"]["message"], proof["confirmed"]["visitor"]) == (9, "2001:db8:1::/48")
    assert re.fullmatch("[0-9a-f]{16}", proof["confirmed"]["token"])
    actors = await connection.fetch("SELECT actor FROM mailerd.audit WHERE action = 'subscription subscribed'")
    assert actors == [("recipient",)], "once"
    assert b"no longer valid" not in (await post(server, CONFIRM, "confirm")).body
    await post(server, OF_STREAM, "unsubscribe")
    assert b"no longer valid" in (await post(server, CONFIRM, "confirm")).body, "he has left all of it since"
    await post(server, OF_STREAM, "resubscribe")
    await connection.execute("SELECT mailerd.unsubscribe($1, 'news')", ANN)
    assert b"no longer valid" in (await post(server, CONFIRM, "confirm")).body, "an old link brings nobody back"


async def test_a_confirmation_too_late(server: PublicServer, connection: Connection, database: str) -> None:
    await connection.execute("SELECT mailerd.subscribe($1, 'news')", ANN)
    await connection.execute("UPDATE mailerd.subscription SET at = now() - $1::interval", timedelta(days=31))
    assert b"no longer valid" in (await post(server, CONFIRM, "confirm")).body
    assert await states(connection) == {"news": "pending"}
    await connection.execute("SELECT mailerd.subscribe('bob@example.org', 'news')")
    async with Session(Database(url=database), "test") as session:
        assert [await preference.forget(session, batch=1) for _ in range(2)] == [1, 0], "and what is too late goes"
    assert await connection.fetchval("SELECT array_agg(address) FROM mailerd.subscription") == ["bob@example.org"]


async def test_one_kind_of_token_is_not_the_other(server: PublicServer, connection: Connection) -> None:
    await connection.execute("SELECT mailerd.subscribe($1, 'news')", ANN)
    assert (await ask(server, "POST", CONFIRM.replace("/s/", "/u/"), FORM, b"action=unsubscribe-all")).status == 404
    assert (await ask(server, "POST", OF_OFFERS.replace("/u/", "/s/"), FORM, b"action=confirm")).status == 404
    assert await states(connection) == {"news": "pending"}


@pytest.mark.parametrize(
    ("address", "kept"), [("192.0.2.77", "192.0.2.0/24"), ("2001:db8:1:2::9%eth0", "2001:db8:1::/48"), ("unknown", "")]
)
def test_what_is_kept_of_a_visitor(address: str, kept: str) -> None:
    assert network(address) == kept
