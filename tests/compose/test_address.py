from __future__ import annotations

from email import policy
from email.parser import BytesParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose import address
from mailerd.message import Failure


@pytest.mark.parametrize(
    ("text", "name", "bare", "domain"),
    [
        ("ann@example.org", "", "ann@example.org", "example.org"),
        (" ann@example.org ", "", "ann@example.org", "example.org"),
        ("Ann <ann@example.org>", "Ann", "ann@example.org", "example.org"),
        ("<ann@example.org>", "", "ann@example.org", "example.org"),
        ('"Doe, Ann" <ann@example.org>', "Doe, Ann", "ann@example.org", "example.org"),
        ("Doe, Ann <ann@example.org>", "Doe, Ann", "ann@example.org", "example.org"),
        (r'"An \"N\" \\ Doe" <ann@example.org>', r'An "N" \ Doe', "ann@example.org", "example.org"),
        ("ann@shop.example <ann@example.org>", "ann@shop.example", "ann@example.org", "example.org"),
        ("Jürgen <j@example.org>", "Jürgen", "j@example.org", "example.org"),
        ("ann@bücher.example", "", "ann@xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("Ann <ann@BÜCHER。Example>", "Ann", "ann@xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a+b=c_d@Example.ORG", "", "a+b=c_d@Example.ORG", "Example.ORG"),
        ("root@localhost", "", "root@localhost", "localhost"),
        ("a@[192.0.2.1]", "", "a@[192.0.2.1]", "[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", "", "a@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ('"a..b"@example.org', "", '"a..b"@example.org', "example.org"),
        ("a" * 64 + "@example.org", "", "a" * 64 + "@example.org", "example.org"),
    ],
)
def test_accepts(text: str, name: str, bare: str, domain: str) -> None:
    mailbox = address.parse(text)
    assert (mailbox.name, mailbox.address, mailbox.domain, mailbox.utf8) == (name, bare, domain, False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty address"),
        ("   ", "empty address"),
        ("Ann <>", "empty address"),
        ("Ann", "no @"),
        ("Ann <ann>", "no @"),
        ("ann@example.org>", "a > without a <"),
        ("a@b@example.org", "more than one @"),
        ("a@example.org, b@example.org", "more than one @"),
        ("a@example.org, Bob <b@example.org>", "list of addresses"),
        ("<a@example.org>, <b@example.org>", "list of addresses"),
        ('"a@b"@example.org', "more than one @"),
        ("@example.org", "nothing before"),
        ("ann@", "nothing after"),
        ("an n@example.org", "space"),
        ("ann@exam ple.org", "space"),
        ("Ann <ann @example.org>", "space"),
        ("ann\u00a0@example.org", "space"),
        ("ann@example.org\r\nBcc: x@example.org", "control character U+000D"),
        ("ann\n@example.org", "control character U+000A"),
        ("ann@example.org\0", "control character U+0000"),
        ("An\tn <ann@example.org>", "control character U+0009"),
        ("ann@example.org\x7f", "control character U+007F"),
        ("\u200bann@example.org", "invisible character U+200B"),
        ("\ud800@example.org", "not valid Unicode"),
        (".ann@example.org", "dots"),
        ("ann.@example.org", "dots"),
        ("a..b@example.org", "dots"),
        ("a,b@example.org", "not allowed before"),
        ("a(b)@example.org", "not allowed before"),
        ('"a b"@example.org', "quoted local part"),
        ('"a>b"@example.org', "quoted local part"),
        ("ann@-example.org", "not a domain"),
        ("ann@example..org", "not a domain"),
        ("ann@example.org.", "not a domain"),
        ("ann@exa_mple.org", "not a domain"),
        ("ann@" + "a" * 64 + ".org", "not a domain"),
        ("ann@192.0.2.1", "brackets"),
        ("ann@[192.0.2]", "address literal"),
        ("ann@[IPv6:fe80::1%eth0]", "address literal"),
        ("ann@[192.0.2.1", "address literal"),
        ("ann@☃☃.example", "IDNA"),
        ("a" * 65 + "@example.org", "local part of 65 octets"),
        ("ü" * 33 + "@example.org", "local part of 66 octets"),
        ("a@" + "b." * 126 + "org", "domain of 255"),
        ("a" * 64 + "@" + "b." * 100 + "c", "address of 266 octets"),
        ("x" * 400 + " <ann@example.org>", "display name of 400"),
    ],
)
def test_refuses_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(Failure, match=r"^cc\[2\]: ") as e:
        address.parse(text, "cc[2]")
    assert problem in e.value.reason
    assert e.value.category == "address"
    assert e.value.reason.isprintable()
    assert len(e.value.reason) < 400


def test_unicode_local_part_needs_smtputf8() -> None:
    mailbox = address.parse("Jürgen <jürgen@bücher.example>")
    assert mailbox.utf8
    assert mailbox.address == "jürgen@xn--bcher-kva.example"
    assert address.parse("ju\u0308rgen@example.org").address == "jürgen@example.org"  # NFC


def test_normal_form() -> None:
    assert address.normal("Ann <Ann.Lee@BÜCHER.example>") == "ann.lee@xn--bcher-kva.example"
    with pytest.raises(Failure):
        address.normal("ann")


@given(st.text(max_size=80))
@settings(deadline=None)
def test_whatever_is_given_is_a_mailbox_or_a_failure(text: str) -> None:
    try:
        mailbox = address.parse(text)
    except Failure:
        return
    assert mailbox.address.count("@") == 1
    assert not any(c in mailbox.address for c in "\r\n\0\t <>")
    assert address.parse(mailbox.address).address == mailbox.address
    assert address.normal(mailbox.address) == address.normal(text)


_names = st.text(max_size=120).filter(lambda s: not any(c < " " or c == "\x7f" for c in s))


@given(
    st.lists(
        st.tuples(_names, st.sampled_from(["ann@example.org", "b.c+d@xn--bcher-kva.example"])), min_size=1, max_size=9
    )
)
@settings(deadline=None)
def test_header_says_what_was_given(given_: list[tuple[str, str]]) -> None:
    mailboxes = [address.Mailbox(name, bare, bare.partition("@")[2]) for name, bare in given_]
    line = address.field("To", mailboxes)
    assert line.isascii()
    assert line.endswith("\r\n")
    for physical in line[:-2].split("\r\n"):
        assert len(physical) <= 78 or " " not in physical.strip() or '"' in physical
        assert physical.strip()
    # The standard library re-encodes nothing here: it reads the names back, with white space as it folds it.
    parsed = BytesParser(policy=policy.default).parsebytes(line.encode() + b"\r\n")["To"]
    assert [a.addr_spec for a in parsed.addresses] == [bare for _, bare in given_]
    for found, (name, _) in zip(parsed.addresses, given_, strict=True):
        assert "".join(found.display_name.split()) == "".join(name.split())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ann@example.org", "To: ann@example.org"),
        ("Ann Lee <ann@example.org>", "To: Ann Lee <ann@example.org>"),
        ("Ann Q. Lee <ann@example.org>", 'To: "Ann Q. Lee" <ann@example.org>'),
        (r'"A \"Q\" Lee" <ann@example.org>', r'To: "A \"Q\" Lee" <ann@example.org>'),
        ("Jürgen <ann@example.org>", "To: =?utf-8?q?J=C3=BCrgen?= <ann@example.org>"),
        ("Юрий <ann@example.org>", "To: =?utf-8?b?0K7RgNC40Lk=?= <ann@example.org>"),
        ("=?utf-8?q?x?= <ann@example.org>", "To: =?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <ann@example.org>"),
    ],
)
def test_header_octets(text: str, line: str) -> None:
    assert address.field("To", [address.parse(text)]) == line + "\r\n"
