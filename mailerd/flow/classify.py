"""What a refusal means: reply code, enhanced code and text → a category, and the wait the peer asks for.

Pure. The basic code decides whether to try again (RFC 5321 §4.2.1), the text and the enhanced code (RFC 3463) decide
the category, text first: `5.7.1` alone says nothing, since block lists, content filters and rate limits all use it.
A refusal about *our* address, domain, authentication, volume or reputation is never filed under the recipient: words
that name the sender's side beat words and codes that name a mailbox.

Hazards: categories are words that operators filter by; they are public. An unknown refusal is `other`, never a guess.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["CATEGORIES", "OURS", "classify", "wait_asked"]

CATEGORIES: Final = {
    "recipient": "no such mailbox or domain",
    "inactive": "the mailbox exists no longer, or is disabled",
    "mailbox_full": "the recipient is over quota",
    "too_many_recipients": "too many recipients in one transaction",
    "sender": "the sender address is refused",
    "size": "the message is too large",
    "content": "the content is refused: spam, virus, attachment, syntax",
    "reputation": "our address, domain or volume is blocked",
    "authentication": "SPF, DKIM, DMARC or PTR of ours fails",
    "rate": "too much at a time",
    "greylist": "greylisted: try again later",
    "account": "our account at the provider: login, quota, verification",
    "policy": "refused by a policy that says no more",
    "routing": "the destination cannot be reached from there",
    "protocol": "a command was not understood",
    "connection": "the connection or the provider failed",
    "other": "none of these",
}

_THEIRS: Final = frozenset(("recipient", "inactive", "mailbox_full"))
OURS: Final = frozenset(CATEGORIES) - _THEIRS - {"policy", "other"}
"""Categories that say nothing about the recipient: whoever is refused so may be written to again."""

# In lower case, and no branch begins with `\b`: a reply of 1 kB takes a quarter of the time so.
# First match wins. Texts of large receivers: Gmail, Yahoo, Outlook, iCloud help pages; SES and SendGrid SMTP manuals.
_SENDER: Final = r"(?:sender(?! (?:ip|host|server|network|mta)\b)|mail from|(?:envelope.)?from address|return.?path|reverse.path|call(?:out|back))\b"
_TEXTS: Final = [
    (category, re.compile(pattern))
    for category, pattern in (
        ("greylist", r"gr[ae]y-?list|postgrey"),
        (
            "account",
            r"authentication (?:required|failed|credentials)|not verified|verified sender|maximum credits|daily (?:message|sending|limit|quota)|quota exceeded for (?:account|sender|domain)|sending (?:limit|quota|is paused|paused)|(?:your|sender.{0,3}|sending) account|account (?:is )?(?:disabled|suspended)|tenant|exceed.{0,20}(?:messaging|sending) (?:limit|quota)",
        ),
        ("connection", r"messages? (?:per|on this|in this|for this) (?:connection|session)"),
        (
            "rate",
            r"throttl|rate.?limit|too (?:many|much|fast|quickly)(?! (?:recipients|hops))|(?:unusual|at a|high) rate|maximum sending rate|(?:excessive|unexpected|high) volume|\[(?:tss?|ipts)0[1-5]\]|try again later, closing|server busy|over .{0,20}rate|slow down|frequency|(?:connections?|messages?|mails?|e-?mails?|hourly|daily|recipients?) (?:rate |per \w+ )?limit|(?:limit|maximum)(?: number)? (?:of|on|for) .{0,20}(?:connections|messages|mails)|reached .{0,20}(?:connection|message|rate|sending) limit",
        ),
        ("too_many_recipients", r"too many recipients"),
        (
            "authentication",
            r"spf\b|dkim\b|dmarc\b|ptr\b|r?dns\b.{0,40}(?:record|lookup|match|name)|reverse (?:dns|host)|your (?:reverse )?host ?name|helo command rejected|not authenticated|unauthenticated|alignment|\[hme1\]",
        ),
        (
            "reputation",
            r"block.?list|black ?list|deny ?list|spamhaus|spamcop|barracuda|sorbs\b|rbl\b|dnsbl\b|reputation|banned|\[(?:bl2[13]|s3150|tss09|tss11)\]|s3150|client host .{0,80}blocked|listed (?:in|by|at)|(?:your|client|sending|source) (?:ip|host|server|network|domain|address|mta)\b.{0,80}(?:block|reject|refus|denied|suspend|disabled|not (?:allowed|accepted))|[ (\[:]ip(?:v[46])?(?: address)?\b.{0,60}(?:block|reject|refus|denied|suspend|disabled|unavailable|not (?:allowed|accepted))",
        ),
        (
            "sender",
            _SENDER
            + r".{0,60}(?:reject|refus|verif|unknown|invalid|not (?:found|exist|allowed|permitted)|den(?:y|ied)|block|fail)",
        ),
        ("routing", r"relay(?:ing)?\b.{0,20}(?:denied|not (?:permitted|allowed)|prohibited)|unable to relay"),
        (
            "mailbox_full",
            r"(?:mailbox|quota|storage|account).{0,30}(?:full|exceed|out of)|over ?quota|out of storage|insufficient (?:system )?storage",
        ),
        (
            "inactive",
            r"(?:account|mailbox|user|recipient|address).{0,40}(?:disabled|inactive|suspended|deactivated|expired)|no longer (?:available|active)",
        ),
        (
            "recipient",
            r"(?:no such|unknown|invalid|non-?existent) (?:user|recipient|mailbox|address|account|local)|(?:user|recipient|mailbox|address|account).{0,40}(?:unknown|not found|does ?n.t exist|does not exist|not exist|unavailable|rejected: undeliverable)|delivery error: dd|undeliverable address",
        ),
        ("content", r"spam\b|virus|malware|phish|attachment|prohibited content|message content|bare (?:lf|cr)"),
        ("size", r"(?:message|mail).{0,20}(?:too (?:large|big)|size (?:exceed|limit))|exceeds? .{0,30}size"),
    )
]

# RFC 3463 subject.detail → category, used when no text spoke.
_ENHANCED: Final = {
    "1.1": "recipient",
    "1.2": "recipient",
    "1.3": "recipient",
    "1.4": "recipient",
    "1.6": "inactive",
    "1.7": "sender",
    "1.8": "sender",
    "1.10": "recipient",  # null MX, RFC 7505
    "2.1": "inactive",
    "2.2": "mailbox_full",
    "2.3": "size",
    "3.1": "mailbox_full",
    "3.4": "size",
    "4.1": "connection",
    "4.2": "connection",
    "4.3": "routing",
    "4.4": "routing",
    "4.5": "rate",
    "4.6": "routing",
    "4.7": "routing",
    "5.3": "too_many_recipients",
    "7.8": "account",
    "7.9": "account",
    "7.20": "authentication",  # RFC 7372: DKIM, SPF, reverse DNS
    "7.21": "authentication",
    "7.22": "authentication",
    "7.23": "authentication",
    "7.24": "authentication",
    "7.25": "authentication",
    "7.26": "authentication",
    "7.27": "sender",  # sender has null MX, RFC 7505
    "7.28": "rate",
    "7.515": "authentication",
}
# Without 1 (addresses) and 2 (mailboxes): `x.1.0` and `x.2.0` are said of senders and of us as well.
_SUBJECT: Final = {
    "4": "routing",
    "5": "protocol",
    "6": "content",
    "7": "policy",
}
_CODES: Final = {
    421: "connection",
    450: "other",
    452: "mailbox_full",
    500: "protocol",
    501: "protocol",
    502: "protocol",
    503: "protocol",
    504: "protocol",
    530: "account",
    534: "account",
    535: "account",
    538: "account",
    552: "size",
    555: "protocol",
}


_SAID_OF_SIZE: Final = (452, 552)  # also with x.7.z, where they mean a policy

_NAMES_SENDER: Final = re.compile(_SENDER)


@lru_cache(maxsize=4096)
def classify(code: int, enhanced: str, text: str) -> str:
    """The category of a refusal, one of `CATEGORIES`. `enhanced` is `x.y.z` or ''."""
    text = " " + text.lower()
    found = _spoken(text) or _coded(code, enhanced)
    if found in _THEIRS:
        if _NAMES_SENDER.search(text):
            return "sender"
        said = _ENHANCED.get(enhanced.partition(".")[2], "")
        if said in OURS:
            return said
    return found


def _spoken(text: str) -> str:
    for category, pattern in _TEXTS:
        if pattern.search(text):
            return category
    return ""


def _coded(code: int, enhanced: str) -> str:
    _, _, detail = enhanced.partition(".")
    found = _ENHANCED.get(detail)
    if found is not None:
        return found
    subject = detail.split(".")[0]
    if code in _CODES and not (subject == "7" and code in _SAID_OF_SIZE):
        return _CODES[code]
    return _SUBJECT.get(subject, "other")


_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_WAIT: Final = re.compile(
    r"(?:try|retry|again|back|wait|after|later|in)\D{0,40}?\b(\d{1,5})\s*(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?)\b",
    re.IGNORECASE,
)


def wait_asked(text: str) -> float:
    """Seconds that a reply such as "try again in 5 minutes" asks us to wait, at most a day; 0 when it asks nothing."""
    found = _WAIT.search(text)
    return min(float(found[1]) * _UNITS[found[2][0].lower()], 86400.0) if found else 0.0
