"""The public listener under load: webhooks with a signature each, made durable before the 200; pixels; and a kill -9.

    python bench/public.py webhooks --seconds 20
    python bench/public.py webhooks --kill          # kill -9 half-way; then counts what was answered and what is there
    python bench/public.py tracking --rate 1000

Starts a Postgres of its own (fsync and synchronous_commit on), the listener in a process, and the load in another: wrk
(Debian's package) for webhooks, as fast as 64 connections go; for pixels a client of our own at a fixed rate, which counts
from the moment a request was due, so that a stall is seen by all that it delays.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import asyncpg
import uvloop

from mailerd.bench.port import free_port
from mailerd.bench.postgres import Postgres
from mailerd.compose.tokens import Tokens
from mailerd.config.model import Config, Database, Stream
from mailerd.config.public import Public
from mailerd.config.resolved import Resolved
from mailerd.feedback import Feedback
from mailerd.store.database import Session
from mailerd.store.migrate import migrate
from mailerd.store.upkeep import make_partitions
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics
from mailerd.web.public import PublicServer
from mailerd.webhook.dialect import Post, Verdict, accepted, refused

SECRET = "a secret of sixteen octets and more"
BODY = json.dumps(
    {
        "type": "email.delivered",
        "created_at": "2026-11-26T21:00:00.000Z",
        "data": {
            "email_id": "56761188-7520-42d8-8898-ff6fc54ce618",
            "from": "The Shop <shop@shop.example>",
            "to": ["ann@example.org"],
            "subject": "Your order",
            "tags": [{"name": "mailerd_id", "value": "456640300056577"}],
            "headers": [{"name": "Message-ID", "value": "<456640300056577.0@shop.example>"}] * 3,
        },
    }
).encode()


class Signed:
    """HMAC-SHA256 of the body, hexadecimal, in a header; one event."""

    keep = ("content-type",)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        ours = hmac.digest(b"key", post.body, "sha256").hex()
        if not hmac.compare_digest(ours, post.headers.get("x-signature", "")):
            return refused(401, "wrong signature")
        return accepted()

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        data = json.loads(body)["data"]
        return [Feedback(type="delivered", recipient=data["to"][0], provider_message_id=data["email_id"])]


async def nothing(session: Session, reports: Sequence[Feedback]) -> int:
    return len(reports)


async def serve(url: str, port: int) -> None:
    config = Config(
        database=Database(url=url),
        public=Public(
            listen=f"127.0.0.1:{port}", base_url="http://127.0.0.1", secret=(SECRET,), trusted_proxies=("127.0.0.1",)
        ),
        stream=(Stream(name="marketing"),),
    )
    server = PublicServer(Resolved(config), Health(), Metrics(), webhooks={"relay": Signed()}, apply=nothing)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop()


async def prepared(url: str) -> None:
    async with Session(Database(url=url), "bench") as session:
        await migrate(session)
        await make_partitions(session, 2)


async def counted(url: str) -> tuple[int, int]:
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow("SELECT count(*), (SELECT count(*) FROM mailerd.inbox_unread) FROM mailerd.inbox")
    await connection.close()
    return int(row[0]), int(row[1])


def reachable(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            asyncio.run(asyncio.wait_for(_open(port), 1))
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the listener does not come up")


async def _open(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def webhooks(url: str, port: int, server: subprocess.Popen[bytes], seconds: int, connections: int, kill: bool) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        body = BODY.decode().replace("\\", "\\\\").replace("'", "\\'")
        signature = hmac.digest(b"key", BODY, "sha256").hex()
        script.write(f"wrk.method='POST'\nwrk.body='{body}'\nwrk.headers['Content-Type']='application/json'\n")
        script.write(f"wrk.headers['X-Signature']='{signature}'\n")
        script.flush()
        before = cpu(server.pid)
        load = subprocess.Popen(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", script.name, f"http://127.0.0.1:{port}/webhooks/relay"],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        if kill:
            time.sleep(seconds / 2)
            server.kill()
            server.wait()
        out = load.communicate()[0]
    print(out)
    spent = 0.0 if kill else cpu(server.pid) - before
    answered = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    refused = int(found[1]) if (found := re.search(r"Non-2xx or 3xx responses: (\d+)", out)) else 0
    stored, unread = asyncio.run(counted(url))
    print(f"answered 200: {answered - refused}, refused: {refused}, in the inbox: {stored}, of them unread: {unread}")
    print(f"LOST: {max(0, answered - refused - stored)}")
    if not kill:
        start = time.monotonic()
        while (left := asyncio.run(counted(url))[1]) and time.monotonic() < start + 20:
            time.sleep(0.1)
        print(f"read afterwards (nothing applied): {(unread - left) / (time.monotonic() - start):.0f}/s")
        print(
            f"{(answered - refused) / seconds:.0f} durable webhooks/s; listener {1e6 * spent / answered:.0f} µs of CPU each"
        )


async def visits(port: int, rate: int, seconds: int) -> None:
    """Open loop: every request has its time, whatever became of those before. 50 connections, 500 addresses."""
    tokens = Tokens([SECRET])
    paths = [f"/o/{tokens.open(n << 21, 0)}.gif" for n in range(200)]
    paths += [f"/c/{tokens.click(n << 21, 'https://shop.example/offer')}" for n in range(100)]
    clock, took, statuses = time.perf_counter, [], {}  # uvloop's own clock counts milliseconds
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(50):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))

    async def one(n: int, due: float) -> None:
        reader, writer = await idle.get()
        writer.write(
            f"GET {paths[n % 300]} HTTP/1.1\r\nHost: x\r\nUser-Agent: Mozilla/5.0 Firefox/140\r\n"
            f"X-Forwarded-For: 10.0.{n % 250}.{n % 2 + 1}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        took.append(clock() - due)
        status = head[9:12].decode()
        statuses[status] = statuses.get(status, 0) + 1
        idle.put_nowait((reader, writer))

    start = clock()
    tasks = set()
    for n in range(rate * seconds):
        due = start + n / rate
        if due > clock():
            await asyncio.sleep(due - clock())
        tasks.add(task := asyncio.create_task(one(n, due)))
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    took.sort()
    figures = {f"p{q}": round(1000 * took[min(len(took) - 1, int(len(took) * q / 100))], 2) for q in (50, 95, 99)}
    print(f"{len(took) / (clock() - start):.0f} requests/s, ms {figures}, max {1000 * took[-1]:.1f}, {statuses}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("webhooks", "tracking", "serve"))
    parser.add_argument("where", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--kill", action="store_true")
    args = parser.parse_args()
    if args.what == "serve":
        uvloop.run(serve(args.where[0], int(args.where[1])))
        return
    with (
        tempfile.TemporaryDirectory(prefix="mailerd-bench-") as folder,
        Postgres(Path(folder), durable=True) as postgres,
    ):
        asyncio.run(prepared(postgres.url))
        port = free_port()
        server = subprocess.Popen([sys.executable, __file__, "serve", postgres.url, str(port)])
        try:
            reachable(port)
            if args.what == "webhooks":
                webhooks(postgres.url, port, server, args.seconds, args.connections, args.kill)
            else:
                uvloop.run(visits(port, args.rate, args.seconds))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
