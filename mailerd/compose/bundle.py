"""Stored templates in memory: which version a name means for a recipient, and what that version consists of.

A `Version` is what a push made: for each language the finished sources of subject, HTML and text, with layouts, styles
and MJML resolved, and the JSON Schema of its params. It never changes. `Library` holds those in use; `shares` divide
the recipients of a bare name among versions by a hash, so the same address always sees the same one, and a share that
grows only adds recipients.

Pure: it is filled by whoever reads the store. Hazard: one `Library` is shared by all streams and by threads that
compose; entries are replaced whole, never changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from hashlib import blake2b
from typing import Any, Final

import jsonschema_rs
import msgspec

from mailerd.message import Failure, clean

__all__ = ["Edition", "Library", "Share", "Version", "split_pin", "validator_of"]

_KEPT: Final = 2000  # versions in memory; pinned ones beyond that are loaded again


class Edition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version in one language: sources ready to compile. `amp` is kept for the writer of that part."""

    subject: str | None = None
    html: str | None = None
    text: str | None = None
    amp: str | None = None


class Share(msgspec.Struct, frozen=True, omit_defaults=True):
    """So many percent of the recipients get this version; `variant` is its label in events."""

    version: int
    percent: float
    variant: str = ""


class Version(msgspec.Struct, frozen=True, dict=True, omit_defaults=True):
    """One pushed version. `editions` are by lower-case language tag, '' is the default."""

    name: str
    version: int
    editions: dict[str, Edition]
    schema: dict[str, Any] | None = None

    def edition(self, tags: Iterable[str]) -> tuple[str, Edition]:
        """The first of these languages that there is, else the default."""
        tag = next((tag for tag in tags if tag in self.editions), "")
        return tag, self.editions[tag]

    @cached_property
    def _validator(self) -> Any:
        return None if self.schema is None else validator_of(self.schema)

    def check(self, params: dict[str, Any]) -> None:
        """Raises `Failure` with the path of the first value that violates the schema."""
        validator = self._validator
        if validator is None or validator.is_valid(params):
            return
        error = next(iter(validator.iter_errors(params)))
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        raise Failure(f"params{clean(path, 200)}: {clean(error.message, 300)}", "params")


class Library:
    """The stored templates that this process knows, and how far it has read (`serial`)."""

    def __init__(self) -> None:
        self.serial = 0
        self._shares: dict[str, tuple[Share, ...]] = {}
        self._versions: dict[tuple[str, int], Version] = {}

    def knows(self, template: str) -> bool:
        """Is there, in memory, all that this name (`welcome`, `welcome@3`) may need?"""
        name, pin = split_pin(template)
        if pin:
            return (name, pin) in self._versions
        shares = self._shares.get(name)
        return shares is not None and all((name, share.version) in self._versions for share in shares)

    def put(self, versions: Iterable[Version], shares: dict[str, tuple[Share, ...]]) -> None:
        """Adds versions, then lets names mean them: in this order, so that no name points at nothing."""
        kept = {**self._versions, **{(v.name, v.version): v for v in versions}}
        if len(kept) > _KEPT:
            live = {(name, s.version) for name, of in {**self._shares, **shares}.items() for s in of}
            late = list(kept)[-_KEPT // 2 :]
            kept = {key: kept[key] for key in kept if key in live or key in late}
        self._versions = kept
        self._shares = {**self._shares, **shares}

    def find(self, template: str, recipient: str) -> tuple[Version, str] | None:
        """The version for that recipient and what an event calls it (`welcome@3 b`); None if the name is not stored."""
        name, pin = split_pin(template)
        variant = ""
        if not pin:
            shares = self._shares.get(name)
            if not shares:
                return None
            share = _choose(shares, name, recipient)
            pin, variant = share.version, share.variant
        version = self._versions.get((name, pin))
        return None if version is None else (version, f"{name}@{pin} {variant}".rstrip())


def validator_of(schema: dict[str, Any]) -> Any:
    """Raises `ValueError` or jsonschema_rs's own error for what is no schema. `$ref` reads neither files nor network."""
    return jsonschema_rs.validator_for(schema, retriever=_refuse)


def _refuse(uri: str) -> Any:
    raise ValueError(f"$ref to {uri}: only what is in schema.json itself can be referred to")


def split_pin(template: str) -> tuple[str, int]:
    """`welcome@3` as ('welcome', 3), `welcome` as ('welcome', 0)."""
    name, _, pin = template.partition("@")
    return name, int(pin) if pin.isascii() and pin.isdigit() and len(pin) < 10 else 0


def _choose(shares: tuple[Share, ...], name: str, recipient: str) -> Share:
    if len(shares) == 1:
        return shares[0]
    digest = blake2b(recipient.strip().lower().encode("utf-8", "replace"), key=name.encode()[:64], digest_size=8)
    point = int.from_bytes(digest.digest()) / 2**64 * 100
    for share in shares:
        point -= share.percent
        if point < 0:
            return share
    return shares[-1]
