"""Why a file is not there: a value for whoever asked, and the exception by which it comes up from deep inside a fetch."""

from __future__ import annotations

import msgspec

from mailerd.message import clean

__all__ = ["Stopped", "Trouble"]


class Trouble(msgspec.Struct, frozen=True):
    """`reason` reads on after the attachment's name. `temporary`: it may be there later; `after` is a wait in seconds that the
    server asked for. `away`: the whole place does not answer, not this file alone."""

    reason: str
    temporary: bool = False
    after: float = 0.0
    away: bool = False


class Stopped(Exception):
    """Ends a fetch. Caught in this room."""

    def __init__(self, reason: str, *, temporary: bool = False, after: float = 0.0, away: bool = False) -> None:
        super().__init__(reason)
        self.trouble = Trouble(clean(reason, 300), temporary, after, away)
