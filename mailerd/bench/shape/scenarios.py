"""The flow-control scenarios: what is limited, shared and failed over, and by how much it misses.

Each is an async function of (rig, long) that returns its figures and promises. Limits of time and size are those of the
short form unless `long`; a promise is what the daemon promises, not what this machine happens to do, except where it
says "within": there a busy machine may break it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from mailerd.bench.shape.rig import BULK_DOMAIN, TRICKLE, Rig, Times
from mailerd.config.values import rate as parse_rate

__all__ = ["SCENARIOS", "Outcome", "Promise", "Scenario"]

URGENT: Final = 0.25  # seconds: the p99 of urgent messages during all of it
_GROUP: Final = '[[domain]]\nname = "bulk"\nmatch = ["*.bulk.example", "bulk.example"]\nrate = "{rate}"\n'


class Promise(NamedTuple):
    """One promise, whether it was kept, and how far."""

    name: str
    kept: bool
    detail: str


class Outcome(NamedTuple):
    figures: dict[str, float]
    promises: list[Promise]


Play = Callable[[Rig, bool], Awaitable[Outcome]]


class Scenario(NamedTuple):
    what: str
    play: Play


async def rate(rig: Rig, long: bool) -> Outcome:
    """A provider's rate, while instances come and go, and one is killed."""
    figures: dict[str, float] = {}
    promises: list[Promise] = []
    rig.sink("sink")
    waits: list[float] = []
    for text in ("50/s", "500/s") if long else ("50/s",):
        limit = parse_rate(text)
        stay = 14.0 if long else 5.0
        steps = (1, 1, 2, 4) if long else (1, 1)
        await rig.bulk(int(limit * (stay * 2 * len(steps) + 60)))
        started = time.monotonic()
        await rig.start(steps[0], provider=f'rate = "{text}"')
        # What a killed instance holds waits for the end of its lease: that is another matter.
        async with rig.urgent(min(TRICKLE, limit / 10)):
            await asyncio.sleep(stay)
            for joining in steps[1:]:
                await rig.start(joining, provider=f'rate = "{text}"')
                await asyncio.sleep(stay)
            begin = rig.bulk_times().first(started) + 3.0
            while len(rig.running()) > 2:
                await rig.stop(len(rig.running()) // 2)
                await asyncio.sleep(stay)
        waits.append(rig.urgent_p99())
        await asyncio.sleep(0.0 if long else 6.0)
        killed = time.monotonic()
        rig.running()[-1].kill()
        await asyncio.sleep(12.0)
        end = time.monotonic() - 0.5
        await rig.stop(1)
        times = Times([a.at for a in rig.accepted()])  # the urgent ones have their part of it
        windows = times.windows(begin, killed, 10.0, 1.0)
        error = max((abs(count / 10.0 / limit - 1.0) for count in windows), default=1.0)
        figures |= {f"{text}, windows": len(windows), f"{text}, worst error, %": error * 100}
        promises.append(Promise(f"{text} is kept within 2 %", error <= 0.02, f"{error:.2%} in {len(windows)} windows"))
        promises.append(_never_above(times, limit, text))
        after = times.windows(killed - 5.0, end, 10.0, 1.0)
        lost = max((limit - count / 10.0) * 10.0 for count in after) / limit
        figures[f"{text}, lost by a kill, s"] = max(lost, 0.0)
        promises.append(Promise(f"{text}: a kill loses a second of it at most", lost <= 1.0, f"{lost:.2f} s"))
        await rig.session.execute("TRUNCATE mailerd.ready")
    promises.append(_urgent(max(waits)))
    if long:
        await _minutes(rig, figures, promises)
    return Outcome(figures, promises)


async def _minutes(rig: Rig, figures: dict[str, float], promises: list[Promise]) -> None:
    await rig.bulk(100)
    before = len(rig.bulk_times().all)
    await rig.start(4, provider='rate = "1/m"')
    begin = time.monotonic()
    await asyncio.sleep(150.0)
    sent = len(rig.bulk_times().all) - before
    most = (time.monotonic() - begin) / 60.0 + 1
    figures["1/m, sent in 150 s"] = sent
    promises.append(Promise("1/m: never more than its burst", 2 <= sent <= most, f"{sent} in 150 s by 4 instances"))


def _never_above(times: Times, limit: float, text: str) -> Promise:
    worst = 0.0
    for width in (1.0, 10.0):
        step = max(1, len(times.all) // 2000)
        for begin in times.all[::step]:
            over = times.between(begin, begin + width) - limit * width
            worst = max(worst, over / max(limit, 1.0))
    return Promise(
        f"{text}: never above it by more than one second of it", worst <= 1.0, f"{worst:.2f} s of it at most"
    )


async def blocked_domain(rig: Rig, long: bool) -> Outcome:
    """One domain at 20 a second with a great many rows waiting; the others are free."""
    rig.sink("sink")
    rows, waiting = (240_000, 2_000_000) if long else (20_000, 200_000)
    limited = _GROUP.format(rate="20/s")
    speeds: dict[bool, list[float]] = {False: [], True: []}
    waits: list[float] = []
    slow = 0.0
    for blocked in (False, True) * (3 if long else 1):
        if blocked:
            await rig.bulk(waiting, domain=BULK_DOMAIN)
        await rig.session.execute(
            "INSERT INTO mailerd.outbox (stream, recipient, subject, text_body) SELECT 'marketing', "
            "'u' || g || '@d' || g % 200 || '.free.example', 'News', repeat('Lorem ipsum dolor. ', 60) "
            "FROM generate_series(1, $1::bigint) g",
            rows,
            timeout=600.0,
        )
        ids = {
            row[0] for row in await rig.session.fetch("SELECT id FROM mailerd.ready WHERE domain <> $1", BULK_DOMAIN)
        }
        await rig.settle_down()
        await rig.start(1, extra=limited)
        async with rig.urgent():
            await rig.until(len(rig.bulk_times().all) + rows, 120.0)
        free = Times([a.at for a in rig.accepted() if a.id in ids])
        free.first()  # or there is nothing to measure
        cut = len(free.all) // 10
        speeds[blocked].append((len(free.all) - 2 * cut) / (free.all[-cut - 1] - free.all[cut]))
        waits.append(rig.urgent_p99())
        if blocked:
            others = Times([a.at for a in rig.accepted() if a.id not in ids and a.id not in rig.urgent_ids])
            slow = others.between(free.all[0], free.all[-1]) / (free.all[-1] - free.all[0])
        await rig.stop(1)
        await rig.session.execute("TRUNCATE mailerd.ready")
    free_speed, beside = (statistics.median(speeds[kind]) for kind in (False, True))
    change = beside / free_speed - 1.0
    return Outcome(
        {"msg/s alone": free_speed, "msg/s beside it": beside, "change, %": change * 100, "of the slow one/s": slow},
        [
            Promise("the others go on within 5 %", change >= -0.05, f"{free_speed:,.0f} → {beside:,.0f} msg/s"),
            _urgent(max(waits)),
        ],
    )


async def campaigns(rig: Rig, long: bool) -> Outcome:
    """One large campaign and 99 small ones, of equal weight, share one limited domain."""
    rig.sink("sink")
    large, small, limit = (500_000, 1_000, 2000.0) if long else (50_000, 100, 1000.0)
    await rig.bulk(large, campaign="large")
    await rig.bulk(small * 99, campaign="small", campaigns=99)
    where = dict(await rig.session.fetch("SELECT id, campaign FROM mailerd.ready"))
    await rig.start(1, extra=_GROUP.format(rate=f"{limit:.0f}/s"))
    async with rig.urgent():
        await rig.until(small * 99 * 2 + 2000, 300.0)
    first = rig.bulk_times().first()
    last: dict[str, float] = {}
    counts: dict[str, int] = {}
    for acceptance in rig.accepted():
        name = where.get(acceptance.id, "large0")
        if not name.startswith("large"):
            last[name] = max(last.get(name, 0.0), acceptance.at)
            counts[name] = counts.get(name, 0) + 1
    fair = small * 100 / limit
    done = len(last) == 99 and all(count == small for count in counts.values())
    took = max(last.values()) - first if last else float("inf")
    return Outcome(
        {"small ones done after, s": took, "fair share, s": fair},
        [
            Promise("the small ones end within twice their fair share", done and took <= 2 * fair, f"{took:.1f} of {fair:.1f} s"),
            _urgent(rig.urgent_p99()),
        ],
    )  # fmt: skip


_SENT_TWICE: Final = "SELECT message_id FROM mailerd.event WHERE type = 'sent' GROUP BY message_id HAVING count(*) > 1"


async def failover(rig: Rig, long: bool) -> Outcome:
    """Two providers share a pool at full speed, and one dies."""
    rig.sink("one")
    rig.sink("two")
    rows = 150_000 if long else 60_000
    await rig.bulk(rows, campaigns=50)
    await rig.start(1)
    probes = 0

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal probes
        probes += 1
        writer.close()

    async with rig.urgent():
        await rig.until(rows // 4, 60.0)
        died = time.monotonic()
        port = await asyncio.to_thread(rig.kill_sink, "one")
        server = await _listen(refuse, port)
        ended = await rig.until(rows - 600, 120.0)
        away = time.monotonic() - died
        server.close()
        await asyncio.sleep(8.0)  # retries of what was cut off
    times = rig.bulk_times()
    begin = max(died - 3.0, times.first() + 0.5)
    before = times.between(begin, died - 0.2) / max(died - 0.2 - begin, 0.1)
    back = next(
        (n / 10 for n in range(600) if times.between(died + n / 10, died + n / 10 + 0.5) >= 0.9 * before * 0.5), 60.0
    )
    seen: set[int] = set()
    twice = {a.id for a in rig.accepted() if a.id in seen or seen.add(a.id)}  # type: ignore[func-returns-value]
    # What the dead sink had not written down: two `sent` of one message.
    twice |= {row[0] for row in await rig.session.fetch(_SENT_TWICE)}
    doubted = {
        row[0] for row in await rig.session.fetch("SELECT message_id FROM mailerd.event WHERE type = 'in_doubt'")
    }
    left = int(await rig.session.value("SELECT count(*) FROM mailerd.ready") or 0)
    sent = int(
        await rig.session.value(
            "SELECT count(DISTINCT message_id) FROM mailerd.event WHERE type = 'sent' AND stream = 'marketing'"
        )
    )
    later = int(await rig.session.value("SELECT count(*) FROM mailerd.scheduled") or 0)
    return Outcome(
        {
            "msg/s before": before,
            "back after, s": back,
            "twice": len(twice),
            "in doubt": len(doubted),
            "probes": probes,
        },
        [
            Promise("nine tenths are back within 3 s", back <= 3.0, f"after {back:.1f} s"),
            Promise("nothing is lost", ended and sent + left + later >= rows, f"{sent:,} sent, {left + later} wait"),
            Promise("nothing is sent twice without doubt on record", twice <= doubted, f"{len(twice)} came twice"),
            Promise("the dead one is only probed", probes <= 2 * (3 + away), f"{probes} connections in {away:.0f} s"),
            _urgent(rig.urgent_p99()),
        ],
    )


async def _listen(
    refuse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int
) -> asyncio.Server:
    """As soon as the port is free."""
    for _ in range(100):
        try:
            return await asyncio.start_server(refuse, "127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
    raise OSError(f"port {port} of the dead sink is not free")


async def hidden_limit(rig: Rig, long: bool) -> Outcome:
    """A receiver that takes 100 messages a second and tells nobody."""
    limit, learning, watching = 100.0, (120.0 if long else 45.0), (60.0 if long else 15.0)
    rig.sink("sink", limit=limit)
    await rig.bulk(200_000)
    retry = 'retry = { first = "30s", attempts = 100 }\n'
    await rig.start(1, extra=f'[[stream]]\nname = "transactional"\n[[stream]]\nname = "marketing"\n{retry}')
    await asyncio.sleep(learning)
    begin = time.monotonic()
    refused_before = await _refused(rig)
    await asyncio.sleep(watching)
    refused = await _refused(rig) - refused_before
    accepted = rig.bulk_times().between(begin, time.monotonic() - 0.2) / (time.monotonic() - 0.2 - begin)
    share = refused / max(refused + accepted * watching, 1.0)
    return Outcome(
        {"accepted/s": accepted, "of the limit, %": accepted / limit * 100, "refused, %": share * 100},
        [
            Promise(
                "it settles within 10 % of the limit", 0.9 * limit <= accepted <= 1.02 * limit, f"{accepted:.1f}/s"
            ),
            Promise("and 2 % are refused at most", share <= 0.02, f"{share:.2%}"),
        ],
    )


async def _refused(rig: Rig) -> int:
    return int(await rig.session.value("SELECT count(*) FROM mailerd.event WHERE type = 'deferred'"))


def _urgent(p99: float) -> Promise:
    return Promise(f"urgent mail takes {URGENT * 1000:.0f} ms at most (p99)", p99 <= URGENT, f"{p99 * 1000:.0f} ms")


SCENARIOS: Final[dict[str, Scenario]] = {
    "rate": Scenario("a provider's rate over instances that come, go, and are killed", rate),
    "blocked-domain": Scenario("one slow domain with a long queue, beside free ones", blocked_domain),
    "campaigns": Scenario("99 small campaigns beside a large one, in one limited domain", campaigns),
    "failover": Scenario("one of two providers dies at full speed", failover),
    "hidden-limit": Scenario("a receiver with a limit that nobody is told", hidden_limit),
}
