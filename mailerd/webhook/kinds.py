"""The providers whose webhooks are understood: what `kind` says, and what judges and reads them. A new one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailerd.config.provider import Provider
from mailerd.webhook.dialect import Webhook

__all__ = ["WEBHOOKS", "webhook"]

WEBHOOKS: Final[dict[str, Callable[[Provider], Webhook]]] = {}


def webhook(provider: Provider) -> Webhook | None:
    """What takes this provider's webhooks; None if its kind has none, or nothing is configured that would prove who sent them."""
    make = WEBHOOKS.get(provider.kind)
    return make(provider) if make is not None and (provider.webhook_secret or provider.webhook_topics) else None
