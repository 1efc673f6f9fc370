"""Tokens: what was signed comes back, what was tampered with does not, and no address can be read from one."""

from __future__ import annotations

from base64 import urlsafe_b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.compose.tokens import Claim, Subscriber, Tokens

OLD, NEW = "o" * 32, "n" * 32
TOKENS = Tokens([NEW, OLD])
messages = st.integers(0, (1 << 63) - 1)
bits = st.integers(0, 63)


@given(messages, bits)
def test_opens_come_back(message: int, bit: int) -> None:
    assert TOKENS.read_open(TOKENS.open(message, bit)) == Claim(message, bit)


@given(messages, bits, st.text(min_size=1, alphabet=st.characters(codec="utf-8")))
def test_clicks_come_back(message: int, bit: int, url: str) -> None:
    token, _, target = TOKENS.click(message, url, bit).partition("/")
    assert TOKENS.read_click(token, target) == (Claim(message, bit), url)


@given(messages, bits, st.emails(), st.text(alphabet=st.characters(codec="utf-8")))
def test_unsubscribes_come_back_and_show_nothing(message: int, bit: int, address: str, topic: str) -> None:
    subscriber = Subscriber(message, bit, address, "marketing", topic)
    token = TOKENS.unsubscribe(subscriber)
    assert TOKENS.read_unsubscribe(token) == subscriber
    assert token == TOKENS.unsubscribe(subscriber)
    assert address.encode() not in urlsafe_b64decode(token + "==")


@given(st.data())
def test_one_changed_character_is_one_too_many(data: st.DataObject) -> None:
    click, _, target = TOKENS.click(7, "https://example.org/").partition("/")
    changed = []
    for text in (TOKENS.open(7), click, TOKENS.unsubscribe(Subscriber(7, 0, "ann@example.org", "marketing")), target):
        place = data.draw(st.integers(0, len(text) - 1))
        other = data.draw(st.sampled_from([c for c in "ABCDEFghijkl0123-_=+/." if c != text[place]]))
        changed.append(text[:place] + other + text[place + 1 :])
    assert TOKENS.read_open(changed[0]) is None
    assert TOKENS.read_click(changed[1], target) is None
    assert TOKENS.read_unsubscribe(changed[2]) is None
    assert TOKENS.read_click(click, changed[3]) is None


@given(st.text(), st.text())
def test_anything_else_is_none_of_ours(text: str, more: str) -> None:
    assert TOKENS.read_open(text) is None
    assert TOKENS.read_click(text, more) is None
    assert TOKENS.read_unsubscribe(text) is None


def test_a_token_serves_one_purpose() -> None:
    click = TOKENS.click(7, "https://example.org/").partition("/")[0]
    assert TOKENS.read_open(click) is None
    assert TOKENS.read_click(TOKENS.open(7), "") is None


def test_secrets_rotate() -> None:
    old = Tokens([OLD])
    subscriber = Subscriber(7, 0, "ann@example.org", "marketing")
    assert TOKENS.read_open(old.open(7)) == Claim(7, 0)
    assert TOKENS.read_unsubscribe(old.unsubscribe(subscriber)) == subscriber
    assert old.read_open(TOKENS.open(7)) is None
    assert old.read_unsubscribe(TOKENS.unsubscribe(subscriber)) is None


def test_no_secret() -> None:
    with pytest.raises(ValueError, match="no secret"):
        Tokens([])
