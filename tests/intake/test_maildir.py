"""A Maildir: stored first, moved second, whatever dies between."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mailerd.config.inbound import Maildir
from mailerd.inbound.mime import OCTETS
from mailerd.intake.maildir import MaildirWatch
from mailerd.store.database import Session, Unavailable
from mailerd.store.inbound import Arrived, keep
from tests.daemon.harness import until
from tests.intake.mails import AWAY
from tests.intake.rig import config, intake

Connection = asyncpg.Connection


class Desk:
    """Stores at once; `trouble` before or after it did."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lock = asyncio.Lock()
        self.before: Exception | None = None
        self.after: Exception | None = None

    async def keep(self, mail: Arrived) -> None:
        if self.before is not None:
            raise self.before
        async with self.lock:
            await keep(self.session, [mail])
        if self.after is not None:
            raise self.after


class Box:
    def __init__(self, folder: Path, session: Session, **settings: Any) -> None:
        self.folder = folder
        for name in ("new", "cur", "tmp"):
            (folder / name).mkdir(parents=True)
        self.desk = Desk(session)
        self.refused: list[str] = []
        self.watch = MaildirWatch(Maildir(path=str(folder), **settings), self.desk, self.refused.append)

    def put(self, name: str, content: bytes = AWAY) -> None:
        (self.folder / "tmp" / name).write_bytes(content)
        os.rename(self.folder / "tmp" / name, self.folder / "new" / name)

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.folder / folder).iterdir())


@pytest.fixture
def box(tmp_path: Path, session: Session) -> Box:
    return Box(tmp_path / "box", session)


async def rows(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM mailerd.inbound_mail"))


async def test_stored_then_moved(box: Box, connection: Connection) -> None:
    box.put("1.a", AWAY + b"one")
    box.put("2.b:2,F", AWAY + b"two")
    assert await box.watch.look() == 2
    assert (box.names("new"), box.names("cur")) == ([], ["1.a:2,S", "2.b:2,S"])
    assert await rows(connection) == 2
    assert await box.watch.look() == 0


async def test_stored_then_deleted(tmp_path: Path, session: Session, connection: Connection) -> None:
    box = Box(tmp_path / "box", session, after="remove")
    box.put("1.a")
    await box.watch.look()
    assert (box.names("new"), box.names("cur"), await rows(connection)) == ([], [], 1)


async def test_a_death_between_costs_nothing_and_doubles_nothing(box: Box, connection: Connection) -> None:
    box.put("1.a")
    box.desk.before = Unavailable("away")
    with pytest.raises(Unavailable):
        await box.watch.look()
    assert (box.names("new"), await rows(connection)) == (["1.a"], 0)
    box.desk.before, box.desk.after = None, Unavailable("died")
    with pytest.raises(Unavailable):
        await box.watch.look()
    assert (box.names("new"), await rows(connection)) == (["1.a"], 1)
    box.desk.after = None
    assert await box.watch.look() == 1
    assert (box.names("new"), box.names("cur"), await rows(connection)) == ([], ["1.a:2,S"], 1)


async def test_two_watch_one_box(box: Box, connection: Connection) -> None:
    other = MaildirWatch(Maildir(path=str(box.folder)), box.desk, box.refused.append)
    for number in range(30):
        box.put(f"{number}.a", AWAY + str(number).encode())
    await asyncio.gather(box.watch.look(), other.look())
    assert (len(box.names("cur")), box.names("new"), await rows(connection)) == (30, [], 30)
    assert not box.refused


async def test_what_is_no_plain_file_stays_and_holds_up_nothing(
    box: Box, connection: Connection, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"nobody's business")
    (box.folder / "new" / "0.link").symlink_to(secret)
    (box.folder / "new" / "1.folder").mkdir()
    os.mkfifo(box.folder / "new" / "2.fifo")
    (box.folder / "new" / ".hidden").write_bytes(AWAY)
    box.put("3.a")
    assert await box.watch.look() == 1
    assert await box.watch.look() == 0
    assert box.names("new") == [".hidden", "0.link", "1.folder", "2.fifo"]
    assert (await rows(connection), len(box.refused)) == (1, 3)


async def test_of_a_large_one_the_start_is_kept(box: Box, connection: Connection) -> None:
    box.put("1.a", AWAY + b"x" * 2 * OCTETS)
    await box.watch.look()
    row = await connection.fetchrow("SELECT size, length(raw) FROM mailerd.inbound_mail")
    assert tuple(row or ()) == (len(AWAY) + 2 * OCTETS, OCTETS + 1)


async def test_a_folder_that_is_not_there_is_waited_for(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailerd.intake.maildir.LOOK", 0.02)
    monkeypatch.setattr("mailerd.intake.maildir.TROUBLE", 0.02)
    folder = tmp_path / "late"
    async with intake(config(database, maildir=(Maildir(path=str(folder)),))):
        await asyncio.sleep(0.05)
        for name in ("new", "cur"):
            (folder / name).mkdir(parents=True)
        (folder / "new" / "1.a").write_bytes(AWAY)

        async def read() -> bool:
            return bool(await connection.fetchval("SELECT kind FROM mailerd.inbound_mail"))

        await until(read, "read")
        await until(lambda: (folder / "cur" / "1.a:2,S").exists(), "moved")
