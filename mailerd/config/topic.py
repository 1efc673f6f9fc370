"""Topics as configuration: the parts of a stream's mail that people can stop, or have to ask for, each by itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mailerd.config.base import Name, Section

__all__ = ["Topic"]


class Topic(Section, frozen=True, kw_only=True):
    """A part of a stream's mail that people can stop by itself. Rows name it in `topic`, or their [[campaign]] does."""

    name: Annotated[Name, Meta(description="What rows say in `topic`.", examples=["offers"])]
    title: Annotated[
        str, Meta(description="What people read on the preference page. Default: the name.", examples=["Weekly offers"])
    ] = ""
    stream: Annotated[str, Meta(description="The stream whose messages may be of it.", examples=["transactional"])]
    double_opt_in: Annotated[
        bool,
        Meta(
            description="Only who confirmed gets it: `mailerd.subscribe()`, then the link `{{ confirm_url.NAME }}` of a message. "
            "Needs [public]."
        ),
    ] = False

    @property
    def shown(self) -> str:
        """What people read."""
        return self.title or self.name
