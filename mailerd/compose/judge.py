"""What a push finds fault with in a finished template: things that receivers clip, hide or punish, seen before mail goes out.

`judge` reads the sources, so that it sees what stands in branches, too; `measure` what a sample has made of them, since
that is what receivers get. Both offline: a link is broken if it cannot be followed from a mail, whatever its host would
answer. Pure.

Sizes: Gmail shows the first 102 kB of a message's HTML, as it is once its transfer encoding is taken off, and hides the
rest behind a link, the pixel at its end included. Tracked links and longer params come on top of a sample's size, hence
a warning well before.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

import msgspec

from . import amp
from .bundle import Edition
from .mime import CLIP
from .text import html_to_text

__all__ = ["CLIP", "Problem", "judge", "measure"]

NEAR: Final = 80 * 1024
_good_link = re.compile(r"(?:https?://[^\s/]+|mailto:\S+@|tel:|cid:|#\S|\{[{%])").match
_unsubscribe = re.compile(r"unsubscri|preferences|opt[- ]?out", re.IGNORECASE).search
_shown = re.compile(r"\{\{(?:(?!\}\}).)*?(?:unsubscri|preferences|opt[- ]?out)", re.IGNORECASE | re.DOTALL).search
_reachable = re.compile(r"https?://|mailto:|\{\{").search


class Problem(msgspec.Struct, frozen=True):
    """One fault, as a line for the author. A warning does not keep a version from being stored."""

    text: str
    warning: bool = False


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, int]] = []
        self.way_out = False  # a link that says it unsubscribes, by its address, its mark or its words
        self._linked = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        line = self.getpos()[0]
        if tag == "img" and "alt" not in given:
            self.found.append((f"img without alt ({(given.get('src') or 'no src')[:80]})", line))
        for name in ("href", "src"):
            link = given.get(name)
            if tag in ("a", "img") and name in given and not _good_link((link or "").strip()):
                self.found.append((f"broken link: {name}={(link or '')[:80]!r}", line))
        if tag == "a":
            self._linked = bool(given.get("href"))
            if self._linked and ("data-unsubscribe" in given or _unsubscribe(given.get("href") or "")):
                self.way_out = True

    def handle_data(self, data: str) -> None:
        if self._linked and _unsubscribe(data):
            self.way_out = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._linked = False


def _read(source: str) -> _Reader:
    reader = _Reader()
    reader.feed(source)
    reader.close()
    return reader


def judge(where: str, edition: Edition, marketing: str) -> list[Problem]:
    """What is wrong with an edition's sources. `marketing`: why it is that, '' if it is not; such mail needs a way out in
    its body (RFC 8058's header is not enough for readers)."""
    problems: list[Problem] = []
    if edition.subject is None:
        problems.append(Problem(f"{where}: no subject.j2: each row has to bring a subject", warning=True))
    if edition.amp is not None and edition.html is None:
        problems.append(Problem(f"{where}: amp.html without HTML: most readers show no AMP"))
    ways_out = {"text": bool(edition.text and _unsubscribe(edition.text) and _reachable(edition.text))}
    for part in ("html", "amp"):
        if (source := getattr(edition, part)) is not None:
            reader = _read(source)
            ways_out[part] = reader.way_out or _shown(source) is not None
            problems += [
                Problem(f"{where}: {text} (line {line} of the finished {_NAMES[part]})") for text, line in reader.found
            ]
    for part, way_out in ways_out.items():
        if marketing and not way_out and getattr(edition, part) is not None:
            problems.append(Problem(f"{where}: no unsubscribe link in the {_NAMES[part]}, and {marketing}"))
    return problems


def measure(where: str, html: str | None, text: str | None, amp_html: str | None) -> list[Problem]:
    """What is wrong with rendered parts: the size of the HTML, a text part that would be empty, the form of the AMP."""
    problems: list[Problem] = []
    if html is not None:
        octets = len(html.encode("utf-8", "replace"))
        if octets > CLIP:
            problems.append(Problem(f"{where}: {octets} octets of HTML, Gmail clips at {CLIP}"))
        elif octets > NEAR:
            said = f"{where}: {octets} octets of HTML, and Gmail clips at {CLIP}: tracked links and longer params may do it"
            problems.append(Problem(said, warning=True))
        if text is None and not html_to_text(html).strip():
            problems.append(Problem(f"{where}: no text.j2, and no word in the HTML that a text part could be made of"))
        elif text is None:
            said = f"{where}: no text.j2: the text part is made of each message's HTML (preview shows it)"
            problems.append(Problem(said, warning=True))
    if amp_html is not None:
        for fault, line in amp.faults(amp_html):
            problems.append(Problem(f"{where}: amp.html: {fault}" + (f" (line {line} when rendered)" if line else "")))
    return problems


_NAMES: Final = {"html": "html", "text": "text", "amp": "AMP"}
