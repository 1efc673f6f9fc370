"""SpamAssassin, with its local rules alone, finds no fault in how our messages are made."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import msgspec
import pytest

import mailerd
from mailerd.compose.bundle import Library, Share
from mailerd.compose.composer import Composer
from mailerd.compose.press import press, templates_in
from mailerd.config.model import Config, Identity, Stream
from mailerd.config.public import Public
from mailerd.config.tracking import Tracking
from tests.compose.jobs import job

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(shutil.which("spamassassin") is None, reason="needs Debian's spamassassin"),
]
EXAMPLES = Path(mailerd.__file__).parent / "examples" / "templates"
CONFIG = Config(
    identity=(Identity(name="shop", sender="Example Shop <shop@shop.example.org>"),),
    stream=(
        Stream(name="transactional"),
        Stream(
            name="marketing",
            one_click=True,
            list_id="offers.shop.example.org",
            feedback_id="exampleshop",
            tracking=Tracking(opens=True, clicks=True, utm=True),
        ),
    ),
    public=Public(base_url="https://mail.shop.example.org", secret=("s" * 32,)),
)
# What a receiving server adds; without it SpamAssassin looks for faults of a message that nobody has sent.
RECEIVED = (
    b"Received: from mail.shop.example.org (mail.shop.example.org [203.0.114.7]) by mx.example.com with ESMTPS id 1\r\n"
    b"\tfor <ann@example.com>; Thu, 05 Nov 2026 10:20:31 +0000\r\n"
)
# Rules about words, and about who handed the message over, are not about how it is made.
STRUCTURE = re.compile(
    r"(MIME|MISSING|HTML|BASE64|INVALID|SUBJ|MSGID|DATE|UNPARSEABLE|HEADER|FROM|TO|REPLYTO|CHARSET|TVD|T?_?MPART|URI)_"
)
HARMLESS = {"HTML_MESSAGE"}  # it says that there is HTML


def messages() -> dict[str, bytes]:
    library = Library()
    composer = Composer(CONFIG, library)
    found: dict[str, bytes] = {}
    for name in templates_in(EXAMPLES):
        pressed = press(EXAMPLES, name)
        library.put([msgspec.structs.replace(pressed.version, version=1)], {name: (Share(1, 100.0),)})
        stream = "marketing" if pressed.meta.marketing else "transactional"
        row = job(
            stream=stream, template=name, params=json.dumps(pressed.meta.sample), recipient="Ann <ann@example.com>"
        )
        found[name] = composer.compose(row).content
    pdf = base64.b64encode(b"%PDF-1.4\n" * 500).decode()
    full = job(
        recipient="Jürgen Groß <ann@example.com>",
        subject="Grüße aus Köln: Ihre Bestellung ist unterwegs",
        html_body="<!doctype html><html lang=de><title>Grüße</title><body><p>Schöne Grüße, Ihre Bestellung ist unterwegs.</p></body></html>",
        attachments=json.dumps([{"content": pdf, "filename": "Rechnung März.pdf"}]),
    )
    found["everything"] = composer.compose(full).content
    found["text"] = composer.compose(
        job(recipient="ann@example.com", text_body="Your code is 4711.", subject="Code")
    ).content
    return found


def test_no_rule_about_structure_hits(tmp_path: Path) -> None:
    made = messages()
    assert len(made) == 7
    mbox = tmp_path / "mbox"
    with mbox.open("wb") as file:
        for name, content in made.items():
            whole = RECEIVED + f"X-Name: {name}\r\n".encode() + content
            file.write(b"From shop@shop.example.org Thu Nov  5 10:20:31 2026\n" + whole.replace(b"\r\n", b"\n") + b"\n")
    home = {"HOME": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        ["spamassassin", "--local", "--mbox", "--nocreate-prefs", str(mbox)],
        capture_output=True,
        env=home,
        timeout=110,
        check=True,
    )
    judged = dict(_status(part) for part in re.split(rb"(?m)^From shop@shop[^\n]*\n", done.stdout)[1:])
    assert judged.keys() == made.keys()
    for name, (score, rules) in judged.items():
        faults = {rule for rule in rules if STRUCTURE.match(rule)} - HARMLESS
        assert not faults, f"{name}: {faults}"
        assert score < 2.5, f"{name}: {score} {rules}"


def _status(octets: bytes) -> tuple[str, tuple[float, set[str]]]:
    message: Message = BytesParser().parsebytes(octets)
    status = re.sub(r"\s+", " ", message["X-Spam-Status"])
    tests = re.search(r"tests=([A-Z0-9_, ]*)", status)
    assert tests is not None, status
    score = float(re.search(r"score=(-?[\d.]+)", status)[1])  # type: ignore[index]
    return message["X-Name"], (score, set(re.split(r"[, ]+", tests[1].strip())))
