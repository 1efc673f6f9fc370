"""Where attachments that rows name by reference may come from, and what fetching them may cost, as configuration."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from mailerd.config.base import D, Duration, Section, Size

__all__ = ["Attachments", "folder", "origin"]


class Attachments(Section, frozen=True, kw_only=True):
    """Attachments that rows name by `path` or `url`. With neither directories nor origins, none is allowed."""

    directories: Annotated[
        tuple[str, ...],
        Meta(
            description="Absolute folders that `path` is looked for in, in order. No symbolic link below them is followed.",
            examples=[["/srv/mail/files"]],
        ),
    ] = ()
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Where `url` may lead, redirects included: an origin, or one with the start of the path.",
            examples=[["https://files.example.org", "https://store.example.org/mail/"]],
        ),
    ] = ()
    types: Annotated[
        tuple[str, ...],
        Meta(description="Content types that are taken. Empty: all.", examples=[["application/pdf", "image/*"]]),
    ] = ()
    size: Annotated[Size, Meta(description="Largest single file.")] = Size(15_728_640)
    timeout: Annotated[Duration, Meta(description="Longest wait for one file, redirects included.")] = D(30)
    cache: Annotated[Size, Meta(description="Octets of files that an instance keeps for the next messages.")] = Size(
        67_108_864
    )
    fresh: Annotated[
        Duration,
        Meta(
            description="How long a file without `sha256` is kept; one with it never changes.",
            extra={"zero": True},
        ),
    ] = D(60)


def folder(path: str) -> None:
    """Raises ValueError with words for behind a key path."""
    if not os.path.isabs(path):
        raise ValueError(f"must name absolute folders, not {path}")


def origin(text: str) -> None:
    """Raises ValueError with words for behind a key path."""
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or "@" in parts.netloc or parts.query or parts.fragment or ".." in parts.path or "\\" in text:
        raise ValueError(f"must be like https://files.example.org or https://files.example.org/folder/, not {text}")
    if parts.path not in ("", "/") and not parts.path.endswith("/"):
        raise ValueError(f"must end in `/` where it has a path: {text}/")
