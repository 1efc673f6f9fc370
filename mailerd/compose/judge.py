"""What a push finds fault with in a finished template: things that receivers clip, hide or punish, seen before mail goes out.

Pure, and offline: a link is broken if it cannot be followed from a mail, whatever its host would answer.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

import msgspec

from .bundle import Edition

__all__ = ["CLIP", "Problem", "judge"]

CLIP: Final = 102 * 1024  # octets of HTML beyond which Gmail hides the rest
_good_link = re.compile(r"(?:https?://[^\s/]+|mailto:\S+@|tel:|cid:|#\S|\{[{%])").match
_unsubscribe = re.compile(r"unsubscri|preferences|opt-?out", re.IGNORECASE).search


class Problem(msgspec.Struct, frozen=True):
    """One fault, as a line for the author. A warning does not keep a version from being stored."""

    text: str
    warning: bool = False


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        line = self.getpos()[0]
        if tag == "img" and "alt" not in given:
            self.found.append((f"img without alt ({(given.get('src') or 'no src')[:80]})", line))
        for name in ("href", "src"):
            link = given.get(name)
            if tag in ("a", "img") and name in given and not _good_link((link or "").strip()):
                self.found.append((f"broken link: {name}={(link or '')[:80]!r}", line))


def judge(where: str, edition: Edition, marketing: bool) -> list[Problem]:
    """What is wrong with an edition; `marketing` mail needs a way out (RFC 8058's header is not enough for readers)."""
    problems: list[Problem] = []
    if edition.subject is None:
        problems.append(Problem(f"{where}: no subject.j2: each row has to bring a subject", warning=True))
    if edition.text is None:
        problems.append(Problem(f"{where}: no text.j2: the text part will be derived from the HTML", warning=True))
    if edition.html is not None:
        if (octets := len(edition.html.encode())) > CLIP:
            problems.append(Problem(f"{where}: {octets} octets of HTML, Gmail clips at {CLIP}"))
        reader = _Reader()
        reader.feed(edition.html)
        reader.close()
        problems += [Problem(f"{where}: {text} (line {line} of the finished HTML)") for text, line in reader.found]
    for part in ("html", "text"):
        source = getattr(edition, part)
        if marketing and source is not None and not _unsubscribe(source):
            problems.append(Problem(f"{where}: no unsubscribe link in the {part}, and meta.toml says marketing"))
    return problems
