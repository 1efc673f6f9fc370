"""Which references lead anywhere, and what is said of the others."""

# ruff: noqa: PT017  (either way of ending is fine, and each has its own marks)

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose.mime import Reference, attachments, references
from mailerd.config.attachments import Attachments, Store
from mailerd.config.url import parse
from mailerd.fetch.place import Local, Places, Remote
from mailerd.fetch.trouble import Stopped
from mailerd.message import Failure

DIGEST = "ab" * 32
STORE = Store(
    name="invoices",
    url="https://shop.s3.eu-central-1.amazonaws.com/invoices/",
    region="eu-central-1",
    access_key="AKIDEXAMPLE",
    secret_key="secret",
)
PLACES = Places(
    Attachments(
        directories=("/srv/files", "/srv/files/deep/", "/data"),
        origins=("https://files.example.org/mail/", "http://127.0.0.1:9000"),
        types=("application/pdf", "image/*"),
        store=(STORE,),
    )
)


def reference(path: str = "", url: str = "", sha256: str = "", kind: str = "application/pdf") -> Reference:
    return Reference(0, "attachments[0]", path, url, sha256, kind)


@pytest.mark.parametrize(
    ("path", "folders", "below"),
    [
        ("a/b.pdf", ("/srv/files", "/srv/files/deep", "/data"), "a/b.pdf"),
        ("/srv/files/a.pdf", ("/srv/files",), "a.pdf"),
        ("/srv/files/deep/a.pdf", ("/srv/files/deep",), "a.pdf"),
        ("/data/ü/x\u202fy.pdf", ("/data",), "ü/x\u202fy.pdf"),
    ],
)
def test_paths(path: str, folders: tuple[str, ...], below: str) -> None:
    assert PLACES.of(reference(path)) == Local(folders, below)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../etc/passwd", "must have no `.`"),
        ("a/../../etc/passwd", "must have no `.`"),
        ("/srv/files/../../etc/passwd", "must have no `.`"),
        ("./a", "must have no `.`"),
        ("a//b", "no empty part"),
        ("a/", "no empty part"),
        ("/srv/files", "below none of attachments.directories"),
        ("/srv/files-private/a", "below none of attachments.directories"),
        ("/etc/passwd", "below none of attachments.directories"),
        ("/srv/files/", "no empty part"),
        ("a\0b", "not a path"),
        ("a\nb", "not a path"),
        ("x" * 5000, "not a path"),
    ],
)
def test_paths_that_lead_nowhere(path: str, words: str) -> None:
    with pytest.raises(Stopped) as stopped:
        PLACES.of(reference(path))
    assert words in stopped.value.trouble.reason
    assert not stopped.value.trouble.temporary


def test_urls() -> None:
    plain = PLACES.of(reference(url="https://files.example.org/mail/a.pdf?X-Amz-Signature=0"))
    assert isinstance(plain, Remote)
    assert (plain.text, plain.store) == ("https://files.example.org/mail/a.pdf?X-Amz-Signature=0", None)
    signed = PLACES.of(
        reference(url="https://shop.s3.eu-central-1.amazonaws.com/invoices/a+b%20ü.pdf".replace("ü", "%c3%bc"))
    )
    assert isinstance(signed, Remote)
    assert signed.store is STORE
    assert signed.text == "https://shop.s3.eu-central-1.amazonaws.com/invoices/a%2Bb%20%C3%BC.pdf"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://files.example.org/mail-private/a", "nothing of https://files.example.org that it begins with"),
        ("https://files.example.org/", "nothing of https://files.example.org"),
        ("https://169.254.169.254/latest/meta-data", "nothing of https://169.254.169.254"),
        ("http://127.0.0.1/x", "nothing of http://127.0.0.1"),
        ("https://shop.s3.eu-central-1.amazonaws.com/other/a", "nothing of https://shop.s3"),
        ("https://shop.s3.eu-central-1.amazonaws.com/invoices/", "names no object of the store invoices"),
        ("https://shop.s3.eu-central-1.amazonaws.com/invoices", "names no object of the store invoices"),
        ("https://shop.s3.eu-central-1.amazonaws.com/invoices/?list-type=2", "no query but versionId"),
        ("https://shop.s3.eu-central-1.amazonaws.com/invoices/a?acl", "no query but versionId"),
        ("https://shop.s3.eu-central-1.amazonaws.com/invoices/a?versionId=1&versionId=2", "no query but versionId"),
        ("https://u@files.example.org/mail/a", "url must have no user"),
    ],
)
def test_urls_that_lead_nowhere(url: str, words: str) -> None:
    with pytest.raises(Stopped) as stopped:
        PLACES.of(reference(url=url))
    assert words in stopped.value.trouble.reason
    assert not stopped.value.trouble.temporary


def test_types() -> None:
    assert PLACES.of(reference("a", kind="IMAGE/png; x=y"))
    with pytest.raises(Stopped, match=r"text/html is not among attachments\.types"):
        PLACES.of(reference("a", kind="text/html; charset=utf-8"))


def test_a_digest_alone_needs_a_place() -> None:
    with pytest.raises(Stopped, match=r"there are no attachments\.digests"):
        PLACES.of(reference(sha256=DIGEST))
    assert Places(Attachments(digests="/srv/by/")).of(reference(sha256=DIGEST)) == Local(("/srv/by",), DIGEST)
    remote = Places(Attachments(digests="https://cdn.example.org/by/")).of(reference(sha256=DIGEST))
    assert isinstance(remote, Remote)
    assert remote.text == f"https://cdn.example.org/by/{DIGEST}"
    for other in (f"https://cdn.example.org/by/{DIGEST}", "https://cdn.example.org/by/secret"):
        with pytest.raises(Stopped, match="url is not allowed"):
            Places(Attachments(digests="https://cdn.example.org/by/")).of(reference(url=other))
    stored = Places(Attachments(digests=STORE.url, store=(STORE,))).of(reference(sha256=DIGEST))
    assert isinstance(stored, Remote)
    assert (stored.store, stored.text) == (STORE, STORE.url + DIGEST)


@pytest.mark.parametrize(("path", "url"), [("a", ""), ("", "https://files.example.org/a")])
def test_nothing_is_allowed_that_is_not_named(path: str, url: str) -> None:
    with pytest.raises(Stopped, match="is not allowed"):
        Places(Attachments()).of(reference(path, url))


_value = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"(https?://(files\.example\.org|127\.0\.0\.1:9000)/(mail/)?|/srv/files/)?[a-z./%:@?#\\ -]{0,30}", fullmatch=True),
    st.sampled_from([DIGEST, "application/pdf", "image/png; x=y", "text/calendar; method=REQUEST", "inline", "alternative"]),
    st.sampled_from([None, 5, "", [], {}]),
)  # fmt: skip
_item = st.dictionaries(
    st.sampled_from(["content", "path", "url", "sha256", "filename", "content_type", "disposition", "cid"]), _value
)


@given(st.lists(_item, max_size=3))
@settings(deadline=None, max_examples=40)
def test_anything_in_a_row_is_allowed_or_refused_with_words(items: list[dict[str, object]]) -> None:
    source = json.dumps(items)
    try:
        wanted = references(source)
    except Failure as failure:
        assert failure.category == "attachment"
        assert failure.reason.startswith("attachments[")
        return
    for one in wanted:
        try:
            place = PLACES.of(one)
        except Stopped as stopped:
            assert stopped.trouble.reason.isprintable()
            assert not stopped.trouble.temporary
            continue
        if isinstance(place, Local):
            assert all(part not in ("", ".", "..") for part in place.path.split("/"))
        else:
            assert place.text.isascii()
            assert place.url.within(parse(STORE.url if place.store else place.url.origin))
    with suppress(Failure):
        attachments(source, "x", {one.index: b"octets" for one in wanted})
