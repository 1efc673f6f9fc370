"""Robots: whether a machine fetched a pixel or followed a link, by what it says of itself and by how it behaves.

Rules are data (`data/robots.toml`): names and pieces of User-Agent fields. Behaviour: only robots ask with HEAD, prefetch
says so, browsers have a User-Agent, and nobody reads a message within seconds of its being written. A scanner that poses
as a browser, hours later, is taken for a person: this is a filter for figures, not a proof.

Pure. The age of a message is that of its id, in whole seconds: a message that waited in the queue looks older, so the rule
catches less than it might and never more.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Final

import msgspec

__all__ = ["HASTE", "Visitor", "judge", "recognise"]

HASTE: Final = 3.0  # seconds from the row to a click or an open, in which no person can have acted
_EPOCH: Final = 1577836800  # ids count seconds from 2020-01-01 in their upper bits (mailerd.new_id)
_ID_SHIFT: Final = 21


class Visitor(msgspec.Struct, frozen=True):
    """Who asked: `bot`, and what it is called ('' : nothing that we know)."""

    bot: bool
    name: str = ""


class _Robot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    agent: str = ""
    exactly: str = ""
    bot: bool = True


def _load() -> tuple[_Robot, ...]:
    text = resources.files("mailerd.web").joinpath("data", "robots.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text)["robot"], tuple[_Robot, ...])


_ROBOTS: Final = _load()


@lru_cache(maxsize=4096)
def recognise(agent: str) -> Visitor:
    """By the User-Agent field alone. None at all is a robot's."""
    text = agent.strip().lower()
    if not text:
        return Visitor(True, "no-agent")
    for robot in _ROBOTS:
        if text == robot.exactly or (robot.agent and robot.agent in text):
            return Visitor(robot.bot, robot.name)
    return Visitor(False)


def judge(method: str, headers: Mapping[str, str], message: int, now: float) -> Visitor:
    """`message`: the id from the token; `now`: seconds since 1970. Header names are in lower case."""
    visitor = recognise(headers.get("user-agent", "")[:512])
    if visitor.bot:
        return visitor
    if method == "HEAD":
        return Visitor(True, visitor.name or "head")
    if "prefetch" in headers.get("sec-purpose", headers.get("purpose", "")).lower():
        return Visitor(True, visitor.name or "prefetch")
    written = (message >> _ID_SHIFT) + _EPOCH
    if 0 <= now - written < HASTE:
        return Visitor(True, visitor.name or "haste")
    return visitor
