"""What events cost whoever writes them, and how fast webhooks take them: a Postgres of its own, no network but loopback.

    python bench/events.py settle      # µs a message of settle: without the trigger, with it, with webhooks, and with
                                       # the notice written by settle itself instead of the trigger
    python bench/events.py deliver     # events a second to a receiver in a process of its own

fsync is off: these are costs of work, not of a disk.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from aiohttp import web

from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.config import model
from mailerd.config.webhook import Webhook
from mailerd.daemon.webhooks import Webhooks
from mailerd.message import Action, Outcome, OutcomeKind, Phase, Recipient, Settlement
from mailerd.store import settle as settling
from mailerd.store import webhooks
from mailerd.store.database import Session
from mailerd.store.lease import Claim, lease
from mailerd.store.migrate import migrate
from mailerd.web.metrics import Metrics

BATCH, ROUNDS = 256, 24
SENT = Outcome(OutcomeKind.SENT, Phase.DOT, 250, "2.0.0", "Ok: queued as 4VnT2x0Qz", "relay")
SECRET = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",)
PLAIN = settling.SETTLE
EXPLICIT = PLAIN.replace(
    "  WHERE h.extra <> ''),\nagain AS", "  WHERE h.extra <> '' RETURNING id, message_id, at),\n"
    "told AS (INSERT INTO mailerd.notice (subscriber, first_at, last_at, events, messages)\n"
    "  SELECT 'webhook:a', min(at), max(at), array_agg(id), array_agg(message_id) FROM events HAVING count(*) > 0),\nagain AS"
)  # fmt: skip
assert EXPLICIT != PLAIN
FILL = """
INSERT INTO mailerd.outbox (recipient, stream, text_body)
SELECT 'u' || i || '@d' || i % 50 || '.example', 'marketing', 'hello' FROM generate_series(1, $1) i
"""


async def prepared(session: Session, count: int) -> list[Settlement]:
    await session.execute(FILL, count)
    claims = [Claim(5, f"d{i}.example", "", count) for i in range(50)]
    jobs, _, _ = await lease(session, "marketing", claims, 7, 600.0)
    return [Settlement(job, Action.DONE, [("sent", Recipient(0, job.recipient), SENT)]) for job in jobs]


async def settle(session: Session) -> None:
    ways = {
        "no trigger": ("DISABLE", None, PLAIN),
        "trigger, no webhook": ("ENABLE", None, PLAIN),
        "trigger, webhook for bounces": ("ENABLE", ["bounced"], PLAIN),
        "trigger, webhook for all": ("ENABLE", [], PLAIN),
        "no trigger, settle writes the row": ("DISABLE", None, EXPLICIT),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(4):  # in turn, so that what the machine does meanwhile falls on all alike
        for name, (trigger, types, statement) in ways.items():
            await session.execute(f"ALTER TABLE mailerd.event {trigger} TRIGGER event_written")
            await session.execute("DELETE FROM mailerd.subscriber")
            if types is not None:
                hook = Webhook(name="a", url="https://a.example/", secret=SECRET, events=tuple(types))  # type: ignore[arg-type]
                await webhooks.publish(session, [hook])
            settling.SETTLE = statement  # type: ignore[misc]
            rows = await prepared(session, BATCH * ROUNDS)
            for start in range(0, len(rows), BATCH):
                began = time.perf_counter()
                await settling.settle(session, "marketing", rows[start : start + BATCH])
                took[name].append((time.perf_counter() - began) / BATCH * 1e6)
    for name, times in took.items():
        quarter = statistics.quantiles(times, n=4)
        print(f"{name:36} median {quarter[1]:6.2f} µs a message, quartiles {quarter[0]:.2f} and {quarter[2]:.2f}")


async def deliver(session: Session, settings: model.Database, events: int = 100_000) -> None:
    port = free_port()
    receiver = subprocess.Popen([sys.executable, __file__, "receiver", str(port)])  # noqa: ASYNC220
    hook = Webhook(name="a", url=f"http://127.0.0.1:{port}/", secret=SECRET, allow_private=True)
    await webhooks.publish(session, [hook])
    for _ in range(events // 20_000):
        rows = await prepared(session, 20_000)
        for start in range(0, len(rows), BATCH):
            await settling.settle(session, "marketing", rows[start : start + BATCH])
    await asyncio.sleep(1.0)
    began, used = time.perf_counter(), time.process_time()
    running = asyncio.create_task(Webhooks(settings, Metrics(), [hook]).run())
    while (await webhooks.standings(session))[0].waiting and time.perf_counter() - began < 30:
        await asyncio.sleep(0.1)
    took, used = time.perf_counter() - began, time.process_time() - used
    told = events - (await webhooks.standings(session))[0].waiting
    running.cancel()
    receiver.terminate()
    print(f"{told} events in {took:.1f} s: {told / took:.0f} events/s, {told / took / hook.batch_size:.0f} requests/s, "
          f"{used / told * 1e6:.1f} µs of our CPU each")  # fmt: skip


def receiver(port: int) -> None:
    async def hook(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/", hook)
    web.run_app(app, host="127.0.0.1", port=port, print=None, handle_signals=True)


async def main(what: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Postgres(Path(folder), durable=False) as server:
        settings = model.Database(url=server.url)
        async with Session(settings, "bench") as session:
            await migrate(session)
            await (settle(session) if what == "settle" else deliver(session, settings))


if __name__ == "__main__":
    if sys.argv[1] == "receiver":
        receiver(int(sys.argv[2]))
    else:
        uvloop.run(main(sys.argv[1]))
