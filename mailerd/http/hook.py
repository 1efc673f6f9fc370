"""One endpoint of outgoing webhooks over HTTP: a client that trusts it with nothing, and the request that it makes.

Only public addresses unless the configuration says otherwise (`guard`), no redirects, no cookies, no proxies, a
deadline on the connection and on the whole, and a few octets of the answer. Trouble is a value.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from datetime import UTC, datetime
from typing import Final

import aiohttp
import msgspec

from mailerd.config.outgoing import Webhook, secret_octets
from mailerd.http import guard, standard
from mailerd.message import clean

__all__ = ["Answer", "Peer", "probe"]

ANSWER_OCTETS: Final = 2048  # that are read
_WORDS: Final = 500


class Answer(msgspec.Struct, frozen=True):
    """`taken`: 2xx. `gone`: 410, it wants no more. `text`: the answer's start, or why there is none, in one line."""

    taken: bool
    gone: bool
    text: str


class Peer:
    """The endpoint, with its pooled connections. Make it where a loop runs, and close it."""

    def __init__(self, hook: Webhook, connections: int) -> None:
        self._hook = hook
        self._keys = [secret_octets(secret) for secret in hook.secret]
        self._headers = {
            "user-agent": "mailerd",
            **{name.strip(): value.strip() for name, _, value in (header.partition(":") for header in hook.headers)},
            "content-type": "application/json",
        }
        self._timeout = float(hook.timeout)
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections, socket_factory=None if hook.allow_private else guard.public_socket
            ),
            timeout=aiohttp.ClientTimeout(total=self._timeout, connect=self._timeout / 2),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )

    async def post(self, delivery: uuid.UUID, body: bytes) -> Answer:
        """One attempt."""
        signed = standard.signed(body, standard.message_id(delivery), int(time.time()), self._keys)
        try:
            # aiohttp bounds its own phases; this bounds them together, whatever the peer does.
            async with (
                asyncio.timeout(self._timeout + 1.0),
                self._client.post(
                    self._hook.url, data=body, headers={**self._headers, **signed}, allow_redirects=False
                ) as answer,
            ):
                words = b""
                with contextlib.suppress(aiohttp.ClientError):
                    words = await answer.content.read(ANSWER_OCTETS)
                if not answer.content.at_eof():
                    answer.close()
                return Answer(
                    200 <= answer.status < 300, answer.status == 410, _line(f"{answer.status} {answer.reason}", words)
                )
        except TimeoutError:
            return Answer(False, False, f"no answer within {self._timeout:g} s")
        except aiohttp.ClientConnectorError as error:
            return Answer(False, False, _line(f"no connection: {error.os_error.strerror or error}"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(False, False, _line(str(error) or type(error).__name__))

    async def close(self) -> None:
        """What is in flight is broken off."""
        await self._client.close()


async def probe(hook: Webhook) -> Answer:
    """One request that holds no events, to see whether it is taken."""
    peer = Peer(hook, 1)
    try:
        return await peer.post(uuid.uuid4(), standard.body_of((), datetime.now(UTC)))
    finally:
        await peer.close()


def _line(text: str, words: bytes = b"") -> str:
    return clean(" ".join(f"{text} {words.decode('utf-8', 'backslashreplace')}".split()), _WORDS)
