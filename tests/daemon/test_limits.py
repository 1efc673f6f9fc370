"""Limits as the real daemon keeps them: what is over one waits, the others go on, and `explain` says why."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg

from tests.daemon.harness import Running, Server, daemon, enqueue, events, settled, until

Connection = asyncpg.Connection
SLOW = '[[domain]]\nname = "slow"\nmatch = ["slow.example", "*.slow.example"]\nrate = "{rate}"\n'


async def mailerd(config: Path, *words: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mailerd", "--config", str(config), *words, "--json", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


def local_parts(server: Server, domain: str) -> list[str]:
    return [r.partition("@")[0] for taken in server.taken for r in taken.recipients if r.endswith(domain)]


async def waits_for_quota(running: Running) -> None:
    """What is left has waited for a token of a quota for a while: it would have gone, had there been one."""

    async def waited() -> bool:
        return await running.metric("mailerd_throttle_wait_seconds_total", bucket_kind="quota") > 0.5

    await until(waited, "the others wait for the quota")


async def test_a_limited_domain_waits_and_the_others_do_not(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path, extra=SLOW.format(rate="1/m")) as running:
        waiting = [await enqueue(connection, f"u{n}@a{n}.slow.example", campaign=f"c{n}") for n in range(3)]
        free = [await enqueue(connection, f"f{n}@free.example") for n in range(50)]
        await until(lambda: len(local_parts(server, "@free.example")) == len(free), "the free ones sent")
        await until(lambda: len(local_parts(server, ".slow.example")) == 1, "one of the slow ones sent")
        first = local_parts(server, ".slow.example")[0]
        held = next(id_ for n, id_ in enumerate(waiting) if f"u{n}" != first)
        story = await mailerd(running.config, "explain", str(held))
        assert [gate["name"] for gate in story["gates"]] == ["throttled"]
        assert story["gates"][0]["words"].startswith("domain:slow is limited to 1/m")
        assert story["gates"][0]["release"] == "mailerd throttle set domain:slow RATE"
        assert await running.metric("mailerd_throttle_wait_seconds_total", bucket_kind="domain") > 0
        # The command that it names does what it says.
        await mailerd(running.config, "throttle", "set", "domain:slow", "100/s", "--for", "1h", "--reason", "now")
        await until(lambda: len(local_parts(server, ".slow.example")) == 3, "the others sent at the new rate")
        (listed,) = await mailerd(running.config, "throttle", "list")
        assert (listed["limit"], listed["configured"], listed["now"], listed["by"]) == (
            "domain:slow", "1/m", "100/s", "operator",
        )  # fmt: skip
        assert await mailerd(running.config, "throttle", "clear", "domain:slow") == {
            "limit": "domain:slow",
            "cleared": ["operator"],
        }


async def test_a_providers_rate_is_kept_and_urgent_mail_has_its_part(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path, provider='rate = "40/s"'):
        await connection.execute(
            "INSERT INTO mailerd.outbox (stream, recipient, sender, text_body) "
            "SELECT 'marketing', 'b' || g || '@bulk.example', 'shop', 'x' FROM generate_series(1, 400) g"
        )
        await until(lambda: len(server.taken) >= 60, "mail flows")
        begin, before = time.monotonic(), len(server.taken)
        waits = []
        for n in range(5):
            at = time.monotonic()
            await enqueue(connection, f"u{n}@urgent.example")
            await until(lambda n=n: f"u{n}" in local_parts(server, "@urgent.example"), "the urgent one sent")
            waits.append(time.monotonic() - at)
            await asyncio.sleep(0.2)
        passed = time.monotonic() - begin
        assert sorted(waits)[2] < 0.5  # 400 wait before it, ten seconds' worth
        assert len(server.taken) - before <= 40 * passed + 40


async def test_a_quota_stops_the_provider_until_its_window_ends(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path, provider='quota = "5/d"\nquota_zone = "Asia/Tokyo"') as running:
        ids = [await enqueue(connection, f"q{n}@a.example") for n in range(8)]
        await until(lambda: len(server.taken) == 5, "five sent")
        await waits_for_quota(running)
        assert len(server.taken) == 5
        held = [id_ for id_ in ids if not await events(connection, id_)]
        assert len(held) == 3
        story = await mailerd(running.config, "explain", str(held[0]))
        assert story["gates"][0]["words"].startswith("quota:relay is limited to 5/d")
        await connection.execute("UPDATE mailerd.throttle SET ends = now() WHERE key = 'quota:relay'")
        assert await running.stop() == 0
    async with daemon(database, server.port, tmp_path, provider='quota = "5/d"\nquota_zone = "Asia/Tokyo"'):
        await settled(connection)
    assert len(server.taken) == 8


async def test_one_address_gets_no_more_than_the_stream_allows(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    stream = 'per_recipient = "2/h"\nper_recipient_excess = "drop"'
    async with daemon(database, server.port, tmp_path, stream=stream):
        ids = [await enqueue(connection, "ann@a.example") for _ in range(4)]
        other = await enqueue(connection, "bob@a.example", cc=["ann@a.example"])
        await settled(connection)
        ends = [await events(connection, id_) for id_ in ids]
        assert sorted(ends) == [["sent"], ["sent"], ["suppressed"], ["suppressed"]]
        assert sorted(await events(connection, other)) == ["sent", "suppressed"]
    assert len(local_parts(server, "ann@a.example")) == 2


async def test_what_exceeds_the_allowance_of_an_address_waits_without_costing_an_attempt(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path, stream='per_recipient = "1/h"'):
        for _ in range(2):
            await enqueue(connection, "ann@a.example")
        await settled(connection)
        ((attempt, seconds),) = await connection.fetch(
            "SELECT attempt, extract(epoch FROM run_at - now())::float8 FROM mailerd.scheduled"
        )
        assert attempt == 0
        assert 3500 < seconds <= 3600


async def test_a_row_with_many_recipients_costs_as_many_tokens(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    async with daemon(database, server.port, tmp_path, provider='rate = "1/s"'):
        await enqueue(connection, "a@a.example", cc=["b@a.example", "c@a.example"])
        await until(lambda: len(server.taken) == 1, "it is sent whole")
        begin = time.monotonic()
        await enqueue(connection, "d@a.example")
        await until(lambda: len(server.taken) == 2, "and the next one when it is paid for")
        assert time.monotonic() - begin > 1.9


async def test_weights_share_what_a_pool_sends(database: str, connection: Connection, tmp_path: Path) -> None:
    many, few = Server(), Server()
    many.start()
    few.start()
    try:
        extra = f'[[provider]]\nname = "few"\nhost = "127.0.0.1"\nport = {few.port}\ntls = "none"\n'
        async with daemon(database, many.port, tmp_path, provider="weight = 4", extra=extra) as running:
            # Connections of both stand ready: then weights alone decide.
            for n in range(40):
                await enqueue(connection, f"w{n}@a.example")
            await settled(connection)
            before = len(many.taken), len(few.taken)
            for n in range(200):
                await enqueue(connection, f"x{n}@a.example")
                await asyncio.sleep(0.005)
            await settled(connection)
            assert await running.stop() == 0
        share = (len(many.taken) - before[0]) / 200
        assert len(many.taken) + len(few.taken) == 240
        assert 0.7 <= share <= 0.9
    finally:
        many.stop()
        few.stop()


async def test_in_a_sticky_pool_a_domain_keeps_to_its_provider(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    other = Server()
    other.start()
    try:
        extra = (
            f'[[provider]]\nname = "other"\nhost = "127.0.0.1"\nport = {other.port}\ntls = "none"\n'
            '[[pool]]\nname = "all"\nproviders = ["relay", "other"]\nsticky = true\n'
        )
        async with daemon(database, server.port, tmp_path, extra=extra):
            for _ in range(6):
                for n in range(20):
                    await enqueue(connection, f"x@d{n}.example")
                await settled(connection)
        domains = [{r.partition("@")[2] for t in s.taken for r in t.recipients} for s in (server, other)]
        assert len(server.taken) + len(other.taken) == 120
        assert all(len(found) >= 3 for found in domains)
        assert not domains[0] & domains[1]
    finally:
        other.stop()


async def test_each_source_address_is_a_provider_of_its_own(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    addresses = '["127.0.0.2", "127.0.0.3"]'
    async with daemon(database, server.port, tmp_path, provider=f'source = {addresses}\nquota = "3/d"') as running:
        for n in range(8):
            await enqueue(connection, f"s{n}@a.example")
        await until(lambda: len(server.taken) == 6, "each sent its quota")
        await waits_for_quota(running)
        assert len(server.taken) == 6
        used = await connection.fetch("SELECT provider, count(*) FROM mailerd.event GROUP BY 1 ORDER BY 1")
        assert [tuple(row) for row in used] == [("relay@127.0.0.2", 3), ("relay@127.0.0.3", 3)]


async def test_a_refusal_about_the_account_moves_the_mail_and_raises_an_alarm(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    other = Server()
    other.start()
    server.answers = {f"a{n}": ["454 4.7.0 Throttling failure: Daily message quota exceeded"] for n in range(5)}
    try:
        extra = f"""[[provider]]
name = "other"
host = "127.0.0.1"
port = {other.port}
tls = "none"
[[pool]]
name = "first"
providers = ["relay"]
[[pool]]
name = "second"
providers = ["other"]
"""
        async with daemon(
            database, server.port, tmp_path, stream='pools = ["first", "second"]', extra=extra
        ) as running:
            ids = [await enqueue(connection, f"a{n}@a.example") for n in range(5)]
            await until(lambda: len(other.taken) == 5, "all went by the other provider")
            await settled(connection)
            for id_ in ids:
                assert (await events(connection, id_))[-1] == "sent"
            attempts = await connection.fetchval("SELECT max(attempt) FROM mailerd.event WHERE type = 'sent'")
            assert attempts <= 1  # what the provider said of our account was charged to nobody
            ((target, detail),) = await connection.fetch(
                "SELECT target, detail FROM mailerd.audit WHERE action = 'alert'"
            )
            assert target == "provider:relay"
            assert "quota exceeded" in detail
            # It stays so after a restart, and on other instances, until it is over or somebody says so.
            (listed,) = await mailerd(running.config, "throttle", "list")
            assert (listed["limit"], listed["now"], listed["by"]) == ("provider:relay", "stopped", "reply")
            server.answers = {}
            await mailerd(running.config, "throttle", "clear", "provider:relay")

            async def taken_again() -> int:
                await enqueue(connection, "b@a.example")
                await settled(connection)
                return len(server.taken)

            await until(taken_again, "it is used again")
    finally:
        other.stop()


async def test_a_reply_rule_lets_the_lane_rest_and_the_others_go_on(
    database: str, connection: Connection, server: Server, tmp_path: Path
) -> None:
    rules = tmp_path / "replies.toml"
    rules.write_text(
        '[[rule]]\ndomain = "slow"\ntext = "come back tomorrow"\ncategory = "rate"\npause = "1h"\n'
        '[[rule]]\ntext = "gone for good"\ncategory = "inactive"\nsuppress = true\n'
    )
    server.answers = {
        "first": ["451 4.7.1 Please come back tomorrow"],
        "gone": ["550 5.2.1 Gone for good"],
    }
    async with daemon(
        database,
        server.port,
        tmp_path,
        extra=SLOW.format(rate="100/s"),
        top=f'[feedback]\nrules = "{rules}"',
    ) as running:
        first = await enqueue(connection, "first@a.slow.example")
        gone = await enqueue(connection, "gone@free.example")
        await until(lambda: server.attempts.get("first"), "it was tried")

        async def rests() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM mailerd.throttle_rate WHERE source = 'reply'"))

        await until(rests, "the lane rests")
        held = await enqueue(connection, "second@b.slow.example")
        free = await enqueue(connection, "third@free.example")
        await until(lambda: "third" in local_parts(server, "@free.example"), "the others go on")
        await asyncio.sleep(0.3)
        assert await events(connection, first) == ["deferred"]
        assert await events(connection, held) == []
        story = await mailerd(running.config, "explain", str(held))
        assert story["gates"][0]["name"] == "lane_paused"
        assert "come back tomorrow" in story["gates"][0]["words"]
        assert story["gates"][0]["release"] == "mailerd throttle clear pool:default/domain:slow"
        assert await events(connection, gone) == ["rejected"]
        assert await connection.fetchval("SELECT address FROM mailerd.suppression") == "gone@free.example"
        await until(lambda: events(connection, free), "settled")


async def test_wrong_reply_rules_are_told_at_the_start(database: str, server: Server, tmp_path: Path) -> None:
    rules = tmp_path / "replies.toml"
    rules.write_text('[[rule]]\ntext = "(a+)+"\npause = "1h"\n')
    top = f'[feedback]\nrules = "{rules}"'
    async with daemon(database, server.port, tmp_path, ready=False, top=top) as running:
        assert await running.ended() == 78
        assert "`text` repeats a group" in running.log.read_text()
