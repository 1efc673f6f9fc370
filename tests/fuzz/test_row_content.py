"""Rows with anything in all columns: refused by a constraint that says why, sent as what they say, or failed with a reason.

Each row goes through the real constraints and triggers, the real lease and the real composer; the rows of an example
share a transaction, which is rolled back. MAILERD_FUZZ_EXAMPLES sets the number of examples (some three rows each).
"""

# ruff: noqa: PT017  (either way of ending is fine, and each has its own marks)
from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings

from mailerd.compose.composer import Composer
from mailerd.config import model
from mailerd.message import Failure, Job
from mailerd.store.database import Session
from mailerd.store.lease import Claim, fetch_payloads, lease
from tests.fuzz.mail import judge
from tests.fuzz.rows import COLUMNS, configuration, rows

CATEGORIES = {"address", "sender", "header", "attachment", "template", "params", "content", "size"}  # never `internal`

# Inserts one row; what became of it. A function, so that a refusal costs one round trip and not the transaction.
PUT = f"""
CREATE FUNCTION pg_temp.put({", ".join(f"a_{name} {kind}" for name, kind in COLUMNS.items())})
RETURNS TABLE (id bigint, state text, name text, words text) LANGUAGE plpgsql AS $$
DECLARE v_id bigint; v_state text := ''; v_name text; v_words text;
BEGIN
  BEGIN
    INSERT INTO mailerd.outbox ({", ".join(COLUMNS)}) VALUES ({", ".join(f"a_{name}" for name in COLUMNS)}) RETURNING outbox.id INTO v_id;
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_name = CONSTRAINT_NAME, v_words = MESSAGE_TEXT;
  END;
  RETURN QUERY SELECT v_id, v_state, v_name, v_words;
END $$
"""
CALL = f"SELECT * FROM pg_temp.put({', '.join(f'${n + 1}' for n in range(len(COLUMNS)))})"
DUE = """
WITH s AS (DELETE FROM mailerd.scheduled RETURNING *)
INSERT INTO mailerd.ready (stream, priority, domain, campaign, id, size, expires_at)
SELECT stream, priority, domain, campaign, id, size, expires_at FROM s
"""


class Bench:
    """A session with the database, and a composer. `ends` counts how rows ended."""

    def __init__(self, url: str, templates: Path) -> None:
        self.runner = asyncio.Runner()
        self.session = Session(model.Database(url=url), "fuzz")
        self.composer = Composer(configuration(templates))
        self.ends: Counter[str] = Counter()
        self.runner.run(self._prepare())

    async def _prepare(self) -> None:
        await self.session.execute(PUT)

    def close(self) -> None:
        self.runner.run(self.session.close())
        self.runner.close()

    async def try_rows(self, given: list[dict[str, Any]]) -> None:
        """Every row to its end, in one transaction that leaves nothing."""
        connection = await self.session.connection()
        transaction = connection.transaction()
        await transaction.start()
        try:
            ids = [id_ for row in given if (id_ := await self._put(connection, row)) is not None]
            for job in await self._lease(connection, ids):
                await self._compose(connection, job)
        finally:
            await transaction.rollback()

    async def _put(self, connection: asyncpg.Connection, row: dict[str, Any]) -> int | None:
        try:
            (put,) = await connection.fetch(CALL, *(row.get(name) for name in COLUMNS))
        except asyncpg.DataError as error:  # no value of its type at all: NUL in text, JSON that is none
            assert error.sqlstate in ("22021", "22P02", "22P05", "22032", "22003"), error
            assert str(error)
            # The error has ended the transaction; so it would have ended the application's.
            raise Refused from error
        if put["id"] is not None:
            return int(put["id"])
        if not put["state"]:
            assert row.get("dedup_key"), "skipped without a dedup_key"
            self.ends["skipped"] += 1
            return None
        assert put["state"] == "23514", (put["state"], put["words"])
        column, colon, words = put["name"].partition(": ")
        assert colon, put["name"]
        assert words, put["name"]
        assert put["name"] in put["words"]
        assert set(re.split(", ", column)) <= {*COLUMNS, "content", "size"}, put["name"]
        self.ends[f"refused: {column}"] += 1
        return None

    async def _lease(self, connection: asyncpg.Connection, ids: list[int]) -> list[Job]:
        await connection.execute(DUE)
        waiting = await connection.fetch("SELECT stream, priority, domain, campaign, id FROM mailerd.ready")
        assert sorted(row["id"] for row in waiting) == sorted(ids), "a row of the outbox waits exactly once"
        jobs: list[Job] = []
        for stream in {row["stream"] for row in waiting}:
            lanes = {tuple(row)[1:4] for row in waiting if row["stream"] == stream}
            light, heavy, doubtful = await lease(self.session, stream, [Claim(*lane, 100) for lane in lanes], 7, 60.0)
            assert not doubtful
            found, missing = await fetch_payloads(self.session, heavy)
            assert not missing
            jobs += light + found
        assert sorted(job.id for job in jobs) == sorted(ids), "what waits is leased"
        return jobs

    async def _compose(self, connection: asyncpg.Connection, job: Job) -> None:
        stored = dict((await connection.fetch("SELECT * FROM mailerd.outbox WHERE id = $1", job.id))[0])
        addresses = self.composer.addresses(job)
        try:
            outgoing = self.composer.compose(job)
        except Failure as failure:
            assert failure.category in CATEGORIES, (failure.category, failure.reason, stored)
            assert failure.reason.strip()
            failure.reason.encode()
            self.ends[f"failed: {failure.category}"] += 1
            return
        assert outgoing == self.composer.compose(job), "a second attempt sends other octets"
        assert [r.address.lower() for r in outgoing.recipients] == [address for _, address in addresses]
        try:
            judge(stored, outgoing)
        except Exception as wrong:
            wrong.add_note(f"row: { {k: v for k, v in stored.items() if v is not None} }\n{outgoing.content[:3000]!r}")
            raise
        self.ends["composed"] += 1


class Refused(Exception):
    """The type of a value was refused, and the transaction with it."""


@pytest.fixture
def bench(database: str, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(database, tmp_path / "templates")
    yield bench
    bench.close()


@settings(
    max_examples=int(os.environ.get("MAILERD_FUZZ_EXAMPLES", "200")),
    deadline=None,
    derandomize="MAILERD_FUZZ_EXAMPLES" not in os.environ,  # what is new is for the long run to find
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(given_=rows)
@example(
    given_=[
        {"recipient": "ann@example.org", "text_body": "x", "headers": json.dumps({"X-Tag": smuggled})}
        for smuggled in ("x\r\nBcc: evil@evil.example", "x\nX-Evil: 1", "x\rX-Evil: 1", "x\r\n\r\nbody")
    ]
)
def _every_row(bench: Bench, given_: list[dict[str, Any]]) -> None:
    try:
        bench.runner.run(bench.try_rows(given_))
    except Refused:
        for row in given_:  # each by itself
            try:
                bench.runner.run(bench.try_rows([row]))
            except Refused:
                bench.ends["no value of its type"] += 1


def test_every_row_comes_to_an_end_that_says_why(bench: Bench) -> None:
    _every_row(bench)
    print(f"\n{bench.ends.total()} rows: {dict(bench.ends.most_common())}")
    assert bench.ends["composed"] > bench.ends.total() / 5, "hardly anything is composed: the rows are no good"
    assert any(end.startswith("refused") for end in bench.ends)
