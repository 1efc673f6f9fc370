"""Events as providers write them, with anything in some of their places: read all the same, and what comes of it can be stored."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.store.feedback import Message, decide
from mailerd.webhook.dialect import Malformed
from tests.inbound.test_hostile import texts
from tests.webhook import test_read
from tests.webhook.keys import KINDS, make, post
from tests.webhook.test_hostile import fine

NOW = datetime(2026, 9, 21, 15, tzinfo=UTC)
OURS = Message(id=7, stream="transactional", recipients=("bob@example.org", "ann@example.org"))
ANYTHING: list[Any] = [
    None, True, False, 0, -1, 550, 1 << 63, 10**400, 1e308, float("nan"), "", "\0", "\ud800", "7-1", "7-99", "9" * 5000, "ann@example.org",
    "Ann <ann@example.org>", "<ours@shop.example>", "2026-09-21T14:13:20Z", "2026-13-41", "0001-01-01T00:00:00Z", "1e999", "hard", "temporary",
    "550 5.1.1 no such user", "²", [], {}, [None], ["7-1"], {"mailerd_id": "7-1"}, {"x": {"x": {"x": []}}}, [[[[]]]], "x" * 3000,
]  # fmt: skip


def samples(kind: str) -> list[Any]:
    """Those that `test_read` has."""
    marks = getattr(test_read, f"test_{kind}").pytestmark
    (pairs,) = (mark.args[1] for mark in marks if mark.name == "parametrize" and "event" in mark.args[0])
    return [event for event, _ in pairs]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize(
    "reason", [b"cut in \\ud83d", b"cut in \\ud83d and more", b"\\udc00", b"na\xefve", b"\xed\xa0\x80", b"a\ttab"]
)
def test_half_a_character_costs_no_batch(reason: bytes) -> None:
    body = (
        b'[{"event":"bounce","email":"ann@example.org","reason":"%b","mailerd_id":"7-1","sg_event_id":"a","n":NaN},'
        b'{"event":"open","email":"ann@example.org","mailerd_id":"7-1","sg_event_id":"b","n":1e999}]' % reason
    )
    found = make("sendgrid").read(body, {})
    fine(found)
    assert [(one.type, one.message_id) for one in found] == [("bounced", 7), ("opened", 7)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_mutation_is_read(kind: str, chance: random.Random) -> None:
    event = copy.deepcopy(chance.choice(samples(kind)))
    for _ in range(chance.randrange(1, 5)):
        container, key = chance.choice(list(places(event)) or [({}, "x")])
        match chance.randrange(4):
            case 0 if isinstance(container, dict):
                container.pop(key, None)
            case 1 if isinstance(container, dict):
                container[str(chance.choice(ANYTHING))] = container.get(key)
            case _:
                container[key] = copy.deepcopy(chance.choice(ANYTHING))
    try:
        found = make(kind).read(post(kind, event).body, {"svix-id": "msg_1"})
    except Malformed:
        assert kind == "sparkpost", "the shape around an event is not among what was changed"
        return
    fine(found)
    for one in found:
        for message in (None, OURS):
            consequence = decide(one, message, ["marketing"], NOW)
            if consequence is not None:
                assert not any("\0" in text for text in texts(consequence))
                assert 0 <= consequence.rcpt < 64
