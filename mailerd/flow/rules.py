"""What a reply asks for beyond its message: rules, as data. First match wins; the user's go before the shipped ones.

A rule matches on provider, domain group, code, enhanced code and text, and says what the reply means (`category`), whether
a refusal may be tried again after all, and what to do about it: let the lane of (pool, domain group) rest, slow it down,
leave the provider alone (an account-level matter), close the connection, write the recipient off. With `after`, the first
three only once so many such replies came within a time. Who sends carries it out; here is only what is said.

Pure. Nobody is written off for a temporary refusal, nor for one that `flow.classify` files under our side, whatever a
rule says. Hazard: patterns are searched in strangers' words, on the event loop. Each is measured when it is loaded
(`_Measure`), and one that could take long on the wrong reply is refused.
"""

from __future__ import annotations

import re
import tomllib
import warnings
from collections import deque
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec

from mailerd.config import values
from mailerd.config.lines import positions
from mailerd.config.problem import suggestion
from mailerd.flow.classify import CATEGORIES, OURS, classify

__all__ = ["Rule", "RuleError", "Rules", "Thresholds", "load", "shipped"]

REPLY_LIMIT: Final = 1024  # characters of a reply that are looked at
_PATTERN_LIMIT: Final = 300
_ABOUT_RECIPIENT: Final = frozenset(("recipient", "inactive"))
_COUNTED: Final = 50_000  # instants kept by one `Thresholds`: some megabytes


class RuleError(ValueError):
    """A rule that cannot be used: where, and why."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. Durations in seconds, `slow` in messages a second for `lasts`. `code` is `421`, `4xx` or `5xx`; `enhanced`
    is `5.7.1` or, with a dot at its end, all that begin so. `after` such replies `within` a time, before it paces."""

    provider: str = ""
    domain: str = ""
    code: str = ""
    enhanced: str = ""
    text: str = ""
    category: str = ""
    temporary: bool = False
    pause: float = 0.0
    slow: float = 0.0
    lasts: float = 0.0
    breaker: float = 0.0
    drop: bool = False
    suppress: bool = False
    after: int = 1
    within: float = 0.0

    @property
    def acts(self) -> bool:
        """Is there anything to do besides filing the reply and closing the connection?"""
        return bool(self.pause or self.slow or self.breaker or self.suppress)

    def words(self) -> str:
        """Which rule it is, for people."""
        said = [f"{name} {value}" for name in ("domain", "code", "enhanced", "text") if (value := getattr(self, name))]
        return ", ".join(said)


_TEXTS: Final = ("provider", "domain", "enhanced", "text", "category")
_DURATIONS: Final = {"pause": "pause", "for": "lasts", "breaker": "breaker"}
_FLAGS: Final = ("temporary", "drop", "suppress")
_KEYS: Final = (*_TEXTS, *_DURATIONS, *_FLAGS, "code", "slow", "after")


def load(text: str, origin: str) -> tuple[Rule, ...]:
    """The `[[rule]]` tables of a TOML text, in order. Raises `RuleError` naming `origin`, the line, the rule and the key."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise RuleError(f"{origin}: no TOML: {wrong}") from None
    raw = data.pop("rule", [])
    if data or not isinstance(raw, list) or not all(isinstance(rule, dict) for rule in raw):
        raise RuleError(f"{origin}: must hold [[rule]] tables and nothing else")
    rules = []
    for number, table in enumerate(raw):
        try:
            rules.append(_rule(table))
        except ValueError as wrong:
            line = positions(text).get(("rule", number), 0)
            shown = next((f" ({key} = {table[key]})" for key in ("text", "enhanced", "code") if key in table), "")
            words = f"{origin}, line {line}, rule {number + 1}{shown}: {wrong}"
            raise RuleError("".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)) from None
    return tuple(rules)


def _rule(table: dict[str, Any]) -> Rule:
    fields: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            raise ValueError(f"unknown key `{key}`{suggestion(key, _KEYS)}")
        try:
            fields |= _field(key, value)
        except ValueError as wrong:
            raise ValueError(f"`{key}` {wrong}") from None
    rule = Rule(**fields)
    if not (rule.code or rule.enhanced or rule.text):
        raise ValueError("must say a `code`, an `enhanced` code or a `text`")
    if bool(rule.slow) != bool(rule.lasts):
        raise ValueError("`slow` and `for` belong together")
    paces = [name for name in ("pause", "slow", "breaker") if getattr(rule, name)]
    if len(paces) > 1:
        raise ValueError(f"`{paces[0]}` or `{paces[1]}`: not both")
    if rule.within and not paces:
        raise ValueError("`after` delays `pause`, `slow` or `breaker`, and there is none")
    if rule.suppress and rule.category not in _ABOUT_RECIPIENT:
        raise ValueError(
            "`suppress` is for the categories recipient and inactive: nothing else is the recipient's matter"
        )
    if rule.suppress and (rule.temporary or rule.code.startswith("4")):
        raise ValueError("`suppress` is for good, and a temporary refusal is not")
    return rule


def _field(key: str, value: Any) -> dict[str, Any]:
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return {key: value}
    if key in _DURATIONS:
        return {_DURATIONS[key]: values.duration(value)}
    if key == "slow":
        return {"slow": values.rate(value)}
    if key == "after":
        if not isinstance(value, list) or len(value) != 2 or type(value[0]) is not int or not 1 <= value[0] <= 1000:
            raise ValueError('must be a number of replies and a duration: [3, "1h"]')
        return {"after": value[0], "within": values.duration(value[1])}
    if key == "code":
        code = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(code, str) or not re.fullmatch(r"[45](?:xx|[0-9][0-9])", code):
            raise ValueError("must be a reply code of 400 to 599, `4xx` or `5xx`")
        return {"code": code}
    if not isinstance(value, str) or not value:
        raise ValueError("must be text")
    if key == "enhanced" and not re.fullmatch(r"[45]\.(?:[0-9]{1,3}\.(?:[0-9]{1,3})?)?", value):
        raise ValueError("must be an enhanced code such as `4.7.1`, or the beginning of some, `4.7.`")
    if key == "category" and value not in CATEGORIES:
        raise ValueError(f"must be one of {', '.join(CATEGORIES)}{suggestion(value, CATEGORIES)}")
    if key == "text":
        _compiled(value)
    return {key: value.lower() if key == "domain" else value}


class _Pattern(NamedTuple):
    regex: re.Pattern[str]
    words: tuple[str, ...]  # one of them is in every text that matches; none: not known


@lru_cache(maxsize=1024)
def _compiled(text: str) -> _Pattern:
    """Raises ValueError with words that can stand behind the key."""
    if len(text) > _PATTERN_LIMIT:
        raise ValueError(f"is longer than {_PATTERN_LIMIT} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "possible nested set", which another Python reads differently
            return _Pattern(re.compile(text, re.IGNORECASE), _Measure(text).words())
    except (re.error, OverflowError, RecursionError, Warning) as wrong:
        raise ValueError(f"is no regular expression: {wrong}") from None


class _Part(NamedTuple):
    """A piece of a pattern: the fewest characters it takes, in how many ways it may match from one place, and words."""

    least: int
    ways: float
    words: tuple[str, ...] = ()
    literal: str = ""  # it is this one character
    gap: bool = False  # each of the ways ends in a place of its own


class _Measure:
    """How much work a pattern could be: the number of ways to try it on `REPLY_LIMIT` characters, at most `_MOST`.

    Reads the part of the syntax that rules need, and refuses the rest (back-references, look-behind, conditions, flags).
    What may be followed by a word can end only where the word is, so `[^ ]*` before five letters has a fifth of the ways.
    """

    _MOST: Final = 3e6  # measured: some 15 ns each, so 50 ms
    _QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{(?=[0-9,])([0-9]*)(?:(,)([0-9]*))?\})[?+]?")
    _CLASS: Final = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
    _PIECE: Final = re.compile(r"\\(?:[^0-9A-Za-z]|[AZbBdDsSwWfnrtv])|[^\\]", re.DOTALL)

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.whole = self.choice(top=True)

    def words(self) -> tuple[str, ...]:
        return self.whole.words

    def choice(self, *, top: bool = False) -> _Part:
        branches = [self.sequence(top=top)]
        while self.text.startswith("|", self.at):
            self.at += 1
            branches.append(self.sequence(top=top))
        words = tuple(word for branch in branches for word in branch.words) if all(b.words for b in branches) else ()
        return _Part(min(b.least for b in branches), sum(b.ways for b in branches), words)

    def sequence(self, *, top: bool) -> _Part:
        parts: list[_Part] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self.repeated())
        runs: list[str] = [""] * (len(parts) + 1)  # the word that begins with each part
        for index in range(len(parts) - 1, -1, -1):
            runs[index] = parts[index].literal + runs[index + 1] if parts[index].literal else ""
        ways = REPLY_LIMIT / _period(runs[0]) if top else 1.0
        for part, run in zip(parts, runs[1:], strict=True):
            ways *= max(1.0, min(part.ways, REPLY_LIMIT / _period(run)) if run and part.gap else part.ways)
            if ways > self._MOST:
                raise ValueError("could take very long on the wrong reply: write `.{0,60}` for `.*`, and fewer of them")
        candidates = [part.words for part in parts if part.words] + [(run,) for run in runs if len(run) > 2]
        words = max(candidates, key=lambda some: min(map(len, some)), default=())
        return _Part(sum(part.least for part in parts), ways, words)

    def repeated(self) -> _Part:
        part = self.piece()
        found = self._QUANTIFIER.match(self.text, self.at)
        if found is None:
            return part
        self.at = found.end()
        sign, count, comma, until = found.groups()
        if sign:
            least, most = {"*": (0, REPLY_LIMIT), "+": (1, REPLY_LIMIT), "?": (0, 1)}[sign]
        else:
            least = int(count or 0)
            most = int(until or REPLY_LIMIT) if comma else least
        least, most = min(least, REPLY_LIMIT), min(most, REPLY_LIMIT)
        if most <= 1:
            return _Part(part.least * least, part.ways + (1 - least), part.words if least else ())
        if not part.least:
            raise ValueError("repeats a group that may be empty")
        if part.ways == 1:
            ways = float(max(most - least, 0) + 1)
        elif most == REPLY_LIMIT or most > 16:
            raise ValueError(
                "repeats a group that can match in several ways: it could take for ever on the wrong reply"
            )
        else:
            ways = sum(part.ways**times for times in range(least, most + 1))
        return _Part(part.least * least, ways, part.words if least else (), gap=part.ways == 1)

    def piece(self) -> _Part:
        text, start = self.text, self.at
        if text[start] == "(":
            return self.group()
        if text[start] == "[" and (found := self._CLASS.match(text, start)):
            self.at = found.end()
            return _Part(1, 1.0)
        found = self._PIECE.match(text, start)
        if found is None:
            raise ValueError(f"holds `{text[start : start + 2]}`, which rules cannot use")
        self.at = found.end()
        piece = found[0]
        if piece in ("^", "$") or piece in (r"\b", r"\B", r"\A", r"\Z"):
            return _Part(0, 1.0)
        plain = piece if len(piece) == 1 and piece not in ".^$" else piece[1:] if _is_escaped_sign(piece) else ""
        return _Part(1, 1.0, literal=plain.lower() if plain.isascii() else "")

    def group(self) -> _Part:
        text = self.text
        ahead = text.startswith(("(?=", "(?!"), self.at)
        if text.startswith("(?", self.at) and not ahead and not text.startswith("(?:", self.at):
            raise ValueError(
                f"holds `{text[self.at : self.at + 4]}`, which rules cannot use: only `(…)`, `(?:…)`, `(?=…)`, `(?!…)`"
            )
        self.at += 3 if text.startswith("(?", self.at) else 1
        part = self.choice()
        self.at += 1  # the bracket: the pattern compiles
        return _Part(0, part.ways) if ahead else part


def _is_escaped_sign(piece: str) -> bool:
    return len(piece) == 2 and not piece[1].isalnum()


def _period(word: str) -> int:
    """A word cannot stand in more places than the text has characters, by this: 1 for "aaa", 3 for "abc"."""
    return next((n for n in range(1, len(word)) if word.startswith(word[n:])), max(1, len(word)))


@cache
def shipped() -> tuple[Rule, ...]:
    """The rules that come with mailerd."""
    return load(files("mailerd.flow").joinpath("data/replies.toml").read_text("utf-8"), "replies.toml")


class Rules:
    """The user's rules and the shipped ones, in order."""

    def __init__(self, own: Sequence[Rule] = (), shipped_rules: Sequence[Rule] | None = None) -> None:
        self.rules = (*own, *(shipped() if shipped_rules is None else shipped_rules))
        self._patterns = [(rule, _compiled(rule.text) if rule.text else None) for rule in self.rules]
        self._by_code: dict[str, list[tuple[Rule, _Pattern | None]]] = {}
        self._found = lru_cache(maxsize=4096)(self._search)

    def match(self, provider: str, group: str, code: int, enhanced: str, text: str) -> Rule | None:
        """The first rule for this reply. `group` is the domain group, or the domain where it is in none; `text` may
        have several lines. Never raises."""
        return self._found(provider, group.lower(), code, enhanced, " ".join(text[:REPLY_LIMIT].split()))

    def _search(self, provider: str, group: str, code: int, enhanced: str, text: str) -> Rule | None:
        plain = text.lower() if text.isascii() else ""  # other letters fold in ways of their own
        for rule, pattern in self._of_code(code):
            if rule.domain and rule.domain != group:
                continue
            if rule.enhanced and not _is(enhanced, rule.enhanced):
                continue
            if rule.provider and rule.provider != provider:
                continue
            if pattern is not None:
                if plain and pattern.words:
                    for word in pattern.words:  # twice as fast as any()
                        if word in plain:
                            break
                    else:
                        continue
                if not pattern.regex.search(text):
                    continue
            if rule.suppress and (code < 500 or classify(code, enhanced, text) in OURS):
                continue
            return rule
        return None

    def _of_code(self, code: int) -> list[tuple[Rule, _Pattern | None]]:
        number = str(code) if 400 <= code < 600 else ""
        found = self._by_code.get(number)
        if found is None:
            wanted = ("", number, f"{number[:1]}xx")
            found = [(rule, pattern) for rule, pattern in self._patterns if rule.code in wanted]
            self._by_code[number] = found
        return found


def _is(enhanced: str, wanted: str) -> bool:
    return enhanced.startswith(wanted) if wanted.endswith(".") else enhanced == wanted


class Thresholds:
    """Counts replies for rules that act only after several. Bounded: what was counted longest ago is forgotten first."""

    def __init__(self) -> None:
        self._hits: dict[tuple[Rule, str], deque[float]] = {}
        self._held = 0

    def hit(self, rule: Rule, key: str, now: float) -> bool:
        """One more such reply for `key` (a lane, a provider); true when the rule is to act. It begins to count anew then."""
        if rule.after <= 1:
            return True
        hits = self._hits.pop((rule, key), None) or deque()
        self._held -= len(hits)
        hits.append(now)
        while now - hits[0] > rule.within:
            hits.popleft()
        if len(hits) >= rule.after:
            return True
        self._hits[rule, key] = hits
        self._held += len(hits)
        while self._held > _COUNTED:
            self._held -= len(self._hits.pop(next(iter(self._hits))))
        return False
