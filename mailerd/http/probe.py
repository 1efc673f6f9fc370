"""Can a provider's API be reached: DNS, TCP and TLS, as calls would have them. It sends nothing, and tries no key."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

from mailerd.config.provider import Provider
from mailerd.http.client import context
from mailerd.http.kinds import DIALECTS
from mailerd.message import Failure

__all__ = ["probe"]


async def probe(provider: Provider) -> tuple[bool, str]:
    """(it can be reached, what was found, or what to do). Never raises."""
    try:
        url = urlsplit(DIALECTS[provider.kind](provider).url)
    except Failure as failure:
        return False, failure.reason
    host, plain = url.hostname or "", url.scheme == "http"
    port = url.port or (80 if plain else 443)
    where = f"{host} port {port}"
    source = (provider.source[0], 0) if provider.source else None
    try:
        tls = None if plain else await asyncio.to_thread(context, provider.tls_ca)
        async with asyncio.timeout(float(provider.timeouts.connect)):
            _, writer = await asyncio.open_connection(host, port, ssl=tls, local_addr=source)
    except TimeoutError:
        return False, f"{where}: no connection within {provider.timeouts.connect:g} s: check endpoint and firewall"
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or error
        return False, f"{where}: TLS: {reason}: check endpoint; set tls_ca to who signed its certificate"
    except (OSError, ValueError) as error:
        return False, f"{where}: {error}: check endpoint and firewall"
    cipher = writer.get_extra_info("cipher")
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
    return True, f"{where} answers, {cipher[1] if cipher else 'not encrypted'}; the key is not tried"
