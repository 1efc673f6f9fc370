"""The web links of rendered parts, and where their author wrote them: what `template push --links` asks after.

Left out is what is nobody's page yet: links marked `data-unsubscribe`, those that the caller spares (the ones that lead
to us), and names that are reserved for examples (RFC 2606, RFC 6761), which a sample is full of. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urldefrag, urlsplit

import msgspec

from .template import Content

__all__ = ["Link", "find", "origin", "reserved"]

_web = re.compile(r"https?://", re.IGNORECASE).match
_in_text = re.compile(r"https?://[^\s<>\"]+", re.IGNORECASE).finditer
_RESERVED: Final = re.compile(r"(?:^|\.)(?:example|test|invalid|example\.(?:com|net|org))$").search
_ATTRIBUTES: Final = {"a": "href", "area": "href", "img": "src", "amp-img": "src"}


class Link(msgspec.Struct, frozen=True):
    """A web address without its fragment, the part that has it, and its line there."""

    url: str
    part: str
    line: int


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, int]] = []
        self.spared: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        url = (given.get(_ATTRIBUTES.get(tag, "")) or "").strip()
        if not _web(url):
            return
        if "data-unsubscribe" in given:
            self.spared.add(url)
        else:
            self.found.append((url, self.getpos()[0]))


def find(content: Content, spare: Collection[str] = ()) -> list[Link]:
    """Each address once, in the order of the parts. `spare`: addresses, or beginnings of them, that are not looked at."""
    found: dict[str, Link] = {}
    spared: set[str] = set()
    for part in ("html", "amp", "text"):
        text = getattr(content, part)
        if text is None:
            continue
        if part == "text":
            places = [(m[0].rstrip(".,;:!?'*_]})"), text.count("\n", 0, m.start()) + 1) for m in _in_text(text)]
        else:
            reader = _Reader()
            reader.feed(text)
            reader.close()
            spared |= reader.spared
            places = reader.found
        for url, line in places:
            if url not in spared and not any(one and url.startswith(one) for one in spare):
                bare = urldefrag(url).url
                found.setdefault(bare, Link(bare, part, line))
    return list(found.values())


def reserved(url: str) -> bool:
    """Does it lead to a name that is there for examples?"""
    try:
        return _RESERVED((urlsplit(url).hostname or "").rstrip(".")) is not None
    except ValueError:
        return False


def origin(link: Link, files: Mapping[str, str]) -> str:
    """Where the author finds it: `welcome/html.j2, line 12`; of one that is made of params, its line when rendered."""
    for name, text in sorted(files.items()):
        at = text.find(link.url)
        if at < 0:
            at = text.find(link.url.replace("&", "&amp;"))
        if at >= 0:
            return f"{name}, line {text.count(chr(10), 0, at) + 1}"
    return f"line {link.line} of the rendered {link.part}"
