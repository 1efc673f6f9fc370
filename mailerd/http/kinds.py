"""The providers with an HTTP API: what `kind` says, and the dialect that speaks to it. A new one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailerd.config.provider import Provider
from mailerd.http.brevo import Brevo
from mailerd.http.dialect import Dialect
from mailerd.http.generic import Generic
from mailerd.http.mailersend import Mailersend
from mailerd.http.mailgun import Mailgun
from mailerd.http.mailjet import Mailjet
from mailerd.http.postmark import Postmark
from mailerd.http.resend import Resend
from mailerd.http.sendgrid import Sendgrid
from mailerd.http.ses import Ses
from mailerd.http.sparkpost import Sparkpost

__all__ = ["DIALECTS"]

DIALECTS: Final[dict[str, Callable[[Provider], Dialect]]] = {
    "ses": Ses,
    "resend": Resend,
    "sendgrid": Sendgrid,
    "mailgun": Mailgun,
    "postmark": Postmark,
    "sparkpost": Sparkpost,
    "brevo": Brevo,
    "mailjet": Mailjet,
    "mailersend": Mailersend,
    "http": Generic,
}
