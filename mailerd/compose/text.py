"""HTML to text: the plain part of a message that has only HTML.

Keeps what a reader of plain text needs: block breaks, list bullets and numbers, link targets in angle brackets,
preformatted text, the alternative texts of images. Drops scripts, styles, titles, comments. It is one pass over the
tags, not a parse: no tree, no recursion, work in proportion to the input whatever the input is. (Tree building is not:
lexbor takes 12 s for 100 000 nested `<div>` and 16 s for one tag with 100 000 attributes, and misnested formatting
tags square the size of the tree.)

Hazard: every pattern below must match at its first try, since one that can fail after a long run makes hostile input
quadratic. That is why each closing delimiter is also satisfied by the end of the input.
"""

from __future__ import annotations

import re
from html import unescape

__all__ = ["RAW", "html_to_text"]

HTML_LIMIT = 1_048_576

# A quote opens a string only behind "=", as in the HTML standard: <p it's> is a complete tag.
_ATTRIBUTES = r"""((?:[^>=]+|=\s*(?:"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))?)*)"""
_tag = re.compile(
    rf"<(?:(/?)([a-zA-Z][^\s/>]*){_ATTRIBUTES}(?:>|\Z)|!--.*?(?:-->|\Z)|[!?/][^>]*(?:>|\Z))", re.DOTALL
).search
_VALUE = r"""\s*=\s*(?:"([^"]*)|'([^']*)|([^\s>]+))"""
_href = re.compile(rf"""(?:^|[\s"'/])href{_VALUE}""", re.IGNORECASE).search
_alt = re.compile(rf"""(?:^|[\s"'/])alt{_VALUE}""", re.IGNORECASE).search
# Newsletters pad their preview line with invisible characters; in a text they are a line of nothing.
_padding = re.compile("(?:[\u00ad\u034f\u200b\u200c\u200d\u2007\ufeff] ?){3,}").sub

# Elements whose content is no HTML or is not shown, and the search for their end.
RAW = {
    name: re.compile(rf"</{name}(?=[\s/>]|\Z)", re.IGNORECASE).search
    for name in ("script", "style", "title", "textarea", "template", "iframe", "noembed", "noframes", "xmp", "svg")
}
# What a tag does: a number is the line breaks around a block; a word names its own treatment; all others do nothing.
_EFFECT: dict[str, int | str] = {
    **dict.fromkeys(RAW, "raw"),
    **dict.fromkeys(("p", "h1", "h2", "h3", "h4", "h5", "h6", "dl", "blockquote", "table"), 2),
    **dict.fromkeys(
        [
            "address",
            "article",
            "aside",
            "body",
            "caption",
            "center",
            "dd",
            "details",
            "dialog",
            "div",
            "dt",
            "fieldset",
            "figcaption",
            "figure",
            "footer",
            "form",
            "head",
            "header",
            "html",
            "legend",
            "main",
            "menu",
            "nav",
            "option",
            "section",
            "summary",
            "tbody",
            "tfoot",
            "thead",
            "tr",
        ],
        1,
    ),
    **{name: name for name in ("a", "br", "hr", "img", "li", "pre")},
    **dict.fromkeys(("td", "th"), "cell"),
    **dict.fromkeys(("ul", "ol"), "list"),
}


class _Page:
    """The text so far, the line breaks or space due before its next word, and the lists, link and pre that are open."""

    __slots__ = ("breaks", "bullet", "lists", "opened", "out", "pre", "space", "target")

    def __init__(self) -> None:
        self.out: list[str] = []
        self.breaks = 0
        self.space = False
        self.bullet = False  # an item has been opened and has no word yet: nothing breaks the line
        self.lists: list[int] = []  # one per open list: 0 for bullets, else the next number
        self.pre = 0
        self.target = ""
        self.opened = 0  # where in `out` the open link's text starts

    def word(self, text: str) -> None:
        if self.breaks:
            if self.out:
                self.out.append("\n\n" if self.breaks > 1 else "\n")
            self.breaks = 0
        elif self.space and self.out and self.out[-1][-1:] != " ":
            self.out.append(" ")
        self.space = self.bullet = False
        self.out.append(text)

    def text(self, raw: str) -> None:
        text = unescape(raw) if "&" in raw else raw
        if self.pre:
            self.word(text.replace("\r\n", "\n"))
        elif words := text.split():
            if text[0].isspace():
                self.space = True
            self.word(" ".join(words))
            self.space = text[-1].isspace()
        elif text:
            self.space = True

    def block(self, breaks: int) -> None:
        if breaks > self.breaks and not self.bullet:
            self.breaks = breaks
        self.space = False

    def structure(self, effect: str, name: str, closing: bool) -> None:
        """Lists, items, rules and preformatted text, opening or closing."""
        self.bullet = False
        if effect == "list":
            if closing and self.lists:
                self.lists.pop()
            self.block(1 if self.lists else 2)
            if not closing:
                self.lists.append(int(name == "ol"))
        elif effect == "li":
            self.block(1)
            if not closing:
                number = self.lists[-1] if self.lists else 0
                self.word("  " * min(len(self.lists) - 1, 8) + (f"{number}. " if number else "- "))
                self.bullet = True
                if number:
                    self.lists[-1] += 1
        elif effect == "hr":
            self.block(2)
            self.word("---")
            self.block(2)
        elif effect == "pre":
            self.block(2)
            self.pre = max(0, self.pre + (-1 if closing else 1))

    def link(self, target: str | None) -> None:
        """End the open link, if there is one (links do not nest), and open the next.

        The target stands behind the text, unless the text is the target or there is nothing that could be opened.
        """
        if open_ := self.target:
            shown = "".join(self.out[self.opened :]).strip()
            bare = open_.removeprefix("mailto:").removeprefix("tel:")
            if shown not in (open_, bare, open_.removeprefix("https://"), open_.removeprefix("http://")):
                self.space = self.space or bool(shown)
                self.word(f"<{bare}>")
        self.target = "".join(target.split()) if target else ""
        if self.target.startswith("#") or self.target[:11].lower().startswith(("javascript:", "data:")):
            self.target = ""
        self.opened = len(self.out)


def html_to_text(html: str) -> str:
    """The text of `html`, lines ended by LF, without surrounding white space. Never raises.

    Of a document beyond `HTML_LIMIT` it is the text of the beginning, and says so with an ellipsis: nobody reads a
    megabyte of text, and it would cost as much as a thousand messages.
    """
    cut = len(html) > HTML_LIMIT
    if cut:
        html = html[: max(html.rfind("<", 0, HTML_LIMIT), HTML_LIMIT - 1000)]
    page = _Page()
    end = 0
    while tag := _tag(html, end):
        start = tag.start()
        if start > end:
            page.text(html[end:start])
        end = tag.end()
        closing, name, attributes = tag.groups()
        effect = _EFFECT.get(name.lower()) if name else None
        if effect is None:
            continue
        if effect == "raw":
            if not closing and attributes[-1:] != "/":
                close = RAW[name.lower()](html, end)
                end = close.start() if close else len(html)
        elif effect == "a":
            page.link(None if closing else _value(_href(attributes)))
        elif effect == "img":
            if alt := _value(_alt(attributes)).split():
                page.word(" ".join(alt))
        elif effect == "cell":
            page.space = True
        elif effect == "br":
            page.breaks, page.space = page.breaks + 1, False
        elif isinstance(effect, int):
            page.block(effect)
        else:
            page.structure(effect, name.lower(), bool(closing))
    page.text(html[end:])
    page.link(None)
    text = "".join(page.out).replace("\0", "")
    if cut:
        text += "\n\n[…]"
    return (text if text.isascii() else _padding("", text)).strip()


def _value(found: re.Match[str] | None) -> str:
    return unescape(found[1] or found[2] or found[3] or "") if found else ""
