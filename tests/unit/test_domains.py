"""Which domains share a limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.flow import domains
from mailerd.flow.domains import Group, Groups, matches_nothing, shipped


@pytest.mark.parametrize(
    ("domain", "group"),
    [
        ("gmail.com", "gmail"),
        ("googlemail.com", "gmail"),
        ("yahoo.com", "yahoo"),
        ("yahoo.co.uk", "yahoo"),
        ("aol.de", "yahoo"),
        ("hotmail.com.br", "outlook"),
        ("icloud.com", "icloud"),
        ("web.de", "gmx"),
        ("att.net", "yahoo"),
        ("yahoo.co.jp", "yahoo-japan"),  # another company
        ("yahoo.jp", "yahoo"),
        ("163.com", "netease"),
        ("live.com.au", "outlook"),
        ("live.stadium.org", None),  # somebody's host, no ending
        ("live.stadium.uk", None),
        ("live.co.stadium", None),
        ("gmail.com.example.org", None),
        ("notgmail.com", None),
        ("mail.yahoo.com", None),
        ("yahoo", None),
        ("yahoo.a.b.c", None),
        ("", None),
        (".", None),
    ],
)
def test_the_shipped_groups(domain: str, group: str | None) -> None:
    assert Groups().of(domain) == group


def test_no_domain_is_shipped_twice_and_every_group_can_match() -> None:
    patterns = [pattern for group in shipped() for pattern in group.match]
    ends = [end for group in shipped() for end in group.mx]
    assert len(set(patterns)) == len(patterns)
    assert len(set(ends)) == len(ends)
    assert all(group.match or group.mx for group in shipped())
    assert len({group.name for group in shipped()}) == len(shipped())
    assert all(end.startswith(".") for end in ends)


def test_the_users_groups_go_first() -> None:
    groups = Groups([Group("mine", ("gmail.com", "*.shop.example", "shop.*")), Group("yahoo")])
    assert groups.of("gmail.com") == "mine"
    assert groups.of("googlemail.com") == "gmail"
    assert groups.of("a.b.shop.example") == "mine"
    assert groups.of("shop.example") == "mine"  # an ending
    assert groups.of("yahoo.fr") == "yahoo"  # the shipped patterns under the user's name for it
    assert groups.names()[:2] == ("mine", "yahoo")


@pytest.mark.parametrize("first", ["gmail.com", "gmail.*", "*.com"])
@pytest.mark.parametrize("second", ["gmail.com", "gmail.*", "*.com"])
def test_the_first_that_matches_wins_whatever_its_pattern(first: str, second: str) -> None:
    assert Groups([Group("a", (first,)), Group("b", (second,))]).of("gmail.com") == "a"
    assert Groups([Group("a", (first,))], [Group("b", (second,))]).of("gmail.com") == "a"
    assert Groups([], [Group("a", (first,)), Group("b", (second,))]).of("gmail.com") == "a"


def test_a_shipped_group_stands_where_the_user_named_it() -> None:
    groups = Groups([Group("gmail"), Group("rest", ("*.com",)), Group("icloud")])
    assert groups.of("gmail.com") == "gmail"
    assert groups.of("icloud.com") == "rest"
    assert groups.of("me.com") == "rest"
    assert groups.names()[:3] == ("gmail", "rest", "icloud")
    assert len(set(groups.names())) == len(groups.names()) == len(shipped()) + 1
    assert groups.all()[0] == next(group for group in shipped() if group.name == "gmail")


def test_the_shipped_groups_decide_among_themselves_where_one_is_taken_over() -> None:
    groups = Groups([Group("yahoo")])
    assert groups.of("yahoo.fr") == "yahoo"
    assert groups.of("yahoo.co.jp") == "yahoo-japan"


def test_the_same_holds_for_mx_hosts() -> None:
    groups = Groups([Group("mine", mx=("L.GOOGLE.com.",)), Group("gmail"), Group("all", mx=(".com",))])
    assert groups.of_mx(["alt1.aspmx.l.google.com"]) == "mine"
    assert groups.of_mx(["smtp.google.com"]) == "gmail"
    assert groups.of_mx(["mx01.mail.icloud.com"]) == "all"
    assert groups.of_mx(["mail.protonmail.ch"]) == "proton"


def test_a_group_of_the_users_with_patterns_replaces_the_shipped_one() -> None:
    groups = Groups([Group("gmail", ("example.org",))])
    assert groups.of("gmail.com") is None
    assert groups.of("example.org") == "gmail"
    assert groups.of_mx(["smtp.google.com"]) is None
    assert Groups([Group("gmail", mx=(".example.org",))]).of("gmail.com") is None


def test_a_domain_is_the_same_in_both_its_spellings() -> None:
    groups = Groups([Group("b", ("bücher.example",)), Group("k", ("xn--mnchen-3ya.example",))])
    assert groups.of("xn--bcher-kva.example") == groups.of("bücher.example") == "b"
    assert groups.of("münchen.example") == groups.of("xn--mnchen-3ya.example") == "k"
    groups = Groups([Group("w", ("*.bücher.example", "straße.*")), Group("m", mx=(".post.bücher.example",))])
    assert groups.of("_a.bücher.example") == groups.of("_a.xn--bcher-kva.example") == "w"
    assert groups.of("straße.co.uk") == groups.of("xn--strae-oqa.co.uk") == "w"
    assert groups.of_mx(["mx.post.xn--bcher-kva.example."]) == "m"


def test_what_is_learnt_of_one_spelling_holds_for_the_other() -> None:
    groups = Groups()
    assert groups.of("bücher.example") is groups.of("xn--bcher-kva.example") is None
    assert groups.learn("bücher.example", "gmail")
    assert groups.of("bücher.example") == groups.of("xn--bcher-kva.example") == "gmail"
    assert not groups.learn("xn--bcher-kva.example", "gmail")
    assert groups.learn("xn--bcher-kva.example", None)
    assert groups.of("bücher.example") is None


def test_mx_hosts_tell_the_group_of_a_hosted_domain() -> None:
    groups = Groups()
    assert groups.of_mx(["ASPMX.L.Google.com."]) == "gmail"
    assert groups.of_mx(["mx.example.org", "example-org.mail.protection.outlook.com"]) == "office365"
    assert groups.of_mx(["notgoogle.com"]) is None
    assert groups.of_mx([]) is None
    assert groups.of_mx(["", ".", "google.com.example", "a" * 255]) is None
    assert groups.learn("hosted.example", "gmail")
    assert not groups.learn("hosted.example", "gmail")
    assert groups.of("hosted.example") == "gmail"
    assert not groups.learn("yahoo.com", "gmail")  # a pattern says otherwise
    assert groups.of("yahoo.com") == "yahoo"
    assert groups.matched("yahoo.com")
    assert not groups.matched("hosted.example")
    assert groups.learn("hosted.example", None)
    assert groups.of("hosted.example") is None


def test_what_matches_nothing_is_told() -> None:
    assert matches_nothing([Group("gmail"), Group("gmial"), Group("x", ("x.example",))]) == ["gmial"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "_REMEMBERED", 10)
    groups = Groups()
    for n in range(100):
        groups.of(f"d{n}.example")
        groups.learn(f"d{n}.example", "gmail")
    assert len(groups._matched) <= 10
    assert len(groups._learnt) <= 10
    assert groups.of("d99.example") == "gmail"
    assert groups.of("d0.example") is None
    for n in range(99, 89, -1):
        groups.learn("d99.example", "gmail")  # what is said again and again is kept
        groups.learn(f"e{n}.example", "gmail")
    assert groups.of("d99.example") == "gmail"
    groups.learn("d99.example", None)
    assert "d99.example" not in groups._learnt  # no group costs nothing


@given(st.text(max_size=300))
def test_any_text_has_an_answer(domain: str) -> None:
    groups = Groups([Group("own", (domain, f"*.{domain}", f"{domain}.*"), (domain,))])
    assert Groups().of(domain) in (None, *Groups().names())
    assert groups.of(domain) in (None, "own")
    assert groups.of_mx([domain]) in (None, *groups.names())
    assert isinstance(groups.learn(domain, "gmail"), bool)


@given(st.text(max_size=300))
def test_a_plain_pattern_matches_itself(domain: str) -> None:
    domain = domain.lower()
    if domain.endswith((".", ".*")) or domain.startswith("*."):
        return
    assert Groups([Group("own", (domain,))]).of(domain) == "own"
