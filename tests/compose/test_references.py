"""Attachments by reference: what a row may say, and that the message is the same as with the octets in the row."""

from __future__ import annotations

import base64
import json
import re
from email import message_from_bytes, policy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose import mime
from mailerd.compose.composer import Composer
from mailerd.compose.dkim import Key
from mailerd.compose.mime import Reference
from mailerd.config.model import Config, Dkim, Identity, Stream
from mailerd.message import Failure
from tests.compose.jobs import check_wire, job, parse
from tests.compose.signing import Published, ed25519_key, key_file, verified

DIGEST = sha256(b"octets").hexdigest()
_names = st.text(min_size=1, max_size=80).filter(lambda s: not re.search("[\x00-\x1f\x7f/]", s))


@pytest.fixture(scope="module")
def composer(tmp_path_factory: pytest.TempPathFactory) -> Composer:
    key = str(key_file(tmp_path_factory.mktemp("keys"), ed25519_key()))
    shop = Identity(name="shop", sender="shop@shop.example", dkim=(Dkim(selector="e1", key=key),))
    return Composer(Config(identity=(shop,), stream=(Stream(name="transactional"),)))


@given(
    files=st.lists(
        st.tuples(
            st.binary(max_size=300),
            _names,
            st.sampled_from([None, "application/pdf", "text/csv; charset=utf-8", "image/png"]),
            st.sampled_from([None, "logo", "a@b"]),
            st.sampled_from([0, 1, 2, 3]),
        ),
        min_size=1,
        max_size=4,
    ),
    html=st.sampled_from([None, "<p>Grüße</p>"]),
)
@example(
    [(b"--=_x\r\n.\r\n\0\xff", "a.pdf", None, None, 1), (b"", "b", "image/png", "logo", 3)], "<img src='cid:logo'>"
)
@settings(deadline=None, max_examples=40)
def test_a_fetched_message_is_the_inline_one_octet_for_octet(
    composer: Composer, files: list[tuple[bytes, str, str | None, str | None, int]], html: str | None
) -> None:
    inline: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    fetched: dict[int, bytes] = {}
    for index, (octets, name, kind, cid, way) in enumerate(files):
        item = {"filename": name, "content_type": kind, "cid": cid}
        content = {"content": base64.b64encode(octets).decode()}
        inline.append(item | content)
        digest = {"sha256": sha256(octets).hexdigest().upper()}
        rows.append(
            item | [content, {"path": f"deep/{index}"}, {"url": "https://x/" + "y" * index} | digest, digest][way]
        )
        if way:
            fetched[index] = octets
    for items in (inline, rows):
        for item in items:
            if item["filename"] is None:
                del item["filename"]
    with_octets = job(html_body=html, text_body="text", attachments=json.dumps(inline))
    by_reference = job(html_body=html, text_body="text", attachments=json.dumps(rows), fetched=fetched)
    expected, found = composer.compose(with_octets), composer.compose(by_reference)
    assert found.content == expected.content
    assert found.signed
    check_wire(found)
    assert [r.index for r in mime.references(by_reference.attachments)] == sorted(fetched)
    assert mime.references(with_octets.attachments) == []


def test_the_signature_holds(composer: Composer) -> None:
    row = job(attachments=json.dumps([{"path": "a.pdf"}]), fetched={0: bytes(range(256)) * 40})
    dns = Published(Key("shop.example", "e1", ed25519_key()))
    assert verified(composer.compose(row).content, dns) == [True]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"path": "in/Rechnung 5.pdf"}, ("in/Rechnung 5.pdf", "", "", "application/pdf", "Rechnung 5.pdf")),
        ({"url": "https://x/a%20b.png?c=d.txt"}, ("", "https://x/a%20b.png?c=d.txt", "", "image/png", "a b.png")),
        ({"sha256": DIGEST.upper()}, ("", "", DIGEST, "application/octet-stream", None)),
        ({"path": "a", "sha256": DIGEST, "filename": "b.txt"}, ("a", "", DIGEST, "text/plain", "b.txt")),
        ({"url": "https://x/", "content_type": "text/csv"}, ("", "https://x/", "", "text/csv", None)),
        ({"path": "x" * 300}, ("x" * 300, "", "", "application/octet-stream", None)),
    ],
)
def test_what_is_to_be_fetched(item: dict[str, str], expected: tuple[str, str, str, str, str | None]) -> None:
    path, url, digest, kind, name = expected
    where = "attachments[1]" + (f" ({name!a})" if name else "")
    source = json.dumps([{"content": ""}, item])
    assert mime.references(source) == [Reference(1, where, path, url, digest, kind)]
    (_, part) = mime.attachments(source, "x", {1: b"octets"})
    attached = parse_part(part.octets)
    assert attached.get_filename() == name
    assert attached.get_payload(decode=True) == b"octets"


def parse_part(octets: bytes) -> Any:
    return message_from_bytes(octets, policy=policy.default)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"path": "a", "url": "https://x/"}, "('a'): has more than one of content, path and url"),
        ({"content": "", "path": "a"}, "('a'): has more than one of content, path and url"),
        ({"content": "", "url": "", "path": ""}, ": has more than one of content, path and url"),
        ({"path": ""}, ": path and url must not be empty"),
        ({"url": ""}, ": path and url must not be empty"),
        ({"path": None}, "Expected `str`, got `null` - at `$.path`"),
        ({"url": 5}, "Expected `str`, got `int` - at `$.url`"),
        ({"sha256": None}, "Expected `str`, got `null` - at `$.sha256`"),
        ({"path": "a", "sha256": "abc"}, "('a'): sha256 must be 64 hexadecimal digits"),
        ({"content": "YQ==", "sha256": DIGEST}, ": content does not have the sha256 it should"),
        ({"path": "a", "content_type": "multipart/mixed"}, "('a'): a multipart type cannot be attached"),
        ({"path": "a"}, "('a'): was not fetched"),
        ({"sha256": DIGEST}, ": was not fetched"),
    ],
)
def test_bad_references_are_named(composer: Composer, item: dict[str, Any], words: str) -> None:
    row = job(attachments=json.dumps([{"content": ""}, item]))
    with pytest.raises(Failure) as failure:
        composer.compose(row)
    assert failure.value.category == "attachment"
    assert failure.value.reason.startswith("attachments[1]")
    assert words in failure.value.reason


def test_there_is_an_end_to_them() -> None:
    mime.references(json.dumps([{"path": "a"}] * 200))
    for reads in (mime.references, lambda source: mime.attachments(source, "x")):
        with pytest.raises(Failure, match="attachments: 201 of them, at most 200 are allowed"):
            reads(json.dumps([{"path": "a"}] * 201))


def test_content_with_its_digest() -> None:
    (part,) = mime.attachments(json.dumps([{"content": "b2N0ZXRz", "sha256": DIGEST.upper()}]), "x")
    assert b"b2N0ZXRz" in part.octets


def test_an_image_by_reference_goes_beside_the_html(composer: Composer, tmp_path: Path) -> None:
    items = [{"path": "img/logo.png", "cid": "logo"}, {"path": "bill.pdf"}]
    row = job(
        text_body="t", html_body='<img src="cid:logo">', attachments=json.dumps(items), fetched={0: b"PNG", 1: b"PDF"}
    )
    message = parse(composer.compose(row))
    assert [part.get_content_type() for part in message.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "application/pdf",
    ]  # fmt: skip
    logo = next(part for part in message.walk() if part.get_content_type() == "image/png")
    assert (logo["Content-ID"], logo.get_content_disposition()) == ("<logo>", "inline")
    assert logo.get_payload(decode=True) == b"PNG"
