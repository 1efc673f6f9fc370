"""What we sign, dkimpy verifies; what is changed on its way, it does not."""

from __future__ import annotations

import re
import time
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dkim.canonicalization import Relaxed
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose import dkim as ours
from mailerd.compose.composer import Composer
from mailerd.compose.dkim import OVERSIGNED, Key, Keyring, Signer, relaxed_body, relaxed_fields, split
from mailerd.config.base import Size
from mailerd.config.model import Config, Dkim, Identity, Limits, Stream
from mailerd.config.provider import Provider
from mailerd.message import Failure, Outgoing
from tests.compose.jobs import check_wire, job, parse
from tests.compose.signing import Published, ed25519_key, key_file, rsa_key, verified

SHOP = "shop.example"
KEYS = (Key(SHOP, "e1", ed25519_key()), Key(SHOP, "r1", rsa_key()))
DNS = Published(*KEYS)
MESSAGE = (
    b"From: The Shop <shop@shop.example>\r\nTo: ann@example.org\r\nSubject: Good\r\n\t day  to   you \r\n"
    b"Date: Thu, 05 Nov 2026 10:20:30 +0000\r\nMessage-ID: <1@shop.example>\r\nX-Own: not signed\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGood  day,\t \r\nAnn.\r\n\r\n\r\n"
)


@pytest.fixture(scope="module")
def composer(tmp_path_factory: pytest.TempPathFactory) -> Composer:
    folder = tmp_path_factory.mktemp("keys")
    rsa = str(key_file(folder, rsa_key(), "rsa.pem"))
    ed25519 = str(key_file(folder, ed25519_key(), "ed25519.pem"))
    return Composer(
        Config(
            identity=(
                Identity(
                    name="shop",
                    sender="The Shop <shop@shop.example>",
                    dkim=(
                        Dkim(selector="e1", key=ed25519),
                        Dkim(selector="r1", key=rsa),
                        Dkim(selector="r2", key=rsa, domain="Other.Example."),
                    ),
                ),
                Identity(name="plain", sender="plain@shop.example"),
                Identity(
                    name="sub", sender="news@mail.shop.example", dkim=(Dkim(selector="r1", key=rsa, domain=SHOP),)
                ),
            ),
            stream=(Stream(name="transactional"), Stream(name="strict", require_dkim=True)),
        )
    )


def signed_fields(content: bytes, index: int = 0) -> list[str]:
    """The `h=` of a signature."""
    head = content[: content.index(b"\r\n\r\n")].decode()
    signature = re.sub(r"\s", "", head.split("DKIM-Signature:")[index + 1].split("\r\nFrom:")[0])
    found = re.search(r";h=([^;]*);", signature)
    assert found
    return found[1].split(":")


# -- the oracle agrees -----------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=120)
texts = st.text(st.one_of(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0"), st.sampled_from(" \t\n\r")), max_size=300)  # fmt: skip
ascii_words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200)
own_headers = st.dictionaries(
    st.sampled_from(
        ["X-Tag", "x-other", "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "Feedback-ID", "In-Reply-To"]
    ),
    st.lists(ascii_words, min_size=1, max_size=30).map(" ".join),
)


@settings(max_examples=80, deadline=None)
@given(
    subject=words, text=st.none() | texts, html=st.none() | texts, given_headers=own_headers,
    recipient=st.sampled_from(["ann@example.org", "Ann Müller <ann@example.org>", "jörg@example.org", "a@bücher.example"]),
    cc=st.booleans(), attached=st.booleans(),
)  # fmt: skip
def test_what_the_composer_signs_is_verified(
    composer: Composer,
    subject: str,
    text: str | None,
    html: str | None,
    given_headers: dict[str, str],
    recipient: str,
    cc: bool,
    attached: bool,
) -> None:
    row = job(
        recipient=recipient,
        subject=subject,
        text_body=text,
        html_body=html,
        headers=msgspec.json.encode(given_headers).decode(),
        cc=["bob@example.org", "Zoë <zoe@bücher.example>"] if cc else None,
        reply_to="help@shop.example" if cc else None,
        attachments='[{"content": "AAEC", "filename": "a b.bin"}]' if attached else None,
    )
    outgoing = composer.compose(row)
    assert outgoing.signed
    assert verified(outgoing.content, DNS) == [True, True]
    check_wire(outgoing)
    for line in outgoing.content[: outgoing.content.index(b"\r\nFrom: ")].split(b"\r\n"):
        assert len(line) <= 78


lines = st.lists(st.text("ab \t:=é", max_size=6).map(str.encode) | st.just(b""), max_size=12)


@settings(max_examples=150, deadline=None)
@given(body=lines.map(b"\r\n".join), end=st.sampled_from([b"\r\n", b" \r\n", b"\r\n\r\n", b"\t\r\n \r\n\r\n"]))
def test_bodies_are_relaxed_as_the_oracle_does(body: bytes, end: bytes) -> None:
    assert relaxed_body(body + end) == Relaxed.canonicalize_body(body + end)


values = st.lists(st.text("ab \t:é", max_size=6), min_size=1, max_size=4).map(
    lambda parts: "\r\n ".join(parts).encode()
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"To", b"X-a", b"SUBJECT "]), values), min_size=1, max_size=5))
def test_fields_are_relaxed_as_the_oracle_does(fields: list[tuple[bytes, bytes]]) -> None:
    head = b"\r\n".join(name + b":" + value for name, value in fields)
    expected = Relaxed.canonicalize_headers([(name, value + b"\r\n") for name, value in fields])
    assert [(name, value + b"\r\n") for name, value in relaxed_fields(head)] == expected


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
        MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n\r\n\r\n",
        MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n",
        MESSAGE.replace(b"Ann.", "Zoë.".encode()).replace(b"Good\r\n", "Schön\r\n".encode()),
        MESSAGE.replace(b"To:", b"To: bob@example.org\r\nX-Own: 2\r\nto: zoe@example.org\r\nTO:"),
        MESSAGE.replace(b"X-Own: not signed", b"X-Long: " + b"x" * 900),
        MESSAGE.replace(b"Ann.", b"x" * 998),
        MESSAGE.replace(b"Subject:", b"Subject:\r\n"),
        MESSAGE.replace(b"X-Own:", b"DKIM-Signature: v=1; a=rsa-sha256; d=x; s=y; h=from; bh=; b=\r\nX-Own:"),
    ],
    ids=[
        "usual",
        "empty-body",
        "blank-lines",
        "no-body",
        "8bit",
        "duplicates",
        "long",
        "long-line",
        "folded",
        "signed",
    ],
)
def test_odd_messages_are_verified(message: bytes) -> None:
    content = Signer(KEYS).sign(message)
    assert content.endswith(message)
    content = content if b"\r\n\r\n" in content else content + b"\r\n"
    assert verified(content, DNS)[:2] == [True, True]


def test_rsa_stands_first() -> None:
    content = Signer(KEYS).sign(MESSAGE)
    assert content.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=shop.example;\r\n s=r1;\r\n h=")
    assert content.count(b"a=ed25519-sha256") == 1


def test_an_attempt_sends_the_same_octets_as_the_one_before(composer: Composer) -> None:
    assert composer.compose(job()).content == composer.compose(job()).content


def test_the_vector_of_rfc_8463() -> None:
    key = Ed25519PrivateKey.from_private_bytes(b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="))
    head = (
        b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n"
        b"Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
        b"Message-ID: <20030712040037.46341.5F8J@football.example.com>"
    )
    body = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
    body_hash = b64encode(sha256(relaxed_body(body)).digest())
    assert body_hash == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    fields = b"".join(name + b":" + value + b"\r\n" for name, value in relaxed_fields(head))
    own = (
        b"dkim-signature:v=1; a=ed25519-sha256; c=relaxed/relaxed; d=football.example.com; i=@football.example.com; "
        b"q=dns/txt; s=brisbane; t=1528637909; h=from : to : subject : date : message-id : from : subject : date; "
        b"bh=" + body_hash + b"; b="
    )
    expected = "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    assert b64encode(ours._signing(key)(fields + own)).decode() == expected


# -- what is changed is noticed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Ann.\r\n", b"Eve.\r\n"),
        (b"Ann.\r\n", b"An n.\r\n"),
        (b"Ann.\r\n", b"Ann.\r\nP.S.\r\n"),
        (b"Good\r\n", b"Bad\r\n"),
        (b"<shop@", b"<eve@"),
        (b"ann@example", b"eve@example"),
        (b"<1@shop", b"<2@shop"),
        (b"d=shop.example", b"d=eve.example"),
        *((b"X-Own:", name.encode() + b": anything\r\nX-Own:") for name in OVERSIGNED),
    ],
)
def test_tampering_is_noticed(before: bytes, after: bytes) -> None:
    content = Signer(KEYS).sign(MESSAGE)
    changed = content.replace(before, after)
    assert changed != content
    assert verified(changed, DNS) == [False, False]


def test_what_nobody_signed_may_change() -> None:
    content = Signer(KEYS).sign(MESSAGE)
    for before, after in ((b"not signed", b"changed"), (b"Ann.\r\n", b"Ann.  \r\n"), (b"Good\r\n\t day", b"Good day")):
        assert before in content
        assert verified(content.replace(before, after), DNS) == [True, True]


# -- what is signed --------------------------------------------------------------------------------------------------


def test_each_field_once_more_than_it_occurs(composer: Composer) -> None:
    row = job(headers='{"List-Unsubscribe": "<https://shop.example/u>", "List-Id": "news.shop.example", "X-A": "1"}')
    listed = signed_fields(composer.compose(row).content)
    present = {"from", "to", "subject", "date", "message-id", "mime-version", "content-type", "list-unsubscribe"}
    assert {name: listed.count(name) for name in OVERSIGNED} == {name: 1 + (name in present) for name in OVERSIGNED}
    assert listed.count("list-id") == 1
    assert "x-a" not in listed


def test_what_the_provider_rewrites_is_left_out() -> None:
    content = Signer(KEYS, frozenset({"message-id", "date", "list-id"})).sign(MESSAGE)
    assert not {"message-id", "date", "list-id"} & set(signed_fields(content))
    rewritten = content.replace(b"<1@shop.example>", b"<theirs@mail.example>").replace(b"Thu, 05 Nov", b"Fri, 06 Nov")
    assert rewritten != content
    assert verified(rewritten, DNS) == [True, True]


def test_where_a_provider_rewrites_fields_nothing_is_signed_that_would_break(tmp_path: Path) -> None:
    key = str(key_file(tmp_path, ed25519_key()))
    shop = Identity(name="shop", sender="shop@shop.example", dkim=(Dkim(selector="e1", key=key),))
    for kind, rewritten in (("smtp", set()), ("ses", {"message-id", "date"})):
        composer = Composer(Config(identity=(shop,), provider=(Provider(name="p", kind=kind),)))  # type: ignore[arg-type]
        assert {"message-id", "date"} - set(signed_fields(composer.compose(job()).content)) == rewritten


def test_layouts_are_bounded() -> None:
    signer = Signer(KEYS[:1])
    for n in range(2 * ours.LAYOUTS):
        cc, sender = (b"cc: a@b.example\r\n" * (n % 32), b"sender: a@b.example\r\n" * (n // 32))
        signer.sign(MESSAGE.replace(b"X-Own:", cc + sender + b"X-Own:"))
        assert 0 < len(signer._layouts) <= ours.LAYOUTS


def test_a_message_of_very_many_fields() -> None:
    signer = Signer(KEYS)
    content = signer.sign(MESSAGE.replace(b"X-Own:", b"Cc: a@b.example\r\n" * 300 + b"X-Own:"))
    assert verified(content, DNS) == [True, True]
    assert signer._layouts == {}
    begin = time.process_time()
    signer.sign(MESSAGE.replace(b"X-Own:", b"to: \r\n" * 100_000 + b"X-Own:"))
    assert time.process_time() - begin < 2


# -- who signs -------------------------------------------------------------------------------------------------------


def domains(outgoing: Outgoing) -> list[str]:
    return re.findall(r"DKIM-Signature:[^;]*;[^;]*;[^;]*; d=([^;]*);\r\n s=", outgoing.content.decode("latin-1"))


RAW = b"From: x@%b\r\nTo: ann@example.org\r\n\r\nhello\r\n"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, [SHOP, SHOP]),
        ({"sender": "plain"}, []),
        ({"sender": "sub"}, [SHOP]),
        ({"sender": "Shop <shop@shop.example>"}, [SHOP, SHOP]),
        ({"sender": "plain@shop.example"}, []),
        ({"sender": "sales@shop.example"}, [SHOP, SHOP]),
        ({"sender": "sales@EU.Shop.example"}, [SHOP, SHOP]),
        ({"sender": "sales@other.example"}, ["other.example"]),
        ({"sender": "sales@anothershop.example"}, []),
        ({"sender": "sales@example"}, []),
        ({"raw": RAW % b"shop.example"}, [SHOP, SHOP]),
        ({"raw": RAW % b"other.example"}, ["other.example"]),
        ({"raw": RAW % b"nobody.example"}, []),
        ({"raw": RAW % b"shop.example", "sender": "plain"}, []),
        ({"raw": b"From: \xff@shop.example\r\n\r\nx"}, []),
        ({"raw": RAW % b"shop.example, y@other.example"}, []),
        ({"raw": b"From: a@shop.example\r\n" + RAW % b"shop.example"}, []),
        ({"raw": b"Subject: none\r\n\r\nFrom: x@shop.example\r\n"}, []),
        ({"raw": b" \r\nFrom: x@shop.example\r\n\r\n"}, []),
        ({"raw": b"\r\nFrom: x@shop.example\r\n\r\n"}, []),
    ],
)
def test_the_from_domain_chooses_the_keys(composer: Composer, row: dict[str, Any], expected: list[str]) -> None:
    outgoing = composer.compose(job(**row))
    assert domains(outgoing) == expected
    assert outgoing.signed is bool(expected)
    if "raw" not in row:
        assert composer.signs(job(**row)) is bool(expected)
        parse(outgoing)


def test_a_signature_counts_as_size(tmp_path: Path) -> None:
    key = str(key_file(tmp_path, ed25519_key()))
    identity = Identity(name="shop", sender="shop@shop.example")
    plain = Composer(Config(identity=(identity,))).compose(job()).content
    signing = Identity(name="shop", sender="shop@shop.example", dkim=(Dkim(selector="e1", key=key),))
    composer = Composer(Config(identity=(signing,), limits=Limits(message_size=Size(len(plain) + 5))))
    with pytest.raises(Failure, match=r"limits\.message_size"):
        composer.compose(job())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sender": "plain"}, "no key of the sender is for mail From shop.example"),
        ({"sender": "a@nobody.example"}, "no key of the sender is for mail From nobody.example"),
        ({"raw": RAW % b"nobody.example"}, "no key of the sender is for mail From nobody.example"),
        ({"raw": b"To: a@b.example\r\n\r\n"}, "no key of the sender is for mail whose From is not one mailbox"),
    ],
)
def test_a_stream_may_require_a_signature(composer: Composer, row: dict[str, Any], words: str) -> None:
    with pytest.raises(Failure) as caught:
        composer.compose(job(stream="strict", **row))
    assert caught.value.category == "sender"
    assert caught.value.reason == f"sender: stream strict requires a DKIM signature, and {words}"
    assert composer.compose(job(stream="strict")).signed


def test_the_nearest_domain_signs() -> None:
    near, far = Key("mail.shop.example", "a", ed25519_key()), Key(SHOP, "b", ed25519_key())
    ring = Keyring((far, near))
    for domain, expected in (("mail.shop.example", near), ("x.mail.shop.example", near), ("x.shop.example", far)):
        signer = ring.signer(domain)
        assert signer is not None
        assert signer.keys == (expected,)
    assert ring.signer("example") is None
    assert ring.signer("") is None


def test_a_message_splits_where_its_first_empty_line_is() -> None:
    assert split(b"a: b\r\n\r\nc\r\n\r\nd") == (b"a: b", b"c\r\n\r\nd")
    assert split(b"\r\nc\r\n\r\nd") == (b"", b"c\r\n\r\nd")
