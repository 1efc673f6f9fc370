"""How fast rows get into the outbox, through its constraints and triggers: `python bench/outbox.py [POSTGRES_VERSION]`.

An embedded, durable Postgres (synchronous_commit = on); 100 000 rows a run, a template with params, 200 domains; the
median of five.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from mailerd.bench.postgres import Postgres
from mailerd.config.model import Database
from mailerd.store.database import Session
from mailerd.store.migrate import migrate

ROWS = 100_000
SELECT = """
INSERT INTO mailerd.outbox (recipient, stream, template, params{column})
SELECT 'u' || i || '@d' || i % 200 || '.example', 'marketing', 'welcome', jsonb_build_object('name', 'Ann ' || i, 'n', i){value}
FROM generate_series(1, 100000) i
"""


async def main(version: int | None) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="mailerd-outbox-") as folder,
        Postgres(Path(folder), version=version) as server,
    ):
        async with Session(Database(url=server.url), "outbox") as session:
            await migrate(session)
        connection = await asyncpg.connect(server.url)
        print(
            (await connection.fetchval("SELECT version()")).split(" on ")[0],
            "synchronous_commit",
            await connection.fetchval("SHOW synchronous_commit"),
        )
        lines = "".join(
            f'u{i}@d{i % 200}.example\tmarketing\twelcome\t{{"name": "Ann {i}", "n": {i}}}\n' for i in range(ROWS)
        ).encode()
        copied = ["recipient", "stream", "template", "params"]
        runs: dict[str, Callable[[], Awaitable[object]]] = {
            "INSERT … SELECT": lambda: connection.execute(SELECT.format(column="", value="")),
            "INSERT … SELECT, dedup_key": lambda: connection.execute(
                SELECT.format(column=", dedup_key", value=", i || ':' || clock_timestamp()")
            ),
            "COPY": lambda: connection.copy_to_table(
                "outbox", schema_name="mailerd", columns=copied, source=io.BytesIO(lines)
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(5):
            for name, run in runs.items():
                started = time.perf_counter()
                await run()
                seconds[name].append(time.perf_counter() - started)
        for name, took in seconds.items():
            print(
                f"{name:<28} {ROWS / statistics.median(took):>8,.0f} rows/s   ({ROWS / max(took):,.0f} to {ROWS / min(took):,.0f})"
            )
        await connection.close()


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
