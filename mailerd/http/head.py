"""The header of a composed message, read back: unfolded fields, encoded words, mailboxes. Pure.

Our own composer wrote most of what comes here, so the ways that it writes are read directly; anything else an application
may have put into `raw` goes to the standard library's parser of addresses. It never raises for any octets. Source:
RFC 5322 §2.2.3 and §3.4, RFC 2047 §2 and §6.2.
"""

from __future__ import annotations

import base64
import binascii
import re
from email.utils import formataddr, getaddresses
from functools import lru_cache
from typing import Final

import msgspec

__all__ = ["Mailbox", "decoded", "mailboxes", "read"]

LIMIT: Final = 32_768  # characters of a field of mailboxes: 63 of them, and room; work grows with the square

_word = re.compile(r"=\?([\w.:+-]{1,40})(?:\*[\w-]{1,40})?\?([bBqQ])\?([^? ]*)\?=")
_folded = re.compile(r"\n[ \t]+")
_ADDRESS = r'[^\s"<>(),;:@\\]+@[^\s"<>(),;:@\\]+'
_mailbox = re.compile(rf'([^"<>(),;:@\\]{{1,200}}) <({_ADDRESS})>|({_ADDRESS})').fullmatch


class Mailbox(msgspec.Struct, frozen=True):
    """A name, or '', and an address."""

    name: str
    address: str

    def __str__(self) -> str:
        """As a header has it; a name that is not ASCII stays as it is, in quotes."""
        if not self.name:
            return self.address
        if self.name.isascii():
            return formataddr((self.name, self.address))
        quoted = self.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{self.address}>'


def read(head: bytes) -> list[tuple[str, str]]:
    """(name, value) of each field, unfolded, in order. Lines that are no field are left out."""
    text = head.decode("utf-8", "replace").replace("\0", "").replace("\r\n", "\n").replace("\r", " ")
    if "\n " in text or "\n\t" in text:
        text = _folded.sub(" ", text)
    found = []
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon and name and name.isascii() and name.isprintable() and " " not in name:
            found.append((name, value.strip()))
    return found


def decoded(value: str) -> str:
    """A value with its encoded words read; one that cannot be is left as it is."""
    if "=?" not in value:
        return value
    pieces: list[str] = []
    octets, charset, end = b"", "", 0
    for word in _word.finditer(value):
        between = value[end : word.start()]
        joins = end > 0 and not between.strip()
        if not joins or word[1].lower() != charset:
            pieces.append(_text(octets, charset))
            octets, charset = b"", word[1].lower()
        if not joins:
            pieces.append(between)
        octets += _octets(word[2], word[3])
        end = word.end()
    pieces += [_text(octets, charset), value[end:]]
    return " ".join("".join(pieces).split())


@lru_cache(maxsize=512)
def mailboxes(value: str) -> tuple[Mailbox, ...]:
    """The mailboxes of a From, To, Cc or Reply-To; none of one that is longer than any can be."""
    if len(value) > LIMIT:
        return ()
    found = _mailbox(value)
    if found is not None:
        return (Mailbox(decoded(found[1] or ""), found[2] or found[3]),)
    try:
        return tuple(Mailbox(decoded(name), mailbox) for name, mailbox in getaddresses([value]) if "@" in mailbox)
    except RecursionError:  # comments in comments
        return ()


def _octets(encoding: str, text: str) -> bytes:
    try:
        if encoding in "bB":
            return base64.b64decode(text + "=" * (-len(text) % 4))
        return binascii.a2b_qp(text.encode("utf-8"), header=True)
    except ValueError:
        return text.encode("utf-8", "replace")


def _text(octets: bytes, charset: str) -> str:
    try:
        text = octets.decode(charset or "ascii", "replace")
    except (LookupError, ValueError):
        text = octets.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)
