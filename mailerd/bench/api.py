"""What the sink says where it plays a provider's HTTP API: ids out of a request, and an answer for them. Pure.

Each dialect is read as far as counting needs it: our id of each message, and how many recipients. The answers have the
provider's shape, so that the real adapter reads them. It checks no key, and believes every address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ["APIS", "Api", "Taken"]


class Taken(NamedTuple):
    """One message of a request: its outbox id (-1: unknown), its recipients, and whether it is refused for good."""

    id: int
    recipients: int
    refused: bool = False


Answer = tuple[int, dict[str, str], Any]  # status, headers, what becomes JSON (None: no body)


class Api(NamedTuple):
    """`read` raises ValueError (msgspec's are such) for what is no request of this API."""

    read: Callable[[str, bytes], list[Taken]]
    answer: Callable[[str, Sequence[Taken]], Answer]


_Named = dict[str, str]


def _id(text: str | None) -> int:
    text = text.partition("-")[0] if text else None  # behind it, the recipient's bit
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else -1


class _Ses(msgspec.Struct):
    EmailTags: list[_Named] = []
    Destination: dict[str, list[str]] = {}


def _ses_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    if taken[0].refused:
        return 400, {"x-amzn-ErrorType": "MessageRejected"}, {"message": "Email rejected: refused by the sink"}
    return 200, {}, {"MessageId": f"0100{taken[0].id:016x}-sink"}


class _Resend(msgspec.Struct):
    to: list[str]
    tags: list[_Named] = []
    cc: list[str] = []
    bcc: list[str] = []


def _resend_read(path: str, body: bytes) -> list[Taken]:
    several = _resend_batch(body) if path.endswith("/batch") else [_resend_one(body)]
    return [
        Taken(
            _id(next((tag["value"] for tag in one.tags if tag.get("name") == "mailerd_id"), None)),
            len(one.to) + len(one.cc) + len(one.bcc),
        )
        for one in several
    ]


def _resend_answer(path: str, taken: Sequence[Taken]) -> Answer:
    if path.endswith("/batch"):
        errors = [{"index": n, "message": "refused by the sink"} for n, one in enumerate(taken) if one.refused]
        return 200, {}, {"data": [{"id": f"sink-{one.id}"} for one in taken if not one.refused], "errors": errors}
    if taken[0].refused:
        return 422, {}, {"statusCode": 422, "name": "validation_error", "message": "refused by the sink"}
    return 200, {}, {"id": f"sink-{taken[0].id}"}


class _Postmark(msgspec.Struct):
    To: str
    Metadata: _Named = {}
    Cc: str = ""
    Bcc: str = ""


def _postmark_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    good = {"ErrorCode": 0, "Message": "OK", "SubmittedAt": "2026-01-01T00:00:00.0000000-05:00", "To": "x@example.org"}
    bad = {"ErrorCode": 300, "Message": "Invalid email request: refused by the sink"}
    return 200, {}, [bad if one.refused else {**good, "MessageID": f"{one.id:032x}-sink"} for one in taken]


class _Sendgrid(msgspec.Struct):
    personalizations: list[dict[str, list[_Named]]]
    custom_args: _Named = {}


def _sendgrid_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    if taken[0].refused:
        return 400, {}, {"errors": [{"message": "refused by the sink", "field": None, "help": None}]}
    return 202, {"X-Message-Id": f"sink-{taken[0].id}"}, None


_mailgun_id = re.compile(rb'name="v:mailerd_id"\r\n\r\n(\d{1,18})(?:-\d+)?\r\n').search


def _mailgun_read(_path: str, body: bytes) -> list[Taken]:
    found = _mailgun_id(body)
    return [Taken(int(found[1]) if found else -1, max(body.count(b'name="to"\r\n'), 1))]


def _mailgun_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    if taken[0].refused:
        return 400, {}, {"message": "refused by the sink"}
    return 200, {}, {"id": f"<{taken[0].id}.sink@mg.example.org>", "message": "Queued. Thank you."}


class _Sparkpost(msgspec.Struct):
    recipients: list[Any]
    metadata: _Named = {}


def _sparkpost_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    if taken[0].refused:
        return 422, {}, {"errors": [{"code": "1300", "message": "refused by the sink"}]}
    counts = {"total_rejected_recipients": 0, "total_accepted_recipients": taken[0].recipients}
    return 200, {}, {"results": {**counts, "id": str(taken[0].id)}}


class _Brevo(msgspec.Struct):
    to: list[_Named]
    headers: _Named = {}
    cc: list[_Named] = []
    bcc: list[_Named] = []


def _brevo_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    if taken[0].refused:
        return 400, {}, {"code": "invalid_parameter", "message": "refused by the sink"}
    return 201, {}, {"messageId": f"<{taken[0].id}@sink>"}


class _MailjetOne(msgspec.Struct):
    To: list[_Named]
    CustomID: str = ""
    Cc: list[_Named] = []
    Bcc: list[_Named] = []


class _Mailjet(msgspec.Struct):
    Messages: list[_MailjetOne]


def _mailjet_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    bad = {"Status": "error", "Errors": [{"ErrorCode": "mj-0013", "ErrorMessage": "refused by the sink"}]}
    messages = [bad if one.refused else {"Status": "success", "To": [{"MessageID": one.id}]} for one in taken]
    return 400 if any(one.refused for one in taken) else 200, {}, {"Messages": messages}


class _Mailersend(msgspec.Struct):
    to: list[_Named]
    cc: list[_Named] = []
    bcc: list[_Named] = []
    tags: list[str] = []


def _mailersend_answer(_path: str, taken: Sequence[Taken]) -> Answer:
    if taken[0].refused:
        return 422, {}, {"message": "The to.0.email is invalid. #MS42205"}
    return 202, {"x-message-id": "sink"}, None


_ses = msgspec.json.Decoder(_Ses).decode
_resend_one = msgspec.json.Decoder(_Resend).decode
_resend_batch = msgspec.json.Decoder(list[_Resend]).decode
_postmark = msgspec.json.Decoder(list[_Postmark]).decode
_sendgrid = msgspec.json.Decoder(_Sendgrid).decode
_sparkpost = msgspec.json.Decoder(_Sparkpost).decode
_brevo = msgspec.json.Decoder(_Brevo).decode
_mailjet = msgspec.json.Decoder(_Mailjet).decode
_mailersend = msgspec.json.Decoder(_Mailersend).decode


def _ses_read(_path: str, body: bytes) -> list[Taken]:
    one = _ses(body)
    id_ = next((tag.get("Value") for tag in one.EmailTags if tag.get("Name") == "mailerd_id"), None)
    return [Taken(_id(id_), sum(map(len, one.Destination.values())))]


def _postmark_read(_path: str, body: bytes) -> list[Taken]:
    return [
        Taken(_id(one.Metadata.get("mailerd_id")), f"{one.To},{one.Cc},{one.Bcc}".count("@")) for one in _postmark(body)
    ]


def _sendgrid_read(_path: str, body: bytes) -> list[Taken]:
    one = _sendgrid(body)
    return [
        Taken(_id(one.custom_args.get("mailerd_id")), sum(len(to) for p in one.personalizations for to in p.values()))
    ]


def _sparkpost_read(_path: str, body: bytes) -> list[Taken]:
    one = _sparkpost(body)
    return [Taken(_id(one.metadata.get("mailerd_id")), len(one.recipients))]


def _brevo_read(_path: str, body: bytes) -> list[Taken]:
    one = _brevo(body)
    return [Taken(_id(one.headers.get("X-Mailin-custom")), len(one.to) + len(one.cc) + len(one.bcc))]


def _mailjet_read(_path: str, body: bytes) -> list[Taken]:
    return [Taken(_id(one.CustomID), len(one.To) + len(one.Cc) + len(one.Bcc)) for one in _mailjet(body).Messages]


def _mailersend_read(_path: str, body: bytes) -> list[Taken]:
    one = _mailersend(body)
    id_ = next((tag.partition("-")[2] for tag in one.tags if tag.startswith("mailerd_id-")), None)
    return [Taken(_id(id_), len(one.to) + len(one.cc) + len(one.bcc))]


APIS: Final = {
    "ses": Api(_ses_read, _ses_answer),
    "resend": Api(_resend_read, _resend_answer),
    "sendgrid": Api(_sendgrid_read, _sendgrid_answer),
    "mailgun": Api(_mailgun_read, _mailgun_answer),
    "postmark": Api(_postmark_read, _postmark_answer),
    "sparkpost": Api(_sparkpost_read, _sparkpost_answer),
    "brevo": Api(_brevo_read, _brevo_answer),
    "mailjet": Api(_mailjet_read, _mailjet_answer),
    "mailersend": Api(_mailersend_read, _mailersend_answer),
}
