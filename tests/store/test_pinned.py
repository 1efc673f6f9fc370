"""`mailerd.pinned`: what a bare name means at the moment of the INSERT, for whom, and that SQL and Python agree on it."""

from __future__ import annotations

import pytest

from mailerd.compose.bundle import Edition, Library, Share, Version
from mailerd.store.database import Session
from mailerd.store.templates import push, refresh, share

PEOPLE = [
    *(f"user{i}@example.org" for i in range(400)),
    "Ann Lee <ann@example.org>",
    "ANN@EXAMPLE.ORG",
    "<ann@example.org> ",
    " ann@example.org\n",
    "jörg@exämple.org",
    "JÖRG@EXÄMPLE.ORG",
    '"x <y>" <z@example.org>',
    "",
    "İ@example.org",
    "a@b <c@d>\t",
    "<<a>>",
]


async def prepared(session: Session) -> Library:
    library = Library()
    for text in "one", "two", "three":
        version = Version("welcome", 0, {"": Edition(subject="Hi", text=text)})
        await push(session, version, {}, text, "ann", 100, "")
    return library


async def given(session: Session, library: Library) -> tuple[list[str], list[str]]:
    """What SQL and what a daemon says to each of the people."""
    await refresh(session, library)
    rows = await session.fetch(
        "SELECT mailerd.pinned('welcome', p) FROM unnest($1::text[]) WITH ORDINALITY AS x(p, n) ORDER BY n", PEOPLE
    )
    memory = [(library.find("welcome", person) or (None, ""))[1].partition(" ")[0] for person in PEOPLE]
    return [row[0] for row in rows], memory


@pytest.mark.parametrize(
    "percents", [(100.0,), (50.0, 50.0), (10.0, 90.0), (33.3, 33.3, 33.4), (0.0, 0.5, 99.5), (0.1, 0.2)]
)
async def test_a_recipient_is_pinned_to_their_share(session: Session, percents: tuple[float, ...]) -> None:
    library = await prepared(session)
    shares = [Share(n, percent, "v" * n) for n, percent in enumerate(percents, 1)]
    assert await share(session, "welcome", shares, "ann")
    sql, memory = await given(session, library)
    assert sql == memory
    assert set(sql) <= {f"welcome@{n}" for n in range(1, len(percents) + 1)}
    if min(percents) >= 10:
        assert len(set(sql)) == len(percents)
    assert len({sql[PEOPLE.index(p)] for p in PEOPLE[400:404]}) == 1


async def test_a_growing_share_only_adds(session: Session) -> None:
    library = await prepared(session)
    before: set[str] = set()
    for percent in 5.0, 20.0, 60.0:
        assert await share(session, "welcome", [Share(3, percent), Share(2, 100 - percent)], "ann")
        sql, _ = await given(session, library)
        now = {person for person, version in zip(PEOPLE, sql, strict=True) if version == "welcome@3"}
        assert before < now
        before = now


async def test_without_a_recipient_it_is_what_most_get(session: Session) -> None:
    await prepared(session)

    async def pinned() -> object:
        return await session.value("SELECT mailerd.pinned('welcome')")

    assert await pinned() == "welcome@3"
    # A rollback: the newest version is nobody's.
    await share(session, "welcome", [Share(1, 100.0)], "ann")
    assert await pinned() == "welcome@1"
    await share(session, "welcome", [Share(3, 10.0), Share(1, 90.0)], "ann")
    assert await pinned() == "welcome@1"
    await share(session, "welcome", [Share(1, 50.0), Share(2, 50.0)], "ann")
    assert await pinned() == "welcome@2"


async def test_what_is_not_stored_or_pinned_already_stays(session: Session) -> None:
    await prepared(session)
    for name in ("other", "welcome@2", "welcome@9"):
        assert await session.value("SELECT mailerd.pinned($1)", name) == name
        assert await session.value("SELECT mailerd.pinned($1, 'ann@example.org')", name) == name


async def test_in_an_insert(session: Session) -> None:
    await prepared(session)
    row = await session.value(
        "INSERT INTO mailerd.outbox (recipient, template)"
        " SELECT r, mailerd.pinned('welcome', r) FROM (VALUES ('Ann <ann@example.org>')) AS x(r) RETURNING template"
    )
    assert row == "welcome@3"
