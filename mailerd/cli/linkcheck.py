"""Asks after web addresses: does anything answer there? HEAD first, GET where that is not to somebody's taste.

A few at a time, two a host, ten seconds each. Redirects are followed, bodies are not read. It goes wherever the operator's
machine goes: what is asked after are the operator's own templates, and proxies of the environment are used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import aiohttp
import msgspec

from mailerd import __version__

__all__ = ["Answer", "ask"]

AT_ONCE: Final = 8
PER_HOST: Final = 2
DEADLINE: Final = 10.0  # seconds for each address, both questions and redirects included
REDIRECTS: Final = 5
_GUARDED: Final = (401, 403, 407, 429, 451, 999)  # there is something, and it does not talk to everybody


class Answer(msgspec.Struct, frozen=True):
    """`text`: what is wrong, '' for nothing; `broken`: nobody can follow the link, as far as one can tell."""

    text: str = ""
    broken: bool = False


async def ask(urls: Iterable[str], *, deadline: float = DEADLINE) -> dict[str, Answer]:
    """An answer for each. Never raises for what a server does."""
    wanted = list(dict.fromkeys(urls))
    room = asyncio.Semaphore(AT_ONCE)
    connector = aiohttp.TCPConnector(limit=AT_ONCE, limit_per_host=PER_HOST)
    headers = {"User-Agent": f"mailerd/{__version__} (checks links of templates)", "Accept": "*/*"}
    async with aiohttp.ClientSession(connector=connector, headers=headers, trust_env=True) as session:

        async def one(url: str) -> Answer:
            async with room:
                try:
                    async with asyncio.timeout(deadline):
                        return await _one(session, url)
                except TimeoutError:
                    return Answer(f"no answer within {deadline:g} s", broken=True)
                except aiohttp.TooManyRedirects:
                    return Answer(f"more than {REDIRECTS} redirects", broken=True)
                except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
                    return Answer(_said(error), broken=True)

        answers = await asyncio.gather(*map(one, wanted))
    return dict(zip(wanted, answers, strict=True))


async def _one(session: aiohttp.ClientSession, url: str) -> Answer:
    status = 0
    for method in ("HEAD", "GET"):
        try:
            async with session.request(method, url, max_redirects=REDIRECTS, allow_redirects=True) as response:
                status = response.status
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError):
            if method == "GET":
                raise
            continue  # some close the connection at a HEAD
        if status < 400:
            return Answer()
    if status in _GUARDED:
        return Answer(f"answers {status}: it may be there for others")
    return Answer(f"answers {status}", broken=True)


def _said(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no such host ({error.host})"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid ({error.certificate_error})"
    if isinstance(error, aiohttp.InvalidURL):
        return "not a web address"
    return str(error)[:200] or type(error).__name__
