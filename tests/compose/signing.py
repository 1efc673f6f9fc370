"""Keys for the tests, made once, and dkimpy as the judge of what they sign."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailerd.compose.dkim import Key
from mailerd.compose.dkimrecord import name, record
from mailerd.config.dkim import PrivateKey, new_key, write_key

__all__ = ["RSA", "Published", "ed25519_key", "key_file", "rsa_key", "verified"]


@cache
def rsa_key() -> PrivateKey:
    return new_key()


@cache
def ed25519_key() -> PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


RSA = "rsa-sha256"


def key_file(folder: Path, key: PrivateKey, file: str = "dkim.pem") -> Path:
    write_key(folder / file, key)
    return folder / file


class Published(dict[str, str]):
    """The DNS, as far as `keys` are published in it."""

    def __init__(self, *keys: Key) -> None:
        super().__init__({name(key): record(key.private) for key in keys})

    def __call__(self, asked: bytes, timeout: int = 5) -> bytes | None:
        found = self.get(asked.decode().removesuffix("."))
        return None if found is None else found.encode()


_quiet = logging.getLogger("dkimpy.tests")
_quiet.disabled = True


def verified(content: bytes, dns: Published) -> list[bool]:
    """dkimpy's verdict on each signature, the topmost first; that there is one at all is the caller's to look at."""
    head = content[: content.index(b"\r\n\r\n") + 2]
    signatures = len(re.findall(rb"^DKIM-Signature:", head, re.MULTILINE | re.IGNORECASE))
    verdicts = []
    for index in range(signatures):
        try:
            verdicts.append(bool(dkim.DKIM(content, logger=_quiet).verify(index, dnsfunc=dns)))
        except dkim.DKIMException:
            verdicts.append(False)
    return verdicts
