"""SparkPost: developers.sparkpost.com/api/transmissions, and "extended error codes" of its support pages.

The message goes as it was composed (`content.email_rfc822`), with substitution turned off, since it is finished. Our id
is in `metadata`, and with its bit in that of each recipient. What comes back is a transmission's id. No idempotency. The
key is the whole Authorization header.

Hazard: of several recipients some may be refused, and the answer counts them without saying which.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

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
)
from mailerd.message import Failure, Outgoing

__all__ = ["Sparkpost"]

CAMPAIGN_LIMIT: Final = 64  # octets
_HOSTS: Final = {"eu": "https://api.eu.sparkpost.com"}
_FAULTS: Final = {
    "1100": Fault.ACCOUNT,
    "1502": Fault.RETRY,  # resources unavailable, said with 400
    "1603": Fault.ACCOUNT,
    "1900": Fault.DOWN,
    "2101": Fault.QUOTA,  # of the hour
    "2102": Fault.QUOTA,
    "2103": Fault.QUOTA,
    "2105": Fault.QUOTA,
    "5002": Fault.RECIPIENT,
    "7001": Fault.RETRY,  # a sending domain that is not verified: one sender's matter
}
TOO_MUCH: Final = 420  # a status of its own, for limits of the account


class Sparkpost:
    """`kind = "sparkpost"`."""

    batch = 1
    recipients = 1000
    octets = 50_000_000
    idempotent = False

    def __init__(self, provider: Provider) -> None:
        self.url = (provider.endpoint or _HOSTS.get(provider.region or "", "https://api.sparkpost.com")).rstrip("/")
        self._headers = {"Authorization": provider.api_key or "", "Content-Type": "application/json"}

    def entry(self, outgoing: Outgoing) -> Entry:
        ascii_only(outgoing)
        try:
            content = outgoing.content.decode()
        except UnicodeDecodeError:
            raise Failure("raw: this provider takes only UTF-8", "content") from None
        body: dict[str, Any] = {
            "recipients": [
                {"address": {"email": to.address}, "metadata": {ID_KEY: f"{outgoing.job.id}-{to.bit}"}}
                for to in outgoing.recipients
            ],
            "content": {"email_rfc822": content},
            "metadata": {ID_KEY: ident(outgoing)},
            "options": {"perform_substitutions": False},
        }
        if campaign := outgoing.job.campaign:
            body["campaign_id"] = campaign.encode()[:CAMPAIGN_LIMIT].decode(errors="ignore")
        return Entry(outgoing, encode(body))

    def request(self, entries: Sequence[Entry], at: datetime) -> Request:
        return Request(f"{self.url}/api/v1/transmissions", self._headers, entries[0].octets)

    def verdicts(self, entries: Sequence[Entry], response: Response) -> Verdict:
        body = mapping(response.json())
        if 200 <= response.status < 300:
            results = mapping(body.get("results"))
            id_, refused = results.get("id"), results.get("total_rejected_recipients")
            if not isinstance(id_, str | int) or not id_:
                return by_status(response)
            if results.get("total_accepted_recipients") == 0:
                return Verdict(Fault.RECIPIENT, text="no recipient was accepted")
            text = f"accepted as {id_}" + (f"; {refused} recipients refused, it is not said which" if refused else "")
            return Verdict(id=str(id_), text=text)
        errors = body.get("errors")
        error = mapping(errors[0]) if isinstance(errors, list) and errors else {}
        code = str(error.get("code") or "")
        text = " ".join(str(error[key]) for key in ("code", "message", "description") if error.get(key))
        fault = _FAULTS.get(code)
        if fault is None and response.status == TOO_MUCH:
            fault = Fault.QUOTA
        if code == "7001":
            return Verdict(Fault.RETRY, text=text, category="account")
        return by_status(response, text, fault)
