"""Providers with webhooks, and requests that are signed as each signs: for tests alone."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from mailerd.config.provider import Provider
from mailerd.webhook.dialect import Post, Webhook
from mailerd.webhook.kinds import webhook

NOW = 1_790_000_000.0
TOPIC = "arn:aws:sns:eu-central-1:123456789012:mail"
CERTIFICATE = "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123abcd.pem"
SECRET = "a secret of theirs and ours"
WHSEC = "whsec_" + b64encode(b"24 octets of a secret ...").decode()
SENDGRID = ec.generate_private_key(ec.SECP256R1())
_SECRETS = {
    "resend": WHSEC,
    "sendgrid": b64encode(SENDGRID.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode(),
}
KINDS = ("ses", "resend", "sendgrid", "mailgun", "postmark", "sparkpost", "brevo", "mailjet", "mailersend")
UNSIGNED = ("postmark", "sparkpost", "brevo", "mailjet")


def make(kind: str, *secrets: str) -> Webhook:
    found = webhook(
        Provider(
            name="esp",
            kind=kind,  # type: ignore[arg-type]
            webhook_secret=() if kind == "ses" else secrets or (_SECRETS.get(kind, SECRET),),
            webhook_topics=(TOPIC,) if kind == "ses" else (),
        )
    )
    assert found is not None
    return found


def octets(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def post(kind: str, body: Any, at: float = NOW) -> Post:
    """A request of that kind with this body, signed."""
    then = str(int(at))
    if kind == "ses":
        return Post({}, octets(notification(body if isinstance(body, str) else json.dumps(body), at=at)))
    if kind == "mailgun" and not isinstance(body, bytes):
        sign = hmac.digest(SECRET.encode(), f"{then}token-1".encode(), sha256).hex()
        body = {"signature": {"timestamp": then, "token": "token-1", "signature": sign}, "event-data": body}
    body = octets(body)
    if kind == "resend":
        key = b64decode(WHSEC.removeprefix("whsec_"))
        sign = b64encode(hmac.digest(key, f"msg_1.{then}.".encode() + body, sha256)).decode()
        return Post({"svix-id": "msg_1", "svix-timestamp": then, "svix-signature": f"v1,{sign}"}, body)
    if kind == "sendgrid":
        name = "x-twilio-email-event-webhook"
        sign = b64encode(SENDGRID.sign(then.encode() + body, ec.ECDSA(SHA256()))).decode()
        return Post({f"{name}-signature": sign, f"{name}-timestamp": then}, body)
    if kind == "mailersend":
        return Post({"signature": hmac.digest(SECRET.encode(), body, sha256).hex()}, body)
    if kind in UNSIGNED:
        return Post({"authorization": "Basic " + b64encode(f"mailerd:{SECRET}".encode()).decode()}, body)
    return Post({}, body)


@cache
def sns_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def certificate(
    name: str = "sns.amazonaws.com", begin: float = NOW - 864000, days: int = 365, *, small: bool = False
) -> bytes:
    key = rsa.generate_private_key(65537, 1024) if small else sns_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.fromtimestamp(begin, UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=days))
    return made.sign(key, SHA256()).public_bytes(Encoding.PEM)


def notification(message: str, at: float = NOW, version: str = "2", **changes: Any) -> dict[str, Any]:
    """A message of SNS; what `changes` says is changed before it is signed, None takes a field away."""
    fields: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": "11111111-aaaa",
        "TopicArn": TOPIC,
        "Message": message,
        "Timestamp": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE,
        "UnsubscribeURL": "https://sns.eu-central-1.amazonaws.com/?Action=Unsubscribe",
    } | changes
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    text = "".join(f"{name}\n{fields[name]}\n" for name in names if fields.get(name) is not None)
    signature = sns_key().sign(text.encode(), PKCS1v15(), SHA1() if version == "1" else SHA256())
    fields["Signature"] = b64encode(signature).decode()
    return {name: value for name, value in fields.items() if value is not None}


def confirmation(**changes: Any) -> dict[str, Any]:
    return notification(
        "You have chosen to subscribe",
        **{
            "Type": "SubscriptionConfirmation",
            "Token": "t0ken",
            "SubscribeURL": f"https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=t0ken",
        }
        | changes,
    )


def certificates() -> dict[str, bytes]:
    return {CERTIFICATE: certificate()}


def read(kind: str, body: Any) -> list[dict[str, Any]]:
    """What it makes of a body that was accepted, without what is empty."""
    made, request = make(kind), post(kind, body)
    verdict = made.judge(request, NOW, certificates())
    assert verdict.accepted, verdict
    kept = {name: value for name, value in request.headers.items() if name in made.keep}
    return [
        {
            name: value
            for name, value in msgspec.structs.asdict(one).items()
            if value not in (None, "", 0, False, (), {})
        }
        for one in made.read(request.body, kept)
    ]
