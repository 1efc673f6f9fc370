"""AMP for Email, judged by form: what makes a reader throw the part away and show the HTML in its place.

By form means by what stands in the file: the frame that the format asks for, the elements it forbids, its sizes. What
only its whole rule book can say (attributes of each component, CSS properties) is left to a validator. Pure.

Source: amp.dev, "AMP for Email format" (documentation/guides-and-tutorials/email/learn/email-spec). Hazard: AMP's own
`{{ … }}` of amp-mustache is Jinja's, too; a template keeps it with `{% raw %}`.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

__all__ = ["AMP_LIMIT", "CSS_LIMIT", "faults"]

AMP_LIMIT: Final = 200_000  # octets of the whole part
CSS_LIMIT: Final = 75_000  # octets of <style amp-custom>

_RUNTIME: Final = "https://cdn.ampproject.org/v0.js"
_COMPONENTS: Final = "https://cdn.ampproject.org/v0/"
_DATA: Final = ("application/json", "application/ld+json", "text/plain")
_boilerplate = re.compile(r"body\s*\{\s*visibility\s*:\s*hidden;?\s*\}").fullmatch
_doctype = re.compile(r"\s*(?:<!--.*?-->\s*)*<!doctype\s+html\s*>", re.IGNORECASE | re.DOTALL).match
# What stands in for them, or nothing does.
_FORBIDDEN: Final = {
    "img": "amp-img",
    "picture": "amp-img",
    "video": "",
    "audio": "",
    "iframe": "",
    "frame": "",
    "frameset": "",
    "object": "",
    "embed": "",
    "applet": "",
    "base": "",
    "param": "",
    "link": "<style amp-custom>",
}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, int]] = []
        self.seen: set[str] = set()
        self._style = ""  # which <style> we are in
        self._css: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "html" and {"⚡4email", "amp4email"} & set(given):
            self.seen.add("html")
        elif tag == "head":
            self.seen.add("head")
        elif tag == "body":
            self.seen.add("body")
        elif tag == "meta" and given.get("charset", "").lower() == "utf-8":
            self.seen.add("charset")
        elif tag == "script":
            self._script(given)
        elif tag == "style":
            kinds = [kind for kind in ("amp4email-boilerplate", "amp-custom") if kind in given]
            self._style = kinds[0] if kinds else ""
            if not kinds:
                self._fault("<style> without amp-custom")
        elif tag in _FORBIDDEN:
            instead = _FORBIDDEN[tag]
            self._fault(f"<{tag}> is not allowed" + (f", {instead} stands in for it" if instead else ""))
        elif tag == "amp-img" and "alt" not in given:
            self._fault(f"amp-img without alt ({given.get('src', 'no src')[:80]})")
        for name in given:
            if re.fullmatch(r"on[a-z]+", name):
                self._fault(f"<{tag} {name}>: no scripts in attributes")

    def _script(self, given: dict[str, str]) -> None:
        source = given.get("src", "")
        if source == _RUNTIME:
            self.seen.add("runtime")
        elif not (source.startswith(_COMPONENTS) and {"custom-element", "custom-template"} & set(given)) and (
            source or given.get("type", "").lower() not in _DATA
        ):
            self._fault(f"<script{f' src={source[:80]!r}' if source else ''}>: AMP's own scripts only")
        if source and "async" not in given:
            self._fault(f"<script src={source[:80]!r}>: without async")

    def handle_data(self, data: str) -> None:
        if self._style:
            self._css[self._style] = self._css.get(self._style, "") + data

    def handle_endtag(self, tag: str) -> None:
        if tag != "style" or not self._style:
            return
        css, kind = self._css.get(self._style, ""), self._style
        self._style = ""
        if kind == "amp4email-boilerplate":
            if _boilerplate(css.strip()):
                self.seen.add("boilerplate")
            else:
                self._fault("<style amp4email-boilerplate> is not body{visibility:hidden}")
        elif (octets := len(css.encode())) > CSS_LIMIT:
            self._fault(f"{octets} octets of CSS, at most {CSS_LIMIT}")
        elif "!important" in css:
            self._fault("!important is not allowed in its CSS")

    def _fault(self, text: str) -> None:
        self.found.append((text, self.getpos()[0]))


_FRAME: Final = {
    "html": "<html ⚡4email> (or <html amp4email>)",
    "head": "<head>",
    "charset": '<meta charset="utf-8">',
    "runtime": f'<script async src="{_RUNTIME}"></script>',
    "boilerplate": "<style amp4email-boilerplate>body{visibility:hidden}</style>",
    "body": "<body>",
}


def faults(source: str) -> list[tuple[str, int]]:
    """(what is wrong, line) of an AMP document, line 0 for what is missing; [] if nothing is found."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    missing = [(f"{text} is missing", 0) for name, text in _FRAME.items() if name not in reader.seen]
    if not _doctype(source):
        missing.insert(0, ("<!doctype html> is missing at its beginning", 0))
    if (octets := len(source.encode())) > AMP_LIMIT:
        missing.append((f"{octets} octets, at most {AMP_LIMIT} are shown", 0))
    return missing + reader.found
