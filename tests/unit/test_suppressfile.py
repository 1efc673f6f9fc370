"""Suppression lists that other mail providers export, known by their heading line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.cli.suppressfile import UnknownHeading, read

A, B, C = "a@x.example", "b@x.example", "c@x.example"
REPLY = '"550 5.1.1 no such user, ' + "x" * 300 + '"'


def found(text: str, reason: str | None = None, stream: str = "") -> tuple[dict[str, str], list[str], set[str]]:
    """Reasons by address, what was refused, and where the entries say they are from."""
    faults: list[str] = []
    entries = list(read(text.splitlines(keepends=True), stream, reason, "import f.csv", faults))
    assert all(e.stream == stream for e in entries)
    return {e.address: e.reason for e in entries}, faults, {e.source or "" for e in entries}


@pytest.mark.parametrize(
    ("text", "name", "reasons"),
    [
        (f"status,reason,email,created\n5.1.1,{REPLY},A@X.example,1700000000\n", "sendgrid bounces", {A: "bounce"}),
        (f"email,created,reason\n{A},1700000000,Mail domain unknown\n", "sendgrid invalid emails", {A: "bounce"}),
        (f"email,created,ip\n{A},1700000000,192.0.2.1\n", "sendgrid spam reports", {A: "complaint"}),
        (f"email,created\n{A},1700000000\n", "sendgrid unsubscribes", {A: "unsubscribe"}),
        (f"address,code,error,created_at\n{A},550,{REPLY},now\n", "mailgun bounces", {A: "bounce"}),
        (f"address,tags,created_at\n{A},*,now\n", "mailgun unsubscribes", {A: "unsubscribe"}),
        (f"address,created_at\n{A},now\n", "mailgun complaints", {A: "complaint"}),
        (
            (f"EmailAddress,SuppressionReason,Origin,CreatedAt\n{A},HardBounce,Recipient,now\n"
            f"{B},ManualSuppression,Recipient,now\n{C},ManualSuppression,Customer,now\n"),
            "postmark",
            {A: "bounce", B: "unsubscribe", C: "manual"},
        ),
        (f"EmailAddress,Reason,LastUpdateTime\n{A},BOUNCE,now\n{B},COMPLAINT,now\n", "ses", {A: "bounce", B: "complaint"}),
        (f"{A},BOUNCE\n{B},COMPLAINT\n", "ses", {A: "bounce", B: "complaint"}),
        (
            (f"recipient,type,source,description\n{A},transactional,Bounce Rule,550: 5.1.1\n"
            f"{B},non_transactional,Spam Complaint,\n{C},non_transactional,List Unsubscribe,\n"),
            "sparkpost",
            {A: "bounce", B: "complaint", C: "unsubscribe"},
        ),
        (
            (f"recipient,transactional,non_transactional,description,subaccount_id\n{A},true,true,old list,0\n"
            f"{B},false,false,,0\n"),
            "sparkpost",
            {A: "import"},
        ),
        (f"id,email,first_name,unsubscribed\n1,{A},Ann,true\n2,{B},Bob,false\n", "resend contacts", {A: "unsubscribe"}),
        (f"email;senderEmail;reason;blockedAt\n{A};s@x.example;hardBounce;now\n", "brevo", {A: "bounce"}),
        (f"EMAIL;EMAIL_BLOCKLISTED;NAME\n{A};1;Ann\n{B};0;Bob\n", "brevo contacts", {A: "unsubscribe"}),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)  # fmt: skip
def test_a_providers_file_is_known_by_its_heading(text: str, name: str, reasons: dict[str, str]) -> None:
    assert found(text) == (reasons, [], {f"import f.csv ({name})"})
    assert found(text.replace("\n", "\r\n"))[0] == reasons
    assert set(found(text, "moved", "news")[0].values()) == {"moved"}


def test_our_own_file_keeps_its_words_and_a_reason_is_never_taken_for_a_complaint() -> None:
    assert found(f"address,stream,reason,until,source,at\n{A},,hard one,,x,y\n") == (
        {A: "hard one"},
        [],
        {"import f.csv"},
    )
    assert found(f"address,reason,created_at\n{A},asked us\n")[0] == {A: "asked us"}
    assert found(f"{A}\n{B}\n", "moved")[0] == {A: "moved", B: "moved"}
    assert found(f"address\treason\n{A}\tspam\n")[0] == {A: "spam"}


def test_bad_lines_are_named_and_left_out() -> None:
    reasons, faults, _ = found(f"email,created\nnobody,1\n{A},1\n,,\n")
    assert reasons == {A: "unsubscribe"}
    assert [fault.split(":")[0] for fault in faults] == ["line 2"]
    assert "no @ in the address" in faults[0]
    reasons, faults, _ = found(f'{A}\n"{"x" * 200_000}"\n{B}\n')
    assert reasons == {A: "import", B: "import"}
    assert len(faults) == 1
    with pytest.raises(UnknownHeading, match=r"line 1: no column is called address.*'Kontakt'"):
        found(f"Kontakt,Grund\n{A},x\n")


@given(st.text(max_size=200) | st.text(alphabet='a@.,;"\n\r\t\x00', max_size=60))
def test_no_file_is_a_surprise(text: str) -> None:
    for heading in ("", "email,created,reason,status\n", "EmailAddress,SuppressionReason\n"):
        try:
            reasons, _, _ = found(heading + text)
        except UnknownHeading:
            continue
        assert all("@" in address for address in reasons)
