"""DKIM signatures (RFC 6376, 8301, 8463): a finished message in, the same with its signature in front.

relaxed/relaxed; rsa-sha256, and ed25519-sha256 beside it where there is such a key. The fields of `OVERSIGNED` are
listed once more than they occur, so that a second From, Subject or List-Unsubscribe breaks the signature instead of
being shown. A field that the provider writes anew is left out, else it would break it, too.

It reads no clock: there is no `t=`, and every attempt sends the same octets (RSA with PKCS #1 v1.5 and Ed25519 are both
deterministic). It looks nothing up; whether the record is published is `compose.dkimrecord`'s and `mailerd check`'s.

Hazards: content must be as the composer leaves it, CRLF throughout and folded: what is changed behind the signature
breaks it. RSA costs 0.3 ms, during which `cryptography` lets other threads run: sign in a thread.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from mailerd.config.dkim import PrivateKey, algorithm, read_key, signing_domain
from mailerd.config.model import Identity
from mailerd.config.values import mailbox
from mailerd.message import Failure

__all__ = ["OVERSIGNED", "Key", "Keyring", "Signer", "keys_of"]

# RFC 6376 §5.4.1 and §8.15; RFC 8058 §4 for the two of one-click unsubscription; Gmail's for Feedback-ID.
OVERSIGNED = (
    "from",
    "to",
    "subject",
    "date",
    "reply-to",
    "message-id",
    "mime-version",
    "content-type",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "feedback-id",
)
# Signed as often as they occur: who forwards a message may add its own.
SIGNED = (
    "cc",
    "sender",
    "in-reply-to",
    "references",
    "content-transfer-encoding",
    "auto-submitted",
    "list-id",
    "list-help",
    "list-subscribe",
    "list-post",
    "list-owner",
    "list-archive",
)
WIDTH = 76
FIELDS = 64  # of one message; what has more is nobody's usual mail
LAYOUTS = 256  # selections of fields whose `h=` is kept: rows with one set of headers have it in common


class Key(msgspec.Struct, frozen=True):
    """One private key with its `d=` and `s=`; the domain in small letters and A-labels."""

    domain: str
    selector: str
    private: PrivateKey

    @property
    def algorithm(self) -> str:
        return algorithm(self.private)


def keys_of(identity: Identity) -> tuple[Key, ...]:
    """The keys of an identity, read from their files. Raises `Failure` (category `configuration`) naming the key."""
    keys = []
    for dkim in identity.dkim:
        try:
            domain = signing_domain(dkim.domain or mailbox(identity.sender).rpartition("@")[2])
            keys.append(Key(domain, dkim.selector, read_key(dkim.key or "")))
        except ValueError as wrong:
            raise Failure(f"identity {identity.name}: dkim {dkim.selector}: {wrong}", "configuration") from None
    return tuple(keys)


class _Layout(msgspec.Struct, frozen=True):
    """What messages with the same fields share: which to sign, in what order, and for each key its signature's field up
    to the body hash, as it is written and in relaxed form."""

    order: tuple[int, ...]
    heads: tuple[tuple[bytes, bytes], ...]


class Signer:
    """Signs with `keys`, all of one domain. `leave_out`: fields that the provider writes anew, in small letters."""

    def __init__(self, keys: Sequence[Key], leave_out: frozenset[str] = frozenset()) -> None:
        # RSA first: it is the one that everybody verifies, and some look at one signature only.
        self.keys = tuple(sorted(keys, key=lambda key: key.algorithm != "rsa-sha256"))
        self._sign = [_signing(key.private) for key in self.keys]
        self._over = [name.encode() for name in OVERSIGNED if name not in leave_out]
        self._once = [name.encode() for name in SIGNED if name not in leave_out]
        self._wanted = frozenset((*self._over, *self._once))
        self._layouts: dict[tuple[bytes, ...], _Layout] = {}

    def sign(self, content: bytes) -> bytes:
        """`content` with one DKIM-Signature for each key in front."""
        head, body = split(content)
        body_hash = b2a_base64(sha256(relaxed_body(body)).digest(), newline=False)
        wanted = self._wanted
        fields = [field for field in relaxed_fields(head) if field[0] in wanted]
        names = tuple([name for name, _ in fields])
        layout = self._layouts.get(names) or self._lay_out(names)
        signed = b"".join([b"%b:%b\r\n" % fields[i] for i in layout.order])
        parts = []
        for (written, relaxed), sign in zip(layout.heads, self._sign, strict=True):
            signature = b2a_base64(sign(b"%b%b%b; b=" % (signed, relaxed, body_hash)), newline=False)
            lines = [signature[i : i + WIDTH - 4] for i in range(0, len(signature), WIDTH - 4)]
            parts.append(b"%b%b;\r\n b=%b\r\n" % (written, body_hash, b"\r\n ".join(lines)))
        parts.append(content)
        return b"".join(parts)

    def _lay_out(self, names: tuple[bytes, ...]) -> _Layout:
        places: dict[bytes, list[int]] = {}
        for i, name in enumerate(names):
            places.setdefault(name, []).append(i)
        order: list[int] = []
        listed: list[bytes] = []
        for name in (*self._over, *self._once):
            found = places.get(name, [])
            order += reversed(found)  # RFC 6376 §5.4.2: from the bottom up
            listed += [name] * len(found)
            if name in self._over:
                listed.append(name)
        layout = _Layout(tuple(order), tuple([_head(key, listed) for key in self.keys]))
        if len(names) <= FIELDS:
            if len(self._layouts) >= LAYOUTS:
                self._layouts = {}  # not cleared: another thread may be looking
            self._layouts[names] = layout
        return layout


class Keyring:
    """Keys by domain: the one that signs for a From domain is the nearest that is aligned with it."""

    def __init__(self, keys: Iterable[Key], leave_out: frozenset[str] = frozenset()) -> None:
        found: dict[str, dict[str, Key]] = {}
        for key in keys:
            found.setdefault(key.domain, {}).setdefault(key.algorithm, key)
        self._signers = {domain: Signer(list(keys.values()), leave_out) for domain, keys in found.items()}

    def __bool__(self) -> bool:
        return bool(self._signers)

    def signer(self, domain: str) -> Signer | None:
        """Who signs for mail From `domain` (A-labels): its own keys, else those of the nearest domain above it."""
        domain = domain.lower()
        while domain and self._signers:
            if signer := self._signers.get(domain):
                return signer
            domain = domain.partition(".")[2]
        return None


def _signing(key: PrivateKey) -> Callable[[bytes], bytes]:
    if isinstance(key, Ed25519PrivateKey):
        return lambda data: key.sign(sha256(data).digest())  # RFC 8463 §3: the hash is what is signed
    padding, algorithm = PKCS1v15(), SHA256()
    return lambda data: key.sign(data, padding, algorithm)


def _head(key: Key, names: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The field up to `bh=`, as written and relaxed. Folds are single spaces, so unfolding it is relaxing it."""
    lines = [b" h="]
    for i, name in enumerate(names):
        piece = name + (b":" if i < len(names) - 1 else b";")
        if len(lines[-1]) + len(piece) > WIDTH:
            lines.append(b" ")
        lines[-1] += piece
    first = f"v=1; a={key.algorithm}; c=relaxed/relaxed; d={key.domain};\r\n s={key.selector};\r\n".encode()
    value = first + b"\r\n".join(lines) + b"\r\n bh="
    return b"DKIM-Signature: " + value, b"dkim-signature:" + value.replace(b"\r\n", b"")


def split(content: bytes) -> tuple[bytes, bytes]:
    """Head (without the CRLF of its last line) and body. Without an empty line all of it is head (RFC 5322 §2.1)."""
    if content.startswith(b"\r\n"):
        return b"", content[2:]
    head, _, body = content.partition(b"\r\n\r\n")
    return head, body


def relaxed_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """(name, value) of each field in relaxed form (RFC 6376 §3.4.2). A line that is no field is left out."""
    if b"\t" in head:
        head = head.replace(b"\t", b" ")
    head = head.replace(b"\r\n ", b" ")
    while b"  " in head:
        head = head.replace(b"  ", b" ")
    fields = []
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name.rstrip(b" ").lower(), value.strip(b" ")))
    return fields


def relaxed_body(body: bytes) -> bytes:
    """The body in relaxed form (RFC 6376 §3.4.4). A body that is in it already is not copied."""
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    if b"\t" in body:
        body = body.replace(b"\t", b" ")
    while b"  " in body:  # halves every run: a few rounds, and no pattern that hostile input could make slow
        body = body.replace(b"  ", b" ")
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    if body.endswith(b"\r\n\r\n") or body == b"\r\n":
        body = body.rstrip(b"\r\n")
        return body + b"\r\n" if body else b""
    return body
