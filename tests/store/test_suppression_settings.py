"""[suppression] at work: tags of addresses, how long bounces hold, what a complaint stops."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from mailerd.config import suppression as config
from mailerd.config.base import Duration
from mailerd.config.load import ConfigError, parse
from mailerd.config.topic import Topic
from mailerd.feedback import Feedback
from mailerd.store import gates, preference
from mailerd.store.database import Session
from mailerd.store.erased import pseudonym
from mailerd.store.feedback import apply, policy_of
from mailerd.store.gates import Look, suppressed, unwanted
from mailerd.store.suppression import Suppression, add
from tests.store.rows import fill
from tests.store.test_plans import explain, reads, scans

Connection = asyncpg.Connection


async def test_plus_tags(session: Session, connection: Connection) -> None:
    key = b"k" * 32
    stored = ["ann+shop@x.example", "bob@x.example", pseudonym(key, "eve@x.example")]
    await add(session, [Suppression(address=address) for address in stored])
    asked = ["ann@x.example", "ann+shop@x.example", "ann+other@x.example", "bob+a+b@x.example", "eve+a@x.example"]
    asked += ["ann@y.example", "annshop@x.example", "+shop@x.example"]
    assert set(await suppressed(session, "any", asked, [key])) == {"ann+shop@x.example"}
    for names in ([key], []):
        found = await suppressed(session, "any", asked, names, plus_tags=True)
        assert set(found) == set(asked[: 5 if names else 4])
    # The setting changes nothing that is stored: turned off again, all is as before.
    assert set(await suppressed(session, "any", asked, [key])) == {"ann+shop@x.example"}


async def test_plus_tags_and_topics(session: Session, connection: Connection) -> None:
    """A no counts for every tag, a yes only for the address that said it."""
    offers = Topic(name="offers", stream="marketing")
    news = Topic(name="news", stream="marketing", double_opt_in=True)
    await connection.execute(
        "INSERT INTO mailerd.subscription VALUES ('ann+a@x.example', 'offers', 'unsubscribed'), "
        "('ann+b@x.example', 'offers', 'subscribed'), ('ann+a@x.example', 'news', 'subscribed')"
    )
    whom = [f"ann{tag}@x.example" for tag in ("", "+a", "+b")]
    looks = [Look(a, t.name, t.double_opt_in) for t in (offers, news) for a in whom]
    found = await unwanted(session, "marketing", looks, plus_tags=True)
    assert set(found) == {(whom[0], "offers"), (whom[1], "offers"), (whom[0], "news"), (whom[2], "news")}
    for address in whom:
        shown = await preference.topics(session, address, "marketing", (offers, news), True)
        assert [on for _, on in shown] == [(address, t.name) not in found for t in (offers, news)]
    await add(session, [Suppression(address=whom[0], stream="marketing", reason="unsubscribe")])
    assert whom[2] in await suppressed(session, "marketing", whom, plus_tags=True)
    assert not await preference.resubscribe(session, whom[2], "marketing", "")
    assert await preference.resubscribe(session, whom[2], "marketing", "", plus_tags=True)
    assert not await suppressed(session, "marketing", whom, plus_tags=True)


@pytest.mark.parametrize("plus_tags", [False, True])
async def test_a_long_list_is_probed(connection: Connection, plus_tags: bool) -> None:
    await connection.execute("ANALYZE; ALTER TABLE mailerd.suppression SET (autovacuum_enabled = off)")
    await connection.execute(
        "INSERT INTO mailerd.suppression SELECT 'a' || i || '+t@x.example' FROM generate_series(1, 20000) i"
    )
    asked, nobody = [f"a{i}@x.example" for i in range(300)], [None] * 300
    if plus_tags:
        plan = await explain(connection, gates.SUPPRESSED_BY_BASE, asked, "any", nobody, asked, nobody)
    else:
        plan = await explain(connection, gates.SUPPRESSED, asked, "any")
    assert {n["Node Type"] for n in scans(plan, "suppression")} <= {"Index Scan", "Index Only Scan"}
    assert reads(plan, "suppression") <= 300


async def test_the_policy_for_bounces_and_complaints(session: Session, connection: Connection) -> None:
    ids = await fill(connection, 4)
    policy = policy_of(
        config.Suppression(
            soft_bounces=2,
            soft_bounce_window=Duration(2 * 86400),
            soft_bounces_expire=Duration(86400),
            hard_bounces_expire=Duration(9 * 86400),
            complaints="stream",
        )
    )
    reports = [Feedback(type="bounced", message_id=ids[0], hard=True), Feedback(type="complained", message_id=ids[1])]
    reports += [
        Feedback(type="bounced", message_id=id_, source="x", source_id=f"{n}-{id_}") for n in (1, 2) for id_ in ids[::2]
    ]
    await apply(session, reports, policy)
    rows = await connection.fetch(
        "SELECT address, stream, reason, round(extract(epoch FROM until - now()) / 86400) AS days FROM mailerd.suppression"
    )
    assert {tuple(row) for row in rows} == {
        ("u1@d0.example", "", "bounce", 9),
        ("u2@d0.example", "marketing", "complaint", None),
        ("u3@d0.example", "", "soft bounces", 1),
    }
    await apply(session, [Feedback(type="bounced", message_id=ids[0], source="x", source_id="3")], policy)
    assert (
        await connection.fetchval("SELECT reason FROM mailerd.suppression WHERE address = 'u1@d0.example'") == "bounce"
    )
    off = policy_of(config.Suppression(soft_bounces=0, complaints="all"))
    reports = [Feedback(type="bounced", message_id=ids[3], source="x", source_id=str(n)) for n in range(4, 14)]
    await apply(session, [*reports, Feedback(type="complained", message_id=ids[2])], off)
    assert "u4@d0.example" not in await suppressed(session, "any", ["u4@d0.example"])
    assert await suppressed(session, "transactional", ["u3@d0.example"]) == {"u3@d0.example": "complaint"}


TOPIC = "[[topic]]\nname = 'a'\nstream = 'marketing'\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[suppression]\nsoft_bounce_window = '36h'\n",
            "suppression.soft_bounce_window: must be whole days, `1d` to `90d`",
        ),
        ("[suppression]\nsoft_bounce_window = '91d'\n", "suppression.soft_bounce_window: must be whole days"),
        ("[suppression]\nsoft_bounces_expire = 0\n", "suppression.soft_bounces_expire: must not be zero"),
        ("[suppression]\ncomplaints = 'none'\n", "suppression.complaints: must be"),
        ("[suppression]\nplus_tag = true\n", "did you mean"),
        (
            TOPIC.replace("marketing", "markting"),
            "topic.a.stream: there is no [[stream]] `markting`; did you mean `marketing`",
        ),
        (TOPIC + TOPIC, "there is another [[topic]] of this name"),
        (TOPIC + "double_opt_in = true\n", "topic.a.double_opt_in: needs [public] `base_url` and `secret`"),
        ("[[campaign]]\nname = 'c'\ntopic = 'b'\n" + TOPIC, "campaign.c.topic: there is no [[topic]] `b`"),
    ],
)
def test_one_mistake(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, Path("/etc/m.toml"), {}, require_provider=False)
    (line,) = caught.value.lines()
    assert expected in line
