"""Feedback: what happened to a message after its provider had taken it, as a value, whoever reported it.

A provider's webhook, a bounce mail, a pixel, a link, an unsubscribe page: each makes `Feedback` of what it was told, and
`store.feedback` finds the message, writes the event and draws the consequences. A value of this kind proves nothing by
itself: what it may set off depends on its message being found. Imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

__all__ = ["TYPES", "Feedback"]

TYPES: Final = (
    "delivered",
    "deferred",
    "bounced",
    "rejected",
    "failed",
    "complained",
    "opened",
    "clicked",
    "unsubscribed",
    "unknown",
)


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was reported about one recipient of one message.

    `type` is one of `TYPES`; `unknown` is stored and sets off nothing. The message: `message_id` and `rcpt` where the
    report carries our id, else it is looked for by `provider` and `provider_message_id`, then by `header_ids`
    (Message-ID values, no angle brackets), then by `recipient` and `at`. `source_id` names the report at its source
    ('' : none): the same (`provider`, `source_id`) counts once. `hard`: the address is dead, for good; only a `bounced`
    or `rejected` says so. `at`: when it happened by the reporter's clock, None if it does not say.
    `stream` and `topic` say what an unsubscribe is from ('' and '': by the message's). `bot`: a machine did it
    (a link scanner, a prefetching proxy): recorded, not engagement.
    """

    type: str
    message_id: int | None = None
    rcpt: int | None = None
    recipient: str = ""
    provider: str = ""
    provider_message_id: str = ""
    header_ids: tuple[str, ...] = ()
    source: str = ""  # who says so: `webhook:NAME`, `mail`, `pixel`, `link`, `page`, `one-click`
    source_id: str = ""
    at: datetime | None = None
    code: int = 0
    enhanced: str = ""
    category: str = ""  # one of flow.classify.CATEGORIES
    hard: bool = False
    bot: bool = False
    stream: str = ""
    topic: str = ""
    detail: str = ""  # the peer's words, `message.clean`ed by `store.feedback`
    metadata: Mapping[str, Any] = {}
