"""Every await on Postgres ends: through a network that says nothing any more, in every mode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest

from mailerd.bench.chaos.proxy import Proxy
from mailerd.config.base import Duration
from mailerd.config.model import Database
from mailerd.store.database import Session, Unavailable


@pytest.fixture
def proxy(database: str, tmp_path: Path) -> Iterator[Proxy]:
    parts = urlsplit(database)
    if not parts.port:
        pytest.skip("a server without TCP")
    started = Proxy((parts.hostname or "127.0.0.1", parts.port), tmp_path / "log")
    yield started
    started.stop()


@pytest.mark.parametrize("prepare", ["auto", "off"])
@pytest.mark.parametrize("call", ["fetch", "script", "close", "connect"])
async def test_a_silent_server(proxy: Proxy, database: str, prepare: Literal["auto", "off"], call: str) -> None:
    parts = urlsplit(database)
    url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}").geturl()
    settings = Database(url=url, prepare=prepare, statement_timeout=Duration(0.5), connect_timeout=Duration(0.5))
    session = Session(settings, "silent")
    if call != "connect":
        assert await session.value("SELECT 1") == 1
    proxy.freeze()
    begin = time.monotonic()
    match call:
        case "close":
            await session.close()
        case "script":
            with pytest.raises(Unavailable):
                await session.script([("SELECT 1", ()), ("SELECT 2", ())])
        case _:
            with pytest.raises(Unavailable):
                await session.value("SELECT 1")
    assert time.monotonic() - begin < 6
    assert not session.connected
    proxy.heal()
    assert await session.value("SELECT 1") == 1
    await session.close()
