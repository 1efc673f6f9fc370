"""Durations, sizes, listen addresses and mailboxes: what is taken, what is refused, and back to text."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.config import values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("2d", 172_800),
        ("1.5 h", 5400),
        ("7", 7),
        (7, 7),
        (0.5, 0.5),
    ],
)
def test_duration(text: Any, seconds: float) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no duration"),
        ("5 weeks", "is no duration"),
        ("1h30m", "is no duration"),
        ("٣s", "is no duration"),
        ("5M", "is no duration"),
        (True, "is no duration"),
        ([5], "is no duration"),
        ("-5s", "negative"),
        (-1, "negative"),
        (-math.inf, "negative"),
        (-(10**400), "negative"),
        ("0s", "zero"),
        (0, "zero"),
        (math.inf, "ten years"),
        (math.nan, "ten years"),
        (10**400, "ten years"),
        ("999999999999d", "ten years"),
    ],
)
def test_no_duration(text: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        values.duration(text)


def test_zero_where_it_means_never() -> None:
    assert values.duration("0s", zero=True) == 0
    assert values.show_duration(0.0) == "0s"


@given(st.integers(1, 3650 * 86_400_000))
def test_durations_come_back(milliseconds: int) -> None:
    assert values.duration(values.show_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.lists(st.integers())))
def test_any_value_gives_a_number_or_words(value: Any) -> None:
    for parse in (values.duration, values.size):
        with suppress(ValueError):
            assert 0 < parse(value) < math.inf


@pytest.mark.parametrize(
    ("text", "octets"), [("64kB", 65_536), ("25MB", 26_214_400), ("1 GB", 1 << 30), (7, 7), ("7", 7)]
)
def test_size(text: Any, octets: int) -> None:
    assert values.size(text) == octets


@pytest.mark.parametrize("text", ["", "25M", "kB", "-1kB", "1.5MB", 1.5, True, 0, -1, "2000GB", None])
def test_no_size(text: Any) -> None:
    with pytest.raises(ValueError, match=r"size|octet|GB"):
        values.size(text)


@given(st.integers(1, 1 << 40))
def test_sizes_come_back(octets: int) -> None:
    assert values.size(values.show_size(octets)) == octets


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8025", ("127.0.0.1", 8025)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        (":65535", ("", 65_535)),
        ("off", None),
    ],
)
def test_listen(text: str, address: tuple[str, int] | None) -> None:
    assert values.listen(text) == address


@pytest.mark.parametrize(
    "text", ["", "8025", "host:", "host:65536", "host:-1", "::1:80", "[1]:80", "a b:80", "h:٣", "http://h:80"]
)
def test_no_listen(text: str) -> None:
    with pytest.raises(ValueError):
        values.listen(text)


@pytest.mark.parametrize(
    "text", ["localhost", "smtp.example.org", "192.0.2.1", "::1", "2001:db8::1", "bücher.example", "a_b.example"]
)
def test_host(text: str) -> None:
    assert values.host(text) == text


@pytest.mark.parametrize("text", ["smtp://h", "h:25", "h/x", "a b", "-a.example", "a..b", "", ".", "x" * 64, "user@h"])
def test_no_host(text: str) -> None:
    with pytest.raises(ValueError):
        values.host(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ann@example.org", "ann@example.org"),
        ("Ann <ann@example.org>", "ann@example.org"),
        ('"Shop, Inc. <x>" <shop@example.org>', "shop@example.org"),
        ("<ann@example.org>", "ann@example.org"),
        ("Jörg <jörg@bücher.example>", "jörg@bücher.example"),
        ('"a b"@example.org', '"a b"@example.org'),
        ("o'hara+x@[192.0.2.1]", "o'hara+x@[192.0.2.1]"),
        ("root@localhost", "root@localhost"),
    ],
)
def test_mailbox(text: str, address: str) -> None:
    assert values.mailbox(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "@example.org",
        "ann@",
        "a b@example.org",
        "a..b@example.org",
        "Ann ann@example.org",
        "a@b@example.org",
        "Ann <ann@example.org> x",
        "ann@exa mple.org",
        "a" * 65 + "@example.org",
        "ann@-x.org",
        "Ann <>",
        "a@[300.1.1.1]",
    ],
)
def test_no_mailbox(text: str) -> None:
    with pytest.raises(ValueError):
        values.mailbox(text)


def test_bare_mailbox_takes_no_name() -> None:
    with pytest.raises(ValueError, match="is no mailbox"):
        values.mailbox("Ann <ann@example.org>", bare=True)


@given(st.text(max_size=60))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (values.listen, values.host, values.mailbox):
        with suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("100/s", 100.0, "100/s"),
        ("1/m", 1 / 60, "1/m"),
        ("90 / m", 1.5, "90/m"),
        ("5000/h", 5000 / 3600, "5000/h"),
        ("50000/d", 50000 / 86400, "50000/d"),
        ("0.5/s", 0.5, "30/m"),
    ],
)
def test_rate(text: str, rate: float, shown: str) -> None:
    assert values.rate(text) == pytest.approx(rate)
    assert values.show_rate(values.rate(text)) == shown


@given(st.integers(1, 10**6), st.sampled_from("smhd"))
def test_a_rate_is_shown_as_one_that_means_the_same(count: int, unit: str) -> None:
    rate = values.rate(f"{count}/{unit}")
    assert values.rate(values.show_rate(rate)) == pytest.approx(rate, rel=1e-5)


@given(st.text(max_size=20))
def test_no_other_text_is_a_rate_quota_or_cap(text: str) -> None:
    for read in (values.rate, values.quota, values.cap):
        with suppress(ValueError):
            assert read(text)
