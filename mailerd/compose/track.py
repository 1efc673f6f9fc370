"""Tracked messages: links that lead through us, a picture that tells of an opening, UTM parameters.

HTML is read as `compose.text` reads it: one pass, no tree, and what the pass does not look at leaves as it came, octet
for octet. `href` of `<a>` and `<area>` is rewritten where it is an http or https URL, and so are such URLs in the text part. Left
alone: links marked `data-no-track` and `data-unsubscribe` (in the text part too, if the HTML marks the same URL), whatever
leads to our own unsubscribe and click addresses, all other schemes, anchors, relative links, URLs beyond `URL_LIMIT`, and
what stands in comments, scripts and styles. The marks themselves are taken out. A tag that the end of the input cuts off is left
alone.

Tokens depend on the message's id and the URL alone, so every attempt sends the same octets. Messages to several
recipients are not tracked: they all get the same octets, and one's click would be held for another's. The caller sees to that.

Hazards: every pattern here is possessive, so hostile HTML costs linear time; keep it so. UTM parameters change a URL:
one whose query holds a signature is spared them, since it would no longer be valid.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape, unescape
from urllib.parse import quote

from mailerd.config.model import Config
from mailerd.config.tracking import missing
from mailerd.message import Failure

from .text import RAW
from .tokens import Tokens

__all__ = ["Tracker", "trackers", "with_parameters"]

URL_LIMIT = 2000  # characters; longer ones exist, and break in some clients and proxies once they are wrapped

_ATTRIBUTES = r"""(?:[^>=]++|=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))?+)*+"""
_NAMES = "|".join(["a", "area", *RAW])
# All up to the next tag that matters: a link, an element whose content is no HTML, the end of the body.
_skip = re.compile(
    rf"""(?:[^<]++|<(?!(?:{_NAMES})(?:[\s/>]|\Z)|/body(?:[\s/>]|\Z))"""
    rf"""(?:/?+[a-z]{_ATTRIBUTES}(?:>|\Z)|!--(?:[^-]++|-(?!->))*+(?:-->|\Z)|[!?/][^>]*+(?:>|\Z))?+)*+""",
    re.IGNORECASE,
).match
_tag = re.compile(rf"<(/?+[a-z][^\s/>]*+)({_ATTRIBUTES})(?:>|\Z)", re.IGNORECASE).match
_attributes = re.compile(
    r"""[\s/]*+([^\s/>=]++|=)(?:\s*+=\s*+(?:"([^"]*+)"?+|'([^']*+)'?+|([^\s>]*+)))?+""",
).finditer
_web = re.compile(r"https?://[^/?#\s]", re.IGNORECASE).match
_text_url = re.compile(r"(?<![0-9A-Za-z_])https?://[^\s<>\"\x00-\x1f\x7f]++", re.IGNORECASE)
_unsafe = re.compile(r"[\x00-\x20\x7f]").search
_signed = re.compile(r"(?:^|[&;])(?:[a-z-]*signature|sig|hmac)=", re.IGNORECASE).search
_MARKS = frozenset(("data-no-track", "data-unsubscribe"))


class Tracker:
    """Tracks the messages of one stream.

    `base_url` is [public] base_url (None, as `tokens`, where there is nothing but UTM parameters), `source` the utm_source, ''
    for no parameters.
    """

    def __init__(self, base_url: str | None, tokens: Tokens | None, *, opens: bool, clicks: bool, source: str) -> None:
        self._base = base_url or ""
        self._tokens = tokens
        self._opens = opens
        self._clicks = clicks
        self._source = source
        self._own = tuple(f"{self._base.lower()}/{path}/" for path in "uco") if base_url else ()
        self._target = lru_cache(4096)(self._parametrised)

    def texts(self, text: str | None, html: str | None, message: int, campaign: str) -> tuple[str | None, str | None]:
        """Both parts, tracked. A text that is made of the HTML is to be made of what this gives."""
        spared: frozenset[str] = frozenset()
        if html is not None:
            html, spared = self.html(html, message, campaign)
        if text is not None:
            text = self.text(text, message, campaign, spared)
        return text, html

    def html(self, html: str, message: int, campaign: str) -> tuple[str, frozenset[str]]:
        """The HTML with its links tracked and the picture at the end of its body, and the URLs that it marks as not to be tracked."""
        out: list[str] = []
        spared: set[str] = set()
        start = done = 0
        body = -1  # where in `out` the last </body> stands
        while True:
            found = _skip(html, start)
            start = found.end() if found else len(html)
            tag = _tag(html, start)
            if tag is None:
                break
            name, end = tag[1].lower(), tag.end()
            if name == "/body":
                out.append(html[done:start])
                done, body = start, len(out)
            elif close := RAW.get(name):
                if tag[2][-1:] != "/":
                    closing = close(html, end)
                    end = closing.start() if closing else len(html)
            elif html[end - 1] == ">":
                written = self._link(tag[0], tag.start(2) - start, tag.end(2) - start, message, campaign, spared)
                if written is not None:
                    out += (html[done:start], written)
                    done = end
            start = end
        out.append(html[done:])
        if self._opens and self._tokens is not None:
            picture = f"{self._base}/o/{self._tokens.open(message)}.gif"
            pixel = f'\n<img src="{escape(picture)}" width="1" height="1" alt="" border="0">\n'
            out.insert(body if body >= 0 else len(out), pixel)
        return "".join(out), frozenset(spared)

    def text(self, text: str, message: int, campaign: str, spared: frozenset[str] = frozenset()) -> str:
        """The text with its URLs tracked, but for those that are `spared`."""

        def write(found: re.Match[str]) -> str:
            whole = found[0]
            url = whole.rstrip(".,;:!?'*_]}")
            if url[-1:] == ")" and "(" not in url:
                url = url.rstrip(").,;:!?'*_]}")
            new = None if url in spared else self._tracked(url, message, campaign)
            return whole if new is None else new + whole[len(url) :]

        return _text_url.sub(write, text)

    def _link(self, tag: str, start: int, end: int, message: int, campaign: str, spared: set[str]) -> str | None:
        """A link's tag, whose attributes stand from `start` to `end`, as it leaves; None: as it came."""
        target: re.Match[str] | None = None
        marks: list[re.Match[str]] = []
        for attribute in _attributes(tag, start, end):
            name = attribute[1].lower()
            if name == "href":
                target = target or attribute
            elif name in _MARKS:
                marks.append(attribute)
        url = ""
        if target is not None:
            value = target[2] or target[3] or target[4] or ""
            url = unescape(value) if "&" in value else value
            if _unsafe(url):  # what a browser does to it (WHATWG URL §4.4)
                url = url.strip("".join(map(chr, range(33)))).translate(_GONE)
        changes: list[tuple[int, int, str]] = []
        if marks:
            spared.add(url)
            changes = [(*mark.span(), "") for mark in marks]
        elif target is not None and (new := self._tracked(url, message, campaign)) is not None:
            changes = [(target.end(1), target.end(), f'="{escape(new)}"')]
        if not changes:
            return None
        out: list[str] = []
        done = 0
        for begin, stop, written in changes:
            out += (tag[done:begin], written)
            done = stop
        return "".join(out) + tag[done:]

    def _tracked(self, url: str, message: int, campaign: str) -> str | None:
        """Where a link to `url` leads; None: where it did."""
        target = self._target(url, campaign)
        if target is None:
            return None
        if self._clicks and self._tokens is not None:
            return f"{self._base}/c/{self._tokens.click(message, target)}"
        return target if target != url else None

    def _parametrised(self, url: str, campaign: str) -> str | None:
        """`url` with its parameters; None if it is no link that is tracked."""
        if not _web(url) or len(url) > URL_LIMIT or _unsafe(url) or url.lower().startswith(self._own):
            return None
        if self._source and campaign:
            return with_parameters(url, {"utm_source": self._source, "utm_medium": "email", "utm_campaign": campaign})
        return url


def trackers(config: Config) -> dict[str, Tracker]:
    """The trackers of the streams that have one, by the stream's name. Raises `Failure` where [public] lacks what it takes."""
    public = config.public
    tokens = Tokens(public.secret) if public.secret else None
    found = {}
    for stream in config.stream:
        tracking = stream.tracking
        if lack := missing(tracking, public):
            raise Failure(f"stream {stream.name}: tracking {lack}", "internal")
        if tracking.opens or tracking.clicks or tracking.utm:
            source = stream.name if tracking.utm else ""
            found[stream.name] = Tracker(
                public.base_url, tokens, opens=tracking.opens, clicks=tracking.clicks, source=source
            )
    return found


_GONE = dict.fromkeys(map(ord, "\t\r\n"))


def with_parameters(url: str, parameters: dict[str, str]) -> str:
    """`url` with those of the `parameters` that its query does not have, behind what it has and before its fragment. A query
    that is signed stays as it is."""
    front, hash_, fragment = url.partition("#")
    path, _, query = front.partition("?")
    if _signed(query):
        return url
    there = {pair.partition("=")[0].lower() for pair in re.split("[&;]", query)}
    more = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items() if name not in there)
    if not more:
        return url
    joint = "&" if query and query[-1] not in "&;" else ""
    return f"{path}?{query}{joint}{more}{hash_}{fragment}"
