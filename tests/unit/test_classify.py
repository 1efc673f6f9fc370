"""Refusals of known servers, filed where an operator looks for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.flow.classify import CATEGORIES, OURS, classify, wait_asked


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "category"),
    [
        (550, "5.1.1", "The email account that you tried to reach does not exist.", "recipient"),
        (
            550,
            "5.1.1",
            "<ann@example.org>: Recipient address rejected: User unknown in virtual mailbox table",
            "recipient",
        ),
        (554, "", "delivery error: dd This user doesn't have a yahoo.com account", "recipient"),
        (550, "5.2.1", "The email account that you tried to reach is disabled.", "inactive"),
        (452, "4.2.2", "The recipient's inbox is out of storage space.", "mailbox_full"),
        (552, "5.2.2", "Mailbox full", "mailbox_full"),
        (
            421,
            "4.7.28",
            "Our system has detected an unusual rate of unsolicited mail originating from your IP address.",
            "rate",
        ),
        (
            421,
            "4.7.0",
            "[TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
            "rate",
        ),
        (454, "", "Throttling failure: Maximum sending rate exceeded.", "rate"),
        (454, "", "Throttling failure: Daily message quota exceeded.", "account"),
        (
            550,
            "5.7.26",
            "This mail has been blocked because the sender is unauthenticated. Gmail requires SPF or DKIM",
            "authentication",
        ),
        (
            550,
            "5.7.515",
            "Access denied, sending domain example.org doesn't meet the required authentication level.",
            "authentication",
        ),
        (554, "5.7.1", "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", "reputation"),
        (550, "5.7.1", "Unfortunately, messages from [192.0.2.1] weren't sent. (S3150)", "reputation"),
        (451, "4.7.1", "Greylisting in action, please come back later", "greylist"),
        (450, "4.7.1", "<x>: Recipient address rejected: Postgrey, see http://…", "greylist"),
        (552, "5.3.4", "Message size exceeds fixed limit", "size"),
        (552, "5.2.3", "Message too large", "size"),
        (452, "4.5.3", "Too many recipients", "too_many_recipients"),
        (535, "5.7.8", "Authentication credentials invalid", "account"),
        (554, "", "Message rejected: Email address is not verified.", "account"),
        (451, "", "Authentication failed: Maximum credits exceeded", "account"),
        (554, "5.7.1", "Message looks like spam", "content"),
        (421, "", "closing", "connection"),
        (503, "5.5.1", "bad sequence of commands", "protocol"),
        (550, "5.7.1", "no", "policy"),
        (599, "", "¿qué?", "other"),
    ],
)
def test_known_refusals(code: int, enhanced: str, text: str, category: str) -> None:
    assert classify(code, enhanced, text) == category


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "category"),
    [
        (450, "4.1.8", "<a@shop.example>: Sender address rejected: Domain not found", "sender"),
        (550, "5.1.1", "Sender verify failed: no such user here", "sender"),
        (550, "5.1.1", "<a@shop.example>: sender rejected", "sender"),
        (550, "5.2.1", "MAIL FROM address a@shop.example is disabled", "sender"),
        (550, "5.1.0", "192.0.2.1 is not welcome", "other"),
        (501, "5.1.7", "Invalid address", "sender"),
        (550, "", "Callout to the sender's host says: mailbox unavailable", "sender"),
        (550, "", "Your IP address has been suspended", "reputation"),
        (550, "5.7.1", "IP address 192.0.2.1 temporarily disabled for abuse", "reputation"),
        (554, "5.2.0", "Your host is blocked from this mailbox server", "reputation"),
        (550, "5.2.1", "Your account has been suspended for sending spam", "account"),
        (452, "4.2.2", "Sender account has exceeded its sending quota", "account"),
        (550, "5.1.90", "You have reached your daily limit for message recipients", "account"),
        (550, "", "Hourly message limit exceeded for this address", "rate"),
        (421, "4.1.0", "Address 192.0.2.1: connection rate limit, slow down", "rate"),
        (550, "5.1.1", "User not found, DKIM signature of the domain does not exist", "authentication"),
        (550, "", "Cannot look up your reverse hostname, address not found", "authentication"),
        (452, "4.7.1", "not now", "policy"),
        (552, "5.7.0", "not this", "policy"),
        (550, "5.7.1", "Relaying denied for unknown user", "routing"),
        (554, "5.4.6", "Too many hops", "routing"),
        (550, "5.7.1", "[CS01] local policy", "policy"),
        (421, "", "Max message per connection reached, closing", "connection"),
    ],
)
def test_what_is_said_about_us_is_never_filed_under_the_recipient(
    code: int, enhanced: str, text: str, category: str
) -> None:
    assert classify(code, enhanced, text) == category
    assert category in OURS or category in ("policy", "other")


@given(st.integers(200, 599), st.sampled_from(["", "5.7.1", "4.9.9", "2.0.0", "5.1.999"]), st.text(max_size=200))
def test_anything_has_a_category(code: int, enhanced: str, text: str) -> None:
    assert classify(code, enhanced, text) in CATEGORIES


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Greylisted, please try again in 5 minutes", 300),
        ("try again in 00300 seconds", 300),
        ("Please retry after 2 hours", 7200),
        ("wait 30s before retrying", 30),
        ("come back in 10 min", 600),
        ("try again later", 0),
        ("mailbox has 5 messages", 0),
        ("try again in 99999 hours", 86400),
    ],
)
def test_waits_asked_for(text: str, seconds: float) -> None:
    assert wait_asked(text) == seconds
