"""A mail's octets as fields and a flat list of parts. Reads anything and never raises; repairs nothing.

Ends of line may be CRLF, LF or CR, mixed; a mbox `From ` line may stand first; boundaries, ends and whole parts may be
missing. Multiparts are opened, messages within the message are not: whoever wants one reads it again. All loops are
over what is there once, so the work grows with the octets read, and those are at most `OCTETS`.

Not the standard library's parser: on typical bounces it takes several times as long, some hostile fields make it raise, and
it keeps all of a mail of which only the first part is wanted. What it has for single values is used (base64, quoted-printable).
"""

from __future__ import annotations

import binascii
import re
from email.errors import HeaderParseError
from email.header import decode_header
from functools import lru_cache
from typing import Final

import msgspec

__all__ = ["FIELD_LIMIT", "OCTETS", "Fields", "Mail", "Part", "fields_of", "open_mail", "words"]

OCTETS: Final = 1 << 20  # of a mail that are looked at: reports come before the message that they return
FIELD_LIMIT: Final = 4096  # characters of a field's value that are kept
TEXT_LIMIT: Final = 1 << 16  # octets of a text part that are decoded
_FIELDS: Final = 1000
_PARTS: Final = 64
_DEPTH: Final = 6

_FIELD: Final = re.compile(rb"^([!-9;-~]{1,100})[ \t]*:(.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_PARAMETER: Final = re.compile(r";\s*([A-Za-z0-9*_-]{1,40})\s*=\s*(?:\"((?:[^\"\\]|\\.){0,500})\"|([^\s;\"]{1,500}))")
_UNDECLARED: Final = re.compile(rb"^--([^\s-]\S{0,200})[ \t]*\n(?=content-|\n)", re.MULTILINE | re.IGNORECASE)
# Other codecs are not for text, or slow on hostile input (punycode, idna), or unpack (zip).
_CHARSET: Final = re.compile(
    r"(?:us-)?ascii|utf-?(?:8|16(?:[lb]e)?)|iso-?8859-\d{1,2}|latin-?1|(?:windows-|cp)\d{3,4}|koi8-[ru]|iso-2022-(?:jp|kr)(?:-\w{1,4})?"
    r"|shift[-_]jis|sjis|euc-?(?:jp|kr)|ks_c_5601-1987|gb(?:2312|k|18030)|big5(?:-?hkscs)?|tis-620",
    re.IGNORECASE,
)


class Fields:
    """Header fields: names in lower case, values unfolded and not decoded."""

    __slots__ = ("_first", "all")

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self.all = fields
        self._first: dict[str, str] = {}
        for name, value in fields:
            self._first.setdefault(name, value)

    def get(self, name: str) -> str:
        """The first field of that name, '' if there is none."""
        return self._first.get(name, "")

    def every(self, name: str) -> list[str]:
        """All fields of that name, in order."""
        return [value for found, value in self.all if found == name] if name in self._first else []


class Part(msgspec.Struct, frozen=True):
    """One part that is no multipart. `kind` is `type/subtype`, in lower case."""

    kind: str
    fields: Fields
    body: bytes
    parameters: dict[str, str]

    def octets(self) -> bytes:
        """The body without its transfer encoding, as far as it can be undone."""
        body = self.body
        encoding = self.fields.get("content-transfer-encoding").strip().lower()
        if encoding == "base64":
            clean = re.sub(rb"[^A-Za-z0-9+/]", b"", body)
            clean = clean[: len(clean) & ~3] if len(clean) % 4 == 1 else clean + b"=" * (-len(clean) % 4)
            try:
                return _one_newline(binascii.a2b_base64(clean))
            except binascii.Error:
                return body
        if encoding == "quoted-printable":
            return _one_newline(binascii.a2b_qp(body))
        return body

    def text(self) -> str:
        """The body as text, at most `TEXT_LIMIT` octets of it."""
        return _decoded(self.octets()[:TEXT_LIMIT], self.parameters.get("charset", ""))


class Mail(msgspec.Struct, frozen=True):
    """A mail: its own fields, its parts in order, and whether some of it was left out."""

    fields: Fields
    kind: str
    parameters: dict[str, str]
    parts: list[Part]
    truncated: bool


def open_mail(raw: bytes) -> Mail:
    """The mail in `raw`, the octets of a message (RFC 5322) with whatever ends of line."""
    truncated = len(raw) > OCTETS
    octets = _one_newline(raw[:OCTETS]).lstrip(b"\n")
    if octets.startswith((b"From ", b">From ")):
        octets = octets.partition(b"\n")[2]
    fields, body = _split(octets)
    kind, parameters = _kind(fields)
    if not kind and (found := _UNDECLARED.search(body[:500])):
        kind, parameters = "multipart/mixed", {"boundary": found[1].decode("latin-1").rstrip()}
    parts: list[Part] = []
    whole = _walk(kind or "text/plain", parameters, fields, body, parts, 0)
    return Mail(fields, kind or "text/plain", parameters, parts, truncated or not whole)


def _walk(kind: str, parameters: dict[str, str], fields: Fields, body: bytes, parts: list[Part], depth: int) -> bool:
    """Appends the parts of one entity. False if there are more or deeper ones than are read."""
    boundary = parameters.get("boundary", "")
    if not kind.startswith("multipart/") or not boundary:
        parts.append(Part("text/plain" if kind.startswith("multipart/") else kind, fields, body, parameters))
        return True
    if depth >= _DEPTH:
        return False
    inner = _between(body, boundary)
    if not inner:  # the boundary is not there: text, most probably
        parts.append(Part("text/plain", fields, body, parameters))
        return True
    implied = "message/rfc822" if kind == "multipart/digest" else "text/plain"
    for piece in inner:
        if len(parts) >= _PARTS:
            return False
        own, rest = _split(piece) if not piece.startswith(b"\n") else (Fields([]), piece[1:])
        named, own_parameters = _kind(own)
        if not _walk(named or implied, own_parameters, own, rest, parts, depth + 1):
            return False
    return True


def _between(body: bytes, boundary: str) -> list[bytes]:
    line = re.compile(rb"^--" + re.escape(boundary.encode("latin-1", "replace")) + rb"(--)?[ \t]*$", re.MULTILINE)
    pieces: list[bytes] = []
    start = -1
    for mark in line.finditer(body):
        if start < 0 and mark[1]:
            continue
        if start >= 0:
            pieces.append(body[start : max(start, mark.start() - 1)])
        start = mark.end() + 1
        if mark[1]:
            return pieces
        if len(pieces) > _PARTS:
            break
    if start >= 0:
        pieces.append(body[start:])
    return pieces


def _one_newline(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in octets else octets


def _split(octets: bytes) -> tuple[Fields, bytes]:
    head, _, body = octets.partition(b"\n\n")
    return fields_of(head), body


def fields_of(block: bytes) -> Fields:
    """The header fields in `block` (LF only); lines that are none are passed over."""
    fields: list[tuple[str, str]] = []
    for found in _FIELD.finditer(block):
        name = found[1].decode("ascii").lower()
        value = _decoded(found[2][:FIELD_LIMIT], "")
        fields.append((name, " ".join(value.split()) if "\n" in value else value.strip()))
        if len(fields) >= _FIELDS:
            break
    return Fields(fields)


def _kind(fields: Fields) -> tuple[str, dict[str, str]]:
    value = fields.get("content-type")
    if not value:
        return "", {}
    parameters: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(value):
        parameters.setdefault(name.lower().rstrip("*"), quoted.replace("\\", "") if quoted else plain)
    return value.partition(";")[0].strip().lower(), parameters


def _decoded(octets: bytes, charset: str) -> str:
    if octets.isascii() and b"\x1b" not in octets:
        return octets.decode("ascii")
    if charset and _CHARSET.fullmatch(charset):
        try:
            return octets.decode(charset, "replace")
        except LookupError:
            pass
    return octets.decode("utf-8", "replace")


@lru_cache(1024)
def words(value: str) -> str:
    """An unstructured field's value with its encoded-words (RFC 2047) decoded, as far as they can be."""
    if "=?" not in value:
        return value
    try:
        pairs = decode_header(value[:1000])
    except (HeaderParseError, ValueError, LookupError):
        return value
    return "".join(text if isinstance(text, str) else _decoded(text, charset or "") for text, charset in pairs)
