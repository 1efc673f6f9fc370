"""An `Intake` in this process, with a file's worth of configuration."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from mailerd.compose.tokens import derive
from mailerd.compose.verp import ReturnPaths
from mailerd.config.inbound import Inbound
from mailerd.config.model import Config, Database
from mailerd.config.public import Public
from mailerd.feedback import Feedback
from mailerd.intake.intake import Intake
from mailerd.store.database import Session
from mailerd.web.health import Health
from mailerd.web.metrics import Metrics

SECRET = "a long text that nobody guesses"
PATHS = ReturnPaths("bounces.shop.example", [derive(SECRET, "verp")])


class Applied:
    """Stands for the store's `apply`: keeps what it was given."""

    def __init__(self) -> None:
        self.told: list[Feedback] = []
        self.wrong: Exception | None = None

    async def __call__(self, session: Session, reports: Sequence[Feedback], *_: object) -> int:
        if self.wrong is not None:
            raise self.wrong
        known = {one.source_id for one in self.told}
        new = [one for one in reports if one.source_id not in known]
        self.told += new
        return len(new)


def config(database: str, **inbound: Any) -> Config:
    given = {"return_path_domain": "bounces.shop.example", "mailboxes": ("Bounces@Shop.example",), **inbound}
    return Config(database=Database(url=database), public=Public(secret=(SECRET,)), inbound=Inbound(**given))


@asynccontextmanager
async def intake(config: Config) -> AsyncIterator[Intake]:
    """Open and running."""
    it = Intake(config, Metrics(), Health())
    await it.open()
    running = asyncio.create_task(it.run())
    try:
        yield it
    finally:
        await it.drain(1.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        while Client.opened:
            client = Client.opened.pop()
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


class Client:
    """Says lines, reads replies. Closed with the `intake` around it."""

    opened: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.opened.append(self)

    @classmethod
    async def to(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def reply(self) -> str:
        """The last line of a reply; '' at the end."""
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), 10)).decode()
            if line[3:4] != "-":
                return line.rstrip("\r\n")

    async def say(self, text: str | bytes) -> str:
        self.writer.write((text.encode() if isinstance(text, str) else text) + b"\r\n")
        return await self.reply()

    async def greet(self, verb: str = "LHLO") -> None:
        assert (await self.reply()).startswith("220")
        assert (await self.say(f"{verb} peer.example")).startswith("250")

    async def mail(self, to: str, content: bytes, sender: str = "") -> str:
        assert (await self.say(f"MAIL FROM:<{sender}>")).startswith("250")
        said = await self.say(f"RCPT TO:<{to}>")
        if not said.startswith("250"):
            return said
        assert (await self.say("DATA")).startswith("354")
        return await self.say(content.replace(b"\n", b"\r\n") + b".")

    def close(self) -> None:
        self.writer.close()
