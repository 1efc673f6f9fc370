"""The sink as a provider's HTTP API: takes every message of every call, keeps none, answers in the provider's words.

Same interface as `bench.sink.Sink`. Faults are drawn once a call, and mean here: `mail-4xx` and `dot-4xx` 500,
`mail-421` and `dot-421` 503 and the connection closed, `rcpt-4xx` 429 with a Retry-After, `rcpt-5xx` and `dot-5xx` one
message of the call refused for good, `dot-close` taken and no answer, `slow` taken and answered a second late. A request
with an Idempotency-Key that was taken before is answered again, and not taken again.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Final

import msgspec
from aiohttp import web

from mailerd.bench.api import APIS, Taken
from mailerd.bench.fault import Kind
from mailerd.bench.ledger import Ledger
from mailerd.bench.sink import SLOW_SECONDS, Settings, Sink

__all__ = ["HttpSink"]

REMEMBERED: Final = 10_000  # answers kept for their idempotency key
_FAILED: Final = {
    Kind.MAIL_4XX: 500,
    Kind.DOT_4XX: 500,
    Kind.MAIL_421: 503,
    Kind.DOT_421: 503,
    Kind.RCPT_4XX: 429,
}
_encode = msgspec.json.Encoder().encode


class HttpSink(Sink):
    """Speaks `settings.dialect`."""

    def __init__(self, settings: Settings, ledger: Ledger | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(settings, ledger, tls)
        self._api = APIS[settings.dialect]
        self._server: web.Server | None = None
        self._answered: dict[str, web.Response] = {}

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]
        if self._server is None:  # wants a running event loop
            self._server = web.Server(self._handle, access_log=None)
        self.tally.connections += 1
        self.tally.peak = max(self.tally.peak, len(self._server.connections) + 1)
        return self._server()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        self.tally.octets += len(body)
        if self.settings.latency:
            await asyncio.sleep(self.settings.latency)
        key = request.headers.get("Idempotency-Key", "")
        if key in self._answered:
            return self._copy(self._answered[key])
        try:
            taken = self._api.read(request.path, body)
        except ValueError as error:
            return self._refuse(400, {"message": f"the sink cannot read this: {error}"})
        count = sum(one.recipients for one in taken)
        now = time.monotonic()
        if self.settings.limit and not all(self.admits(now) for _ in range(count)):
            return self._refuse(429, {"message": "rate limit exceeded"}, {"Retry-After": "1"})
        fault = self.fault() if taken else None
        if fault in _FAILED:
            status = _FAILED[fault]
            headers = {"Retry-After": "0.2"} if status == 429 else {"Connection": "close"} if status == 503 else {}
            return self._refuse(status, {"message": "refused by the sink for now"}, headers)
        if fault in (Kind.RCPT_5XX, Kind.DOT_5XX):
            taken[0] = taken[0]._replace(refused=True)
            self.tally.refused += 1
        if fault is Kind.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        self._take(taken, answered=fault is not Kind.DOT_CLOSE)
        status, headers, value = self._api.answer(request.path, taken)
        response = web.Response(status=status, headers=headers, body=b"" if value is None else _encode(value))
        response.content_type = "application/json"
        if key:
            if len(self._answered) >= REMEMBERED:
                del self._answered[next(iter(self._answered))]
            self._answered[key] = self._copy(response)
        if fault is Kind.DOT_CLOSE and request.transport is not None:
            request.transport.close()
        return response

    def _take(self, taken: list[Taken], *, answered: bool) -> None:
        for one in taken:
            if not one.refused:
                self.tally.messages += 1
                self.tally.recipients += one.recipients
                if self.ledger is not None:
                    self.ledger.add(one.id, answered)

    def _refuse(self, status: int, value: object, headers: dict[str, str] | None = None) -> web.Response:
        self.tally.refused += 1
        return web.Response(status=status, headers=headers, body=_encode(value), content_type="application/json")

    @staticmethod
    def _copy(response: web.Response) -> web.Response:
        copy = web.Response(status=response.status, headers=response.headers.copy())
        copy.body = response.body
        return copy
