"""Rules for replies: what large receivers say and what is made of it, what a rule may say, and how little it may cost."""

from __future__ import annotations

import re
import time
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.flow.classify import CATEGORIES, OURS, classify
from mailerd.flow.rules import REPLY_LIMIT, Rule, RuleError, Rules, Thresholds, load, shipped

RULES = Rules()

# Words as the receivers use them, shortened. (code, enhanced, text, category, temporary, what else)
REPLIES = [
    # Gmail
    (
        421,
        "4.7.28",
        "Gmail has detected an unusual rate of mail from your IP address 192.0.2.1",
        "rate",
        True,
        "slow drop",
    ),
    (550, "5.7.28", "There is an unusual rate of unsolicited mail from your DKIM domain", "rate", True, "slow drop"),
    (421, "4.7.28", "Too many messages with the same Message-ID; an unusual rate of repeats", "content", False, ""),
    (450, "4.2.1", "The user is receiving mail too quickly, try again later", "mailbox_full", True, ""),
    (450, "4.2.1", "This user is receiving mail\nat a rate that prevents more", "mailbox_full", True, ""),
    (452, "4.2.2", "The recipient's inbox is out of storage space", "mailbox_full", False, ""),
    (552, "5.2.2", "The recipient's inbox is out of storage space and inactive", "mailbox_full", False, ""),
    (421, "4.7.0", "Try again later, closing connection.", "connection", False, "slow drop"),
    (421, "4.7.0", "TLS required for this domain, closing", "policy", True, "pause drop"),
    (550, "5.7.1", "Suspicious due to the very low reputation of the sending domain", "reputation", True, "slow"),
    (550, "5.7.25", "The sending IP 192.0.2.1 does not have a PTR record", "authentication", True, "pause"),
    (550, "5.7.26", "Blocked because the sender is unauthenticated", "authentication", True, "pause"),
    (421, "4.7.27", "SPF check for shop.example did not pass", "authentication", True, "pause"),
    (550, "5.7.30", "The DKIM check of this message failed", "authentication", True, "pause"),
    (550, "5.1.1", "The email account that you tried to reach does not exist", "recipient", False, "suppress"),
    (550, "5.2.1", "The account that you tried to reach is disabled", "inactive", False, "suppress"),
    (550, "5.7.1", "Not RFC 5322 compliant: multiple From headers", "content", False, ""),
    # Yahoo
    (421, "4.7.0", "[TSS04] Messages temporarily deferred: user complaints", "rate", True, "pause drop"),
    (421, "4.7.1", "[TS03] All messages from 192.0.2.1 permanently deferred", "rate", True, "pause drop"),
    (421, "", "[IPTS04] deferred", "rate", True, "pause drop"),
    (553, "5.7.2", "[TSS09] Retrying will NOT succeed", "reputation", True, "pause drop"),
    (553, "5.7.1", "[BL21] Connections not accepted from addresses on Spamhaus PBL", "reputation", True, "pause"),
    (421, "", "Max message per connection reached, closing", "connection", True, "drop"),
    (554, "", "delivery error: dd no such account here", "recipient", False, "suppress"),
    (554, "", "This mailbox is disabled (554.30)", "inactive", False, "suppress"),
    # Microsoft
    (451, "4.7.500", "Server busy. Please try again later (AS77712345)", "rate", True, "slow"),
    (451, "4.7.550", "Access denied, please try again later", "reputation", False, "slow"),
    (451, "4.7.650", "The mail server has been temporarily limited", "rate", False, "slow drop"),
    (550, "5.7.1", "Messages from 192.0.2.1 weren't sent: on our block list (S3150)", "reputation", True, "pause"),
    (550, "5.7.511", "Access denied, banned sender", "reputation", True, "pause"),
    (550, "5.7.606", "Access denied, banned sending IP [192.0.2.1]", "reputation", True, "pause"),
    (550, "5.7.515", "shop.example doesn't meet the required authentication level", "authentication", True, "pause"),
    (550, "5.7.705", "Access denied, tenant has exceeded threshold", "account", True, "breaker"),
    (550, "5.7.501", "Access denied, spam abuse detected", "account", True, "breaker"),
    (550, "5.1.10", "RESOLVER.ADR.RecipientNotFound; not found by address lookup", "recipient", False, "suppress"),
    (550, "5.4.1", "Recipient address rejected: Access denied", "recipient", False, ""),
    # iCloud
    (421, "4.7.1", "Messages refused due to excessive volume", "rate", True, "pause drop"),
    (421, "", "[HCM1] come back", "rate", True, "pause drop"),
    (550, "5.7.1", "[CS01] local policy", "policy", False, ""),
    (554, "5.7.1", "[HME1] not authorised", "authentication", False, ""),
    (550, "5.1.6", "mailbox has moved", "inactive", False, "suppress"),
    (552, "5.2.2", "user is over quota", "mailbox_full", False, ""),
    # relays
    (454, "", "Throttling failure: Maximum sending rate exceeded.", "rate", True, ""),
    (454, "", "Throttling failure: Daily message quota exceeded.", "account", True, "breaker"),
    (454, "", "Temporary authentication failure", "account", False, "breaker"),
    (535, "", "Credentials invalid", "account", False, "breaker"),
    (401, "", "missing_api_key Missing API key in the authorization header", "account", False, "breaker"),
    (402, "", "not_enough_credits", "account", False, "breaker"),
    (403, "", "SignatureDoesNotMatch The request signature we calculated", "account", False, "breaker"),
    (403, "", "validation_error The shop.example domain is not verified", "account", False, ""),
    (420, "", "2102 Exceed Sending Limit (daily)", "account", False, "breaker"),
    (429, "", "daily_quota_exceeded You have reached your daily email sending quota", "account", False, "breaker"),
    (530, "", "Authentication required", "account", False, "breaker"),
    (530, "5.7.0", "Must issue a STARTTLS command first", "policy", True, "pause drop"),
    (554, "", "Message rejected: Email address is not verified.", "account", False, ""),
    (451, "", "Authentication failed: Maximum credits exceeded", "account", True, "breaker"),
    (550, "", "The from address does not match a verified Sender Identity", "account", False, ""),
    # anybody
    (452, "4.5.3", "Too many recipients", "too_many_recipients", True, ""),
    (552, "", "Too many recipients this time", "too_many_recipients", True, ""),
    (451, "4.7.1", "Greylisted, come back in 300 seconds", "greylist", False, ""),
    (554, "5.7.1", "Client host [192.0.2.1] blocked using zen.spamhaus.org", "reputation", True, "pause"),
    (550, "5.1.1", "<ann@example.org>: User unknown in virtual mailbox table", "recipient", False, "suppress"),
    (556, "5.1.10", "Recipient domain has a null MX", "recipient", False, "suppress"),
    (421, "4.3.2", "Service shutting down", "", False, "drop"),
]


def _does(rule: Rule) -> set[str]:
    return {name for name in ("pause", "slow", "breaker", "drop", "suppress") if getattr(rule, name)}


@pytest.mark.parametrize(("code", "enhanced", "text", "category", "temporary", "does"), REPLIES)
def test_what_large_receivers_say(
    code: int, enhanced: str, text: str, category: str, temporary: bool, does: str
) -> None:
    rule = RULES.match("relay", "example.org", code, enhanced, text)
    assert rule is not None
    assert (rule.category, rule.temporary, _does(rule)) == (category, temporary, set(does.split()))


def test_every_shipped_rule_is_the_first_for_some_reply() -> None:
    others = [
        ("t-online", 450, "", "too many connections from your host", "rate"),
        ("gmx", 450, "", "You have reached the limit of mails", "rate"),
        ("qq", 550, "", "Ip frequency limited", "rate"),
        ("netease", 450, "", "RP:CEL 192.0.2.1", "rate"),
        ("orange", 421, "", "Too many connections, slow down. OFR_104", "rate"),
        ("comcast", 421, "4.1.0", "RL000001: throttled", "rate"),
        ("outlook", 451, "4.7.0", "The sender is rate limited", "rate"),
        ("example.org", 421, "", "Too many concurrent SMTP connections", "connection"),
        ("example.org", 421, "", "Your account has been temporarily suspended", "account"),
        ("example.org", 550, "5.5.3", "no", "too_many_recipients"),
        ("example.org", 550, "5.1.1", "Sender verify failed", "sender"),
        ("example.org", 550, "5.7.28", "repeats of one message-id", "content"),
        ("example.org", 550, "", "No such user here", "recipient"),
    ]
    matched = {RULES.match("relay", "example.org", code, enhanced, text) for code, enhanced, text, *_ in REPLIES}
    for group, code, enhanced, text, category in others:
        rule = RULES.match("relay", group, code, enhanced, text)
        assert rule is not None
        assert rule.category == category
        matched.add(rule)
    assert [rule.words() for rule in shipped() if rule not in matched] == []


@pytest.mark.parametrize(
    ("code", "enhanced", "text"),
    [
        (550, "5.7.9", "no"),
        (451, "", "local error in processing"),
        (550, "5.1.1", "192.0.2.1 is not welcome"),
        (599, "", ""),
        (0, "", "connection reset"),
        (250, "2.0.0", "ok"),
    ],
)
def test_what_no_rule_knows(code: int, enhanced: str, text: str) -> None:
    assert RULES.match("relay", "example.org", code, enhanced, text) is None


# -- nobody is written off for what is ours ----------------------------------------------------------------------------

EAGER = Rules(load('[[rule]]\ntext = "."\ncategory = "recipient"\nsuppress = true', "own"), ())


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (550, "Sender verify failed: no such user"),
        (550, "User unknown; your IP address is blocked"),
        (550, "User unknown: SPF fail"),
        (550, "Mailbox does not exist, too many messages from you"),
        (450, "User unknown"),
        (421, "User unknown"),
    ],
)
def test_a_rule_writes_nobody_off_for_our_sake(code: int, text: str) -> None:
    assert EAGER.match("relay", "example.org", code, "", text) is None
    rule = RULES.match("relay", "example.org", code, "5.1.1", text)
    assert rule is None or not rule.suppress


_said = st.lists(
    st.sampled_from(
        [word for _, _, text, *_ in REPLIES for word in text.split()]
        + ["sender", "SPF", "rate", "unknown", "ſpam", "K"]
    ),
    max_size=12,
).map(" ".join)
_codes = st.integers(400, 599)
_enhanced = st.sampled_from(["", "5.1.1", "5.2.1", "4.7.28", "5.7.1", "5.1.10", "5.1.6", "4.7.500"])


@given(_codes, _enhanced, _said)
def test_who_is_suppressed_was_refused_for_good_and_not_for_our_sake(code: int, enhanced: str, text: str) -> None:
    for rules in (RULES, EAGER):
        rule = rules.match("relay", "example.org", code, enhanced, text)
        if rule is not None and rule.suppress:
            assert code >= 500
            assert classify(code, enhanced, text) not in OURS
            assert rule.category in ("recipient", "inactive")


@given(st.integers(-1, 1000), st.text(max_size=20), st.text() | _said, st.text(max_size=10))
def test_no_reply_makes_it_fail(code: int, enhanced: str, text: str, group: str) -> None:
    RULES.match("relay", group, code, enhanced, text)


@given(_codes, _enhanced, _said)
def test_it_finds_what_trying_every_rule_in_turn_would_find(code: int, enhanced: str, text: str) -> None:
    # The index by code and the words that a pattern needs are only there to be faster.
    expected = None
    said = " ".join(text.split())
    for rule in shipped():
        if (
            rule.code in ("", str(code), f"{code // 100}xx")
            and rule.domain in ("", "qq")
            and (
                rule.enhanced in ("", enhanced) or (rule.enhanced.endswith(".") and enhanced.startswith(rule.enhanced))
            )
            and re.search(rule.text, said, re.IGNORECASE)
            and not (rule.suppress and (code < 500 or classify(code, enhanced, said) in OURS))
        ):
            expected = rule
            break
    assert RULES.match("relay", "qq", code, enhanced, text) == expected


# -- what it may cost --------------------------------------------------------------------------------------------------


def test_hostile_replies_take_no_time() -> None:
    # Every text that brings a pattern far, repeated up to the limit. A bound of a second for what takes a few
    # milliseconds: only work that explodes exceeds it.
    patterns = [re.compile(rule.text, re.IGNORECASE) for rule in shipped() if rule.text]
    for pattern in patterns:
        for piece in (pattern.pattern, re.sub(r"[^a-z ]", "", pattern.pattern), "a", " ", "no such ", "listed in x"):
            text = (piece * REPLY_LIMIT)[:REPLY_LIMIT] if piece else ""
            started = time.process_time()
            pattern.search(text)
            assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+",
        "(a|aa)+$",
        "(a*)*b",
        "(?:a?){30}a{30}",
        "(?:a?b?)*",
        "(?:a{1,9}){1,90}",
        ".*.*x",
        r"\S*\s*\d*x",
        "a.*b.*c.*d",
        "(?:(?:){1000}){1000}",
        "a{0,500}b{0,500}c",
        "(?=(a+)+)b",
        "x{,}.*y.*z",
    ],
)
def test_patterns_that_could_take_long_are_refused(text: str) -> None:
    with pytest.raises(RuleError, match=r"`text` (repeats a group|could take very long)"):
        load(f"[[rule]]\ntext = '{text}'\n", "own")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (r"blocked (?:using|by) \S{3,60}", "blocked by example.net"),
        (r"too many .{0,40}messages .{0,40}from you", "Too many of these messages came from you"),
        (r"over quota.*try later", "OVER QUOTA: you may TRY LATER"),
        (r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", "not from 192.0.2.1"),
        (r"\[(?:AB|CD)0[1-9]\]", "[cd04] no"),
        (r"messages?(?! recipients)\b", "message refused"),
        (r"x{0}y{2}", "yy"),
        ("größe", "GRÖẞE".replace("ẞ", "ß")),
        ("kelvin", "\u212aelvin"),
        (r"a\.b\-c", "A.B-C"),
    ],
)
def test_patterns_that_people_need_are_taken(text: str, reply: str) -> None:
    rules = Rules(load(f"[[rule]]\ntext = '{text}'\ncategory = 'rate'\n", "own"), ())
    assert rules.match("relay", "example.org", 450, "", f"well, {reply}") is not None
    assert rules.match("relay", "example.org", 450, "", "something else") is None


_patterns = st.recursive(
    st.sampled_from(["a", "b", "ab", "abc", ".", r"\d", "[ab]", r"\b", "^", r"\.", "A", "{,}"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(inner, inner).map("|".join).map("(?:{})".format),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,9}", "{,2}", "{,}", "*?", "{1,}"])).map(
            lambda both: f"({both[0]}){both[1]}"
        ),
    ),
    max_leaves=8,
)


@given(_patterns, st.text("abAB. 1", max_size=40))
def test_a_pattern_that_is_taken_matches_as_it_stands_and_ends(pattern: str, text: str) -> None:
    try:
        rules = Rules((Rule(text=pattern),), ())
    except ValueError:
        return
    said = " ".join(text.split())
    found = re.search(pattern, said, re.IGNORECASE)
    assert (rules.match("relay", "example.org", 450, "", text) is not None) == (found is not None)
    started = time.process_time()
    rules.match("relay", "example.org", 450, "", ("ab" * REPLY_LIMIT)[: REPLY_LIMIT - 1] + "c")
    assert time.process_time() - started < 2.0  # bounded at some 50 ms; what explodes takes for ever


def test_a_reply_is_looked_at_up_to_a_limit() -> None:
    text = "x" * REPLY_LIMIT + " too many recipients"
    assert RULES.match("relay", "example.org", 552, "", text) is None


# -- order, and what a rule matches on ---------------------------------------------------------------------------------

OWN = """
[[rule]]
provider = "relay"
domain = "Gmail"
code = 450
text = "busy"
category = "policy"

[[rule]]
code = "4xx"
enhanced = "4.9."
category = "greylist"

[[rule]]
enhanced = "5.1.1"
category = "content"
"""


def test_the_users_rules_come_first_and_every_condition_counts() -> None:
    rules = Rules(load(OWN, "own"))

    def category(provider: str, group: str, code: int, enhanced: str, text: str) -> str | None:
        rule = rules.match(provider, group, code, enhanced, text)
        return rule.category if rule else None

    assert category("relay", "gmail", 450, "", "BUSY") == "policy"
    assert category("other", "gmail", 450, "", "busy") is None
    assert category("relay", "yahoo", 450, "", "busy") is None
    assert category("relay", "gmail", 451, "", "busy") is None
    assert category("relay", "gmail", 450, "", "idle") is None
    assert category("relay", "example.org", 499, "4.9.1", "") == "greylist"
    assert category("relay", "example.org", 550, "4.9.1", "") is None
    assert category("relay", "example.org", 450, "4.90.1", "") is None
    assert category("relay", "example.org", 550, "5.1.1", "user unknown") == "content"
    assert category("relay", "example.org", 550, "5.1.10", "RecipientNotFound") == "recipient"


def test_what_a_rule_says() -> None:
    (rule,) = load(
        '[[rule]]\ntext = "x"\nslow = "90/m"\nfor = "1h"\nafter = [3, "10m"]\ndrop = true\ntemporary = true', "own"
    )
    assert (rule.slow, rule.lasts, rule.after, rule.within) == (1.5, 3600.0, 3, 600.0)
    assert rule.drop
    assert rule.temporary
    assert rule.acts
    assert not Rule(code="421", drop=True).acts


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('txt = "x"', "unknown key `txt`; did you mean `text`?"),
        ('text = "("', "`text` is no regular expression"),
        ('text = "[[x]"', "`text` is no regular expression"),
        ("text = '''" + "x" * 301 + "'''", "`text` is longer than 300 characters"),
        (r"text = '(x)\1'", r"`text` holds `\1`"),
        ("text = '(?i)x'", "`text` holds `(?i)`"),
        ("text = '(?<=x)y'", "`text` holds `(?<=`"),
        ('text = ""', "`text` must be text"),
        ('text = "x"\npause = "0s"', "`pause` must not be zero"),
        ('text = "x"\nbreaker = "-1s"', "`breaker` must not be negative"),
        ('text = "x"\nslow = "fast"\nfor = "1h"', "`slow` is no rate"),
        ('text = "x"\nslow = "1/m"', "`slow` and `for` belong together"),
        ('text = "x"\nfor = "1h"', "`slow` and `for` belong together"),
        ('category = "rate"', "must say a `code`, an `enhanced` code or a `text`"),
        ('domain = "gmail"\npause = "1h"', "must say a `code`, an `enhanced` code or a `text`"),
        ('text = "x"\ncategory = "rates"', "did you mean `rate`?"),
        ('text = "x"\nsuppress = true', "`suppress` is for the categories recipient and inactive"),
        ('text = "x"\ncategory = "reputation"\nsuppress = true', "`suppress` is for the categories"),
        ('code = "4xx"\ncategory = "recipient"\nsuppress = true', "`suppress` is for good"),
        ('text = "x"\ncategory = "recipient"\nsuppress = true\ntemporary = true', "`suppress` is for good"),
        ("code = 250", "`code` must be a reply code"),
        ("code = true", "`code` must be a reply code"),
        ('code = "45x"', "`code` must be a reply code"),
        ('enhanced = "5.7"', "`enhanced` must be an enhanced code"),
        ('text = "x"\npause = "1h"\nafter = 3', "`after` must be a number of replies and a duration"),
        ('text = "x"\npause = "1h"\nafter = [0, "1h"]', "`after` must be a number of replies and a duration"),
        ('text = "x"\nafter = [3, "1h"]', "`after` delays"),
        ('text = "x"\npause = "1h"\nbreaker = "1h"', "`pause` or `breaker`: not both"),
        ('text = "x"\ndrop = 1', "`drop` must be true or false"),
    ],
)
def test_a_wrong_rule_is_named_with_its_line(body: str, words: str) -> None:
    text = f"# mine\n[[rule]]\ncode = 450\n\n[[rule]]\n{body}\n"
    with pytest.raises(RuleError) as wrong:
        load(text, "own.toml")
    assert str(wrong.value).startswith("own.toml, line 5, rule 2")
    if body.startswith('text = "x"'):
        assert " (text = x): " in str(wrong.value)
    assert words in str(wrong.value)
    assert str(wrong.value).isprintable()


@pytest.mark.parametrize("text", ["[[rule", "[rule]\ncode = 450", "rule = 3", "[[rules]]\ncode = 450", "rule = [1]"])
def test_a_file_of_something_else(text: str) -> None:
    with pytest.raises(RuleError, match=r"^own\.toml: "):
        load(text, "own.toml")


def test_an_empty_file_is_no_rules() -> None:
    assert load("# nothing\n", "own.toml") == ()


def test_shipped_rules_keep_to_what_they_may_say() -> None:
    for rule in shipped():
        assert rule.category in CATEGORIES or (rule.drop and not rule.acts)
        # Only in a group that comes with mailerd.
        assert (
            not rule.domain
            or f'name = "{rule.domain}"' in files("mailerd.flow").joinpath("data/domains.toml").read_text()
        )
        assert not rule.provider
        # A 5yz that makes a lane rest is tried again when it has rested.
        if rule.pause or rule.slow:
            assert rule.temporary or rule.code.startswith("4") or rule.enhanced.startswith("4")


# -- thresholds --------------------------------------------------------------------------------------------------------


def test_a_threshold_counts_each_key_within_its_time() -> None:
    rule = Rule(text="x", pause=60.0, after=3, within=10.0)
    thresholds = Thresholds()
    assert [thresholds.hit(rule, "a", now) for now in (0.0, 5.0, 20.0, 21.0)] == [False] * 4
    assert not thresholds.hit(rule, "b", 22.0)
    assert thresholds.hit(rule, "a", 22.0)
    assert not thresholds.hit(rule, "a", 23.0)  # it begins anew
    assert not thresholds.hit(Rule(text="y", pause=60.0, after=3, within=10.0), "a", 23.0)
    assert thresholds.hit(Rule(text="z", pause=60.0), "a", 23.0)


def test_thresholds_forget_what_is_oldest() -> None:
    rule = Rule(text="x", pause=60.0, after=1000, within=1e9)
    thresholds = Thresholds()
    for number in range(300):
        for now in range(200):
            thresholds.hit(rule, f"key {number}", float(now))
    assert sum(map(len, thresholds._hits.values())) <= 50_000
    assert (rule, "key 299") in thresholds._hits
    assert (rule, "key 0") not in thresholds._hits
