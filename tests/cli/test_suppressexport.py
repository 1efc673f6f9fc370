"""Suppression lists in providers' formats: what is written, and that it is read back as the same."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.cli.suppressexport import FORMATS, REASONS, write
from mailerd.cli.suppressfile import read
from mailerd.store.suppression import Suppression
from tests.cli.commands import Commands

AT = datetime(2026, 11, 5, 10, 20, 30, tzinfo=UTC)
ENTRIES = [
    Suppression(address="ann@x.example", reason="complaint", stream="a", at=AT),
    Suppression(address="ann@x.example", reason="bounce", stream="b", at=AT),
    Suppression(address="bob@x.example", reason="unsubscribed", stream="a", at=AT),
    Suppression(address="eve@x.example", reason="she asked on the telephone", at=AT),
    Suppression(address="soft@x.example", reason="soft bounces", until=AT, at=AT),
    Suppression(address="erased:0123456789abcdef", reason="complaint", at=AT),
]


def exported(entries: Sequence[Suppression], name: str, reason: str | None) -> tuple[str, tuple[int, int]]:
    async def pages() -> AsyncIterator[Sequence[Suppression]]:
        yield entries[:1]  # an address may lie on two pages
        yield entries[1:]

    file = io.StringIO()
    counts = asyncio.run(write(pages(), file, FORMATS[name], reason))
    return file.getvalue(), counts


@pytest.mark.parametrize(
    ("name", "reason", "expected"),
    [
        ("postmark", None, {"ann": "bounce", "bob": "unsubscribe", "eve": "manual"}),
        ("sparkpost", None, {"ann": "bounce", "bob": "unsubscribe", "eve": "manual"}),
        ("brevo", None, {"ann": "bounce", "bob": "unsubscribe", "eve": "manual"}),
        ("brevo", "complaint", {"ann": "complaint"}),
        ("ses", None, {"ann": "bounce"}),
        ("ses", "complaint", {"ann": "complaint"}),
        ("resend", None, {"bob": "unsubscribe"}),
        *((kind, "bounce", {"ann": "bounce"}) for kind in ("sendgrid", "mailgun")),
        *((kind, "complaint", {"ann": "complaint"}) for kind in ("sendgrid", "mailgun")),
        *((kind, "unsubscribe", {"bob": "unsubscribe"}) for kind in ("sendgrid", "mailgun")),
    ],
)
def test_what_is_written(name: str, reason: str | None, expected: dict[str, str]) -> None:
    text, (written, left) = exported(ENTRIES, name, reason)
    assert written == len(expected)
    assert left == {None: 5 - len(expected), "complaint": 1}.get(reason, 0)
    faults: list[str] = []
    back = list(read(io.StringIO(text), "", None, "file", faults))
    assert {entry.address.partition("@")[0]: entry.reason for entry in back} == expected
    assert not faults
    assert {entry.source for entry in back} != {"file"}, "known for what it is"


ADDRESSES = st.from_regex(r"[a-z0-9!#$&'*+/=?^_`{|}~-]{1,12}@[a-z]{1,5}\.example", fullmatch=True)


@given(
    st.dictionaries(ADDRESSES, st.sampled_from(REASONS), min_size=1, max_size=8),
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(REASONS),
)
@settings(max_examples=40, deadline=None)
def test_there_and_back(people: dict[str, str], name: str, reason: str) -> None:
    entries = [Suppression(address=address, reason=people[address], at=AT) for address in sorted(people)]
    wanted = FORMATS[name]
    only = reason if wanted.by_reason else None
    if wanted.by_reason and reason not in wanted.by_reason:
        return
    text, _ = exported(entries, name, only)
    expected = {a: r for a, r in people.items() if r in wanted.words and only in (None, r)}
    faults: list[str] = []
    assert {e.address: e.reason for e in read(io.StringIO(text), "", None, "file", faults)} == expected
    assert not faults


async def test_the_command(commands: Commands, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path) -> None:
    await connection.execute(
        "INSERT INTO mailerd.suppression (address, reason, until) VALUES "
        "('ann@x.example', 'bounce', NULL), ('soft@x.example', 'soft bounces', now() + interval '1 day')"
    )
    file = tmp_path / "list.csv"
    result = await commands("suppress", "export", "--format", "postmark", file)
    assert "1 written, 1 left out" in result.stderr
    await connection.execute("TRUNCATE mailerd.suppression")
    assert await commands.json("suppress", "import", file) == {"read": 1, "new": 1, "refused": []}
    assert await connection.fetchval("SELECT source FROM mailerd.suppression") == "import list.csv (postmark)"
    ours = (await commands("suppress", "export", "--reason", "bounce")).stdout.splitlines()
    assert [line.split(",")[:3] for line in ours] == [["address", "stream", "reason"], ["ann@x.example", "", "bounce"]]
    assert len((await commands("suppress", "export", "--reason", "manual")).stdout.splitlines()) == 1
    refused = await commands("suppress", "export", "--format", "sendgrid", "--reason", "manual", code=2)
    assert "--format sendgrid needs --reason bounce, complaint, unsubscribe: a file for each" in refused.stderr
