"""What a stream learns about its readers: opens, clicks, and where a visit came from. Nothing, unless it says so."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mailerd.config.base import Section
from mailerd.config.public import Public

__all__ = ["Tracking", "missing"]


class Tracking(Section, frozen=True, kw_only=True):
    """Tracking of a stream's messages; off by default. Needs [public] base_url and secret. Only messages to exactly one
    recipient are tracked, and none that are `raw`."""

    opens: Annotated[bool, Meta(description="End the HTML with an invisible picture that says it was opened.")] = False
    clicks: Annotated[
        bool,
        Meta(
            description="Lead links, in HTML and text, through [public] base_url. Never those to unsubscribe, nor those marked "
            "`data-no-track`."
        ),
    ] = False
    utm: Annotated[
        bool,
        Meta(
            description="Add utm_source (the stream), utm_medium=email and utm_campaign to the links of rows with a campaign."
        ),
    ] = False


def missing(tracking: Tracking, public: Public) -> str | None:
    """What the configuration lacks for `tracking`, in words for behind a key path; None if nothing. UTM parameters need nothing."""
    if not (tracking.opens or tracking.clicks):
        return None
    lacks = [name for name, given in (("base_url", public.base_url), ("secret", public.secret)) if not given]
    if not lacks:
        return None
    return f"needs [public] {' and '.join(lacks)}: tracked links begin with the one and are signed with the other"
