"""The unsubscribe page: HTML without scripts, readable on a phone, in light and dark, by eyes and by screen readers.

Pure functions of what is known. A page shows who the mail is from and a masked address (whoever holds a forwarded message
sees this page, too), asks before it does anything, says what was done, and offers the way back. Every word from elsewhere
is escaped; the content security policy allows the page's own style and its own form, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Final

import msgspec

__all__ = ["CSP", "Choice", "asked", "done", "invalid", "masked", "undone", "unsure"]

_STYLE: Final = """
:root{color-scheme:light dark;--fg:#1b1f24;--dim:#5b6470;--bg:#eef1f4;--card:#fff;--line:#d9dee4;--accent:#1f5fd0;--on:#fff}
@media(prefers-color-scheme:dark){:root{--fg:#e8ebef;--dim:#a0a9b4;--bg:#101316;--card:#1a1e23;--line:#333a42;--accent:#8ab4ff;--on:#0c1420}}
*{box-sizing:border-box}html{height:100%}
body{margin:0;min-height:100%;display:flex;align-items:center;justify-content:center;padding:1.25rem;font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--fg);background:var(--bg)}
main{width:100%;max-width:28rem;background:var(--card);border:1px solid var(--line);border-radius:1rem;padding:1.75rem 1.5rem}
h1{font-size:1.35rem;line-height:1.3;margin:0 0 .6rem}p{margin:0 0 1rem;overflow-wrap:anywhere}p.from{color:var(--dim);font-size:.9rem;margin-bottom:.35rem}
button{font:inherit;font-weight:600;width:100%;min-height:3rem;padding:.6rem 1rem;border-radius:.65rem;border:1px solid var(--accent);background:var(--accent);color:var(--on);cursor:pointer}
button.second{background:transparent;color:var(--accent)}button:focus-visible,input:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
fieldset{border:0;border-top:1px solid var(--line);margin:1.5rem 0 1rem;padding:1.1rem 0 0}legend{float:left;width:100%;padding:0;margin:0 0 .4rem;font-weight:600}
label{clear:both;display:flex;gap:.75rem;align-items:center;min-height:2.75rem;overflow-wrap:anywhere}input{width:1.25rem;height:1.25rem;flex:none;accent-color:var(--accent)}
small{color:var(--dim)}form:last-child,p:last-child{margin-bottom:0}
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CSP: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Choice(msgspec.Struct, frozen=True):
    """One topic that an address can have or not. `name` is the topic, and what people read."""

    name: str
    subscribed: bool


def asked(sender: str, address: str, topic: str, choices: Sequence[Choice] = ()) -> bytes:
    """The question. Nothing has happened yet."""
    what = f"“{escape(topic)}” mail" if topic else "this mail"
    body = [
        f"<h1>Stop {what}?</h1>",
        f"<p>It goes to <b>{_whose(address)}</b>.</p>",
        _button("unsubscribe", "Unsubscribe"),
    ]
    if choices:
        boxes = "".join(
            f"<label><input type=checkbox name=topic value='{escape(choice.name)}'{' checked' * choice.subscribed}>"
            f"{escape(choice.name)}</label>"
            for choice in choices
        )
        body.append(
            "<form method=post><fieldset><legend>Or choose what you get</legend>"
            f"{boxes}</fieldset><button class=second name=action value=choose>Save my choice</button></form>"
        )
    return _document("Unsubscribe", sender, body)


def done(sender: str, address: str, topic: str, *, chosen: bool = False) -> bytes:
    """It is done; the way back. `chosen`: by ticking topics, which are changed the same way."""
    if chosen:
        return _document(
            "Saved", sender, ["<h1>Your choice is saved</h1>", f"<p>For <b>{_whose(address)}</b>.</p>", _back()]
        )
    what = f"“{escape(topic)}” mail" if topic else "this mail"
    return _document(
        "Unsubscribed",
        sender,
        [
            "<h1>You are unsubscribed</h1>",
            f"<p><b>{_whose(address)}</b> gets no more of {what}. What is on its way may still arrive.</p>",
            _button("resubscribe", "That was a mistake: undo", second=True),
        ],
    )


def undone(sender: str, address: str, topic: str) -> bytes:
    """It is undone."""
    what = f"“{escape(topic)}” mail" if topic else "this mail"
    return _document(
        "Subscribed again",
        sender,
        [
            "<h1>Welcome back</h1>",
            f"<p><b>{_whose(address)}</b> gets {what} again.</p>",
            _button("unsubscribe", "Unsubscribe", second=True),
        ],
    )


def unsure() -> bytes:
    """It could not be written down: the person has to try again."""
    return _document(
        "Please try again",
        "",
        ["<h1>That did not work</h1>", "<p>Nothing was changed. Please try again in a minute.</p>", _back()],
    )


def invalid() -> bytes:
    """For whatever is no link of ours. It says nothing about why."""
    return _document(
        "Nothing here",
        "",
        ["<h1>Nothing here</h1>", "<p>This link is not complete. Please open it from the message once more.</p>"],
    )


def masked(address: str) -> str:
    """Enough for its owner to know it by: `a•••@example.org`."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}•••@{domain}" if local else "•••"


def _whose(address: str) -> str:
    """It may be broken behind the @, before it is broken anywhere."""
    return escape(masked(address)).replace("@", "@<wbr>")


def _button(action: str, words: str, *, second: bool = False) -> str:
    return f"<form method=post><button{' class=second' * second} name=action value={action}>{words}</button></form>"


def _back() -> str:
    return "<form method=get><button class=second>Back</button></form>"


def _document(title: str, sender: str, body: Sequence[str]) -> bytes:
    heading = f"<p class=from>{escape(sender)}</p>" if sender else ""
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>"
        "<meta name=viewport content='width=device-width,initial-scale=1'><meta name=robots content=noindex>"
        f"<style>{_STYLE}</style></head><body><main>{heading}{''.join(body)}</main></body></html>\n"
    ).encode()
