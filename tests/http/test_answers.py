"""Whatever an answer holds, every dialect makes a verdict of it, and every verdict is an outcome."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.config.kinds import HTTP
from mailerd.config.provider import Provider
from mailerd.config.schema import keys
from mailerd.http.dialect import Dialect, Entry, Fault, Response, Verdict, by_status, retry_after
from mailerd.http.kinds import DIALECTS
from mailerd.http.outcome import outcome
from mailerd.http.window import LONGEST, Window
from mailerd.message import DETAIL_LIMIT
from tests.http.rig import message

AT = datetime(2026, 1, 1, tzinfo=UTC)

# Words that some dialect looks for, so that answers come near what it expects.
_words = st.sampled_from(
    [
        "id",
        "data",
        "errors",
        "error",
        "message",
        "name",
        "code",
        "results",
        "ErrorCode",
        "MessageID",
        "MessageId",
        "Message",
        "Messages",
        "Status",
        "success",
        "To",
        "total_accepted_recipients",
        "index",
        "messageId",
        "messageIds",
        "warnings",
        "Errors",
        "rate_limit_exceeded",
        "validation_error",
        "MessageRejected",
        "not_found",
        "0",
        "1",
        "2101",
        "406",
    ]
)
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)
_bodies = st.binary(max_size=80) | _values.map(lambda value: json.dumps(value).encode())
_headers = st.dictionaries(
    st.sampled_from(["retry-after", "x-amzn-errortype", "x-message-id", "ratelimit-remaining", "ratelimit-reset"]),
    st.text(max_size=12) | st.sampled_from(["1", "1e999", "nan", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", "#:#"]),
)


def dialect(kind: str) -> Dialect:
    values = {name: key.example for name, key in keys(Provider).items() if name in HTTP[kind].must}
    return DIALECTS[kind](Provider(name="esp", kind=kind, **values))  # type: ignore[arg-type]


def entries(spoken: Dialect, count: int) -> Sequence[Entry]:
    return [spoken.entry(message()) for _ in range(min(count, spoken.batch))]


SPOKEN = {kind: dialect(kind) for kind in DIALECTS if kind != "http"}
ENTRIES = {(kind, n): entries(spoken, n) for kind, spoken in SPOKEN.items() for n in (1, 2, 3)}


@pytest.mark.parametrize("kind", SPOKEN)
@settings(deadline=None, max_examples=150)
@given(status=st.integers(0, 999), body=_bodies, headers=_headers, count=st.integers(1, 3))
def test_any_answer_is_a_verdict(kind: str, status: int, body: bytes, headers: dict[str, str], count: int) -> None:
    load = ENTRIES[kind, count]
    response = Response(status, headers, body, AT)
    found = SPOKEN[kind].verdicts(load, response)
    verdicts = [found] if isinstance(found, Verdict) else found
    assert isinstance(found, Verdict) or len(found) == len(load)
    for verdict in verdicts:
        assert verdict.fault is not None or 200 <= status < 300, "accepted without a 2xx"
        ended = outcome(verdict, status, "esp")
        assert len(ended.text) <= DETAIL_LIMIT
        assert "\0" not in ended.text + ended.provider_message_id
        (ended.text + ended.provider_message_id).encode()
        assert 0 <= ended.retry_after <= 3600


@settings(deadline=None)
@given(status=st.integers(0, 999))
def test_a_status_alone_is_never_an_acceptance(status: int) -> None:
    fault = by_status(Response(status, {}, b"", AT)).fault
    assert fault is not None
    assert (fault is Fault.DOUBT) == (
        status < 300 or status >= 600 or (status > 500 and status not in (501, 503, 505, 511))
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("999999999", 3600.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Thu, 01 Jan 2026 00:01:00", 60.0),
        ("Thu, 01 Jan 2015 00:01:00 GMT", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert retry_after(Response(429, {"retry-after": text}, b"", AT)) == seconds


def test_a_window_counts_down_and_opens_again() -> None:
    window = Window()
    assert window.room(0.0) == float("inf")
    window.tell({"ratelimit-limit": "5", "ratelimit-remaining": "4", "ratelimit-reset": "1"}, 10.0, 0.0, others=1)
    assert window.room(10.0) == 3
    window.start(10.0)
    assert window.room(10.5) == 2
    assert window.room(11.0) == 5


@pytest.mark.parametrize("prefix", ["ratelimit-", "x-ratelimit-", "x-sib-ratelimit-"])
def test_a_reset_may_be_a_unix_time(prefix: str) -> None:
    window = Window()
    wall = (AT + timedelta(seconds=7)).timestamp()
    window.tell({f"{prefix}remaining": "0", f"{prefix}reset": str(wall)}, 100.0, AT.timestamp(), others=0)
    assert (window.room(106.9), window.until) == (0, 107.0)
    assert window.room(107.0) == float("inf")


@settings(deadline=None)
@given(left=st.text(max_size=6), reset=st.text(max_size=6) | st.sampled_from(["1e400", "nan", "-9", "99999"]))
def test_no_header_makes_a_window_that_never_opens(left: str, reset: str) -> None:
    window = Window()
    window.tell({"ratelimit-limit": left, "ratelimit-remaining": left, "ratelimit-reset": reset}, 0.0, 1.7e9, others=3)
    assert window.room(LONGEST) >= 1
