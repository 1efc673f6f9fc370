"""What erased addresses are hidden by, as configuration."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mailerd.config.base import Section

__all__ = ["Privacy"]


class Privacy(Section, frozen=True, kw_only=True):
    """Addresses that `mailerd privacy erase` erased, known again by a keyed hash."""

    key: Annotated[
        tuple[str, ...],
        Meta(
            description="Makes the pseudonyms of erased addresses: 16 characters or more, best `openssl rand -hex 32`. Without it "
            "[public] secret does. Several, to rotate: the first makes them, all are believed, and what is taken away is no "
            "longer recognised. Better: MAILERD_PRIVACY__KEY_FILE or a credential privacy.key.",
            examples=[["another long random text"]],
            extra={"secret": True, "one": True},
        ),
    ] = ()
