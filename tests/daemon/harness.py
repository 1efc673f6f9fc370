"""A real `mailerd run` process against a real database and a real SMTP server, for tests of behaviour."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import asyncpg
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailerd.bench.port import free_port

TIMEOUT = 20.0


class Taken:
    """One message that the server was given."""

    def __init__(self, envelope: Envelope) -> None:
        self.sender = envelope.mail_from
        self.recipients = list(envelope.rcpt_tos)
        self.content = bytes(envelope.content or b"")

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


class Server:
    """aiosmtpd on a free port. `answers` maps a recipient's local part to the replies of its attempts, in order; the
    last one stays."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.answers: dict[str, list[str]] = {}
        self.attempts: dict[str, int] = {}
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port(), enable_SMTPUTF8=True)

    @property
    def port(self) -> int:
        return int(self._controller.port)

    def start(self) -> None:
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        local = address.partition("@")[0]
        self.attempts[local] = self.attempts.get(local, 0) + 1
        replies = self.answers.get(local)
        reply = "250 2.1.5 ok" if not replies else replies[0] if len(replies) == 1 else replies.pop(0)
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append(Taken(envelope))
        return f"250 2.0.0 queued as Q{len(self.taken)}"


def configuration(
    database: str, port: int, *, ops: int, extra: str = "", provider: str = "", stream: str = "", top: str = ""
) -> str:
    return f"""
{top}
[database]
url = "{database}"
[ops]
listen = "127.0.0.1:{ops}"
[[provider]]
name = "relay"
host = "127.0.0.1"
port = {port}
tls = "none"
{provider}
[[identity]]
name = "shop"
from = "The Shop <shop@shop.example>"
[[stream]]
name = "transactional"
{stream}
[[stream]]
name = "marketing"
{stream}
{extra}
"""


class Running:
    """The process. Its log is in `log`."""

    def __init__(self, process: asyncio.subprocess.Process, config: Path, log: Path, ops: int) -> None:
        self.process = process
        self.config = config
        self.log = log
        self.ops = ops

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, within: float = TIMEOUT) -> int:
        return await asyncio.wait_for(self.process.wait(), within)

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def get(self, path: str) -> tuple[int, str]:
        def call() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

        return await asyncio.to_thread(call)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        _, text = await self.get("/metrics")
        total = 0.0
        for line in text.splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name and all(f'{k}="{v}"' in (found[2] or "") for k, v in labels.items()):
                total += float(found[3])
        return total


async def until(condition: Callable[[], Awaitable[Any] | Any], what: str, within: float = TIMEOUT) -> Any:
    """Waits for a condition, with a deadline; what it returned."""
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"after {within} s: not {what}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def daemon(database: str, port: int, folder: Path, *, ready: bool = True, **parts: str) -> AsyncIterator[Running]:
    """Starts it and waits for /readyz; kills what is left at the end, and shows the log when the test failed."""
    ops = free_port()
    config = folder / f"mailerd-{ops}.toml"
    config.write_text(configuration(database, port, ops=ops, **parts))
    log = folder / f"daemon-{ops}.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mailerd",
            "--config",
            str(config),
            "run",
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
    running = Running(process, config, log, ops)
    try:
        if ready:

            async def is_ready() -> bool:
                assert process.returncode is None, log.read_text()
                return (await running.get("/readyz"))[0] == 200

            await until(is_ready, "ready")
        yield running
    except BaseException:
        print(log.read_text()[-5000:])
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def events(connection: asyncpg.Connection[asyncpg.Record], id_: int) -> list[str]:
    rows = await connection.fetch("SELECT type FROM mailerd.event WHERE message_id = $1 ORDER BY id", id_)
    return [row[0] for row in rows]


async def enqueue(connection: asyncpg.Connection[asyncpg.Record], recipient: str, **columns: Any) -> int:
    """An INSERT as an application writes it; the id."""
    columns = {"recipient": recipient, "sender": "shop", **columns}
    if not {"text_body", "html_body", "template", "raw"} & columns.keys():
        columns["text_body"] = "hello"
    names = ", ".join(columns)
    places = ", ".join(f"${i + 1}" for i in range(len(columns)))
    id_ = await connection.fetchval(
        f"INSERT INTO mailerd.outbox ({names}) VALUES ({places}) RETURNING id", *columns.values()
    )
    assert isinstance(id_, int)
    return id_


async def settled(connection: asyncpg.Connection[asyncpg.Record], within: float = TIMEOUT) -> None:
    """Waits until nothing is ready or leased."""

    async def empty() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM mailerd.ready")

    await until(empty, "all settled", within)
