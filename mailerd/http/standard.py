"""Standard Webhooks: the body and the headers of one request of events (https://www.standardwebhooks.com, version 1).

Pure. The body is the same at every attempt; the signature covers id, time of the attempt, and body. With several
secrets there are several signatures, so that a receiver may change over while both are in the configuration.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

__all__ = ["body_of", "delay", "message_id", "signed"]

_FIRST = 5.0  # seconds
_LONGEST = 3600.0


def message_id(delivery: uuid.UUID) -> str:
    """The `webhook-id`: what a receiver remembers to know a request that comes again."""
    return f"msg_{delivery.hex}"


def body_of(events: Sequence[msgspec.Struct], made_at: datetime) -> bytes:
    """`{"type": "events", "timestamp": …, "data": [event, …]}`."""
    return msgspec.json.encode({"type": "events", "timestamp": made_at, "data": events})


def signed(body: bytes, identifier: str, at: int, keys: Sequence[bytes]) -> Mapping[str, str]:
    """The three headers. `at`: Unix seconds."""
    text = b"%s.%d.%s" % (identifier.encode(), at, body)
    signatures = (base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode() for key in keys)
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def delay(attempts: int, rng: random.Random) -> float:
    """Seconds until the next attempt after `attempts` failed ones: 5 s, three times longer each time, at most an hour,
    and somewhere between half of that and all of it."""
    return float(min(_FIRST * 3.0 ** min(attempts - 1, 10), _LONGEST) * (0.5 + rng.random() / 2))
