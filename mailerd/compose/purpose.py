"""What a stream is for, as header fields: how to stop it (RFC 2369, 8058), which list it is (RFC 2919), that a machine
wrote it (RFC 3834), and by what a receiver's feedback about it can be told apart.

    marketing       Precedence: bulk; List-Unsubscribe and List-Unsubscribe-Post where the stream has one-click
    transactional   Auto-Submitted: auto-generated, but not in a conversation (a row with a thread_key), whose absent
                    reader may well answer by himself

A field that a row sets itself stands in for ours; of the two that make one-click, both. Pure. Hazard: a link to
unsubscribe is its holder's, so only a message to one address has one: on a copy it would unsubscribe somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from mailerd.config.model import Config, Stream
from mailerd.message import Job

from . import headers
from .tokens import Subscriber, Tokens

__all__ = ["Purpose", "purposes"]

_FIELD_LIMIT: Final = 64
_not_plain = re.compile(r"[^A-Za-z0-9._@/-]").sub


class Purpose:
    """The fields of one stream. `tokens` and `base_url` make its links; None: it has none."""

    def __init__(self, stream: Stream, tokens: Tokens | None, base_url: str) -> None:
        self._stream = stream.name
        self._tokens = tokens if stream.one_click else None
        self._link = f"{base_url}/u/"
        self._list_id = headers.identifier("List-Id", f"<{stream.list_id}>") if stream.list_id is not None else ""
        self._nature = (
            ("precedence", "Precedence: bulk\r\n")
            if stream.marketing
            else ("auto-submitted", "Auto-Submitted: auto-generated\r\n")
        )
        self._feedback_id = stream.feedback_id
        self._feedback = lru_cache(4096)(self._feedback_field)

    def unsubscribe(self, job: Job, address: str) -> str | None:
        """The link with which `address` (in normal form) stops this stream; None where it has no such links."""
        if self._tokens is None or job.cc or job.bcc:
            return None
        return self._link + self._tokens.unsubscribe(Subscriber(job.id, 0, address, self._stream))

    def fields(self, job: Job, link: str | None, own: Collection[str]) -> list[str]:
        """Finished lines. `link`: from `unsubscribe`. `own`: lower-cased names of the fields that the row sets."""
        lines: list[str] = []
        if link is not None and "list-unsubscribe" not in own:
            # RFC 8058 §3.1: one HTTPS URI, and both fields covered by the signature. Unfolded: a URL has no white space.
            lines.append(f"List-Unsubscribe: <{link}>\r\n")
            if "list-unsubscribe-post" not in own:
                lines.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n")
        if self._list_id and "list-id" not in own:
            lines.append(self._list_id)
        if self._feedback_id is not None and "feedback-id" not in own:
            lines.append(self._feedback(job.campaign, job.template or ""))
        name, line = self._nature
        if name not in own and (name == "precedence" or job.thread_key is None):
            lines.append(line)
        return lines

    def _feedback_field(self, campaign: str, template: str) -> str:
        """`campaign:template:stream:sender`, as Gmail's feedback loop reads it (support.google.com/a/answer/6254652)."""
        plain = (_not_plain("_", part)[:_FIELD_LIMIT] for part in (campaign, template, self._stream))
        return headers.identifier("Feedback-ID", ":".join((*plain, str(self._feedback_id))))


def purposes(config: Config) -> dict[str, Purpose]:
    """One a configured stream, by its name."""
    public = config.public
    tokens = Tokens(public.secret) if public.secret else None
    return {stream.name: Purpose(stream, tokens, public.base_url or "") for stream in config.stream}
