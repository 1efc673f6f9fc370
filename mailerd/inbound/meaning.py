"""From what a report says of one recipient to its category and hardness. Pure.

Categories are those of `flow.classify`, which reads the replies that we get ourselves; a bounce holds such a reply too, and
much else that no server says to its client (`data/bounces.toml`, `[[said]]`: it gave up after five days, no such host).
Those come first.

Hazards: a bounce is the only witness that an address is dead, and the first that a good one is not. So only words or
codes that name the mailbox or its domain are hard, never a bare `550` or `5.0.0`; what is ours is never hard, however it
is worded; and what is temporary is never anything but soft.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from mailerd.flow.classify import OURS, classify
from mailerd.inbound.phrases import said
from mailerd.inbound.report import Hardness

__all__ = ["meaning", "reply_in"]

_REASON: Final = 1000
_ADDRESS: Final = re.compile(r"<?[^\s<>@:;,]{1,80}@[\w.-]{1,255}>?")
_URL: Final = re.compile(r"(https?://[^\s/]{1,255})\S*")
_STATUS: Final = r"([45]\.\d{1,3}\.\d{1,3})"
# 550 5.1.1, 550-5.1.1, 550 #5.1.1, (#5.1.1), [#5.1.1], 5.1.1 by itself; not a piece of an IP address or version
_BOTH: Final = re.compile(rf"(?<![\d.:/-])([45]\d\d)[ -]+(?:[45]\d\d[ -]+)?[#']?{_STATUS}(?![\d.])")
_ALONE: Final = re.compile(rf"(?<![\d./\w-])(?<!\d:)#?{_STATUS}(?![\d.\w])")
_BLANK: Final = re.compile(r"\n[ \t]*\n")
_CODE: Final = re.compile(
    r"(?<![\d./\w#=-])(?<!\d:)([45][0-7]\d)(?=[ -]+\S|$|:|,)(?! (?:octets|bytes|kb|mb|messages|recipients))",
    re.IGNORECASE,
)


@lru_cache(256)
def reply_in(text: str) -> tuple[int, str, str]:
    """The SMTP reply that is quoted in `text`: reply code (0 if none), status ('' if none), and the text from there on."""
    text = text[:4000]
    code, status, start = 0, "", -1
    if both := _BOTH.search(text):
        code, status, start = int(both[1]), both[2], both.start()
    first = _CODE.search(text)
    if first and (start < 0 or first.start() < start - 300):
        code, start = int(first[1]), first.start()
    if not status and (alone := _ALONE.search(text)):
        status = alone[1]
        start = alone.start() if start < 0 else start
    return code, status, _BLANK.split(text[max(start, 0) :], maxsplit=1)[0]


@lru_cache(1024)
def meaning(action: str, code: int, status: str, text: str, around: str = "") -> tuple[str, Hardness]:
    """`category` (one of `flow.classify.CATEGORIES`, '' where nothing failed) and hardness. `action`: RFC 3464 §2.3.3.

    `text`: the reply, or what the reporting host says itself (then `code` is 0); `around`: all that it says.
    """
    if action in ("delivered", "relayed", "expanded"):
        return "", Hardness.NONE
    quoted = " ".join(_URL.sub(r"\1", _ADDRESS.sub("<>", text[:4000])).split())[:_REASON]
    spoken, read = said(quoted.lower()), classify(code, status, quoted)
    category = read if not spoken or (spoken in _THEIRS and read in _SENDERS and (code or status)) else spoken
    if category in ("other", "protocol", "routing") and code in _NEVER:
        category = "recipient"
    if (
        category in (*_THEIRS, "other", "protocol", "connection")
        and code >= 500
        and _BEFORE_RECIPIENT.search(around[:2000])
    ):
        category = "sender"
    if action == "delayed" or 400 <= code < 500 or status.startswith("4."):
        return category, Hardness.SOFT
    if category in _THEIRS:
        return category, Hardness.HARD
    if category in _SOFT:
        return category, Hardness.SOFT
    if category in OURS or category == "policy":
        return category, Hardness.SENDER
    return category, Hardness.SOFT


_NEVER: Final = (521, 556)  # the host, or the domain, takes no mail at all (RFC 7504)
# Refused before anybody was named: Exim's, Yahoo's, 1&1's and qmail's words for where in the session
_BEFORE_RECIPIENT: Final = re.compile(
    r"after (?:pipelined )?(?:initial connection|mail from|ehlo|helo|auth|starttls)\b|\[mail_from\]|for mail command|but (?:my name|sender) was rejected",
    re.IGNORECASE,
)
_THEIRS: Final = ("recipient", "inactive")
_SENDERS: Final = ("sender", "reputation", "authentication", "account", "content")
_SOFT: Final = (
    "rate",
    "mailbox_full",
    "size",
    "connection",
    "greylist",
    "too_many_recipients",
    "routing",
    "protocol",
    "other",
)
