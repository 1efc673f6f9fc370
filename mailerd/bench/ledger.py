"""The sink's ledger: which messages were accepted, and when, in one compact file per sink process.

A record is the outbox id found in the Message-ID (-1 where there is none) and `time.monotonic()` of the acceptance,
which on one machine compares with any other process's clock. The file's head carries wall and monotonic time of its
opening, so that readers can turn one into the other. Records are kept in memory and written by `flush`.

Hazards: what a killed sink had not flushed (at most 100 ms) is missing. A message that was accepted while its reply
was withheld (a fault) carries the bit `UNANSWERED`: the sender must treat it as in doubt, and may send it again.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["UNANSWERED", "Acceptance", "Ledger", "accepted", "read"]

UNANSWERED = 1 << 62
_MAGIC = b"mailerd sink 1\r\n"
_HEAD = struct.Struct("<16sdd")
_RECORD = struct.Struct("<qd")


class Acceptance(NamedTuple):
    """One accepted message: its outbox id (-1: unknown), `time.monotonic()` seconds, and whether we said 250."""

    id: int
    at: float
    answered: bool


class Ledger:
    """The writing end, one per process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.write(self._file, _HEAD.pack(_MAGIC, time.time(), time.monotonic()))
        self._pending = bytearray()

    def add(self, message_id: int, answered: bool = True) -> None:
        self._pending += _RECORD.pack(message_id if answered else message_id | UNANSWERED, time.monotonic())

    def flush(self) -> None:
        if self._pending:
            os.write(self._file, self._pending)
            self._pending.clear()

    def close(self) -> None:
        self.flush()
        os.close(self._file)


def accepted(folder: Path) -> int:
    """How many acceptances the ledgers of `folder` hold now; reads no record."""
    sizes = (path.stat().st_size - _HEAD.size for path in folder.glob("*.ledger"))
    return sum(max(size, 0) // _RECORD.size for size in sizes)


def read(folder: Path) -> Iterator[Acceptance]:
    """Every acceptance in the ledgers of `folder`, one process after the other. A torn last record is left out."""
    for path in sorted(folder.glob("*.ledger")):
        content = path.read_bytes()
        if content[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"{path}: not a ledger of `mailerd sink`")
        whole = _HEAD.size + (len(content) - _HEAD.size) // _RECORD.size * _RECORD.size
        for number, at in _RECORD.iter_unpack(memoryview(content)[_HEAD.size : whole]):
            if number >= 0 and number & UNANSWERED:
                yield Acceptance(number ^ UNANSWERED, at, False)
            else:
                yield Acceptance(number, at, True)


def clocks(path: Path) -> tuple[float, float]:
    """Wall and monotonic time (seconds) of the moment when this ledger was opened."""
    _, wall, monotonic = _HEAD.unpack(path.read_bytes()[: _HEAD.size])
    return wall, monotonic
