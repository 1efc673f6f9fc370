"""Amazon SES, API v2: docs.aws.amazon.com/ses/latest/APIReference-V2 (SendEmail, common errors), and botocore's model.

The message goes as it was composed (`Content.Raw`), one a call, signed for the service `ses`. `Destination` is the
envelope and leaves the MIME headers alone; without it, SES would read the recipients from them, and Bcc would be lost.
SES gives a message its own Message-ID: our id is in the tag. It has no way to make a lost answer safe.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from mailerd.config.provider import Provider
from mailerd.http.dialect import (
    ID_KEY,
    Entry,
    Fault,
    Request,
    Response,
    Verdict,
    ascii_only,
    by_status,
    encode,
    ident,
    mapping,
    words,
)
from mailerd.http.sigv4 import sign
from mailerd.message import Outgoing

__all__ = ["Ses"]

_FAULTS: Final = {
    "TooManyRequestsException": Fault.RATE,
    "ThrottlingException": Fault.RATE,
    "Throttling": Fault.RATE,
    "RequestThrottled": Fault.RATE,
    "LimitExceededException": Fault.QUOTA,
    "AccountSuspendedException": Fault.ACCOUNT,
    "SendingPausedException": Fault.ACCOUNT,
    "MailFromDomainNotVerifiedException": Fault.OURS,
    "NotFoundException": Fault.OURS,  # the configuration set
    "MessageRejected": Fault.MESSAGE,
    "BadRequestException": Fault.MESSAGE,
    "ServiceUnavailable": Fault.DOWN,
    "ServiceUnavailableException": Fault.DOWN,
}
_quota = re.compile("quota exceeded", re.IGNORECASE).search
_unverified = re.compile("not verified", re.IGNORECASE).search


class Ses:
    """`kind = "ses"`."""

    batch = 1
    recipients = 50
    octets = 40_000_000
    idempotent = False

    def __init__(self, provider: Provider) -> None:
        region = provider.region or ""
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        self.url = (provider.endpoint or f"https://email.{region}.{suffix}").rstrip("/")
        self._url = f"{self.url}/v2/email/outbound-emails"
        self._region = region
        self._access_key = provider.access_key or ""
        self._secret_key = provider.secret_key or ""
        self._set = {"ConfigurationSetName": provider.configuration_set} if provider.configuration_set else {}

    def entry(self, outgoing: Outgoing) -> Entry:
        ascii_only(outgoing)
        body = {
            "Destination": {"ToAddresses": [to.address for to in outgoing.recipients]},
            "Content": {"Raw": {"Data": b64encode(outgoing.content).decode("ascii")}},
            "EmailTags": [{"Name": ID_KEY, "Value": ident(outgoing)}],
            **self._set,
        }
        return Entry(outgoing, encode(body))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        body = entries[0].octets
        headers = {"Content-Type": "application/json"}
        signature = sign(
            self._url,
            headers,
            body,
            access_key=self._access_key,
            secret_key=self._secret_key,
            region=self._region,
            service="ses",
            at=at,
        )
        return Request(self._url, headers | signature, body)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict:
        body = mapping(response.json())
        if 200 <= response.status < 300:
            id_ = body.get("MessageId")
            return Verdict(id=id_, text=f"accepted as {id_}") if isinstance(id_, str) and id_ else by_status(response)
        name = response.headers.get("x-amzn-errortype") or body.get("__type") or body.get("code") or ""
        name = str(name).partition(":")[0].rpartition("#")[2]
        text = f"{name} {words(response)}".strip()
        fault = _FAULTS.get(name) if response.status < 500 or response.status == 503 else None
        if fault is Fault.RATE or (fault is None and response.status == 429):
            fault = Fault.QUOTA if _quota(text) else Fault.RATE
        elif fault is Fault.MESSAGE and _unverified(text):
            return Verdict(Fault.RETRY, text=text, category="account")  # one identity's matter; DNS may come back
        return by_status(response, text, fault)
