"""Signed return paths: a message's id in the address that its bounces come to (VERP), and nothing else.

`b-<id><signature>@bounces.example.org`: base 32 in lower case, because the hosts between may change the case of a local part
(RFC 5321 §2.4 forbids it; they do), without letters that are taken for digits. The signature is HMAC-SHA256 over the
domain and the id, cut to 80 bits: a forger who can write to the address would have to send 2^79 mails for one false bounce. No
address of a recipient is inside, so nobody reads one out of a log, and a long one does not make it too long.

The first of several secrets signs, all that are held verify; one may go once no bounce of its mail is expected any more.
Pure. Hazard: decoding says which message, not that it bounced.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

__all__ = ["LOCAL_LIMIT", "ReturnPaths"]

LOCAL_LIMIT: Final = 64  # octets, RFC 5321 §4.5.3.1.1
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_PREFIX: Final = "b-"
_SIGNATURE: Final = 16  # characters of five bits each
_ID_LIMIT: Final = 1 << 63  # ids are Postgres's bigint


class ReturnPaths:
    """Makes and reads the return paths of one `domain`. `keys`: the first signs, all verify. Raises `ValueError` for none."""

    def __init__(self, domain: str, keys: Sequence[bytes]) -> None:
        if not domain or "@" in domain:
            raise ValueError(f"no domain for return paths: {domain!r}")
        if not keys:
            raise ValueError("no key for return paths")
        self._domain = domain.lower()
        self._keys = tuple(keys)

    def encode(self, message: int) -> str:
        """The return path of the message with that id. Raises `ValueError` for an id that Postgres could not have given."""
        if not 0 <= message < _ID_LIMIT:
            raise ValueError(f"no id of a message: {message}")
        body = _digits(message)
        return f"{_PREFIX}{body}{self._sign(self._keys[0], body)}@{self._domain}"

    def decode(self, address: str) -> int | None:
        """The id in a return path of ours, None if it is not one, was tampered with, or signed with no key that is held."""
        local, _, domain = address.strip("<> ").rpartition("@")
        local = local.lower()
        if domain.lower() != self._domain or not local.startswith(_PREFIX) or len(local) > LOCAL_LIMIT:
            return None
        body, signature = local[2:-_SIGNATURE], local[-_SIGNATURE:]
        if not body or any(c not in _VALUES for c in body + signature):
            return None
        if not any(hmac.compare_digest(signature, self._sign(key, body)) for key in self._keys):
            return None
        message = 0
        for character in body:
            message = message << 5 | _VALUES[character]
        return message if message < _ID_LIMIT and _digits(message) == body else None

    def _sign(self, key: bytes, body: str) -> str:
        digest = hmac.digest(key, f"verp:{self._domain}:{body}".encode(), sha256)
        number = int.from_bytes(digest[:10])
        return "".join([_PAIRS[number >> shift & 1023] for shift in range(70, -1, -10)])


def _digits(number: int) -> str:
    """`number` in base 32, without leading zeros."""
    found = ""
    while True:
        found = _PAIRS[number & 1023] + found
        number >>= 10
        if not number:
            return found.lstrip("0") or "0"
