"""The record of a key, and what can be wrong with the one that is published."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from mailerd.compose.dkim import Key
from mailerd.compose.dkimrecord import compare, name, record, strings, zone_line
from mailerd.config.dkim import new_key
from tests.compose.signing import ed25519_key, rsa_key

RSA = Key("shop.example", "r1", rsa_key())
ED = Key("shop.example", "e1", ed25519_key())
WHERE = "r1._domainkey.shop.example"


def p_of(text: str) -> str:
    return text.partition("p=")[2]


def test_what_is_published_fits() -> None:
    for key in (RSA, ED):
        assert compare(key, [record(key.private)]).faults == ()
        assert compare(key, [record(key.private)]).remarks == ()
    assert (
        record(ED.private) == f"v=DKIM1; k=ed25519; p={b64encode(ED.private.public_key().public_bytes_raw()).decode()}"
    )


def test_strings_and_zone_line() -> None:
    text = record(RSA.private)
    pieces = strings(text)
    assert [len(piece) <= 255 for piece in pieces] == [True, True]
    assert "".join(pieces) == text
    assert zone_line(RSA) == f'{WHERE}. IN TXT ( "{pieces[0]}" "{pieces[1]}" )'
    assert name(RSA) == WHERE


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("v=DKIM1; ", ""),
        lambda text: text.replace("k=rsa; ", ""),
        lambda text: text.replace("; ", ";"),
        lambda text: text + ";",
        lambda text: text + "; n=a note; s=email; h=sha1:sha256; new=1",
        lambda text: text[:100] + " " + text[100:],
        lambda text: text + "; t=s; s=*",
    ],
)
def test_what_verifiers_take(change: Callable[[str], str]) -> None:
    verdict = compare(RSA, [change(record(RSA.private))])
    assert verdict.faults == ()
    assert verdict.remarks == ()


def test_testing_is_remarked() -> None:
    verdict = compare(RSA, [record(RSA.private) + "; t=y:s"])
    assert verdict.faults == ()
    assert "t=y" in verdict.remarks[0]


PUBLISHED = record(RSA.private)


@pytest.mark.parametrize(
    ("published", "fault"),
    [
        ([], f"no TXT record at {WHERE}; publish: {PUBLISHED}"),
        ([PUBLISHED, PUBLISHED], f"2 TXT records at {WHERE}: there may be only one"),
        (["v=spf1 -all"], f"the record at {WHERE} does not begin with v=DKIM1: 'v=spf1 -all'; publish: {PUBLISHED}"),
        (["hello"], f"the record at {WHERE} cannot be read: no tag=value: 'hello'; publish: {PUBLISHED}"),
        ([PUBLISHED + "; p="], f"the record at {WHERE} cannot be read: p= is there twice"),
        ([PUBLISHED.replace("DKIM1", "DKIM2")], "does not begin with v=DKIM1: 'v=DKIM2; "),
        (["k=rsa; v=DKIM1; p=" + p_of(PUBLISHED)], "does not begin with v=DKIM1: 'k=rsa; v=DKIM1"),
        ([record(ED.private)], "its k= says ed25519, the key is rsa"),
        (["v=DKIM1; k=rsa"], "it has no p="),
        (["v=DKIM1; p="], "its p= is empty: the key is revoked"),
        ([PUBLISHED[:-9]], "its p= is another key's; publish: v=DKIM1; k=rsa; p="),
        ([record(new_key())], "its p= is another key's; publish: v=DKIM1; k=rsa; p="),
        (["v=DKIM1; p=é"], "its p= is another key's"),
        ([PUBLISHED + "; h=sha1"], "its h=sha1 does not allow sha256"),
        ([PUBLISHED + "; s=tlsrpt"], "its s=tlsrpt does not allow email"),
    ],
)
def test_what_is_wrong(published: list[str], fault: str) -> None:
    (found,) = compare(RSA, published).faults
    assert fault in found
    assert WHERE in found


def test_the_record_is_the_public_key() -> None:
    there = load_der_public_key(b64decode(p_of(PUBLISHED)))
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert there.public_bytes(*form) == RSA.private.public_key().public_bytes(*form)
