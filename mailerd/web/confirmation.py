"""The page that confirms a subscription: the same HTML as the unsubscribe page, for a link that means yes.

Pure functions. Looking changes nothing, since scanners follow links; only the button says yes.
"""

from __future__ import annotations

from html import escape

from mailerd.web.unsubscribe import button, document, whose

__all__ = ["asked", "done", "over"]


def asked(sender: str, address: str, topic: str) -> bytes:
    """The question. `topic`: what people call it."""
    return document(
        "Confirm",
        sender,
        [
            f"<h1>Get “{escape(topic)}” mail?</h1>",
            f"<p>Somebody, hopefully you, asked for it for <b>{whose(address)}</b>. If it was not you, just close this page.</p>",
            button("confirm", "Yes, subscribe"),
        ],
    )


def done(sender: str, address: str, topic: str) -> bytes:
    """It is confirmed, now or before."""
    return document(
        "Subscribed",
        sender,
        [
            "<h1>You are subscribed</h1>",
            f"<p><b>{whose(address)}</b> gets “{escape(topic)}” mail. A link in each message stops it.</p>",
        ],
    )


def over(sender: str) -> bytes:
    """There is nothing to confirm (any more)."""
    return document(
        "Not subscribed",
        sender,
        ["<h1>This link is no longer valid</h1>", "<p>Nothing was changed. Please sign up once more.</p>"],
    )
