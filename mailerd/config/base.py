"""What the tables of the file are made of: the types of its values, and the base of every table."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["Cap", "D", "Duration", "Name", "Quota", "Rate", "Section", "Size"]


class Duration(float):
    """Seconds. Written `250ms`, `30s`, `5m`, `2h`, `2d`, or a bare number of seconds."""


class Size(int):
    """Octets. Written `64kB`, `25MB`, or a bare number of octets."""


class Rate(float):
    """Messages a second. Written `100/s`, `20/m`, `5000/h`, `50000/d`."""


class Quota(str):
    """Messages in a calendar day or month. Written `50000/d`, `1000000/month`."""

    __slots__ = ()

    @property
    def messages(self) -> int:
        return int(self.partition("/")[0])

    @property
    def period(self) -> str:
        """`day` or `month`."""
        return "month" if self.endswith("month") else "day"


class Cap(str):
    """So many in any such span of time. Written `5/h`, `20/d`."""

    __slots__ = ()


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of the file."""


D = Duration
Name = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        extra={"words": "letters, digits, `_`, `.` and `-`, first a letter or digit, at most 63"},
    ),
]
