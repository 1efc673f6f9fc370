"""Signed tokens: what a link in a message, or its return path, tells us when it comes back, and nobody else.

Four kinds. An *open* and a *click* carry the message's id and the recipient's bit, and a MAC; a click's covers the
URL that stands beside it, so a redirect leads only to where a message of ours pointed. An *unsubscribe* token is
encrypted (AES-SIV, RFC 5297: deterministic, so that every attempt sends the same octets) and carries the address, the
stream and the topic, so that it works years after the row and its events are gone. A *confirmation* is the same under
another key: neither can be used as the other. No address can be read from any.

Keys are derived from the configured secrets, one a purpose: the first secret signs, all are believed, so a secret is
rotated by putting a new one before it. Pure. Hazards: a token proves that we made it, not who uses it (mail is
forwarded, scanners click); what it sets off must be harmless in a stranger's hand.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

__all__ = ["Claim", "Subscriber", "Tokens", "derive"]

_SIGNATURE: Final = 12  # octets: 96 bits
_TOKEN_LIMIT: Final = 2048
_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_ID_LIMIT: Final = 1 << 63  # ids are Postgres's bigint


class Claim(msgspec.Struct, frozen=True):
    """What an open or a click says: which message, and which of its recipients (the bit in `Job.rcpt`)."""

    message: int
    bit: int


class Subscriber(msgspec.Struct, frozen=True, array_like=True):
    """What an unsubscribe token or a confirmation says. `address` is in normal form; `topic` '' is all of the stream."""

    message: int
    bit: int
    address: str
    stream: str
    topic: str = ""


_decode_subscriber = msgspec.msgpack.Decoder(Subscriber).decode


def derive(secret: str, purpose: str) -> bytes:
    """A key of 32 octets for one purpose. Who learns it learns neither the secret nor another purpose's key."""
    return hmac.digest(secret.encode(), f"mailerd:{purpose}".encode(), sha256)


class Tokens:
    """Makes and reads the tokens of one configuration. `secrets`: the first signs, all are believed; at least one."""

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("no secret to sign with")
        self._opens = [_mac(derive(secret, "open")) for secret in secrets]
        self._clicks = [_mac(derive(secret, "click")) for secret in secrets]
        self._ciphers = [AESSIV(derive(secret, "unsubscribe")) for secret in secrets]
        self._confirming = [AESSIV(derive(secret, "confirm")) for secret in secrets]

    def open(self, message: int, bit: int = 0) -> str:
        """The token of an open pixel."""
        body = _body(message, bit)
        return _text(body + _sign(self._opens[0], body))

    def click(self, message: int, url: str, bit: int = 0) -> str:
        """`TOKEN/URL`, the URL in base64: the path of a link that leads to `url`."""
        target = url.encode()
        body = _body(message, bit)
        return f"{_text(body + _sign(self._clicks[0], body + target))}/{_text(target)}"

    def unsubscribe(self, subscriber: Subscriber) -> str:
        """The token of an unsubscribe link."""
        return _text(self._ciphers[0].encrypt(msgspec.msgpack.encode(subscriber), None))

    def confirmation(self, subscriber: Subscriber) -> str:
        """The token of a link that confirms a subscription to a topic."""
        return _text(self._confirming[0].encrypt(msgspec.msgpack.encode(subscriber), None))

    def read_open(self, token: str) -> Claim | None:
        """What the token says; None if it is not ours."""
        return _verified(token, self._opens, b"")

    def read_click(self, token: str, target: str) -> tuple[Claim, str] | None:
        """What the two halves of a click's path say, and the URL; None if they are not ours or do not belong together."""
        octets = _octets(target)
        claim = _verified(token, self._clicks, octets) if octets else None
        if claim is None or octets is None:
            return None
        try:
            return claim, octets.decode()
        except UnicodeDecodeError:
            return None

    def read_unsubscribe(self, token: str) -> Subscriber | None:
        """What the token says; None if it is not ours."""
        return _decrypted(token, self._ciphers)

    def read_confirmation(self, token: str) -> Subscriber | None:
        """What the token says; None if it is not ours."""
        return _decrypted(token, self._confirming)


def _decrypted(token: str, ciphers: Sequence[AESSIV]) -> Subscriber | None:
    octets = _octets(token)
    if not octets or len(octets) <= 16:
        return None
    for cipher in ciphers:
        try:
            return _decode_subscriber(cipher.decrypt(octets, None))
        except (InvalidTag, msgspec.MsgspecError):
            continue
    return None


def _body(message: int, bit: int) -> bytes:
    if not 0 <= message < _ID_LIMIT or not 0 <= bit < 64:
        raise ValueError(f"no message's recipient: {message}, {bit}")
    return bytes((bit,)) + message.to_bytes(8).lstrip(b"\0")


def _mac(key: bytes) -> blake2b:
    """Keyed BLAKE2b (RFC 7693 §2.9), a MAC by its own design: a quarter of what an HMAC costs, four of which a tracked message
    would take."""
    return blake2b(key=key, digest_size=_SIGNATURE)


def _sign(mac: blake2b, octets: bytes) -> bytes:
    mac = mac.copy()
    mac.update(octets)
    return mac.digest()


def _verified(token: str, macs: Sequence[blake2b], target: bytes | None) -> Claim | None:
    octets = _octets(token)
    if not octets or target is None or not _SIGNATURE < len(octets) <= _SIGNATURE + 9:
        return None
    body, signature = octets[:-_SIGNATURE], octets[-_SIGNATURE:]
    if not any(hmac.compare_digest(signature, _sign(mac, body + target)) for mac in macs):
        return None
    return Claim(int.from_bytes(body[1:]), body[0])


def _text(octets: bytes) -> str:
    return b2a_base64(octets, newline=False).translate(_URLSAFE, b"=").decode("ascii")


def _octets(text: str) -> bytes | None:
    """The octets of base64 without padding; None for anything that we would not have written so."""
    if not text.isascii() or len(text) > _TOKEN_LIMIT * 4:
        return None
    try:
        octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return octets if _text(octets) == text else None
