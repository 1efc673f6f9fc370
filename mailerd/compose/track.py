"""Tracked messages: links that lead through us, a picture that tells of an opening, UTM parameters.

What is not a link's target leaves as it came, octet for octet (`compose.anchors` reads the HTML). `href` of `<a>` and `<area>` is
rewritten where it is an http or https URL, and so are such URLs in the text part. Left alone: links marked
`data-no-track` and `data-unsubscribe` (in the text part too, if the HTML marks the same URL), whatever
leads to our own unsubscribe and click addresses, all other schemes, anchors, relative links, URLs beyond `URL_LIMIT`, and
what stands in comments, scripts and styles. The marks themselves are taken out. A tag that the end of the input cuts off is left
alone.

Tokens depend on the message's id and the URL alone, so every attempt sends the same octets. Messages to several
recipients are not tracked: they all get the same octets, and one's click would be held for another's. The caller sees to that.
AMP parts are not tracked at all: what they may load and where they may lead is the reader's to check, word by word.

Hazards: the patterns here are possessive, so hostile text costs linear time; keep it so. UTM parameters change a URL: one whose query holds a signature is spared them, since it would no longer be valid.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from html import escape
from urllib.parse import quote

import msgspec

from mailerd.config.model import Config
from mailerd.config.tracking import missing
from mailerd.message import Failure

from .anchors import Anchor, cut
from .tokens import Tokens

__all__ = ["Tracker", "Trail", "pairs", "trackers", "with_parameters"]

URL_LIMIT = 2000  # characters; longer ones exist, and break in some clients and proxies once they are wrapped

_web = re.compile(r"https?://[^/?#\s]", re.IGNORECASE).match
_rest_of_url = re.compile(r"[^\s<>\"\x00-\x1f\x7f]++").match
_word = re.compile(r"[0-9A-Za-z_]").match
_unsafe = re.compile(r"[\x00-\x20\x7f]").search
_signed = re.compile(r"(?:^|[&;])(?:[a-z-]*signature|sig|hmac)=", re.IGNORECASE).search


class Trail(msgspec.Struct):
    """One message's links, for a template that knows where its links are (`compose.plan`)."""

    tracker: Tracker
    message: int
    campaign: str
    spared: set[str]  # what the HTML wants left alone

    def link(self, url: str) -> str | None:
        """Where a link to `url` leads; None: where it did."""
        return self.tracker.link(url, self.message, self.campaign)

    def picture(self) -> str:
        """As `Tracker.picture`."""
        return self.tracker.picture(self.message)

    def text(self, text: str) -> str:
        """As `Tracker.text`."""
        return self.tracker.text(text, self.message, self.campaign, self.spared)


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
        self._own = tuple(f"{self._base.lower()}/{path}/" for path in "ucos") if base_url else ()
        self._target = lru_cache(4096)(self._parametrised)
        self._parameters = lru_cache(256)(self._utm)

    def trail(self, message: int, campaign: str) -> Trail:
        """Where the links of that message lead."""
        return Trail(self, message, campaign, set())

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
        pieces, found = cut(html)
        spared: set[str] = set()
        body = 0
        for i, kind in found:
            if not isinstance(kind, Anchor):
                body = i
            elif kind.spared:
                spared.add(kind.url)
                pieces[i] = kind.before
            elif (new := self.link(kind.url, message, campaign)) is not None:
                pieces[i] = f'{kind.before}"{escape(new)}"{kind.after}'
        pieces[body - 1] += self.picture(message)
        return "<".join(pieces), frozenset(spared)

    def text(self, text: str, message: int, campaign: str, spared: Set[str] = frozenset()) -> str:
        """The text with its URLs tracked, but for those that are `spared`."""

        at = text.find("://")
        if at < 0:
            return text
        out: list[str] = []
        done = 0
        while at >= 0:
            end = at + 3
            scheme = text[max(at - 5, done) : at].lower()
            start = at - 5 if scheme == "https" else at - 4 if scheme.endswith("http") else -1
            rest = _rest_of_url(text, end) if start >= 0 and not (start > 0 and _word(text, start - 1)) else None
            if rest is not None:
                end = rest.end()
                url = text[start:end].rstrip(".,;:!?'*_]}")
                if url[-1:] == ")" and "(" not in url:
                    url = url.rstrip(").,;:!?'*_]}")
                if url not in spared and (new := self.link(url, message, campaign)) is not None:
                    out += (text[done:start], new)
                    done = start + len(url)
            at = text.find("://", end)
        return "".join(out) + text[done:]

    def picture(self, message: int) -> str:
        """The HTML of the picture that tells of an opening; '' where there is none."""
        if not self._opens or self._tokens is None:
            return ""
        picture = f"{self._base}/o/{self._tokens.open(message)}.gif"
        return f'\n<img src="{escape(picture)}" width="1" height="1" alt="" border="0">\n'

    def link(self, url: str, message: int, campaign: str) -> str | None:
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
        if not self._source or not campaign:
            return url
        return with_parameters(url, self._parameters(campaign))

    def _utm(self, campaign: str) -> dict[str, str]:
        return pairs({"utm_source": self._source, "utm_medium": "email", "utm_campaign": campaign})


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


def pairs(parameters: dict[str, str]) -> dict[str, str]:
    """By its name, each of the `parameters` as a query has it."""
    return {name: f"{name}={quote(value, safe='')}" for name, value in parameters.items()}


def with_parameters(url: str, parameters: dict[str, str]) -> str:
    """`url` with those of the `parameters` (as `pairs` gives them) that its query does not have, behind what it has and before
    its fragment. A query that is signed stays as it is."""
    if "?" not in url and "#" not in url:
        return f"{url}?{'&'.join(parameters.values())}" if parameters else url
    front, hash_, fragment = url.partition("#")
    path, _, query = front.partition("?")
    if _signed(query):
        return url
    there = {pair.partition("=")[0].lower() for pair in re.split("[&;]", query)}
    more = "&".join(pair for name, pair in parameters.items() if name not in there)
    if not more:
        return url
    joint = "&" if query and query[-1] not in "&;" else ""
    return f"{path}?{query}{joint}{more}{hash_}{fragment}"
