"""What a mail that came back says, as values: one `Report` a mail, one `Result` a recipient. No logic beyond properties.

Everything in here is the word of strangers: anybody may send a mail that looks like a bounce. Whoever acts on a report
first finds the message that it is about (`Trace`, and the address that the report itself was sent to), and believes
nothing that does not lead to one. Texts are cleaned and bounded, addresses are as they were written, not normalised.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Hardness", "Kind", "Report", "Result", "Trace"]


class Kind(StrEnum):
    """What sort of mail it is. `OTHER`: none of these; a person may have written it."""

    BOUNCE = "bounce"  # not delivered, or not yet: see each result's action
    DELIVERED = "delivered"  # a report of success (RFC 3464 §2.3.3: delivered, relayed, expanded)
    COMPLAINT = "complaint"  # RFC 5965 and what large receivers used before it
    AUTO_REPLY = "auto_reply"  # out of office and the like (RFC 3834)
    CHALLENGE = "challenge"  # wants the sender to prove something before it delivers
    OTHER = "other"


class Hardness(StrEnum):
    """What a failure means for the recipient. Only `HARD` may write an address off."""

    HARD = "hard"  # there is no such mailbox or domain, for good
    SOFT = "soft"  # temporary, full, too large, or nobody said
    SENDER = "sender"  # refused for good for our address, authentication, reputation or content
    NONE = ""  # no failure


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one recipient. Codes are 0 or '' where the mail names none."""

    recipient: str  # Final-Recipient, or the address that the text names; '' when it names none
    original_recipient: str = ""  # Original-Recipient (RFC 3461 ORCPT), decoded
    action: str = ""  # failed, delayed, delivered, relayed, expanded (RFC 3464 §2.3.3)
    status: str = ""  # RFC 3463, `5.1.1`
    code: int = 0  # SMTP reply code
    category: str = ""  # one of flow.classify.CATEGORIES
    hardness: Hardness = Hardness.NONE
    reason: str = ""  # the peer's words
    remote_mta: str = ""

    @property
    def failed(self) -> bool:
        """Given up for good, as far as the reporting host is concerned."""
        return self.action == "failed"


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """By what the message can be found that a report is about."""

    message_ids: tuple[str, ...] = ()  # of the original, without angle brackets; the most trustworthy first
    provider_ids: tuple[str, ...] = ()  # `name:id`: what a provider that relayed the original called it
    sent_to: tuple[str, ...] = ()  # where the report itself was sent: the return path, perhaps with an id in it
    feedback_id: str = ""
    headers: tuple[tuple[str, str], ...] = ()  # X-… fields of the original
    envelope_id: str = ""  # Original-Envelope-Id, RFC 3461 ENVID
    mail_from: str = ""  # of the original: Original-Mail-From or its Return-Path
    recipients: tuple[str, ...] = ()  # To of the original


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one mail says. `standard`: by the fields of a report part, not by reading prose."""

    kind: Kind
    standard: bool = False
    results: tuple[Result, ...] = ()
    trace: Trace = Trace()
    reporting_mta: str = ""
    arrival_date: str = ""  # as written
    feedback_type: str = ""  # RFC 5965 §3.5: abuse, fraud, not-spam, auth-failure, opt-out, …
    source_ip: str = ""
    truncated: bool = False  # longer or deeper than what is read
