"""DKIM keys as files: made, read, and refused where receivers would refuse what they sign.

Here, and not beside the signer, since a key that cannot be used is a problem of the configuration, with a file and a
line. A message never repeats anything of a key. Keys that need a passphrase are not taken: nobody is there to type it.
"""

from __future__ import annotations

import os
from pathlib import Path

import idna
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from mailerd.config import values

__all__ = ["PrivateKey", "algorithm", "aligned", "new_key", "read_key", "signing_domain", "write_key"]

PrivateKey = RSAPrivateKey | Ed25519PrivateKey

LEAST_BITS = 2048  # RFC 8301 §3.2: at least 1024, and 2048 should be used
MOST_BITS = 4096  # the same: verifiers need not take more
FILE_LIMIT = 65_536  # octets: a larger file is the wrong one


def read_key(path: str) -> PrivateKey:
    """The private key in a PEM file (PKCS #8, or PKCS #1 for RSA). Raises ValueError with words for behind a key path."""
    try:
        with open(path, "rb") as file:
            pem = file.read(FILE_LIMIT + 1)
    except OSError as wrong:
        raise ValueError(f"{path}: {wrong.strerror}") from None
    if len(pem) > FILE_LIMIT:
        raise ValueError(f"{path} is larger than 64 kB: it is no key")
    if b"-----BEGIN " not in pem:
        raise ValueError(f"{path} holds no PEM key: `mailerd dkim new` makes one")
    if b"-----BEGIN PUBLIC KEY" in pem or b"-----BEGIN CERTIFICATE" in pem:
        raise ValueError(f"{path} holds no private key; the public one belongs into the DNS")
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise ValueError(f"{path} is protected by a passphrase, which nobody would be there to type") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path} holds no key that can be read (is it cut off?)") from None
    if isinstance(key, RSAPrivateKey):
        if key.key_size < LEAST_BITS:
            raise ValueError(f"{path} is an RSA key of {key.key_size} bits: receivers want {LEAST_BITS} or more")
        if key.key_size > MOST_BITS:
            raise ValueError(
                f"{path} is an RSA key of {key.key_size} bits: receivers need not take more than {MOST_BITS}"
            )
        return key
    if isinstance(key, Ed25519PrivateKey):
        return key
    raise ValueError(f"{path} is neither an RSA nor an Ed25519 key")


def new_key(*, ed25519: bool = False) -> PrivateKey:
    """A key of 2048 bits: larger ones make records that some name servers cannot hold, and are four times as slow."""
    return Ed25519PrivateKey.generate() if ed25519 else generate_private_key(65537, LEAST_BITS)


def write_key(path: str | Path, key: PrivateKey) -> None:
    """Writes `key` into a new file that only its owner may read. Raises FileExistsError, and other OSErrors."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(file, "wb") as out:
        os.fchmod(file, 0o600)  # also where the umask takes more away than that
        out.write(pem)
        out.flush()
        os.fsync(file)


def algorithm(key: PrivateKey) -> str:
    """The `a=` of what it signs: `rsa-sha256` (RFC 6376 §3.3), `ed25519-sha256` (RFC 8463)."""
    return "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"


def signing_domain(text: str) -> str:
    """A domain as `d=` writes it: small letters, A-labels. Raises ValueError with words for behind a key path."""
    domain = values.host(text).removesuffix(".")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except UnicodeError as wrong:  # idna.IDNAError among them
            raise ValueError(f"is a domain that IDNA does not allow ({wrong})") from None
    if "." not in domain or ":" in domain or domain.rpartition(".")[2].isdigit():
        raise ValueError("must be a domain, as in `example.org`")
    return domain.lower()


def aligned(signing: str, sender: str) -> bool:
    """Does a signature by the domain `signing` stand for mail From the domain `sender`: the same, or one above it?

    Both as `signing_domain` gives them. DMARC (RFC 7489 §3.1.1) would also take a sister below the organisation's domain.
    """
    return sender == signing or sender.endswith(f".{signing}")
