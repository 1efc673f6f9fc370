"""What became of every message: compares what was put in with what the sink took and what the database says.

lost: neither accepted, nor ended in another final event, nor still waiting. duplicate: answered with 250 more than
once. What the sink took without answering (a fault) is in doubt by design; sending that again is counted apart.

Without the sink's ledgers (somebody else's sink) only the database is asked, and duplicates are unknown.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from mailerd.bench.ledger import read
from mailerd.store.database import Session

__all__ = ["Audit", "audit"]

_FINAL = "('delivered', 'bounced', 'rejected', 'failed', 'suppressed', 'expired', 'cancelled')"


class Audit(msgspec.Struct):
    """Counts of messages; `first` maps ids to the time of their first acceptance, `times` are all, in order."""

    lost: int
    duplicates: int | None
    resent_in_doubt: int | None
    refused: int
    waiting: int
    first: dict[int, float]
    times: list[float]


async def audit(session: Session, rows: int, committed: dict[int, float], ledgers: Path | None) -> Audit:
    """`rows` were put in; of those in `committed` we know the ids. To be called when nothing is being sent any more."""
    first: dict[int, float] = {}
    times: list[float] = []
    answered: dict[int, int] = {}
    duplicates: int | None = None
    resent: int | None = None
    if ledgers is not None:
        total = 0
        for message_id, at, was_answered in read(ledgers):
            total += 1
            times.append(at)
            if at < first.get(message_id, at + 1):
                first[message_id] = at
            if was_answered:
                answered[message_id] = answered.get(message_id, 0) + 1
        duplicates = sum(count - 1 for count in answered.values() if count > 1)
        resent = total - len(first) - duplicates
    else:
        offset = time.time() - time.monotonic()
        for row in await session.fetch(
            "SELECT message_id, extract(epoch FROM at)::float8 FROM mailerd.event WHERE type = 'sent'"
        ):
            times.append(row[1] - offset)
            first.setdefault(row[0], row[1] - offset)
    times.sort()
    refused = {
        row[0] for row in await session.fetch(f"SELECT DISTINCT message_id FROM mailerd.event WHERE type IN {_FINAL}")
    } - first.keys()
    still = "SELECT id FROM mailerd.ready UNION ALL SELECT id FROM mailerd.scheduled UNION ALL SELECT message_id FROM mailerd.in_doubt"
    waiting = int(await session.value(f"SELECT count(*) FROM ({still}) w"))
    if len(committed) == rows and waiting < 1_000_000:
        ids = {row[0] for row in await session.fetch(still)} if waiting else set()
        lost = len(committed.keys() - first.keys() - refused - ids)
    else:
        lost = rows - len(first.keys() | refused) - waiting
    return Audit(lost, duplicates, resent, len(refused), waiting, first, times)
