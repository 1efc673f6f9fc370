"""What proves who posts to a provider's webhook: secrets, public keys and topics, and what they must look like.

Pure. The constructors of `mailerd.webhook` take what `secret` let pass, and would raise for anything else. No message repeats
anything of a secret.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

__all__ = ["secret", "topic"]

LEAST: Final = 16  # characters of a secret
_PREFIX: Final = "whsec_"  # Standard Webhooks
_topic: Final = re.compile(
    r"arn:aws[a-z-]{0,10}:sns:[a-z0-9-]{2,32}:[0-9]{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?"
).fullmatch


def secret(kind: str, text: str) -> str:
    """A secret of a provider of this kind. Raises ValueError with words for behind a key path."""
    if kind == "resend":
        try:
            key = b64decode(text.removeprefix(_PREFIX), validate=True)
        except (Error, ValueError):
            key = b""
        if len(key) < LEAST:
            raise ValueError("is no signing secret of a webhook: it begins with `whsec_`, and base64 follows")
    elif kind == "sendgrid":
        try:
            public = load_der_public_key(b64decode(text, validate=True))
        except (Error, ValueError, TypeError, UnsupportedAlgorithm):
            public = None
        if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP256R1):
            raise ValueError(
                "is no verification key of the Signed Event Webhook: base64 of a P-256 key, without PEM lines"
            )
    elif len(text) < LEAST or not text.isascii() or not text.isprintable():
        raise ValueError(f"must be ASCII, and {LEAST} characters or more")
    return text


def topic(text: str) -> str:
    """The ARN of an SNS topic. Raises ValueError."""
    if not _topic(text):
        raise ValueError(
            f"must be the ARN of an SNS topic, as in arn:aws:sns:eu-central-1:123456789012:mail, not `{text}`"
        )
    return text
