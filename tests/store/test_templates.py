"""Versions in Postgres: pushed, read by another, shared out."""

from __future__ import annotations

import asyncpg
import pytest

from mailerd.compose.bundle import Edition, Library, Share, Version
from mailerd.config import model
from mailerd.store.database import Session
from mailerd.store.templates import fill, listed, push, refresh, share, source


def version(text: str, name: str = "welcome") -> Version:
    return Version(name, 0, {"": Edition(subject="Hi", text=text)}, {"type": "object"})


async def test_pushes_are_numbered_read_and_shared(session: Session, settings: model.Database) -> None:
    library = Library()
    assert await refresh(session, library) == []
    first = await push(session, version("one"), {"welcome/text.j2": "one"}, "d1", "ann", 100, "")
    assert (first.version, first.new) == (1, True)
    again = await push(session, version("one"), {}, "d1", "ann", 100, "")
    assert (again.version, again.new) == (1, False)
    assert await refresh(session, library) == ["welcome"]
    assert await refresh(session, library) == []
    await push(session, version("two"), {"welcome/text.j2": "two"}, "d2", "bob", 25, "b")
    async with Session(settings, "other") as other:
        assert await refresh(other, library) == ["welcome"]
    assert {(library.find("welcome", f"{i}@e.org") or (None, ""))[1] for i in range(99)} == {"welcome@1", "welcome@2 b"}
    assert [(v.version, [s.percent for s in v.shares]) for v in await listed(session, "welcome")] == [
        (2, [25]),
        (1, [75]),
    ]
    assert await source(session, "welcome") == (2, {"welcome/text.j2": "two"})
    assert await source(session, "welcome@1") == (1, {"welcome/text.j2": "one"})
    assert await source(session, "welcome@9") is None
    assert not await share(session, "welcome", [Share(9, 100)], "ann")
    assert await share(session, "welcome", [Share(1, 100)], "ann")
    await refresh(session, library)
    assert {(library.find("welcome", f"{i}@e.org") or (None, ""))[1] for i in range(50)} == {"welcome@1"}


async def test_what_memory_lacks_is_filled_in(session: Session) -> None:
    await push(session, version("one"), {}, "d1", "ann", 100, "")
    await push(session, version("two"), {}, "d2", "ann", 100, "")
    library = Library()
    await fill(session, library, ["welcome@1", "unknown", "unknown@4"])
    assert library.knows("welcome@1")
    assert not library.knows("welcome")
    assert not library.knows("unknown")
    await fill(session, library, ["welcome"])
    assert library.knows("welcome")
    assert (library.find("welcome", "x") or (None, ""))[1] == "welcome@2"


@pytest.mark.parametrize(
    ("name", "good"), [("welcome@3", True), ("welcome@0", False), ("a@b", False), ("a@1@2", False)]
)
async def test_a_row_may_pin_a_version(connection: asyncpg.Connection[asyncpg.Record], name: str, good: bool) -> None:
    insert = connection.execute("INSERT INTO mailerd.outbox (recipient, template) VALUES ('a@example.org', $1)", name)
    if good:
        await insert
    else:
        with pytest.raises(asyncpg.CheckViolationError, match="template: not a plain name"):
            await insert


async def test_every_part_comes_back(session: Session) -> None:
    edition = Edition(subject="S", html="<p>H</p>", text="T", amp="<!doctype html><html amp4email></html>")
    pushed = Version("welcome", 0, {"": edition, "pt-br": Edition(text="O")}, {"type": "object"})
    await push(session, pushed, {}, "d1", "ann", 100, "")
    library = Library()
    await fill(session, library, ["welcome"])
    found = library.find("welcome", "x")
    assert found is not None
    assert (found[0].editions, found[0].schema) == (pushed.editions, pushed.schema)
