"""Amazon SES's notices that come by mail: JSON as text, when a topic's subscriber is an address. Pure.

Source: docs.aws.amazon.com/ses, "Amazon SNS notification contents for Amazon SES". What is not of that shape is no
notice, and the mail is read as any other.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mailerd.inbound.mime import Fields
from mailerd.inbound.original import trace
from mailerd.inbound.prose import addresses_in
from mailerd.inbound.report import Kind, Report, Result, Trace
from mailerd.inbound.standard import ACTIONS, result
from mailerd.message import clean

__all__ = ["notice"]

_LIMIT: Final = 200  # recipients


class _Recipient(msgspec.Struct, rename="camel"):
    email_address: str = ""
    action: str = ""
    status: str = ""
    diagnostic_code: str = ""


class _Bounce(msgspec.Struct, rename="camel"):
    bounced_recipients: list[_Recipient] = []
    reporting_mta: str = msgspec.field(default="", name="reportingMTA")


class _Complaint(msgspec.Struct, rename="camel"):
    complained_recipients: list[_Recipient] = []
    complaint_feedback_type: str | None = None
    arrival_date: str | None = None


class _Delivery(msgspec.Struct):
    recipients: list[str] = []


class _Header(msgspec.Struct):
    name: str = ""
    value: str = ""


class _Mail(msgspec.Struct, rename="camel"):
    message_id: str = ""
    headers: list[_Header] = []


class _Notice(msgspec.Struct, rename="camel"):
    notification_type: str
    mail: _Mail = msgspec.field(default_factory=_Mail)
    bounce: _Bounce | None = None
    complaint: _Complaint | None = None
    delivery: _Delivery | None = None


def notice(fields: Fields, text: str) -> Report | None:
    """The report in a notice's `text`, None if it is no notice. `fields`: those of the mail that brought it."""
    start = text[:2000].find('{"notificationType"')
    if start < 0:
        return None
    document = text[start:].split("\n--\n")[0].replace("!\n ", "").replace("\n", "")  # folded by a host on its way
    try:
        said = msgspec.json.decode(document.strip(), type=_Notice)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    original = Fields([(header.name.lower(), header.value[:4096]) for header in said.mail.headers[:500]])
    found = _with_id(trace(fields, original, Fields([]), ""), said.mail.message_id)
    if said.bounce is not None:
        results = [
            result(
                recipient,
                one.action.lower() if one.action.lower() in ACTIONS else "failed",
                one.status[:11],
                one.diagnostic_code.partition(";")[2].strip() or one.diagnostic_code,
            )
            for one in said.bounce.bounced_recipients[:_LIMIT]
            for recipient in addresses_in(one.email_address)[:1]
        ]
        mta = clean(said.bounce.reporting_mta.rpartition(";")[2].strip(), 255)
        return Report(kind=Kind.BOUNCE, standard=True, results=tuple(results), trace=found, reporting_mta=mta)
    if said.complaint is not None:
        who = [a for one in said.complaint.complained_recipients[:_LIMIT] for a in addresses_in(one.email_address)[:1]]
        return Report(
            kind=Kind.COMPLAINT,
            standard=True,
            results=tuple(Result(recipient=address) for address in who),
            trace=found,
            feedback_type=clean(said.complaint.complaint_feedback_type or "", 40),
            arrival_date=clean(said.complaint.arrival_date or "", 100),
        )
    if said.delivery is not None:
        reached = [a for one in said.delivery.recipients[:_LIMIT] for a in addresses_in(one)[:1]]
        results = [Result(recipient=address, action="delivered") for address in reached]
        return Report(kind=Kind.DELIVERED, standard=True, results=tuple(results), trace=found)
    return None


def _with_id(found: Trace, message_id: str) -> Trace:
    if not message_id:
        return found
    return msgspec.structs.replace(found, provider_ids=(f"ses:{clean(message_id, 200)}", *found.provider_ids))
