"""The words of bounces, automatic replies and challenges: `data/bounces.toml`, loaded once and compiled.

Pure. What the words prove is decided in `prose`, `kinds` and `meaning`; here is only whether they are there.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

import msgspec

from mailerd.flow.classify import CATEGORIES

__all__ = ["ADDRESS", "Phrases", "phrases", "said"]

ADDRESS: Final = r"(?:\"[^\"\s\x00-\x1f\x7f]{1,64}\"|[^\s\x00-\x1f\x7f<>()\[\]:;,\"'@|][^\s\x00-\x1f\x7f<>()\[\]:;,\"@|]{0,99})@(?:[\w-]{1,63}\.)*[\w-]{1,63}"


class Phrases(msgspec.Struct, frozen=True):
    """One pattern a list of the file; `recipients` in the order in which they are tried."""

    daemon: re.Pattern[str]
    failure_subject: re.Pattern[str]
    failure_body: re.Pattern[str]
    delay: re.Pattern[str]
    away: re.Pattern[str]
    challenge: re.Pattern[str]
    complaint_subject: re.Pattern[str]
    marker: re.Pattern[str]
    not_recipient: re.Pattern[str]
    recipients: tuple[re.Pattern[str], ...]
    said: tuple[tuple[str, re.Pattern[str]], ...]


@cache
def phrases() -> Phrases:
    """The shipped ones. Raises for a file that is wrong, which its test would have told."""
    data = tomllib.loads(files("mailerd.inbound").joinpath("data/bounces.toml").read_text("utf-8"))
    rules = data["said"]
    if unknown := [rule["category"] for rule in rules if rule["category"] not in CATEGORIES]:
        raise ValueError(f"bounces.toml: no such category: {unknown}")

    def any_of(name: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{pattern})" for pattern in data[name]), flags)

    return Phrases(
        any_of("daemon"),
        any_of("failure_subject"),
        any_of("failure_body"),
        any_of("delay"),
        any_of("away"),
        any_of("challenge"),
        any_of("complaint_subject"),
        any_of("marker", re.IGNORECASE | re.MULTILINE),
        any_of("not_recipient"),
        tuple(
            re.compile(form.replace("ADDRESS", rf"(?<![\w.+-])({ADDRESS})"), re.IGNORECASE)
            for form in data["recipient"]
        ),
        tuple((rule["category"], re.compile(rule["text"])) for rule in rules),
    )


@lru_cache(4096)
def said(text: str) -> str:
    """The category that words in `text` (lower case) mean which no server says to its client; '' if none."""
    for category, pattern in phrases().said:
        if pattern.search(text):
            return category
    return ""
