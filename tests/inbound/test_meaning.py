"""Category and hardness: what names the mailbox is hard, what is ours or unclear never is."""

from __future__ import annotations

import pytest

from mailerd.flow.classify import CATEGORIES
from mailerd.inbound.meaning import meaning, reply_in
from mailerd.inbound.phrases import phrases


@pytest.mark.parametrize(
    ("code", "status", "text", "category", "hardness"),
    [
        (550, "5.1.1", "550 5.1.1 user unknown", "recipient", "hard"),
        (550, "5.2.1", "550 5.2.1 the account has been disabled", "inactive", "hard"),
        (0, "", "Host or domain name not found", "recipient", "hard"),
        (521, "", "521 this host takes no mail", "recipient", "hard"),
        (450, "4.1.1", "450 4.1.1 user unknown", "recipient", "soft"),
        (550, "4.1.1", "550 4.1.1 user unknown", "recipient", "soft"),
        (552, "5.2.2", "552 5.2.2 mailbox full", "mailbox_full", "soft"),
        (552, "5.3.4", "552 5.3.4 message size exceeds limit", "size", "soft"),
        (0, "", "message has been in the queue too long", "connection", "soft"),
        (550, "", "550 no", "other", "soft"),
        (550, "5.1.8", "550 5.1.8 sender address rejected: domain not found", "sender", "sender"),
        (553, "5.1.8", "553 5.1.8 domain of sender address does not exist", "sender", "sender"),
        (550, "5.7.1", "550 5.7.1 client host [192.0.2.1] blocked using list.example", "reputation", "sender"),
        (550, "5.7.26", "550 5.7.26 unauthenticated mail is not accepted", "authentication", "sender"),
        (550, "5.7.1", "550 5.7.1 your domain does not exist", "authentication", "sender"),
        (550, "5.1.1", "550 5.1.1 your host name is unknown", "authentication", "sender"),
        (554, "5.7.1", "554 5.7.1 denied by policy", "policy", "sender"),
        (554, "5.6.0", "554 5.6.0 considered spam, user unknown", "content", "sender"),
    ],
)
def test_meaning(code: int, status: str, text: str, category: str, hardness: str) -> None:
    found = meaning("failed", code, status, text)
    assert (found[0], str(found[1])) == (category, hardness)


def test_what_is_still_tried_or_arrived_is_not_hard() -> None:
    assert str(meaning("delayed", 550, "5.1.1", "user unknown")[1]) == "soft"
    assert meaning("delivered", 250, "2.0.0", "ok") == ("", "")


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("said: 550 5.1.1 <a@b.example>: no", 550, "5.1.1"),
        ("said: 550-5.1.1 no", 550, "5.1.1"),
        ("552 mailbox over quota (#5.2.2)", 552, "5.2.2"),
        ("#550 5.4.1 ACCESS; not found ##", 550, "5.4.1"),
        ("5.1.0 - unknown address error 550-'5.2.2 mailbox full'", 550, "5.2.2"),
        ("ERROR_CODE :550, ERROR_CODE :5.1.1 no", 550, "5.1.1"),
        ("host 192.0.2.5.1.1 answered at 12:450 with version 4.5.6.7", 0, ""),
        ("", 0, ""),
    ],
)
def test_a_quoted_reply(text: str, code: int, status: str) -> None:
    assert reply_in(text)[:2] == (code, status)


def test_categories_of_the_file_are_known() -> None:
    assert {category for category, _ in phrases().said} <= set(CATEGORIES)
