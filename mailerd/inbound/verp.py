"""Signed return paths: a message's id in the address that its bounces come to (VERP), and nothing else.

`b-<key><id><signature>@bounces.example.org`: base 32 in lower case, because the hosts between may change the case of a local part
(RFC 5321 §2.4 forbids it; they do), without letters that are taken for digits. The signature is HMAC-SHA256 over the
domain and the id, cut to 80 bits: a forger who can write to the address would have to send 2^79 mails for one false bounce. No
address of a recipient is inside, so nobody reads one out of a log, and a long one does not make it too long.

Keys are rotated by name: one character says which key signed. The newest signs, all that are held verify; a key may go
once no bounce of its mail is expected any more. Pure. Hazard: decoding says which message, not that it bounced.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

__all__ = ["LOCAL_LIMIT", "ReturnPaths"]

LOCAL_LIMIT: Final = 64  # octets, RFC 5321 §4.5.3.1.1
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_PREFIX: Final = "b-"
_SIGNATURE: Final = 16  # characters of five bits each
_ID_LIMIT: Final = 1 << 63  # ids are Postgres's bigint
_KEY_OCTETS: Final = 16


class ReturnPaths:
    """Makes and reads the return paths of one `domain`.

    `keys`: a name of one character of the alphabet → the secret, at least 16 octets; the last signs. Raises
    `ValueError` for keys that are none.
    """

    def __init__(self, domain: str, keys: Mapping[str, bytes]) -> None:
        if not domain or "@" in domain:
            raise ValueError(f"no domain for return paths: {domain!r}")
        if not keys:
            raise ValueError("no key for return paths")
        for name, secret in keys.items():
            if len(name) != 1 or name not in _VALUES:
                raise ValueError(f"name of a key for return paths must be one of {_ALPHABET}: {name!r}")
            if len(secret) < _KEY_OCTETS:
                raise ValueError(
                    f"key {name!r} for return paths has {len(secret)} octets, at least {_KEY_OCTETS} are needed"
                )
        self._domain = domain.lower()
        self._keys = dict(keys)
        self._newest = list(keys)[-1]

    def encode(self, message: int) -> str:
        """The return path of the message with that id. Raises `ValueError` for an id that Postgres could not have given."""
        if not 0 <= message < _ID_LIMIT:
            raise ValueError(f"no id of a message: {message}")
        body = _digits(message)
        return f"{_PREFIX}{self._newest}{body}{self._sign(self._newest, body)}@{self._domain}"

    def decode(self, address: str) -> int | None:
        """The id in a return path of ours, None if it is not one, was tampered with, or signed with no key that is held."""
        local, _, domain = address.strip("<> ").rpartition("@")
        local = local.lower()
        if domain.lower() != self._domain or not local.startswith(_PREFIX) or len(local) > LOCAL_LIMIT:
            return None
        name, body, signature = local[2:3], local[3:-_SIGNATURE], local[-_SIGNATURE:]
        if name not in self._keys or not body or any(c not in _VALUES for c in body + signature):
            return None
        if not hmac.compare_digest(signature, self._sign(name, body)):
            return None
        message = 0
        for character in body:
            message = message << 5 | _VALUES[character]
        return message if message < _ID_LIMIT and _digits(message) == body else None

    def _sign(self, name: str, body: str) -> str:
        digest = hmac.digest(self._keys[name], f"verp:{self._domain}:{name}:{body}".encode(), sha256)
        number = int.from_bytes(digest[:10])
        return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_SIGNATURE)))


def _digits(number: int) -> str:
    found = ""
    while True:
        found = _ALPHABET[number & 31] + found
        number >>= 5
        if not number:
            return found
