"""The MIME writer: texts and attachments into one entity, its Content-* fields first (RFC 2045, 2046).

    text                     text/plain
    text + html              multipart/alternative
    text + AMP + html        the same, in this order: some programs show the last part that they know
    … + inline parts         the html becomes multipart/related (RFC 2387)
    … + a calendar           the last part of multipart/alternative (`compose.calendar`)
    … + attachments          all of it inside multipart/mixed

Texts travel as 7bit where they are ASCII in short lines, else quoted-printable or base64, whichever is shorter;
nothing here needs 8BITMIME. Line ends are CRLF throughout and content is kept to the character, trailing line ends
included. Boundaries derive from the message id, so that a retry sends the same octets. They begin with `=_`, which
neither quoted-printable nor base64 can produce (RFC 2045 §6.7), and a text that contains it is not sent as 7bit: that
is why no content can forge one.

Hazard: octets grow by 4/3 in base64 and are held several times over while they are joined; the caller bounds sizes.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from mimetypes import MimeTypes
from urllib.parse import quote, unquote

import msgspec
from msgspec import UNSET, UnsetType

from mailerd.compose import calendar
from mailerd.message import Failure

from .quoted import quoted

__all__ = ["CLIP", "Attachment", "Part", "Reference", "attachments", "clipped", "entity", "lines_fit", "references"]

LINE_LIMIT = 998  # RFC 5322 §2.1.1
PLAIN_WIDTH = 78  # the SHOULD of RFC 5322 §2.1.1: programs show the lines of a plain text as they are
HTML_WIDTH = 900  # nobody sees the lines of HTML; below 998, since some servers break lines at 990
FILENAME_LIMIT = 255
MOST = 200  # attachments of a message: each reference is looked up, and a row of some kB can hold 100 000
CLIP = 102 * 1024  # octets of HTML beyond which Gmail hides the rest

_ASCII = bytes(range(128))
_lines = re.compile(rb".{1,76}", re.DOTALL).findall
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 2045 §5.1 token
_media_type = re.compile(rf'({_WORD})/{_WORD}(?: *; *{_WORD}=(?:{_WORD}|"[ !#-\[\]-~]*"))*').fullmatch
_content_id = re.compile(r"[!-;=?-~]+").fullmatch
_sha256 = re.compile("[0-9A-Fa-f]{64}").fullmatch
_control = re.compile("[\x00-\x1f\x7f]").search
_special = re.compile(r'(["\\])').sub
_TYPES = MimeTypes(filenames=())  # the built-in table alone: the same answer on every host
_TYPES.add_type(calendar.TYPE, ".ics")


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One element of a row's `attachments`, as its JSON has it: one of `content` (base64, line breaks allowed), `path` and
    `url`, or else `sha256` alone. `sha256`, in hex, is what the octets must hash to. `disposition` is `attachment`, `inline`,
    or `alternative` for a calendar beside the texts."""

    content: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    sha256: str | UnsetType = UNSET
    filename: str | None = None
    content_type: str | None = None
    disposition: str | None = None
    cid: str | None = None


class Part(msgspec.Struct, frozen=True):
    """A finished body part: its whole octets without a final CRLF, and whether it belongs beside the HTML."""

    octets: bytes
    inline: bool
    alternative: bool = False


class Reference(msgspec.Struct, frozen=True):
    """An attachment that is to be fetched: its index, how messages name it, where it is ('' what is not said: `sha256` alone
    names it then), the digest that it must have, in lower-case hex, or '', and its content type."""

    index: int
    where: str
    path: str
    url: str
    sha256: str
    type: str


_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_one = msgspec.json.Decoder(Attachment).decode
_decode_name = msgspec.json.Decoder(dict[str, object]).decode


def _heads(subtype: str) -> dict[str, bytes]:
    return {
        encoding: f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
        for encoding in ("7bit", "quoted-printable", "base64")
    }


_HEADS = {subtype: _heads(subtype) for subtype in ("plain", "html", "x-amp-html")}


def _text(subtype: str, text: str, width: int) -> bytes:
    """A text/`subtype` part. Raises `Failure` for NUL and for unpaired surrogates."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise Failure(f"the {subtype} text contains NUL", "content")  # RFC 5321 §4.5.2 and RFC 2045 §2.7 forbid it
    heads = _HEADS[subtype]
    if text.isascii():
        lines = text.split("\n")
        if len(max(lines, key=len)) <= width and "=_" not in text:
            return heads["7bit"] + "\r\n".join(lines).encode("ascii")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Failure(f"the {subtype} text is not valid Unicode (an unpaired surrogate)", "content") from None
    # Quoted-printable makes three octets of each that is not ASCII, base64 four of every three. To begin with, a guess that
    # is quick to make: UTF-8 has at most twice as many octets that are not ASCII as it has more octets than characters.
    if (len(data) - len(text)) * 12 <= len(data) or (
        len(data.translate(None, _ASCII)) * 6 <= len(data) + data.count(b"\n")
    ):
        return heads["quoted-printable"] + quoted(text)
    encoded = binascii.b2a_base64(data.replace(b"\n", b"\r\n"), newline=False)
    return heads["base64"] + b"\r\n".join(_lines(encoded))


def _multipart(subtype: str, boundary: str, parts: Sequence[bytes], extra: str = "") -> bytes:
    delimiter = f"\r\n--{boundary}\r\n".encode()
    head = f'Content-Type: multipart/{subtype};{extra}\r\n boundary="{boundary}"\r\n\r\n--{boundary}\r\n'.encode()
    return head + delimiter.join(parts) + f"\r\n--{boundary}--".encode()


def entity(
    unique: str, text: str | None, html: str | bytes | None, parts: Sequence[Part] = (), amp: str | None = None
) -> bytes:
    """The body of a message with its Content-* fields in front and a final CRLF.

    `unique` is the message's own token of letters, digits and dots, at most 60. HTML as octets is in quoted-printable
    already. With nothing at all it is an empty text/plain. Inline parts without HTML to show them go with the attachments.
    `amp` stands in for an HTML beside it (AMP for Email: a text/x-amp-html between text/plain and text/html), and is nothing
    without one.
    """
    inline = [part.octets for part in parts if part.inline] if parts and html is not None else []
    attached = [part.octets for part in parts if not part.alternative and (not part.inline or html is None)]
    # RFC 2046 §5.1.4: the richest last, and what a program does not know it skips.
    several: list[bytes] = []
    if text is not None or (html is None and not attached):
        several.append(_text("plain", text or "", PLAIN_WIDTH))
    if html is not None:
        if amp is not None:
            several.append(_text("x-amp-html", amp, HTML_WIDTH))
        rich = _text("html", html, HTML_WIDTH) if isinstance(html, str) else _HEADS["html"]["quoted-printable"] + html
        several.append(
            _multipart("related", f"=_{unique}_r", [rich, *inline], ' type="text/html";') if inline else rich
        )
    others = [part.octets for part in parts if part.alternative]
    several += others
    body: bytes | None = None
    if several:
        body = several[0] if len(several) == 1 and not others else _multipart("alternative", f"=_{unique}_a", several)
    if attached:
        whole = attached if body is None else [body, *attached]
        body = _multipart("mixed", f"=_{unique}_m", whole)
    assert body is not None
    return body if body.endswith(b"\r\n") else body + b"\r\n"


def clipped(html: str | bytes) -> bool:
    """Will Gmail hide the end of it? Octets are counted only where it may be so. HTML as octets is in quoted-printable."""
    if isinstance(html, bytes):
        return len(html) > CLIP and len(binascii.a2b_qp(html)) > CLIP
    return len(html) * 4 > CLIP and (len(html) > CLIP or len(html.encode("utf-8", "replace")) > CLIP)


def attachments(source: str, unique: str, fetched: Mapping[int, bytes] | None = None) -> list[Part]:
    """The parts that a row's `attachments` JSON describes: an array of objects with the fields of `Attachment`. `fetched`
    are the octets of those that are references, by index.

    Raises `Failure` (category `attachment`) naming the index, from 0, and the file name of the one that is wrong.
    """
    fetched = fetched or {}
    parts = [_attachment(i, item, unique, fetched) for i, item in enumerate(_items(source))]
    if sum(part.alternative for part in parts) > 1:
        raise Failure("attachments: more than one with the disposition alternative", "attachment")
    return parts


def references(source: str | None) -> list[Reference]:
    """Those of a row's `attachments` that are to be fetched. Raises `Failure` as `attachments` does."""
    if source is None or not ('"url"' in source or '"path"' in source or '"sha256"' in source):  # nearly every message
        return []
    found = []
    for index, item in enumerate(_items(source)):
        it, where = _read(index, item)
        if it.content is UNSET:
            found.append(
                Reference(index, where, it.path or "", it.url or "", (it.sha256 or "").lower(), _type_of(it, where))
            )
    return found


def _items(source: str) -> list[msgspec.Raw]:
    try:
        items = _decode(source)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as e:
        raise Failure(f"attachments: not a JSON array of objects ({e})", "attachment") from None
    if len(items) > MOST:
        raise Failure(f"attachments: {len(items)} of them, at most {MOST} are allowed", "attachment")
    return items


def _read(index: int, item: msgspec.Raw) -> tuple[Attachment, str]:
    """One element, and how messages name it."""
    try:
        it = _decode_one(item)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as e:
        raise Failure(f"attachments[{index}]{_name_of(item)}: {e}", "attachment") from None
    name = it.filename or _basename(it)
    where = f"attachments[{index}]" + (f" ({name[:80]!a})" if name else "")
    given = [value for value in (it.content, it.path, it.url) if value is not UNSET]
    if not given and it.sha256 is UNSET:
        raise Failure(f"{where}: Object missing required field `content` (or `path`, `url`, `sha256`)", "attachment")
    if len(given) > 1:
        raise Failure(f"{where}: has more than one of content, path and url", "attachment")
    if it.content is UNSET and "" in given:
        raise Failure(f"{where}: path and url must not be empty", "attachment")
    if it.sha256 is not UNSET and not _sha256(it.sha256):
        raise Failure(f"{where}: sha256 must be 64 hexadecimal digits", "attachment")
    return it, where


def _basename(it: Attachment) -> str:
    """The last part of a path or URL: the name of an attachment that is given none. Not more than a file name may be."""
    name = it.path or unquote((it.url or "").partition("?")[0].rpartition("/")[2])
    name = name.rpartition("/")[2]
    return "" if _control(name) or len(name) > FILENAME_LIMIT else name


def _attachment(index: int, item: msgspec.Raw, unique: str, fetched: Mapping[int, bytes]) -> Part:
    it, where = _read(index, item)
    kind = _type_of(it, where)
    disposition = it.disposition or ("inline" if it.cid else "attachment")
    if disposition == "alternative" or (it.disposition is None and calendar.has_method(kind)):
        if not calendar.is_calendar(kind):
            raise Failure(f"{where}: only text/calendar can be an alternative, not {kind[:80]!a}", "attachment")
        return Part(calendar.part(_octets(it, where, fetched.get(index))[0], kind, where), False, True)
    lines = [f"Content-Type: {kind}"]
    if disposition not in ("attachment", "inline"):
        raise Failure(
            f"{where}: disposition is neither attachment nor inline nor alternative: {disposition[:80]!a}", "attachment"
        )
    if name := it.filename or _basename(it):
        disposition += _filename(name, where)
    lines.append(f"Content-Disposition: {disposition}")
    if it.cid is not None:
        cid = it.cid.removeprefix("<").removesuffix(">")
        if not _content_id(cid) or len(cid) > 255:
            raise Failure(f"{where}: not a content id: {it.cid[:80]!a}", "attachment")
        lines.append(f"Content-ID: <{cid}>")
    data, packed = _octets(it, where, fetched.get(index))
    if lines[0].startswith("Content-Type: message/"):
        # RFC 2046 §5.2.1: a message may be sent as 7bit alone, not as base64.
        lines.append("Content-Transfer-Encoding: 7bit")
        body = _message(data, unique, where)
    else:
        lines.append("Content-Transfer-Encoding: base64")
        body = b"\r\n".join(_lines(packed or binascii.b2a_base64(data, newline=False)))
    return Part(("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body, disposition.startswith("inline"))


def _octets(it: Attachment, where: str, fetched: bytes | None) -> tuple[bytes, bytes]:
    """An attachment's octets, and their base64 where the row has it: it is known to be valid, and goes as it came."""
    if it.content is UNSET:
        if fetched is None:
            raise Failure(f"{where}: was not fetched", "attachment")
        return fetched, b""
    packed = "".join(it.content.split())  # encoders break lines, Postgres's encode() among them
    try:
        data = binascii.a2b_base64(packed, strict_mode=True)
    except ValueError as e:  # binascii.Error, and ValueError for what is not ASCII
        raise Failure(f"{where}: content is not base64 ({e})", "attachment") from None
    if it.sha256 is not UNSET and sha256(data).hexdigest() != it.sha256.lower():
        raise Failure(f"{where}: content does not have the sha256 it should", "attachment")
    return data, packed.encode("ascii")


def _name_of(item: msgspec.Raw) -> str:
    try:
        name = _decode_name(item).get("filename")
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return ""
    return f" ({name[:80]!a})" if isinstance(name, str) else ""


def _type_of(it: Attachment, where: str) -> str:
    if it.content_type is None:
        guess, encoding = _TYPES.guess_type(it.filename or _basename(it), strict=False)
        return guess if guess and not encoding else "application/octet-stream"
    match = _media_type(it.content_type)
    if not match or len(it.content_type) > 255:
        raise Failure(f"{where}: not a content type: {it.content_type[:80]!a}", "attachment")
    if match[1].lower() == "multipart":
        raise Failure(f"{where}: a multipart type cannot be attached", "attachment")
    return match[1].lower() + it.content_type[len(match[1]) :]


def _filename(name: str, where: str) -> str:
    """The filename parameter, each on a line of its own: quoted (RFC 2183), or in the form of RFC 2231."""
    if bad := _control(name):
        raise Failure(f"{where}: control character U+{ord(bad[0]):04X} in the file name", "attachment")
    if len(name) > FILENAME_LIMIT:
        raise Failure(f"{where}: file name of {len(name)} characters, at most {FILENAME_LIMIT}", "attachment")
    if name.isascii() and len(name) <= 60:
        return ';\r\n filename="' + _special(r"\\\1", name) + '"'
    try:
        pieces = [quote(c, safe="") for c in name]
    except UnicodeEncodeError:
        raise Failure(f"{where}: file name that is not valid Unicode", "attachment") from None
    if sum(map(len, pieces)) <= 55:
        return ";\r\n filename*=utf-8''" + "".join(pieces)
    lines, line = [], "utf-8''"  # RFC 2231 §4.1
    for piece in pieces:
        if len(line) + len(piece) > 58:
            lines.append(line)
            line = ""
        line += piece
    lines.append(line)
    return "".join(f";\r\n filename*{i}*={line}" for i, line in enumerate(lines))


def _message(data: bytes, unique: str, where: str) -> bytes:
    body = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if not body.isascii() or b"\0" in body or not lines_fit(body) or f"=_{unique}_".encode() in body:
        raise Failure(
            f"{where}: a message/* part must be ASCII in lines of at most {LINE_LIMIT} octets; "
            "attach it as application/octet-stream",
            "attachment",
        )
    return body


def lines_fit(content: bytes, limit: int = LINE_LIMIT) -> bool:
    """Whether no line of `content`, whose line ends are CRLF, has more than `limit` octets before its line end."""
    start, end = 0, len(content)
    while end - start > limit:
        found = content.rfind(b"\n", start, start + limit + 2)
        if found < 0:
            return False
        start = found + 1
    return True
