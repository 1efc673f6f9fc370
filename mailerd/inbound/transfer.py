"""The receiving side of SMTP (RFC 5321) and LMTP (RFC 2033) as a state machine: octets in, octets out. No socket, no clock.

A `Transfer` is one session. It takes mail for addresses that `accepts` knows and for nobody else, so it cannot relay.
A whole mail makes it wait (`mail` is set) until the driver has stored it and says so (`answer`): no 250 before that.
Of a mail it holds the first `KEPT` octets, and counts and hashes the rest.

Lines end with CRLF and with nothing else. A command line with a CR or LF of its own ends the session, and in a mail only
CRLF.CRLF is its end: what another host takes for the end of a mail is never taken for one here, nor the other way round.

Hazards: what a session says is written by strangers; addresses are cleaned before anything else sees them. Octets behind
STARTTLS in the same packet end the session, as they were never encrypted (RFC 3207 §5).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec

__all__ = ["KEPT", "Mail", "Transfer"]

KEPT: Final = 1 << 20  # octets of a mail that are held: as many as are read
RECIPIENTS: Final = 100  # RFC 5321 §4.5.3.1.8
_LINE: Final = 2048  # octets of a command, more than RFC 5321 §4.5.3.1.4 with all extensions
_ERRORS: Final = 20  # wrong commands and refused recipients after which nothing good is to be expected
_END: Final = b"\r\n.\r\n"

_PATH: Final = re.compile(
    r'\s*<(?:@[^:<>\s]{1,255}:)?((?:"(?:[^"\\]|\\.){0,64}"|[^<>"@\s]{0,64})(?:@[^<>@\s"]{1,255})?)>((?: +[^ ]+)*) *',
    re.DOTALL,
)
_PARAMETER: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")


class Mail(msgspec.Struct, kw_only=True):
    """A mail on its way in: its envelope, the start of its content, the size and hash (SHA-256) of all."""

    sender: str
    recipients: list[str] = []
    kept: bytearray = msgspec.field(default_factory=bytearray)
    size: int = 0
    hashed: bytes = b""


class Transfer:
    """One session. `lmtp`: which protocol; `name`: ours; `limit`: octets of a mail; `tls`: STARTTLS is offered.

    `accepts` says whether mail for an address is taken, `busy` why none can be taken now ('': it can). After each call:
    `mail` is a mail to store, `upgrade` says that TLS is to begin, `closed` that the session is over.
    """

    def __init__(
        self,
        *,
        lmtp: bool,
        name: str,
        limit: int,
        accepts: Callable[[str], bool],
        busy: Callable[[], str] = lambda: "",
        tls: bool = False,
    ) -> None:
        self._lmtp = lmtp
        self._name = name
        self._limit = limit
        self._accepts = accepts
        self._busy = busy
        self._tls = tls
        self._buffer = bytearray()
        self._out: list[str] = []
        self._greeted = False
        self._open: Mail | None = None  # between MAIL and the answer to its content
        self._data = False
        self._hash = sha256()
        self._begun = False  # the content's first octets have been taken
        self._errors = 0
        self.refused = 0  # recipients that were not ours
        self.mail: Mail | None = None
        self.upgrade = False
        self.closed = False

    def greeting(self) -> bytes:
        return f"220 {self._name} {'LMTP' if self._lmtp else 'ESMTP'}\r\n".encode()

    @property
    def receiving(self) -> bool:
        """Content is on its way."""
        return self._data

    def feed(self, octets: bytes) -> bytes:
        """What the peer sent, whatever of it; what is to be written. Octets behind a mail wait for `answer`."""
        if self.closed:
            return b""
        self._buffer += octets
        return self._go()

    def answer(self, reply: str) -> bytes:
        """The driver's word on `mail`: a whole reply. LMTP says it for each recipient. Goes on with what has waited."""
        assert self.mail is not None
        self._out += [reply] * (len(self.mail.recipients) if self._lmtp else 1)
        self._drop()
        return self._go()

    def encrypted(self) -> bytes:
        """TLS has begun: everything starts anew (RFC 3207 §4.2). Goes on with what came over it meanwhile."""
        self.upgrade = self._tls = self._greeted = False
        self._drop()
        return self._go()

    def end(self, reply: str) -> bytes:
        """The last words, which the driver chooses (a time-out, the end of the process)."""
        self._out.append(reply)
        self.closed = True
        return self._written()

    # -- what it makes of them -------------------------------------------------------------------------------------------

    def _go(self) -> bytes:
        while not (self.closed or self.upgrade or self.mail is not None):
            if not (self._content() if self._data else self._line()):
                break
        return self._written()

    def _written(self) -> bytes:
        out, self._out = self._out, []
        return "".join(f"{reply}\r\n" for reply in out).encode("ascii", "replace")

    def _line(self) -> bool:
        end = self._buffer.find(b"\n", 0, _LINE)
        if end < 0:
            if len(self._buffer) >= _LINE:
                self._close("500 5.5.2 line too long")
            return False
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            self._close("500 5.5.2 lines end with CRLF")
            return False
        try:
            text = line[:-2].decode("utf-8")
        except UnicodeDecodeError:
            self._error("500 5.5.2 not UTF-8")
            return True
        verb, _, rest = text.partition(" ")
        command = _COMMANDS.get(verb.upper())
        if command is None:
            self._error("500 5.5.2 unknown command")
        else:
            command(self, rest.strip())
        return True

    def _content(self) -> bool:
        """Takes what is there of a mail; True once its end has come."""
        mail, buffer = self._open, self._buffer
        assert mail is not None
        end = buffer.find(_END)
        # Short of the end, what may be the beginning of one stays: of CRLF.CRLF itself, or of a dot to be taken away.
        cut = end + 2 if end >= 0 else len(buffer) - 4
        if end < 0:
            cut -= 2 if buffer[:cut].endswith(b"\r\n") else 1 if buffer[:cut].endswith(b"\r") else 0
        if cut >= 2:
            piece = bytes(buffer[:cut]).replace(b"\r\n.", b"\r\n")
            del buffer[:cut]
            if not self._begun:  # the CRLF before the first line is ours
                piece, self._begun = piece[2:], True
            self._take(mail, piece)
        if end < 0:
            return False
        del buffer[: len(_END) - 2]
        self._data = False
        mail.hashed = self._hash.digest()
        if mail.size > self._limit:
            self._out += [f"552 5.3.4 larger than {self._limit} octets"] * (len(mail.recipients) if self._lmtp else 1)
            self._drop()
            return True
        self.mail = mail
        return True

    def _take(self, mail: Mail, piece: bytes) -> None:
        mail.size += len(piece)
        self._hash.update(piece)
        if (room := KEPT + 1 - len(mail.kept)) > 0 and mail.size <= self._limit:  # one more tells that it was cut
            mail.kept += piece[:room]

    def _drop(self) -> None:
        self._open = self.mail = None
        self._data = False

    def _error(self, reply: str) -> None:
        self._errors += 1
        self._out.append(reply)
        if self._errors >= _ERRORS:
            self._close("421 4.7.0 too many errors")

    def _close(self, reply: str) -> None:
        self._out.append(reply)
        self._buffer.clear()
        self.closed = True

    # -- the commands ----------------------------------------------------------------------------------------------------

    def _hello(self, rest: str) -> None:
        if not rest:
            self._error("501 5.5.4 who are you?")
            return
        self._drop()
        self._greeted = True
        words = [self._name, "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", f"SIZE {self._limit}"]
        words += ["STARTTLS"] if self._tls else []
        self._out += [f"250-{word}" for word in words[:-1]] + [f"250 {words[-1]}"]

    def _ehlo(self, rest: str) -> None:
        if self._lmtp:
            self._error("500 5.5.1 this is LMTP: say LHLO")
        else:
            self._hello(rest)

    def _lhlo(self, rest: str) -> None:
        if self._lmtp:
            self._hello(rest)
        else:
            self._error("500 5.5.1 this is SMTP: say EHLO")

    def _helo(self, rest: str) -> None:
        if self._lmtp or not rest:
            self._ehlo(rest)
            return
        self._drop()
        self._greeted = True
        self._out.append(f"250 {self._name}")

    def _path(self, rest: str, word: str) -> tuple[str, dict[str, str]] | None:
        """(address, parameters) of `FROM:<…> …`; None if it is none, and then that was said."""
        found = _PATH.fullmatch(rest[len(word) :]) if rest[: len(word)].upper() == word else None
        if found is None or not found[1].isprintable() or len(found[1].encode()) > 320:
            self._error(f"501 5.5.4 syntax: {word}<address>")
            return None
        parameters: dict[str, str] = {}
        for text in found[2].split():
            one = _PARAMETER.fullmatch(text)
            if one is None:
                self._error("501 5.5.4 parameters are KEY=VALUE")
                return None
            parameters[one[1].upper()] = one[2] or ""
        return found[1], parameters

    def _mail(self, rest: str) -> None:
        if not self._greeted or self._open is not None:
            self._error("503 5.5.1 " + ("one mail at a time" if self._greeted else "say hello first"))
            return
        parsed = self._path(rest, "FROM:")
        if parsed is None:
            return
        sender, parameters = parsed
        if unknown := parameters.keys() - {"SIZE", "BODY", "SMTPUTF8"}:
            self._error(f"555 5.5.4 unknown parameter {min(unknown)[:40]}")
            return
        size = parameters.get("SIZE", "0")
        if not size.isdigit() or parameters.get("BODY", "7BIT").upper() not in ("7BIT", "8BITMIME"):
            self._error("501 5.5.4 SIZE is a number, BODY is 7BIT or 8BITMIME")
            return
        if len(size) > 18 or int(size) > self._limit:
            self._out.append(f"552 5.3.4 larger than {self._limit} octets")
            return
        if why := self._busy():
            self._out.append(f"452 4.3.1 {why}")
            return
        self._open = Mail(sender=sender)
        self._out.append("250 2.1.0 ok")

    def _rcpt(self, rest: str) -> None:
        if self._open is None:
            self._error("503 5.5.1 MAIL first")
            return
        parsed = self._path(rest, "TO:")
        if parsed is None:
            return
        address, parameters = parsed
        if parameters:
            self._error(f"555 5.5.4 unknown parameter {min(parameters)[:40]}")
        elif not address or not self._accepts(address):
            self.refused += 1
            self._error("550 5.1.1 no mail is taken for this address")
        elif len(self._open.recipients) >= RECIPIENTS:
            self._out.append("452 4.5.3 too many recipients")
        else:
            self._open.recipients.append(address)
            self._out.append("250 2.1.5 ok")

    def _start_data(self, rest: str) -> None:
        if rest:
            self._error("501 5.5.4 DATA has no parameters")
        elif self._open is None or not self._open.recipients:
            self._error("503 5.5.1 " + ("MAIL first" if self._open is None else "no recipient is left"))
        else:
            self._out.append("354 go ahead")
            self._data, self._begun, self._hash = True, False, sha256()
            self._buffer[:0] = b"\r\n"  # the line of DATA: so a mail may begin with its end

    def _start_tls(self, rest: str) -> None:
        if not self._tls:
            self._error("502 5.5.1 not offered")
        elif self._buffer:
            self._close("503 5.5.1 STARTTLS is the last command in the clear")
        else:
            self._out.append("220 2.0.0 go ahead")
            self.upgrade = True

    def _rset(self, rest: str) -> None:
        self._drop()
        self._out.append("250 2.0.0 ok")

    def _noop(self, rest: str) -> None:
        self._out.append("250 2.0.0 ok")

    def _vrfy(self, rest: str) -> None:
        self._error("252 2.5.0 try it")

    def _help(self, rest: str) -> None:
        self._error("214 2.0.0 see RFC 5321")

    def _quit(self, rest: str) -> None:
        self._close("221 2.0.0 bye")


_COMMANDS: Final = {
    "EHLO": Transfer._ehlo,
    "HELO": Transfer._helo,
    "LHLO": Transfer._lhlo,
    "MAIL": Transfer._mail,
    "RCPT": Transfer._rcpt,
    "DATA": Transfer._start_data,
    "STARTTLS": Transfer._start_tls,
    "RSET": Transfer._rset,
    "NOOP": Transfer._noop,
    "VRFY": Transfer._vrfy,
    "HELP": Transfer._help,
    "QUIT": Transfer._quit,
}
