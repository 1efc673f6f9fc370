"""Amazon SNS over HTTP: docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages" and "Parsing message formats".

A message is signed with RSA (PKCS #1 v1.5; SHA-1 in signature version 1, SHA-256 in version 2) over some of its fields, by a
certificate at a URL that the message names. Only URLs of SNS itself are given to be fetched; over TLS that is verified, the
host vouches for the certificate, whose name and dates are looked at besides. Pure.

Hazards: anybody with an AWS account can have SNS sign anything: a signature says that it comes from SNS, the topic whether it is
ours. So the topic is judged first, and nothing is fetched for a foreign one. A repeated message is as good as the first:
its time is bounded, and its MessageId may come once. Raw delivery has no signature, and is refused.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509.oid import NameOID

from mailerd.webhook.dialect import CERTIFICATE_LIMIT, Verdict, accepted, refused
from mailerd.webhook.event import instant

__all__ = ["Envelope", "envelope", "judge"]

PATIENCE: Final = 3900.0  # seconds: SNS tries for an hour at most
AHEAD: Final = 300.0  # seconds that its clock may be before ours
_KEY_BITS: Final = 2048
_HOST: Final = r"https://sns\.[a-z0-9-]{2,32}\.amazonaws\.com(?:\.cn)?"
_certificate: Final = re.compile(_HOST + r"/SimpleNotificationService-[0-9A-Za-z]{1,64}\.pem").fullmatch
_subscribe: Final = re.compile(_HOST + r"/\?[\x21-\x7e]{1,2000}").fullmatch
_name: Final = re.compile(r"sns(?:\.[a-z0-9-]{2,32})?\.amazonaws\.com(?:\.cn)?").fullmatch
_SIGNED: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}


class Envelope(msgspec.Struct, frozen=True, rename="pascal"):
    """What SNS puts around a message. `Message` is text, in JSON or not."""

    type: str
    message_id: str
    topic_arn: str
    message: str
    timestamp: str
    signature_version: str
    signature: str
    signing_cert_url: str = msgspec.field(name="SigningCertURL")
    subject: str | None = None
    token: str | None = None
    subscribe_url: str | None = msgspec.field(name="SubscribeURL", default=None)

    def signed(self) -> bytes | None:
        """The octets that are signed; None for a kind of message that SNS does not send."""
        names = _SIGNED.get(self.type)
        if names is None:
            return None
        lines: list[str] = []
        for name in names:
            value: str | None = getattr(self, _FIELDS[name])
            if value is not None:
                lines += (name, value)
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


_FIELDS: Final = {field.encode_name: field.name for field in msgspec.structs.fields(Envelope)}
_decode: Final = msgspec.json.Decoder(Envelope).decode


def envelope(body: bytes) -> Envelope | None:
    """The envelope in a body; None for what is none."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError):
        return None


def judge(found: Envelope | None, topics: Sequence[str], now: float, certificates: Mapping[str, bytes]) -> Verdict:
    """The verdict on an envelope, as `webhook.dialect` says."""
    if found is None or (signed := found.signed()) is None:
        return refused(401, "no message of SNS")
    if found.topic_arn not in topics:
        return refused(403, "foreign topic")
    then = instant(found.timestamp)
    if then is None or not -AHEAD <= now - then.timestamp() <= PATIENCE:
        return refused(403, "too old")
    if found.signature_version not in ("1", "2"):
        return refused(401, "signature version unknown")
    if not _certificate(found.signing_cert_url):
        return refused(401, "certificate elsewhere")
    pem = certificates.get(found.signing_cert_url)
    if pem is None:
        return Verdict(certificate=found.signing_cert_url)
    key = _key(pem, int(now) // 3600 * 3600)
    if key is None:
        return Verdict(401, "certificate unusable", certificate=found.signing_cert_url)
    try:
        signature = b64decode(found.signature, validate=True)
        key.verify(signature, signed, PKCS1v15(), SHA1() if found.signature_version == "1" else SHA256())  # noqa: S303
    except (InvalidSignature, Error, ValueError):
        return refused(401, "signature wrong")
    if found.type == "SubscriptionConfirmation":
        return _confirmation(found)
    return accepted(found.message_id[:200], empty=found.type == "UnsubscribeConfirmation")


def _confirmation(found: Envelope) -> Verdict:
    url = found.subscribe_url or ""
    query = parse_qs(urlsplit(url).query, max_num_fields=20) if _subscribe(url) and url.count("&") < 20 else {}
    if query.get("Action") != ["ConfirmSubscription"] or query.get("TopicArn") != [found.topic_arn]:
        return refused(401, "subscription elsewhere")
    return Verdict(visit=url, empty=True, once=found.message_id[:200])


@lru_cache(32)
def _key(pem: bytes, hour: int) -> RSAPublicKey | None:
    """The key of a certificate that is one of SNS, and valid at that time; else None."""
    if len(pem) > CERTIFICATE_LIMIT:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = [text.value for text in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        key = certificate.public_key()
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType):
        return None
    if not begin - 3600 <= hour <= end or not any(isinstance(name, str) and _name(name) for name in names):
        return None
    return key if isinstance(key, RSAPublicKey) and key.key_size >= _KEY_BITS else None
