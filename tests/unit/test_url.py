"""URLs that rows may name: taken apart strictly, and compared by whole segments."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from mailerd.config.url import parse

PLACE = parse("https://files.example.org/files")


@pytest.mark.parametrize(
    "text",
    [
        "https://files.example.org/files",
        "https://files.example.org/files/",
        "https://files.example.org/files/a%20b.pdf?versionId=1&x=/?",
        "HTTPS://Files.Example.ORG:443/files/a.pdf",
        "https://files.example.org/f%69les/a.pdf",
        "https://files.example.org/files/..a/a..pdf/...",
    ],
)
def test_what_lies_within(text: str) -> None:
    assert parse(text).within(PLACE)
    assert parse(text).within(parse("https://files.example.org"))
    assert parse(text).within(parse("https://files.example.org/files/"))


@pytest.mark.parametrize(
    "text",
    [
        "https://files.example.org/files-private/a",
        "https://files.example.org/file",
        "https://files.example.org/Files/a",
        "https://files.example.org//files/a",
        "https://files.example.org/",
        "https://files.example.org",
        "http://files.example.org/files/a",
        "https://files.example.org:8443/files/a",
        "https://files.example.org.evil.example/files/a",
        "https://evil-files.example.org/files/a",
        "https://example.org/files/a",
    ],
)
def test_what_lies_outside(text: str) -> None:
    assert not parse(text).within(PLACE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://files.example.org/files/../private", "must have no `.`"),
        ("https://files.example.org/files/%2e%2e/private", "must have no `.`"),
        ("https://files.example.org/files/.%2E/private", "must have no `.`"),
        ("https://files.example.org/files/%252e%252e/private", "must have no `.`"),
        ("https://files.example.org/files/./private", "must have no `.`"),
        ("https://files.example.org/files/..;/private", "must have no `.`"),
        ("https://files.example.org/files%2f..%2fprivate", "must have no `.`"),
        ("https://files.example.org/files%252f..", "must have no `.`"),
        ("https://files.example.org/files%5c..%5cprivate", "must have no `.`"),
        ("https://files.example.org/files\\..\\private", "must have no `\\`"),
        ("https://files.example.org\\@evil.example/files", "must have no `\\`"),
        ("https://files.example.org/a%00b", "must have no `.`"),
        ("https://files.example.org/a%0d%0aHost:%20x", "must have no `.`"),
        ("https://files.example.org@evil.example/files", "must have no user"),
        ("https://u:p@files.example.org/files", "must have no user"),
        ("https://files.example.org#@evil.example/", "must have no fragment"),
        ("https://files.example.org/files#x", "must have no fragment"),
        ("https://files.example.org/fi les", "percent-encode"),
        ("https://files.example.org/f\r\nHost: x", "percent-encode"),
        ("https://files.example.org/ü.pdf", "percent-encode"),
        ("https://ﬁles.example.org/", "percent-encode"),
        ("https://files.example.org/%zz", "no URL"),
        ("https://files.example.org./x", "no URL"),
        ("https:///files", "no URL"),
        ("https://files.example.org:/x", "no URL"),
        ("https://files.example.org:0/x", "a port that does not exist"),
        ("https://files.example.org:65536/x", "a port that does not exist"),
        ("https://[::1/x", "no URL"),
        ("https://[:::]/x", "no address"),
        ("//files.example.org/files", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("ftp://files.example.org/x", "must begin with https://"),
        ("javascript:alert(1)", "must begin with https://"),
        ("", "must begin with https://"),
        ("https://x/" + "a" * 9000, "more than 8192"),
    ],
)
def test_what_is_no_url_here(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(text)
    assert words in str(refused.value)


def test_addresses_are_compared_as_such() -> None:
    assert parse("http://[0:0::1]:8080/x").within(parse("http://[::1]:8080"))
    assert parse("http://[::1]:8080/x").origin == "http://[::1]:8080"
    assert not parse("http://2130706433/").within(parse("http://127.0.0.1/"))


@given(st.one_of(st.text(max_size=60), st.from_regex(r"https?://[a-z@:\\.%2f/#?;]{1,40}", fullmatch=True)))
@example("https://a/?@b/..")
def test_nobody_reads_it_otherwise(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    theirs, sent = urlsplit(found.text), URL(found.text, encoded=True)
    assert (theirs.scheme, theirs.hostname or "", theirs.path) == (found.scheme, found.host.strip("[]"), found.path)
    assert (sent.scheme, sent.raw_host, sent.port) == (found.scheme, found.host.strip("[]"), found.port)
    assert sent.raw_path == found.path
    assert sent.raw_query_string == found.query
    assert parse(found.text) == found
