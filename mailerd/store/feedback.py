"""Feedback into the log: finds the message that a report is about, writes its event, and suppresses an address that is dead.

One statement a batch. What cannot be found is still written when it names a recipient, with message id 0, and suppresses
nothing: anybody may send us a mail that looks like a bounce. Reports that were applied before (`source_id`) count once.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailerd.feedback import Feedback
from mailerd.store.database import Session

__all__ = ["apply"]


async def apply(session: Session, reports: Sequence[Feedback]) -> int:
    """Applies them, all or none; how many were new. Raises what `Session` raises, and then the caller may repeat it."""
    raise NotImplementedError
