"""A calendar object as a body part beside text and HTML: an invitation that mail programs show with its buttons.

RFC 6047 §2.4: text/calendar whose `method` parameter is the object's own METHOD, in UTF-8; RFC 5545 §3.1: lines end
in CRLF. It looks at the frame of the object and at METHOD, not at what stands in its events.
"""

from __future__ import annotations

import binascii
import re

from mailerd.message import Failure

__all__ = ["TYPE", "has_method", "is_calendar", "part"]

TYPE = "text/calendar"
WIDTH = 78
_METHODS = ("PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER")  # RFC 5546 §1.4
_method = re.compile(r"^METHOD:([A-Za-z-]+)[ \t]*$", re.MULTILINE | re.IGNORECASE).findall
_parameter = re.compile(r';\s*method\s*=\s*"?([A-Za-z-]+)"?', re.IGNORECASE).search
_control = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]").search  # RFC 5545 §3.1
_chunks = re.compile(rb".{1,76}", re.DOTALL).findall


def is_calendar(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == TYPE


def has_method(content_type: str) -> bool:
    """Does it say that it is no mere file, but asks for something (RFC 6047 §2.4)?"""
    return is_calendar(content_type) and _parameter(content_type) is not None


def part(data: bytes, content_type: str, where: str) -> bytes:
    """The finished part, without a final CRLF. Raises `Failure` for what is no calendar, or not the one it is said to be."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    except UnicodeDecodeError:
        raise Failure(f"{where}: the calendar is not UTF-8", "attachment") from None
    upper = text.upper()
    if not upper.startswith("BEGIN:VCALENDAR\n") or not upper.endswith("\nEND:VCALENDAR"):
        raise Failure(f"{where}: not a calendar: no BEGIN:VCALENDAR … END:VCALENDAR", "attachment")
    if bad := _control(text):
        raise Failure(f"{where}: control character U+{ord(bad[0]):04X} in the calendar", "attachment")
    methods = {method.upper() for method in _method(text)}
    if len(methods) != 1:
        raise Failure(f"{where}: the calendar has {'no' if not methods else 'more than one'} METHOD", "attachment")
    method = methods.pop()
    if method not in _METHODS:
        raise Failure(f"{where}: METHOD:{method[:40]} is none of {', '.join(_METHODS)}", "attachment")
    said = _parameter(content_type)
    if said and said[1].upper() != method:
        raise Failure(f"{where}: method={said[1][:40]} in content_type, METHOD:{method} in the calendar", "attachment")
    lines = text.split("\n")
    octets = "\r\n".join(lines).encode() + b"\r\n"
    plain = text.isascii() and "=_" not in text and max(map(len, lines)) <= WIDTH
    encoding = "7bit" if plain else "base64"
    body = octets if plain else b"\r\n".join(_chunks(binascii.b2a_base64(octets, newline=False)))
    head = f"Content-Type: {TYPE}; charset=utf-8; method={method}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode("ascii") + body
