"""Reports against warm-ups: a bounce or a complaint that comes back counts for the day on which it comes, once."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from mailerd.config.model import Config, Pool, Stream
from mailerd.config.provider import Provider, Warmup
from mailerd.config.resolved import Resolved
from mailerd.feedback import Feedback
from mailerd.flow.warmreports import WarmReports
from mailerd.flow.warmup import Counts, schedule, standing
from mailerd.store import rates
from mailerd.store.database import Session
from mailerd.store.feedback import apply
from mailerd.store.settle import settle
from mailerd.store.warmup import count, counted
from tests.store.rows import STREAM, done, fill, take

TABLE: dict[str, Any] = {"begin": "2020-01-01", "days": (500,) * 5000, "complaints": 0.05}


def group_of(domain: str) -> str | None:
    return "gmail" if domain == "gmail.com" else None


def warm(pool: dict[str, Any] | None = None, provider: dict[str, Any] | None = None) -> WarmReports:
    def table(given: dict[str, Any] | None) -> Warmup | None:
        return None if given is None else Warmup(**TABLE | given)

    config = Config(
        stream=(Stream(name=STREAM, pools=("old", "new")), Stream(name="other", pools=("old",))),
        pool=(
            Pool(name="old", providers=("relay2",)),
            Pool(name="new", providers=("relay", "spare"), warmup=table(pool)),
        ),
        provider=(Provider(name="relay", warmup=table(provider)), Provider(name="spare"), Provider(name="relay2")),
    )
    return WarmReports(Resolved(config), group_of)


@pytest.mark.parametrize(
    ("report", "found"),
    [
        (
            ("bounced", STREAM, "relay", "gmail.com"),
            {("pool:new", "gmail"): Counts(bounced=1), ("provider:relay", ""): Counts(bounced=1)},
        ),
        (("complained", STREAM, "spare", "x.example"), {("pool:new", "*"): Counts(complained=1)}),
        (("complained", "other", "relay", "x.example"), {("provider:relay", ""): Counts(complained=1)}),
        (("complained", "unknown", "relay2", "x.example"), {}),
        (("opened", STREAM, "relay", "gmail.com"), {}),
        (("bounced", STREAM, "", "gmail.com"), {}),
    ],
)
def test_which_it_counts_against(report: tuple[str, str, str, str], found: dict[tuple[str, str], Counts]) -> None:
    assert warm({}, {"domains": False}).of(*report) == found
    assert not warm().of(*report)
    assert not warm()


async def test_what_comes_back_ends_a_day(session: Session, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """From the mail that came back, which names no provider, to a day that does not count."""
    ids = await fill(connection, 120, domains=1)
    await settle(session, STREAM, [done(job) for job in await take(session, 120)])
    its = warm({})
    await count(session, its.zones, {("pool:new", "*"): Counts(sent=120)})
    await rates.add_up(session, group_of, warm=its)
    back = [Feedback(type="bounced", message_id=id_, source="mail", source_id=str(id_)) for id_ in ids[:6]]
    back += [Feedback(type="complained", message_id=ids[7], source="mail", source_id="x")]
    back += [Feedback(type="opened", message_id=ids[8], source="pixel", source_id="o")]
    assert await apply(session, back) == 8
    assert {row[0] for row in await connection.fetch("SELECT provider FROM mailerd.event WHERE type = 'bounced'")} == {
        "relay"
    }
    assert await apply(session, back) == 0
    for _ in range(2):
        await rates.add_up(session, group_of, warm=its)
    _, ((key, _, group, counts),) = await counted(session, list(its.zones))
    assert (key, group, counts) == ("pool:new", "*", Counts(sent=120, bounced=6, complained=1))
    table = schedule(Warmup(**TABLE))
    assert table is not None
    assert standing(table, counts) is None
    await apply(session, [Feedback(type="bounced", message_id=ids[9], source="mail", source_id="late", hard=True)])
    await rates.add_up(session, group_of, warm=its)
    _, ((_, _, _, counts),) = await counted(session, list(its.zones))
    assert "7 of 120 messages bounced" in str(standing(table, counts))
