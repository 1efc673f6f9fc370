"""`throttle`, `domains`, and what `status` and `check` say of limits, against a real database."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from mailerd.store.database import Session
from mailerd.store.throttle import set_rate
from tests.cli.commands import Commands

Connection = asyncpg.Connection
CONFIG = """
[[provider]]
name = "relay"
rate = "14/s"
quota = "50000/d"
[[identity]]
name = "shop"
from = "shop@shop.example"
[[pool]]
name = "bulk"
providers = ["relay"]
[[pool.domain]]
name = "gmail"
rate = "20/s"
[[domain]]
name = "mine"
match = ["*.a.example"]
[[stream]]
name = "transactional"
"""


@pytest.fixture
def limited(database: str, tmp_path: Path) -> Commands:
    return Commands(database, tmp_path, CONFIG)


async def test_every_limit_is_listed_and_set_and_cleared(limited: Commands, connection: Connection) -> None:
    rows = {row["limit"]: row for row in await limited.json("throttle", "list")}
    assert {key: row["now"] for key, row in rows.items()} == {
        "provider:relay": "14/s",
        "quota:relay": "50000/day",
        "pool:bulk/domain:gmail": "20/s",
    }
    assert all(row["by"] == "configuration" for row in rows.values())
    said = await limited("throttle", "set", "provider:relay", "90/m", "--for", "2h", "--reason", "they asked")
    assert said.stdout == "provider:relay 90/m for 2h: they asked\n"
    assert "(was 90/m)" in (await limited("throttle", "set", "provider:relay", "2/s")).stdout
    row = next(r for r in await limited.json("throttle", "list") if r["limit"] == "provider:relay")
    assert (row["configured"], row["now"], row["by"], row["until"]) == ("14/s", "2/s", "operator", None)
    assert await limited.json("throttle", "clear", "provider:relay") == {
        "limit": "provider:relay",
        "cleared": ["operator"],
    }
    assert "nothing was set" in (await limited("throttle", "clear", "provider:relay", code=1)).output
    actions = [row[0] for row in await connection.fetch("SELECT detail FROM mailerd.audit WHERE action = 'throttle'")]
    assert actions == ["90/m for 2h: they asked", "2/s", "back to the configuration (was: operator)"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("relay", "5/s"), "is not provider:NAME"),
        (("providr:relay", "5/s"), "did you mean provider:?"),
        (("quota:relay", "5/s"), "a quota is changed in the configuration"),
        (("stream:a/domain:b", "5/s"), "is not provider:NAME"),
        (("pool:bulk", "0/s"), "must not be zero"),
        (("pool:bulk", "fast"), "is no rate"),
        (("pool:bulk", "5/s", "--for", "soon"), "is no duration"),
    ],
)
async def test_what_cannot_be_set_is_refused(limited: Commands, words: tuple[str, ...], said: str) -> None:
    assert said in (await limited("throttle", "set", *words, code=2)).output


async def test_a_name_that_nobody_has_is_told(limited: Commands) -> None:
    assert "no provider rely; did you mean relay?" in (await limited("throttle", "set", "provider:rely", "5/s")).output


async def test_status_names_what_a_lane_waits_for(limited: Commands, session: Session, connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO mailerd.outbox (recipient, text_body) SELECT 'u' || g || '@x.a.example', 'x' FROM generate_series(1, 30) g"
    )
    await set_rate(session, "domain:mine", "reply", 0.0, 3600, "550 go away", "mailerd", "")
    found = await limited.json("status", "--exact")
    assert found["lanes"][0]["waits_for"] == "domain:mine, nothing"
    assert [(r["limit"], r["rate"], r["by"]) for r in found["rates"]] == [("domain:mine", 0.0, "reply")]
    text = (await limited("status", "--exact")).stdout
    assert "WAITS FOR" in text
    assert "stopped" in text
    await connection.execute("DELETE FROM mailerd.throttle_rate")
    assert "WAITS FOR" not in (await limited("status", "--exact")).stdout
    await limited("pause", "domain:mine")
    assert (await limited.json("status", "--exact"))["lanes"][0]["waits_for"] == "domain:mine is paused"
    message = await connection.fetchval("SELECT id FROM mailerd.ready ORDER BY id LIMIT 1")
    gates = (await limited.json("explain", message))["gates"]
    assert "domain_paused" in [gate["name"] for gate in gates]


async def test_domains_are_listed_and_found(limited: Commands) -> None:
    groups = await limited.json("domains")
    assert groups[0] == {"group": "mine", "by": "you", "match": ["*.a.example"], "mx": []}
    assert "gmail" in [group["group"] for group in groups]
    assert (await limited("domains", "ann@yahoo.co.uk")).stdout == "yahoo\n"
    assert "is in no group" in (await limited("domains", "x.example", code=1)).output


async def test_check_warns_of_limits_that_hold_for_nothing(database: str, tmp_path: Path) -> None:
    extra = '[[domain]]\nname = "gmial"\nrate = "5/s"\n[[pool.domain]]\nname = "nobody"\nrate = "5/s"\n'
    text = CONFIG.replace("[[domain]]", f"{extra}[[domain]]", 1)
    commands = Commands(database, tmp_path, text)
    said = (await commands("check")).output
    assert "warning: domain.gmial: matches nothing" in said
    assert "warning: pool.bulk.domain: `nobody` is no domain group and no domain" in said


async def test_check_reads_the_reply_rules(database: str, tmp_path: Path) -> None:
    rules = tmp_path / "replies.toml"
    rules.write_text('[[rule]]\npause = "1h"\n')
    commands = Commands(database, tmp_path, f'[feedback]\nrules = "{rules}"\n{CONFIG}')
    assert "must say a `code`" in (await commands("check", code=78)).output
    assert (await commands.json("check", code=78))["problems"][0]["path"] == "feedback.rules"
