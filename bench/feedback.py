"""What applying feedback costs: `python bench/feedback.py`. Its own Postgres with fsync on; ends by itself.

One session, batches of 500, each report about another message of 20 000; the median batch of each kind is printed.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from mailerd.bench.postgres import Postgres
from mailerd.config.model import Database
from mailerd.feedback import Feedback
from mailerd.store.database import Session
from mailerd.store.feedback import apply
from mailerd.store.migrate import migrate

BATCH = 500


async def measure(url: str) -> None:
    async with Session(Database(url=url), "bench") as session:
        await migrate(session)
        await session.execute(
            "INSERT INTO mailerd.outbox (recipient, stream, text_body) "
            "SELECT 'u' || i || '@d' || i % 100 || '.example', 'marketing', 'x' FROM generate_series(1, 20000) i"
        )
        ids = [row[0] for row in await session.fetch("SELECT id FROM mailerd.outbox")]
        for kind in ("delivered", "opened", "bounced", "unsubscribed"):
            took = []
            for start in range(0, len(ids), BATCH):
                batch = [
                    Feedback(type=kind, message_id=id_, source="webhook:bench", source_id=f"{kind}-{id_}")
                    for id_ in ids[start : start + BATCH]
                ]
                began = time.perf_counter()
                assert await apply(session, batch) == BATCH
                took.append((time.perf_counter() - began) / BATCH)
            each = statistics.median(took)
            print(f"{kind:13} {each * 1e6:5.0f} µs a report, {1 / each:7,.0f}/s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mailerd-pg-") as folder, Postgres(Path(folder)) as server:
        asyncio.run(measure(server.url))
