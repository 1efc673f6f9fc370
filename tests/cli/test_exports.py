"""`suppress import` of what other services export."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from mailerd.cli.exports import recognise
from tests.cli.commands import Commands

Connection = asyncpg.Connection

EXPORTS = {
    "sendgrid bounces": (
        "status,reason,email,created\n5.1.1,\"550 no such user, sorry\",a@x.example,1700000000\n", {"a@x.example": "bounce"}),
    "sendgrid invalid": ("reason,email,created\nMail domain,a@x.example,1700000000\n", {"a@x.example": "bounce"}),
    "sendgrid spam": ("ip,email,created\n192.0.2.1,a@x.example,1700000000\n", {"a@x.example": "complaint"}),
    "sendgrid unsubscribes": ("email,created\na@x.example,1700000000\n", {"a@x.example": "told"}),
    "mailgun bounces": (
        "address,code,error,created_at\nA@X.example,550,No such mailbox,Fri, 21 Oct 2011\n", {"a@x.example": "bounce"}),
    "mailgun unsubscribes": (
        "address,tags,created_at\na@x.example,*,\"Fri, 21 Oct 2011 11:02:55 UTC\"\n", {"a@x.example": "unsubscribe"}),
    "postmark": (
        ("EmailAddress,SuppressionReason,Origin,CreatedAt\na@x.example,HardBounce,Recipient,2026-01-01\n"
        "b@x.example,SpamComplaint,Recipient,2026-01-01\nc@x.example,ManualSuppression,Customer,2026-01-01\n"),
        {"a@x.example": "bounce", "b@x.example": "complaint", "c@x.example": "manual"}),
    "ses": (
        "Email address,Reason,Last update time\na@x.example,BOUNCE,2026-01-01\nb@x.example,COMPLAINT,2026-01-01\n",
        {"a@x.example": "bounce", "b@x.example": "complaint"}),
    "sparkpost": (
        ("recipient,type,source,description,created,updated\na@x.example,transactional,Bounce Rule,550,2026,2026\n"
        "b@x.example,transactional,Spam Complaint,,2026,2026\n"),
        {"a@x.example": "bounce", "b@x.example": "complaint"}),
    "resend": (
        "id,email,origin,source_id,created_at\n1,a@x.example,bounce,2,2026\n3,b@x.example,manual,,2026\n",
        {"a@x.example": "bounce", "b@x.example": "manual"}),
    "brevo": (
        ("email,senderEmail,reason,blockedAt\na@x.example,me@y.example,hardBounce,2026\n"
        "b@x.example,,contactFlaggedAsSpam,2026\nc@x.example,,unsubscribedViaEmail,2026\nd@x.example,,newCode,2026\n"),
        {"a@x.example": "bounce", "b@x.example": "complaint", "c@x.example": "unsubscribe", "d@x.example": "manual"}),
}  # fmt: skip


async def test_every_export_is_read_with_its_reasons(commands: Commands, connection: Connection) -> None:
    for name, (text, expected) in EXPORTS.items():
        await connection.execute("DELETE FROM mailerd.suppression")
        await commands("suppress", "import", "-", "--reason", "told", stdin=text)
        rows = await connection.fetch("SELECT address, stream, reason FROM mailerd.suppression")
        assert {row["address"]: row["reason"] for row in rows} == expected, name
        assert {row["stream"] for row in rows} == {""}, name


async def test_what_holds_for_some_mail_only_needs_a_stream(commands: Commands, connection: Connection) -> None:
    text = (
        "recipient,type,source\na@x.example,non_transactional,List Unsubscribe\nno address,transactional,Compliance\n"
    )
    result = await commands("suppress", "import", "-", stdin=text, code=1)
    lines = result.stderr.splitlines()
    assert lines[0] == "mailerd: line 2: holds for 'non_transactional' of SparkPost only: say --stream for it"
    assert lines[1].startswith("mailerd: line 3: ")
    assert await connection.fetchval("SELECT count(*) FROM mailerd.suppression") == 0
    await commands("suppress", "import", "-", "--stream", "marketing", stdin=text, code=1)
    row = await connection.fetchrow("SELECT address, stream, reason FROM mailerd.suppression")
    assert row is not None
    assert tuple(row) == ("a@x.example", "marketing", "unsubscribe")


@pytest.mark.parametrize("heading", ["address,stream,reason,until,source,at", "email,reason", "a@x.example", ""])
def test_our_own_lists_are_no_export(heading: str) -> None:
    assert recognise(heading.split(",")) is None


async def test_our_own_export_comes_back(commands: Commands, tmp_path: Path) -> None:
    erased = "erased:" + "0a" * 16
    await commands("suppress", "add", "a@x.example", erased, "--stream", "s", "--reason", "why")
    file = tmp_path / "list.csv"
    await commands("suppress", "export", file)
    await commands("suppress", "remove", "a@x.example", erased)
    await commands("suppress", "import", file)
    found = {(e["address"], e["stream"], e["reason"]) for e in await commands.json("suppress", "list")}
    assert found == {("a@x.example", "s", "why"), (erased, "s", "why")}
