"""The header writer: fields as RFC 5322 lines, folded where that is legal, encoded (RFC 2047) where that is allowed.

Three kinds of fields: unstructured text (Subject, Comments, X-…) may become encoded-words; identifiers (Message-ID,
References, List-*, Feedback-ID, …) never do, since an encoded List-Unsubscribe is a dead link, and so must be ASCII;
fields that are ours or that only a relay may write are refused to a row. Lines are at most 76 octets where a legal
fold allows it and never above 998 (RFC 5322 §2.1.1); a line never consists of white space alone.

Hazard: this is the wall against header injection. Every value passes `unstructured` or `identifier`, both of which
refuse CR, LF, NUL and other controls; never format a value into a header past them.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NoReturn

import msgspec

from mailerd.message import Failure

__all__ = ["check_text", "encoded_words", "fold", "identifier", "kind", "unstructured"]

WIDTH = 76  # RFC 5322 §2.1.1 wants 78; RFC 2047 §2 allows 76 where there is an encoded-word
LINE_LIMIT = 998
WORD_LIMIT = 75  # RFC 2047 §2
NAME_LIMIT = 76

_bad = re.compile("[\x00-\x08\x0a-\x1f\x7f]").search  # tab is white space (RFC 5234 WSP); the rest has no place
_pieces = re.compile(r"[ \t]*[^ \t]+").findall
_ftext = re.compile(r"[!-9;-~]+").fullmatch
_msg_id = re.compile(r"<[!-;=?A-~]+@[!-;=?A-~]+>").fullmatch

# What may stand for itself in a Q encoded-word everywhere, phrases included (RFC 2047 §5 rule 3).
_Q_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"


class Kind(msgspec.Struct, frozen=True):
    """How a field is written: `text`, `identifier`, `msg-id`, `date` or `mailbox`; `single` may occur but once."""

    style: str
    single: bool = False


_COLUMN = {
    "from": "use the column sender",
    "to": "use the column recipient",
    "cc": "use the column cc",
    "bcc": "use the column bcc",
    "reply-to": "use the column reply_to",
    "subject": "use the column subject",
    "mime-version": "it is written for you",
    "dkim-signature": "signing is the sender's business",
    "return-path": "only the receiving server writes it (RFC 5321 §4.4)",
    "received": "only servers write it (RFC 5321 §4.4)",
    "authentication-results": "only the receiving server writes it (RFC 8601)",
}
_PREFIX = {
    "content-": "it is written for you",
    "resent-": "a message from the outbox is not resent",
    "arc-": "only forwarders write it (RFC 8617)",
    "received-": "only servers write it",
}
_KINDS = {
    "date": Kind("date", single=True),
    "message-id": Kind("msg-id", single=True),
    "in-reply-to": Kind("identifier", single=True),
    "references": Kind("identifier", single=True),
    "feedback-id": Kind("identifier", single=True),
    "auto-submitted": Kind("identifier", single=True),
    "precedence": Kind("identifier", single=True),
    "sender": Kind("mailbox", single=True),
    "errors-to": Kind("mailbox", single=True),
    "return-receipt-to": Kind("mailbox", single=True),
    "disposition-notification-to": Kind("mailbox", single=True),
}


def _refuse(name: str, problem: str) -> NoReturn:
    raise Failure(f"header {name}: {problem}", "header")


@lru_cache(1024)
def kind(name: str) -> Kind:
    """How a row's own header `name` is written. Raises `Failure` for what is no name and for what a row may not set.

    A row may set Date and Message-ID, which then stand in for ours. It may not set what a column or the MIME writer
    sets, since the message would then carry it twice, nor what only servers write.
    """
    if not _ftext(name) or len(name) > NAME_LIMIT:  # RFC 5322 §2.2, §3.6.8
        raise Failure(f"headers: {name[:80]!a} is not a header name", "header")
    lower = name.lower()
    if why := _COLUMN.get(lower):
        _refuse(name, f"may not be set by a row: {why}")
    for prefix, why in _PREFIX.items():
        if lower.startswith(prefix):
            _refuse(name, f"may not be set by a row: {why}")
    if lower.startswith("list-"):  # RFC 2369, RFC 2919, RFC 8058
        return Kind("identifier", single=True)
    return _KINDS.get(lower) or Kind("text")


def check_text(name: str, value: str) -> None:
    """Refuse CR, LF, NUL and the other controls in the value of the header `name`."""
    if bad := _bad(value):
        what = {"\r": "line break", "\n": "line break", "\0": "NUL"}.get(
            bad[0], f"control character U+{ord(bad[0]):04X}"
        )
        _refuse(name, f"{what} in the value")


def unstructured(name: str, value: str) -> str:
    """The field `name` with free text, as lines with CRLF. Runs of spaces survive; those at the ends do not.

    ASCII stands as it is, but for text that looks like an encoded-word, which is encoded so that the reader sees what
    the row holds.
    """
    check_text(name, value)
    if value[:1] in " \t" or value[-1:] in " \t":
        value = value.strip(" \t")
    if value.isascii() and "=?" not in value:
        if len(name) + 2 + len(value) <= WIDTH:
            return f"{name}: {value}\r\n"
        pieces = _pieces(value)
        room = LINE_LIMIT - len(name) - 2
        if len(max(pieces, key=len)) <= room:
            return _lay(name, pieces)
    return fold(name, encoded_words(value, WIDTH - len(name) - 2))


def identifier(name: str, value: str) -> str:
    """The field `name` with ids, URLs or keywords: ASCII, never encoded, folded at its own white space alone."""
    check_text(name, value)
    if not value.isascii():
        _refuse(name, "only ASCII is allowed in it (a URL must be percent-encoded, a domain an A-label)")
    if value[:1] in " \t" or value[-1:] in " \t":
        value = value.strip(" \t")
    if len(name) + 2 + len(value) <= WIDTH:
        return f"{name}: {value}\r\n"
    pieces = _pieces(value)
    if len(name) + 2 + len(max(pieces, key=len)) > LINE_LIMIT:
        _refuse(name, f"a part of it is longer than a line may be ({LINE_LIMIT} octets)")
    return _lay(name, pieces)


def message_id(name: str, value: str) -> str:
    """A single `<left@right>` as the value of `name`, stripped. Raises `Failure` for anything else (RFC 5322 §3.6.4)."""
    value = value.strip(" \t")
    if len(value) > LINE_LIMIT - 20 or not _msg_id(value):
        _refuse(name, f"not a message id <left@right>: {value[:80]!a}")
    return value


def date(name: str, value: str) -> str:
    """An RFC 5322 date-time as the value of `name`, stripped."""
    check_text(name, value)
    try:
        if not value.isascii():
            raise ValueError
        parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        _refuse(name, f"not a date (RFC 5322 §3.3): {value[:80]!a}")
    return value.strip(" \t")


def fold(name: str, tokens: Iterable[str]) -> str:
    """The field `name` from tokens that stand one space apart, between any two of which a line may end."""
    iterator = iter(tokens)
    return _lay(name, [next(iterator, ""), *(" " + token for token in iterator)])


def _lay(name: str, pieces: Sequence[str]) -> str:
    """Pieces into lines: every piece but the first starts with white space, none is white space alone."""
    first = pieces[0] if pieces else ""
    # Some parsers lose a field that has nothing on its first line: only an encoded-word that would break RFC 2047's
    # line limit moves below.
    line = f"{name}: {first}" if len(name) + 2 + len(first) <= WIDTH or first[:2] != "=?" else f"{name}:\r\n {first}"
    done, width = [], len(line) - (line.rfind("\n") + 1)
    for piece in pieces[1:]:
        if width + len(piece) > WIDTH:
            done.append(line)
            line, width = piece, len(piece)
        else:
            line += piece
            width += len(piece)
    done.append(line)
    return "\r\n".join(done) + "\r\n"


class _QTable(dict[int, str]):
    """Code point to its form in a Q encoded-word, for `str.translate`; bounded, since text is anybody's."""

    def __missing__(self, point: int) -> str:
        octets = chr(point).encode()
        if len(octets) == 1 and octets in _Q_PLAIN:
            form = chr(point)
        else:
            form = "_" if point == 0x20 else "".join(f"={octet:02X}" for octet in octets)
        if len(self) < 4096:
            self[point] = form
        return form


_q_table = _QTable()


def encoded_words(text: str, first: int = WORD_LIMIT) -> list[str]:
    """`text` as RFC 2047 encoded-words in UTF-8, split between characters, each at most 75 octets.

    `first` is the room for the first word, where the field's name stands on the same line. Q or B, whichever is
    shorter. Raises `Failure` for unpaired surrogates.
    """
    try:
        data = text.encode()
        quoted = text.translate(_q_table)
    except UnicodeEncodeError:
        raise Failure("text that is not valid Unicode (an unpaired surrogate)", "content") from None
    room = (first if 30 <= first < WORD_LIMIT else WORD_LIMIT) - 12  # =?utf-8?q? and ?=
    use_q = len(quoted) <= (len(data) + 2) // 3 * 4
    if use_q and len(quoted) <= room:
        return [f"=?utf-8?q?{quoted}?="]
    words: list[str] = []
    start, width, size = 0, 0, room if use_q else room // 4 * 3
    for i, c in enumerate(text):
        step = len(_q_table[ord(c)]) if use_q else len(c.encode())
        if width + step > size:
            words.append(_word(text[start:i], use_q))
            start, width, size = i, 0, WORD_LIMIT - 12 if use_q else (WORD_LIMIT - 12) // 4 * 3
        width += step
    words.append(_word(text[start:], use_q))
    return words


def _word(text: str, use_q: bool) -> str:
    if use_q:
        return f"=?utf-8?q?{text.translate(_q_table)}?="
    return f"=?utf-8?b?{binascii.b2a_base64(text.encode(), newline=False).decode('ascii')}?="
