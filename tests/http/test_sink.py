"""The sink as a provider's API, and the real dialects in front of it: each understands the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailerd.bench.api import APIS
from mailerd.bench.fault import Kind
from mailerd.bench.httpsink import HttpSink
from mailerd.bench.ledger import Ledger, read
from mailerd.bench.settings import Settings as BenchSettings
from mailerd.bench.settings import Target, configuration
from mailerd.bench.sink import Settings
from mailerd.cli.sink import DIALECTS
from mailerd.config.kinds import HTTP
from mailerd.config.load import parse
from mailerd.http import flight
from tests.http.rig import message, rig

KEYS = {
    "access_key": "a",
    "secret_key": "b",
    "api_key": "c",
    "region": "eu-central-1",
    "domain": "mg.example.org",
}


@asynccontextmanager
async def sink(dialect: str, ledger: Ledger | None = None, **settings: object) -> AsyncIterator[tuple[HttpSink, str]]:
    made = HttpSink(Settings(dialect=dialect, **settings), ledger)  # type: ignore[arg-type]
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        yield made, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def keys(dialect: str) -> dict[str, str]:
    return {key: KEYS[key] for key in HTTP[dialect].must}


def test_every_dialect_has_a_sink() -> None:
    assert {*APIS, "http"} == HTTP.keys()
    assert ("smtp", *APIS) == DIALECTS


@pytest.mark.parametrize("dialect", APIS)
async def test_it_takes_what_is_sent(dialect: str, tmp_path: Path) -> None:
    messages = [message() for _ in range(4)] + [message(cc=["c@example.org"], bcc=["b@example.org"])]
    ledger = Ledger(tmp_path / "x.ledger")
    async with sink(dialect, ledger) as (made, url), rig(dialect, url, *messages, **keys(dialect)) as run:
        await run.settled(*messages)
        assert all(set(run.source.kinds(sent)) == {"sent"} for sent in messages)
        assert (made.tally.messages, made.tally.recipients) == (5, 7)
    ledger.close()
    ids = sorted(acceptance.id for acceptance in read(tmp_path))
    assert ids == [sent.job.id for sent in messages]


FAULTS = {
    Kind.MAIL_4XX: "deferred",
    Kind.DOT_421: "unsent",
    Kind.RCPT_4XX: "unsent",
    Kind.RCPT_5XX: "rejected",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dialect", APIS)
async def test_it_treats_messages_badly(dialect: str, fault: Kind) -> None:
    sent = message()
    async with (
        sink(dialect, faults=1.0, kinds=(fault,)) as (made, url),
        rig(dialect, url, sent, **keys(dialect)) as run,
    ):
        await run.settled(sent)
        assert run.source.kinds(sent) == [FAULTS[fault]]
        assert (made.tally.messages, made.tally.refused, made.tally.faults) == (0, 1, {fault: 1})


@pytest.mark.parametrize("dialect", ["resend", "postmark"])
async def test_taken_without_an_answer(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "REPEAT_WAIT", 0.01)
    sent = message()
    async with (
        sink(dialect, faults=1.0, kinds=(Kind.DOT_CLOSE,)) as (made, url),
        rig(dialect, url, sent, **keys(dialect)) as run,
    ):
        await run.settled(sent)
        assert run.source.kinds(sent) == ["sent" if dialect == "resend" else "in_doubt"]
        assert made.tally.messages == 1, "once, however often it was asked"


async def test_above_the_limit_it_says_so() -> None:
    messages = [message() for _ in range(3)]
    async with (
        sink("ses", limit=1.0) as (made, url),
        rig("ses", url, *messages, concurrency=1, **keys("ses")) as run,
    ):
        await run.until(lambda: made.tally.limited)
        assert run.source.kinds(messages[0]) == ["sent"]
        assert run.source.outcome(messages[1]).category == "rate"


@pytest.mark.parametrize("dialect", APIS)
def test_a_load_test_configures_it(dialect: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    target = Target(
        database="postgresql:///x", schema="mailerd", host="127.0.0.1", port=1, ops=0, templates=tmp_path / "templates"
    )
    text = configuration(BenchSettings(provider=dialect), target, "one")
    assert parse(text, tmp_path / "m.toml", {}).config.provider[0].kind == dialect
