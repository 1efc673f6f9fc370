"""The DNS record of a DKIM key (RFC 6376 §3.6): what to publish for a key, and what is wrong with what is published.

Pure: the look-up is the caller's. A record is read as verifiers read it, tags they do not know are passed over; what
would make them ignore a signature of ours is a fault, what only makes them trust it less is a remark.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailerd.config.dkim import PrivateKey

from .dkim import Key

__all__ = ["Verdict", "compare", "name", "record", "strings", "zone_line"]

STRING_LIMIT = 255  # octets of one <character-string> (RFC 1035 §3.3)


class Verdict(msgspec.Struct, frozen=True):
    """`faults`: why receivers would not verify what the key signs; `remarks`: what is not as it should be otherwise."""

    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def name(key: Key) -> str:
    """The name that the record stands at, without the final dot."""
    return f"{key.selector}._domainkey.{key.domain}"


def record(key: PrivateKey) -> str:
    """The record's text, in one piece."""
    kind, octets = _public(key)
    return f"v=DKIM1; k={kind}; p={b64encode(octets).decode()}"


def strings(text: str) -> list[str]:
    """`text` in pieces that the DNS can hold; receivers join them again, without anything between (§3.6.2.2)."""
    return [text[i : i + STRING_LIMIT] for i in range(0, len(text), STRING_LIMIT)]


def zone_line(key: Key) -> str:
    """The record as a line of a zone file."""
    return f"{name(key)}. IN TXT ( " + " ".join(f'"{piece}"' for piece in strings(record(key.private))) + " )"


def compare(key: Key, published: Sequence[str]) -> Verdict:
    """What the TXT records at the key's name, each joined to one text, say against it."""
    if not published:
        return Verdict((f"no TXT record at {name(key)}; publish: {record(key.private)}",))
    if len(published) > 1:  # §3.6.2.2: the results are undefined
        return Verdict((f"{len(published)} TXT records at {name(key)}: there may be only one",))
    try:
        tags = _tags(published[0])
    except ValueError as wrong:
        return Verdict((f"the record at {name(key)} cannot be read: {wrong}; publish: {record(key.private)}",))
    if "v" in tags and (tags["v"] != "DKIM1" or next(iter(tags)) != "v"):
        words = f"does not begin with v=DKIM1: {published[0][:40]!a}; publish: {record(key.private)}"
        return Verdict((f"the record at {name(key)} {words}",))
    faults, remarks = [], []
    kind, octets = _public(key.private)
    there = tags.get("k", "rsa")
    if there != kind:
        faults.append(f"its k= says {there}, the key is {kind}")
    elif "p" not in tags:
        faults.append("it has no p=")
    elif not tags["p"]:
        faults.append("its p= is empty: the key is revoked")
    elif _decoded(tags["p"]) != octets:
        faults.append(f"its p= is another key's; publish: {record(key.private)}")
    if "h" in tags and "sha256" not in _list(tags["h"]):
        faults.append(f"its h={tags['h']} does not allow sha256")
    if "s" in tags and not {"*", "email"} & set(_list(tags["s"])):
        faults.append(f"its s={tags['s']} does not allow email")
    if "y" in _list(tags.get("t", "")):
        remarks.append("t=y says that signing is being tested: receivers treat the mail as unsigned")
    where = f"the record at {name(key)}"
    return Verdict(tuple(f"{where}: {fault}" for fault in faults), tuple(remarks))


def _public(key: PrivateKey) -> tuple[str, bytes]:
    """`k=` and the octets of `p=`: RSA as a SubjectPublicKeyInfo, as everybody publishes it; Ed25519 bare (RFC 8463 §4)."""
    if isinstance(key, RSAPrivateKey):
        return "rsa", key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "ed25519", key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _tags(text: str) -> dict[str, str]:
    """The tag list (§3.2). Raises ValueError."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        tag, sign, value = (word.strip() for word in part.partition("="))
        if not sign or not tag.isidentifier():
            raise ValueError(f"no tag=value: {part.strip()[:40]!a}")
        if tag in tags:
            raise ValueError(f"{tag}= is there twice")
        tags[tag] = value
    return tags


def _list(value: str) -> list[str]:
    return [word.strip() for word in value.split(":")]


def _decoded(value: str) -> bytes | None:
    try:
        return b64decode("".join(value.split()), validate=True)
    except (Error, ValueError):
        return None
