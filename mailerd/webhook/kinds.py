"""The providers whose webhooks are understood: what `kind` says, and what judges and reads them. A new one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailerd.config.provider import Provider
from mailerd.webhook.brevo import Brevo
from mailerd.webhook.dialect import Webhook
from mailerd.webhook.mailersend import Mailersend
from mailerd.webhook.mailgun import Mailgun
from mailerd.webhook.mailjet import Mailjet
from mailerd.webhook.postmark import Postmark
from mailerd.webhook.resend import Resend
from mailerd.webhook.sendgrid import Sendgrid
from mailerd.webhook.ses import Ses
from mailerd.webhook.sparkpost import Sparkpost

__all__ = ["WEBHOOKS", "webhook"]

WEBHOOKS: Final[dict[str, Callable[[Provider], Webhook]]] = {
    "ses": Ses,
    "resend": Resend,
    "sendgrid": Sendgrid,
    "mailgun": Mailgun,
    "postmark": Postmark,
    "sparkpost": Sparkpost,
    "brevo": Brevo,
    "mailjet": Mailjet,
    "mailersend": Mailersend,
}


def webhook(provider: Provider) -> Webhook | None:
    """What takes this provider's webhooks; None if its kind has none, or nothing is configured that would prove who sent them."""
    make = WEBHOOKS.get(provider.kind)
    return make(provider) if make is not None and (provider.webhook_secret or provider.webhook_topics) else None
