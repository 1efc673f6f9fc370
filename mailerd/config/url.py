"""An http or https URL, taken apart strictly, and whether it lies within another one: the guard of what rows may name.

What is judged is what is asked for: only the grammar of RFC 3986 passes, nothing is repaired or resolved, and the text
goes to the wire as it is. So no second parser can read a URL otherwise than this one. Scheme, host and port are compared
exactly, the path by whole segments, decoded. Refused wherever it stands: a user, a fragment, a segment that is `.` or
`..` or holds `/`, `\\` or a control character, also when it is encoded, and encoded again.

It asks no DNS and knows no addresses: whoever lists an origin trusts the name. Messages say nothing of path and query,
which may hold a signature.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote_to_bytes

import msgspec

__all__ = ["Url", "parse"]

LONGEST = 8192
_PORTS = {"http": 80, "https": 443}
_CHAR = r"[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"  # RFC 3986 §3.3 pchar
_grammar = re.compile(
    rf"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)(?::(?P<port>[0-9]{{1,5}}))?"
    rf"(?P<path>(?:/(?:{_CHAR})*)*)(?:\?(?P<query>(?:{_CHAR}|[/?])*))?",
    re.IGNORECASE,
).fullmatch
_control = re.compile(rb"[\x00-\x1f\x7f/\\]").search


class Url(msgspec.Struct, frozen=True):
    """`path` and `query` as they were written, `segments` decoded; `host` in lower case."""

    scheme: str
    host: str
    port: int
    path: str
    query: str
    segments: tuple[bytes, ...]

    @property
    def origin(self) -> str:
        """As in `https://files.example.org`, the port only where it is not the scheme's."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"

    @property
    def text(self) -> str:
        return f"{self.origin}{self.path}" + (f"?{self.query}" if self.query else "")

    def within(self, place: Url) -> bool:
        """Does it begin with `place`: the same origin, and all segments of its path (an empty last one does not count)?"""
        first = place.segments[:-1] if place.segments[-1] == b"" else place.segments
        same = (self.scheme, self.host, self.port) == (place.scheme, place.host, place.port)
        return same and self.segments[: len(first)] == first


def parse(text: str) -> Url:
    """Raises ValueError with words for behind `url`."""
    if len(text) > LONGEST:
        raise ValueError(f"has more than {LONGEST} characters")
    found = _grammar(text)
    if found is None:
        raise ValueError(_why(text))
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise ValueError("has a port that does not exist")
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError("has a host that is no address") from None
    path = found["path"] or "/"
    segments = tuple(unquote_to_bytes(segment) for segment in path[1:].split("/"))
    if any(map(_leads_away, segments)):
        raise ValueError("must have no `.`, `..`, `\\`, encoded `/` or control character in its path")
    return Url(scheme, host, port, path, found["query"] or "", segments)


def _leads_away(segment: bytes) -> bool:
    """May it lead somewhere else, on a server that decodes once more, or that drops what is behind a `;`?"""
    for _ in range(3):
        if _control(segment) or segment.partition(b";")[0] in (b".", b".."):
            return True
        segment = unquote_to_bytes(segment)
    return False


def _why(text: str) -> str:
    scheme, colon, rest = text.partition("://")
    if not colon or scheme.lower() not in _PORTS:
        return "must begin with https:// or http://"
    if "@" in re.split(r"[/?#\\]", rest, maxsplit=1)[0]:
        return "must have no user"
    if "\\" in rest:
        return "must have no `\\`"
    if "#" in rest:
        return "must have no fragment"
    if not text.isascii() or not text.isprintable() or " " in text:
        return "must be ASCII without blanks: percent-encode it, and the host as A-labels"
    return "is no URL by RFC 3986"
