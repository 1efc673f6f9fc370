"""The SMTP sink's side of one connection: takes every message, keeps none, says 250 as cheaply as it can.

A receiving SMTP server (RFC 5321) with PIPELINING in full (RFC 2920; also an envelope behind the final dot), 8BITMIME,
SMTPUTF8, SIZE, ENHANCEDSTATUSCODES, STARTTLS, and AUTH that believes everybody. What counts is CPU per message: a plain
envelope is matched at once, content is only searched for its end. On request it answers late, or treats a share of the
messages badly (`Kind`). It stores no content, unstuffs no dots, and relays nothing.

Hazard: anybody who can connect is served; it listens on loopback unless told otherwise.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, cast

import msgspec

from mailerd.bench.fault import AT_DOT, REFUSALS, Kind
from mailerd.bench.ledger import Ledger

__all__ = ["IDLE_SECONDS", "SLOW_SECONDS", "Session", "Settings", "Sink", "Tally"]

IDLE_SECONDS: Final = 300.0  # RFC 5321 §4.5.3.2.7: a server waits at least 5 minutes for a command
SLOW_SECONDS: Final = 1.0
_LINE_LIMIT: Final = 4096  # RFC 5321 §4.5.3.1.4 asks for 512, extensions add to it
_HEAD_LIMIT: Final = 4096  # octets of content in which the Message-ID is looked for
_RECIPIENT_LIMIT: Final = 1000


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """How the sink behaves. Times in seconds, `faults` a share of the messages between 0 and 1."""

    latency: float = 0.0
    faults: float = 0.0
    kinds: tuple[Kind, ...] = tuple(Kind)
    seed: int = 0
    limit: float = 0.0  # recipients a second that are taken; what exceeds it (after a second's burst) is refused
    tls: Literal["none", "starttls", "implicit"] = "none"
    size: int = 52_428_800
    name: str = "sink.localhost"
    dialect: str = ""  # a provider's HTTP API (`bench.httpsink`) in place of SMTP


class Tally(msgspec.Struct):
    """What one sink process, or all of them, have seen."""

    connections: int = 0
    peak: int = 0  # connections at once, counted at each greeting; of several processes, the sum of their peaks
    messages: int = 0
    recipients: int = 0
    octets: int = 0
    refused: int = 0  # commands and messages that got a 4yz or 5yz
    limited: int = 0  # recipients among them that exceeded the limit
    faults: dict[str, int] = {}

    def add(self, other: Tally) -> None:
        self.connections += other.connections
        self.peak += other.peak
        self.messages += other.messages
        self.recipients += other.recipients
        self.octets += other.octets
        self.refused += other.refused
        self.limited += other.limited
        for kind, count in other.faults.items():
            self.faults[kind] = self.faults.get(kind, 0) + count


# The envelope as pipelining senders write it. Anything else is taken line by line, with the same result.
_ENVELOPE: Final = re.compile(
    rb"MAIL FROM:<[!-;=?-~]*>(?: SIZE=\d{1,7}| BODY=(?:8BITMIME|7BIT)| SMTPUTF8)*\r\nRCPT TO:<[!-;=?-~]+>\r\nDATA\r\n"
)
_GO_AHEAD: Final = b"354 end with a dot on a line of its own\r\n"
_ENVELOPE_REPLY: Final = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n" + _GO_AHEAD
_PATH: Final = re.compile(rb"(?:FROM|TO):\s*<([^<>\x00-\x20\x7f]*)>(?:\s+(.*))?", re.IGNORECASE)
_END: Final = b"\r\n.\r\n"
_MESSAGE_ID: Final = re.compile(rb"\nMessage-ID:\s*<(\d{1,18})\.", re.IGNORECASE)


class Sink:
    """What the sessions of one process share."""

    def __init__(self, settings: Settings, ledger: Ledger | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        self.tls = tls
        self.tally = Tally()
        self.sessions: set[Session] = set()
        self.upgrades: set[asyncio.Task[None]] = set()
        self._random = random.Random(settings.seed)
        self._burst = max(1.0, settings.limit)  # or a slow limit would never take one
        self._tokens = self._burst
        self._filled_at = 0.0

    def __call__(self) -> Session:
        return Session(self)

    def fault(self) -> Kind | None:
        """What goes wrong with the message that begins now."""
        if self._random.random() >= self.settings.faults:
            return None
        kind = self._random.choice(self.settings.kinds)
        self.tally.faults[kind] = self.tally.faults.get(kind, 0) + 1
        return kind

    def admits(self, now: float) -> bool:
        """One more recipient, as far as the limit goes: a token bucket of one second, at least of one recipient."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self.settings.limit)
        self._filled_at = now
        if self._tokens < 1.0:
            self.tally.limited += 1
            return False
        self._tokens -= 1.0
        return True

    def close_idle(self) -> None:
        """To be called every `IDLE_SECONDS`: ends the sessions that said nothing since the last call."""
        for session in list(self.sessions):
            session.close_if_idle()


class Session(asyncio.Protocol):
    """One connection. Everything it says in answer to one read leaves in one write."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._settings = sink.settings
        # Whole envelopes may be matched at once (any SIZE that `_ENVELOPE` takes is below the limit).
        self._simple = not (sink.settings.faults or sink.settings.limit) and sink.settings.size >= 10_000_000
        self._transport: asyncio.Transport | None = None
        self._late: deque[tuple[bytes, Callable[[], None] | None]] = deque()  # replies that wait for the latency
        self._due = 0.0
        self._deaf = False  # we hung up, or TLS begins: what else came is not for us
        self._active = True
        self._rest = b""  # octets that are no whole command yet, or the piece of content that is still needed
        self._greeted = self._secure = False
        self._auth: list[bytes] = []  # what AUTH still asks for
        self._content = False
        self._seen = 0  # octets of content before `_rest`, counting the CRLF before it
        self._message_id = -1
        self._reset()

    def _reset(self) -> None:
        self._mail = self._utf8 = False
        self._recipients = 0
        self._fault: Kind | None = None

    # -- the connection ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from asyncio's
        self._secure = self._settings.tls == "implicit"
        self._sink.sessions.add(self)
        tally = self._sink.tally
        tally.connections += 1
        self._say(b"220 " + self._settings.name.encode() + b" ESMTP\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        self._deaf = True
        self._sink.sessions.discard(self)

    def close_if_idle(self) -> None:
        if not self._active:
            self._say(b"421 4.4.2 idle for too long\r\n", then=self._close)
        self._active = False

    def close(self) -> None:
        """The sink ends: says so and hangs up, whatever the latency."""
        self._late.clear()
        self._write(b"421 4.3.2 the sink ends\r\n", self._close)

    def _close(self) -> None:
        self._deaf = True
        self._sink.sessions.discard(self)  # the peer sees our end before we see its: it may be there again by then
        if self._transport is not None:
            self._transport.close()

    def _upgrade(self) -> None:
        task = asyncio.get_running_loop().create_task(self._start_tls())
        self._sink.upgrades.add(task)
        task.add_done_callback(self._sink.upgrades.discard)

    async def _start_tls(self) -> None:
        assert self._transport is not None
        assert self._sink.tls is not None
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, self._sink.tls, server_side=True
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._close()
            return
        if transport is None:  # the peer was gone before we began
            return
        self._transport = transport
        self._secure = True
        self._greeted = self._deaf = False  # RFC 3207 §4.2: forget what the client said before

    def _say(self, reply: bytes, *, wait: float = 0.0, then: Callable[[], None] | None = None) -> None:
        """Writes now or when the latency is over, never before what was said earlier; then calls `then`."""
        wait += self._settings.latency
        if not wait and not self._late:
            self._write(reply, then)
            return
        loop = asyncio.get_running_loop()
        self._due = max(loop.time() + wait, self._due)
        self._late.append((reply, then))
        loop.call_at(self._due, self._write_late)

    def _write_late(self) -> None:
        if self._late:  # empty once `close` has been there
            self._write(*self._late.popleft())

    def _write(self, reply: bytes, then: Callable[[], None] | None) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if reply:
                self._transport.write(reply)
            if then is not None:
                then()

    # -- reading -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        deaf = self._deaf  # a local: the attribute may change below, which a checker does not see
        if deaf:
            return
        self._active = True
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        replies: list[bytes] = []
        while at < end:
            if self._content:
                dot = data.find(_END, at)
                if dot < 0:
                    self._keep(data, at)
                    break
                at = self._ended(data, at, dot, replies)
            elif self._simple and self._greeted and not self._mail and (found := _ENVELOPE.match(data, at)):
                self._mail, self._recipients = True, 1
                replies.append(_ENVELOPE_REPLY)
                at = self._begin_content(found.end())
            else:
                line_end = data.find(b"\n", at)
                if line_end < 0 and end - at <= _LINE_LIMIT:
                    self._rest = data[at:]
                    break
                line, at = data[at:line_end], line_end + 1
                if not line.endswith(b"\r") or len(line) > _LINE_LIMIT:
                    replies.append(b"500 5.5.2 no command: lines end in CRLF and are shorter than 4096 octets\r\n")
                    self._hang_up(replies)
                else:
                    self._command(line[:-1], replies)
                    if replies and replies[-1] is _GO_AHEAD:
                        at = self._begin_content(at)
            if self._deaf:
                return
        if replies:
            self._say(b"".join(replies))

    def _hang_up(self, replies: list[bytes]) -> None:
        self._deaf = True
        self._say(b"".join(replies), then=self._close)

    # -- content -------------------------------------------------------------------------------------------------

    def _begin_content(self, start: int) -> int:
        """Content begins at `start`. Its end is searched from the CRLF before it: a lone dot may be all there is."""
        self._content = True
        self._seen = 0
        self._message_id = -1
        return start - 2

    def _keep(self, data: bytes, at: int) -> None:
        """`data[at:]` is content without its end: keeps its last octets, or all while the Message-ID may be in it."""
        if not self._seen:
            if len(data) - at < _HEAD_LIMIT:
                self._rest = data[at:]
                return
            if self._sink.ledger is not None:
                self._message_id = _find_id(data, at, len(data))
        self._seen += len(data) - 4 - at
        self._rest = data[-4:]

    def _ended(self, data: bytes, at: int, dot: int, replies: list[bytes]) -> int:
        """The content ends at `dot`: appends the reply, returns where the next command begins."""
        self._content = False
        sink, tally, fault = self._sink, self._sink.tally, self._fault
        octets = self._seen + dot - at
        if octets > self._settings.size:
            replies.append(b"552 5.3.4 message too big\r\n")
            tally.refused += 1
        elif fault is not None and fault in AT_DOT:
            replies.append(REFUSALS[fault])
            tally.refused += 1
            if fault is Kind.DOT_421:
                self._hang_up(replies)
        else:
            tally.messages += 1
            tally.recipients += self._recipients
            tally.octets += octets
            if sink.ledger is not None:
                number = self._message_id if self._seen else _find_id(data, at, dot)
                sink.ledger.add(number, fault is not Kind.DOT_CLOSE)
            if fault is Kind.DOT_CLOSE:
                self._hang_up(replies)
            elif fault is Kind.SLOW:
                self._say(b"".join(replies))
                replies.clear()
                self._say(b"250 2.0.0 accepted, slowly\r\n", wait=SLOW_SECONDS)
            else:
                replies.append(b"250 2.0.0 accepted as %x\r\n" % tally.messages)
        self._reset()
        return dot + 5

    # -- commands ------------------------------------------------------------------------------------------------

    def _command(self, line: bytes, replies: list[bytes]) -> None:
        """Answers one command line."""
        if self._auth:
            self._auth.pop(0)
            replies.append(b"501 5.7.0 cancelled\r\n" if line == b"*" else self._auth_step())
            if line == b"*":
                self._auth.clear()
            return
        verb, _, argument = line.partition(b" ")
        verb, argument = verb.upper(), argument.strip()
        match verb:
            case b"MAIL":
                reply = self._mail_from(argument)
            case b"RCPT":
                reply = self._rcpt_to(argument)
            case b"DATA":
                reply = self._data(argument)
            case b"EHLO" | b"HELO" if argument:
                self._greeted = True
                # Not when the connection came: the end of the one before it may be read in the same turn, after it.
                self._sink.tally.peak = max(self._sink.tally.peak, len(self._sink.sessions))
                self._reset()
                reply = self._ehlo() if verb == b"EHLO" else b"250 " + self._settings.name.encode() + b"\r\n"
            case b"RSET":
                self._reset()
                reply = b"250 2.0.0 ok\r\n"
            case b"NOOP":
                reply = b"250 2.0.0 ok\r\n"
            case b"VRFY":
                reply = b"252 2.5.0 send some mail, it will be taken\r\n"
            case b"HELP":
                reply = b"214 2.0.0 RFC 5321\r\n"
            case b"QUIT":
                replies.append(b"221 2.0.0 bye\r\n")
                self._hang_up(replies)
                return
            case b"STARTTLS" if self._settings.tls == "starttls" and not self._secure:
                # What was pipelined behind STARTTLS came in the clear and is dropped (RFC 3207 §4.2).
                replies.append(b"220 2.0.0 go ahead\r\n")
                self._deaf = True
                self._say(b"".join(replies), then=self._upgrade)
                return
            case b"AUTH":
                reply = self._authenticate(argument)
            case b"EHLO" | b"HELO":
                reply = b"501 5.5.4 say your name\r\n"
            case _:
                reply = b"500 5.5.1 no such command here\r\n"
        if reply[0] >= 0x34:  # "4"
            self._sink.tally.refused += 1
        replies.append(reply)
        if reply[:3] == b"421":
            self._hang_up(replies)

    def _ehlo(self) -> bytes:
        offers = [self._settings.name, "PIPELINING", f"SIZE {self._settings.size}", "8BITMIME", "SMTPUTF8"]
        if self._settings.tls == "starttls" and not self._secure:
            offers.append("STARTTLS")
        offers += ["AUTH PLAIN LOGIN", "ENHANCEDSTATUSCODES"]
        return "".join(
            f"250{' ' if n == len(offers) else '-'}{offer}\r\n" for n, offer in enumerate(offers, 1)
        ).encode()

    def _authenticate(self, argument: bytes) -> bytes:
        mechanism, _, initial = argument.partition(b" ")
        match mechanism.upper():
            case b"PLAIN":
                self._auth = [] if initial else [b""]
            case b"LOGIN":
                self._auth = [b"UGFzc3dvcmQ6"] if initial else [b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6"]
            case _:
                return b"504 5.5.4 PLAIN or LOGIN\r\n"
        return self._auth_step()

    def _auth_step(self) -> bytes:
        return b"334 " + self._auth[0] + b"\r\n" if self._auth else b"235 2.7.0 whoever you are\r\n"

    def _mail_from(self, argument: bytes) -> bytes:
        if self._mail or not self._greeted:
            return b"503 5.5.1 MAIL comes once, after EHLO\r\n"
        path = _PATH.fullmatch(argument)
        if path is None or argument[:4].upper() != b"FROM":
            return b"501 5.5.4 MAIL FROM:<address>\r\n"
        for parameter in (path[2] or b"").upper().split():
            key, _, value = parameter.partition(b"=")
            if key == b"SIZE" and value.isdigit():
                if int(value) > self._settings.size:
                    return b"552 5.3.4 message too big\r\n"
            elif key == b"SMTPUTF8":
                self._utf8 = True
            elif parameter not in (b"BODY=8BITMIME", b"BODY=7BIT") and key != b"AUTH":
                return b"555 5.5.4 unknown parameter\r\n"
        if not (self._utf8 or path[1].isascii()):
            return b"550 5.6.7 this address needs SMTPUTF8\r\n"  # RFC 6531 §3.5
        self._fault = self._sink.fault()
        if self._fault in (Kind.MAIL_4XX, Kind.MAIL_421):
            return REFUSALS[self._fault]
        self._mail = True
        return b"250 2.1.0 ok\r\n"

    def _rcpt_to(self, argument: bytes) -> bytes:
        if not self._mail:
            return b"503 5.5.1 RCPT comes after MAIL\r\n"
        path = _PATH.fullmatch(argument)
        if path is None or argument[:2].upper() != b"TO" or not path[1]:
            return b"501 5.5.4 RCPT TO:<address>\r\n"
        if not (self._utf8 or path[1].isascii()):
            return b"553 5.6.7 this address needs SMTPUTF8\r\n"
        if self._fault in (Kind.RCPT_4XX, Kind.RCPT_5XX):
            return REFUSALS[self._fault]
        if self._settings.limit and not self._sink.admits(time.monotonic()):
            return b"451 4.7.1 rate limit exceeded, slow down\r\n"
        if self._recipients >= _RECIPIENT_LIMIT:
            return b"452 4.5.3 too many recipients\r\n"  # RFC 5321 §4.5.3.1.10
        self._recipients += 1
        return b"250 2.1.5 ok\r\n"

    def _data(self, argument: bytes) -> bytes:
        if argument:
            return b"501 5.5.4 DATA stands alone\r\n"
        if not self._mail:
            return b"503 5.5.1 DATA comes after MAIL and RCPT\r\n"
        if not self._recipients:
            return b"554 5.5.1 no valid recipients\r\n"
        return _GO_AHEAD


def _find_id(data: bytes, start: int, end: int) -> int:
    """The outbox id in the Message-ID header of the content in `data[start:end]`, or -1."""
    end = min(end, start + _HEAD_LIMIT)
    at = data.find(b"\nMessage-ID: <", start, end)
    if at >= 0:
        dot = data.find(b".", at + 14, at + 34)
        digits = data[at + 14 : dot]
        return int(digits) if dot > 0 and digits.isdigit() and len(digits) < 19 else -1
    headers = data.find(b"\r\n\r\n", start, end)
    found = _MESSAGE_ID.search(data, start, headers if headers >= 0 else end)
    return int(found[1]) if found else -1
