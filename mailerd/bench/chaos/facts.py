"""What is known at the end of a chaos run, from four witnesses: the application, the sink's ledgers, Postgres, ourselves.

The application knows what was acknowledged to it, the sink what it accepted and when, Postgres what the daemons
recorded, and the stage which faults it made. `collect` puts them side by side; judging is `promise`'s business.

All instants are `time.monotonic()` seconds of this machine. Hazard: everything is held in memory, about 1 kB a message.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from mailerd.bench.ledger import read
from mailerd.store.database import Session

__all__ = ["Acceptances", "Facts", "Fault", "collect"]


class Fault(msgspec.Struct, kw_only=True):
    """Something that was done to the installation. `until` is when its effect was over, `deaths` how many instances
    lost what they knew by it: each may have sent its unsettled messages without a trace."""

    kind: str
    at: float
    until: float = 0.0
    deaths: int = 0

    def __str__(self) -> str:
        return self.kind


Acceptances = dict[int, list[tuple[float, bool]]]  # by message: when, and whether the sink said 250; in order


class Facts(msgspec.Struct, kw_only=True):
    """The evidence of one run."""

    begin: float  # of the run
    acknowledged: dict[int, float]  # commits that the application was told of
    cancelled: dict[int, float]  # cancels that it was told of
    rows: dict[int, str]  # what the outbox holds: the stream, by id
    expiries: dict[int, float]  # by id, for those that have one
    events: dict[int, frozenset[str]]  # types, by message
    waiting: dict[int, str]  # where it waits: ready, scheduled, in_doubt
    accepted: Acceptances
    faults: list[Fault]
    bound: int  # duplicates that one death may cause
    cap: int  # connections to the provider
    peak: int | None  # connections at once, as the sink counted them; None: nobody counted
    slack: float  # seconds that an acceptance may come late
    holding: str  # the stream that never resends


_EVENTS = "SELECT message_id, array_agg(DISTINCT type) FROM mailerd.event WHERE rcpt = 0 GROUP BY message_id"
_ROWS = "SELECT id, stream, extract(epoch FROM expires_at)::float8 FROM mailerd.outbox"
_WAITING = """
SELECT id, 'ready' FROM mailerd.ready UNION ALL SELECT id, 'scheduled' FROM mailerd.scheduled
UNION ALL SELECT message_id, 'in_doubt' FROM mailerd.in_doubt
"""


async def database_facts(
    session: Session,
) -> tuple[dict[int, str], dict[int, float], dict[int, frozenset[str]], dict[int, str]]:
    """(rows, expiries, events, waiting) as `Facts` wants them."""
    offset = time.monotonic() - time.time()
    rows: dict[int, str] = {}
    expiries: dict[int, float] = {}
    for row in await session.fetch(_ROWS, timeout=300):
        rows[row[0]] = row[1]
        if row[2] is not None:
            expiries[row[0]] = row[2] + offset
    kinds: dict[frozenset[str], frozenset[str]] = {}  # few different ones: shared
    events: dict[int, frozenset[str]] = {}
    for message_id, types in await session.fetch(_EVENTS, timeout=300):
        key = frozenset(types)
        events[message_id] = kinds.setdefault(key, key)
    waiting = {row[0]: row[1] for row in await session.fetch(_WAITING, timeout=300)}
    return rows, expiries, events, waiting


def acceptances(ledgers: Path) -> Acceptances:
    """What the sink took, by message."""
    found: Acceptances = {}
    for message_id, at, answered in read(ledgers):
        found.setdefault(message_id, []).append((at, answered))
    for taken in found.values():
        taken.sort()
    return found


async def collect(
    session: Session,
    ledgers: Path,
    *,
    begin: float,
    acknowledged: dict[int, float],
    cancelled: dict[int, float],
    faults: list[Fault],
    bound: int,
    cap: int,
    peak: int | None,
    slack: float,
    holding: str,
) -> Facts:
    """To be called when nothing is being sent any more."""
    rows, expiries, events, waiting = await database_facts(session)
    return Facts(
        begin=begin, acknowledged=acknowledged, cancelled=cancelled, rows=rows, expiries=expiries, events=events, waiting=waiting,
        accepted=acceptances(ledgers), faults=faults, bound=bound, cap=cap, peak=peak, slack=slack, holding=holding,
    )  # fmt: skip
