"""Reading SMTP replies (RFC 5321 §4.2), line by line, whatever the chunks they came in.

It assembles multiline replies, checks the syntax strictly and bounds what a peer may send: a line longer than
`LINE_LIMIT` or a reply longer than `REPLY_LIMIT` is an error, so an endless reply ends. It never guesses: a line that
is not `code [SP/- text]` raises `Malformed`, and whoever reads it throws the connection away.

Hazard: lines end with LF here; one CR before it is dropped. A peer that ends lines with a bare LF is understood, since
the replies are its own and nothing of ours can end a line in them (arguments with control characters are never sent).
"""

from __future__ import annotations

import re

from mailerd.message import Reply, clean

__all__ = ["LINE_LIMIT", "REPLY_LIMIT", "Answer", "Malformed", "ReplyReader", "split_enhanced", "text_of", "tidy"]

LINE_LIMIT = 2048  # octets; RFC 5321 §4.5.3.1.5 says 512, and real servers exceed it
REPLY_LIMIT = 32_768  # octets of one reply, all its lines: several times the longest EHLO reply that is known

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?= |$)")
_CONTROL = re.compile(r"[\x01-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")

Answer = tuple[int, list[bytes]]
"""A complete reply before anyone reads its text: the code, and the text of each line."""


class Malformed(Exception):
    """The peer sent something that is no SMTP reply. The message says what, in an operator's words."""


class ReplyReader:
    """Assembles lines into replies. `pending` is true between the lines of a multiline reply."""

    __slots__ = ("_code", "_octets", "_texts", "pending")

    def __init__(self) -> None:
        self.pending = False
        self._code = b""
        self._octets = 0
        self._texts: list[bytes] = []

    def line(self, line: bytes) -> Answer | None:
        """One line without its LF; the reply that it completes, or None. Raises `Malformed`."""
        if line.endswith(b"\r"):
            line = line[:-1]
        if len(line) > LINE_LIMIT:
            raise Malformed(f"reply line longer than {LINE_LIMIT} octets: {_excerpt(line)}")
        match = _LINE.fullmatch(line)
        if match is None:
            raise Malformed(f"not an SMTP reply: {_excerpt(line)}")
        code, separator, text = match.groups()
        if not self.pending:
            self._code = code
            self._octets = 0
            self._texts = []
        elif code != self._code:
            # RFC 5321 §4.2.1: in a multiline reply "the reply code on each of the lines MUST be the same".
            raise Malformed(f"multiline reply changes its code from {self._code.decode()}: {_excerpt(line)}")
        self._octets += len(line) + 2
        if self._octets > REPLY_LIMIT:
            raise Malformed(f"reply longer than {REPLY_LIMIT} octets")
        self._texts.append(text or b"")
        self.pending = separator == b"-"
        return None if self.pending else (int(code), self._texts)

    @staticmethod
    def check_rest(rest: bytes) -> None:
        """Refuses an unfinished line that can only become too long. Raises `Malformed`, at the same octet for every
        chunking: the one that `line` would refuse too."""
        if len(rest) > LINE_LIMIT and (len(rest) > LINE_LIMIT + 1 or not rest.endswith(b"\r")):
            raise Malformed(f"reply line longer than {LINE_LIMIT} octets: {_excerpt(rest)}")


def _excerpt(line: bytes) -> str:
    return tidy(line[:80])


def tidy(text: bytes) -> str:
    """A peer's text as it is kept: `clean`, and without control characters, which could play with a terminal."""
    decoded = text.decode("utf-8", "backslashreplace")
    if not decoded.isprintable():
        decoded = _CONTROL.sub(" ", decoded)
    return clean(decoded)


def split_enhanced(code: int, text: str) -> tuple[str, str]:
    """The enhanced status code (RFC 3463) and the rest of a reply line.

    Only where it is plausible: RFC 2034 §4 asks for `class.subject.detail` at the start, with the class equal to the
    reply code's first digit. Many servers use them without announcing ENHANCEDSTATUSCODES, so that is not asked for.
    """
    if text[1:2] == ".":
        match = _ENHANCED.match(text)
        if match is not None and int(match[1]) == code // 100:
            return match[0], text[match.end() + 1 :]
    return "", text


def text_of(answer: Answer) -> Reply:
    """The reply as it is kept: the enhanced code taken off each line, lines joined by newlines."""
    code, texts = answer
    enhanced, first = split_enhanced(code, tidy(texts[0]))
    if len(texts) == 1:
        return Reply(code, enhanced, first)
    prefix = enhanced.encode()
    rest = [t[len(prefix) + 1 :] if enhanced and t.startswith(prefix) else t for t in texts[1:]]
    return Reply(code, enhanced, tidy(b"\n".join([first.encode(), *rest])))
