"""Debian's OpenDKIM, which many receivers run, as a second judge of what the composer signs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mailerd.compose.composer import Composer
from mailerd.compose.dkim import Key
from mailerd.config.model import Config, Dkim, Identity
from tests.compose.jobs import job
from tests.compose.signing import Published, ed25519_key, key_file, rsa_key

pytestmark = pytest.mark.debian

RAW = b"From: a@shop.example\r\nTo: b@example.org\r\nTo: c@example.org\r\nSubject: raw\r\n\r\n caf\xc3\xa9 \t x \r\n\r\n\r\n"
ROWS = [
    {},
    {"subject": "Grüße " * 40, "html_body": "<p>\n  Grüße \t</p>\n" * 50},
    {"subject": "x" * 300, "text_body": ""},
    {
        "text_body": "\n\n trailing \n\n\n\n",
        "headers": '{"List-Unsubscribe": "<https://shop.example/u>", "X-Own": "1"}',
    },
    {"text_body": "wide  load \t\n" * 2000, "cc": ["Zoë <zoe@example.org>"]},
    {"raw": RAW},
]


def test_it_verifies_both_signatures_and_sees_what_was_changed(tmp_path: Path) -> None:
    program = shutil.which("opendkim") or "/usr/sbin/opendkim"
    keys = (Key("shop.example", "r1", rsa_key()), Key("shop.example", "e1", ed25519_key()))
    files = {key.selector: str(key_file(tmp_path, key.private, f"{key.selector}.pem")) for key in keys}
    dkim = tuple(Dkim(selector=selector, key=file) for selector, file in files.items())
    composer = Composer(Config(identity=(Identity(name="shop", sender="a@shop.example", dkim=dkim),)))
    (tmp_path / "keys").write_text("".join(f"{name} {text}\n" for name, text in Published(*keys).items()))
    (tmp_path / "conf").write_text(f"Mode v\nSyslog no\nTestPublicKeys {tmp_path}/keys\n")
    contents = [composer.compose(job(**row)).content for row in ROWS]
    messages = [*contents, *(content[:-4] + b"!" + content[-4:] for content in contents)]
    for n, content in enumerate(messages):
        (tmp_path / f"{n}.eml").write_bytes(content)
    names = ",".join(str(tmp_path / f"{n}.eml") for n in range(len(messages)))
    done = subprocess.run(
        [program, "-x", tmp_path / "conf", "-vvv", "-t", names], capture_output=True, text=True, timeout=30, check=True
    )
    verdicts = re.findall(r"dkim=(\w+) .*header\.a=(\S+)", done.stdout)
    algorithms = ("rsa-sha256", "ed25519-sha256")
    expected = [(verdict, a) for verdict in ("pass", "fail") for _ in ROWS for a in algorithms]
    assert verdicts == expected
