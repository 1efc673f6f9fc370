"""Where attachments that rows name by reference may come from, and what fetching them may cost, as configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from mailerd.config import url
from mailerd.config.base import D, Duration, Name, Section, Size

__all__ = ["Attachments", "Store", "problems"]

_pattern: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)", re.IGNORECASE).fullmatch


class Store(Section, frozen=True, kw_only=True):
    """An S3-compatible store that is asked with signed requests (AWS Signature Version 4)."""

    name: Annotated[Name, Meta(description="Shown in messages.", examples=["invoices"])]
    url: Annotated[
        str,
        Meta(
            description="What each `url` that is to be signed begins with: the bucket's address, by host or by path, and perhaps "
            "the start of the key.",
            examples=["https://shop-files.s3.eu-central-1.amazonaws.com/invoices/"],
        ),
    ]
    region: Annotated[str, Meta(description="Its region.", examples=["eu-central-1"], min_length=1)]
    access_key: Annotated[str, Meta(description="Access key id; it needs s3:GetObject.", examples=["AKIA…"])]
    secret_key: Annotated[
        str,
        Meta(
            description="Its secret. Better: a secret file or credential.",
            examples=["secret"],
            extra={"secret": True},
        ),
    ]


class Attachments(Section, frozen=True, kw_only=True):
    """Attachments that rows name by `path`, `url` or `sha256` instead of holding them. Nothing is allowed that is not named
    here."""

    directories: Annotated[
        tuple[str, ...],
        Meta(
            description="Absolute folders that `path` is looked for in, in order. Symbolic links count where they lead.",
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
    digests: Annotated[
        str | None,
        Meta(
            description="Where a file is that a row names by `sha256` alone: an absolute folder, or a URL, below which it has the "
            "digest as its name (64 hexadecimal digits, in lower case).",
            examples=["/srv/mail/by-digest"],
        ),
    ] = None
    types: Annotated[
        tuple[str, ...],
        Meta(
            description="Content types that references may have. Empty: all.", examples=[["application/pdf", "image/*"]]
        ),
    ] = ()
    size: Annotated[Size, Meta(description="Largest single file.")] = Size(15_728_640)
    timeout: Annotated[Duration, Meta(description="Longest wait for one file, redirects included.")] = D(30)
    cache: Annotated[
        Size, Meta(description="Octets of files that an instance keeps in memory for the next messages.")
    ] = Size(67_108_864)
    fresh: Annotated[
        Duration,
        Meta(
            description="How long a file without `sha256` is kept; one with it never changes.",
            extra={"zero": True},
        ),
    ] = D(60)
    store: Annotated[
        tuple[Store, ...],
        Meta(description="Stores that are asked with signed requests: `[[attachments.store]]`."),
    ] = ()


def problems(section: Attachments) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(key path below [attachments], what is wrong) for the meaning of texts."""
    for text in section.directories:
        if not os.path.isabs(text):
            yield ("directories",), f"must name absolute folders, not {text}"
    for text in section.origins:
        if wrong := _place(text):
            yield ("origins",), f"{text} {wrong}"
    if section.digests is not None and not os.path.isabs(section.digests) and (wrong := _place(section.digests)):
        yield ("digests",), f"must be an absolute folder or a URL; {section.digests} {wrong}"
    for text in section.types:
        if not _pattern(text):
            yield ("types",), f"must be like application/pdf or image/*, not {text}"
    for index, store in enumerate(section.store):
        if wrong := _place(store.url):
            yield ("store", index, "url"), wrong
        if store.name in {other.name for other in section.store[:index]}:
            yield ("store", index, "name"), "there is another [[attachments.store]] of this name"
    if not 0.1 <= float(section.timeout) <= 600:
        yield ("timeout",), "must be between 100ms and 10m"


def _place(text: str) -> str:
    try:
        return "must have no query" if url.parse(text).query else ""
    except ValueError as wrong:
        return str(wrong)
