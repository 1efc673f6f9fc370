"""Amazon SES as moto plays it: what our dialect sends is taken, and what moto's SNS signs is believed.

By hand, since moto is large: `pip install 'moto[server]' boto3`, then `python bench/ses_oracle.py`. Exits 1 where one of the two
does not understand the other. Moto checks no signature of ours (botocore's suite does, in the tests), and confirms no
subscription.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import HTTPError
from urllib.request import Request as Call
from urllib.request import urlopen

import boto3
import requests
from moto import mock_aws
from moto.server import ThreadedMotoServer

from mailerd.config.provider import Provider
from mailerd.http.dialect import Response
from mailerd.http.ses import Ses as Dialect
from mailerd.message import Job, Lease, Outgoing, Recipient
from mailerd.webhook.dialect import Post
from mailerd.webhook.kinds import webhook

REGION = "eu-central-1"
KEYS = {"region_name": REGION, "aws_access_key_id": "a", "aws_secret_access_key": "s"}


def outgoing(*to: str) -> Outgoing:
    job = Job(id=7, stream="s", priority=5, domain="", campaign="", lease=Lease(1, 1e9), created_at=datetime.now(UTC))
    content = b"From: shop@shop.example\r\nTo: ann@example.org\r\nSubject: Hello\r\nMIME-Version: 1.0\r\n\r\nworld\r\n"
    return Outgoing(job, "b@shop.example", tuple(Recipient(bit, one) for bit, one in enumerate(to)), content)


def send(url: str, message: Outgoing) -> object:
    dialect = Dialect(Provider(name="ses", kind="ses", access_key="a", secret_key="s", region=REGION, endpoint=url))
    entries = [dialect.entry(message)]
    request = dialect.request(entries, datetime.now(UTC))
    try:
        with urlopen(Call(request.url, request.body, request.headers), timeout=10) as answer:  # a server of our own
            status, headers, body = answer.status, answer.headers, answer.read()
    except HTTPError as error:
        status, headers, body = error.code, error.headers, error.read()
    known = {name.lower(): value for name, value in headers.items()}
    return dialect.verdicts(entries, Response(status, known, body, datetime.now(UTC)))


def sending() -> dict[str, object]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        url = "http://127.0.0.1:{1}".format(*server.get_host_and_port())
        refused = send(url, outgoing("ann@example.org"))
        boto3.client("ses", endpoint_url=url, **KEYS).verify_domain_identity(Domain="shop.example")
        taken = send(url, outgoing("ann@example.org", "bcc@example.net"))
        stored = requests.get(f"{url}/moto-api/data.json", timeout=10).json().get("ses", {})
        too_many = send(url, outgoing(*(f"u{n}@example.org" for n in range(51))))
    finally:
        server.stop()
    return {"sender that is not verified": refused, "taken": taken, "51 recipients": too_many, "stored": bool(stored)}


class _Listener(BaseHTTPRequestHandler):
    seen: list[Post]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(Post({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


EVENT = {
    "eventType": "Bounce",
    "mail": {"messageId": "0102", "destination": ["ann@example.org"], "tags": {"mailerd_id": ["7-0"]}},
    "bounce": {
        "bounceType": "Permanent",
        "bounceSubType": "General",
        "timestamp": "2026-09-21T14:13:20.000Z",
        "feedbackId": "f-1",
        "bouncedRecipients": [{"emailAddress": "ann@example.org", "diagnosticCode": "smtp; 550 5.1.1 user unknown"}],
    },
}


def reporting() -> dict[str, object]:
    _Listener.seen = []
    listener = HTTPServer(("127.0.0.1", 0), _Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1:.*"]}}}):
        sns = boto3.client("sns", **KEYS)
        topic = sns.create_topic(Name="mail")["TopicArn"]
        sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=f"http://127.0.0.1:{listener.server_port}/webhooks/ses")
        sns.publish(TopicArn=topic, Message=json.dumps(EVENT))
        deadline = time.monotonic() + 10
        while not _Listener.seen and time.monotonic() < deadline:
            time.sleep(0.05)
        (post,) = _Listener.seen
        made = webhook(Provider(name="ses", kind="ses", webhook_topics=(topic,)))
        assert made is not None
        asks = made.judge(post, time.time())
        pem = requests.get(json.loads(post.body)["SigningCertURL"], timeout=10).content
    verdict = made.judge(post, time.time(), {asks.certificate: pem})
    other = made.judge(
        Post(post.headers, post.body.replace(b"user unknown", b"user unknowm")), time.time(), {asks.certificate: pem}
    )
    listener.shutdown()
    return {
        "asks for": asks.certificate or asks.reason,
        "believed": verdict.reason or verdict.accepted,
        "another body": other.reason or other.accepted,
        "read": made.read(post.body, {}),
    }


def main() -> int:
    begin = time.monotonic()
    told = sending() | reporting()
    for name, value in told.items():
        print(f"{name}: {value}")
    print(f"{time.monotonic() - begin:.0f} s")
    (feedback,) = told["read"]
    right = (
        getattr(told["sender that is not verified"], "fault", None) is not None,
        getattr(told["taken"], "fault", "") is None,
        getattr(told["51 recipients"], "fault", None) is not None,
        told["believed"] is True,
        told["another body"] == "signature wrong",
        (feedback.type, feedback.message_id, feedback.rcpt, feedback.hard) == ("bounced", 7, 0, True),
    )
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
