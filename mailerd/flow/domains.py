"""Domain groups: recipient domains that share limits because one receiver runs them. Data, resolved in memory.

The user's groups go before the shipped ones (`data/domains.toml`), and the first that matches wins, whichever kind of
pattern it is. A group of the user's that only names a shipped one takes over its patterns and brings them to its own
place; the shipped ones still decide among themselves in their own order, which is how `yahoo.*` leaves out Yahoo Japan.
What an MX look-up said (`learn`) counts for domains that no pattern knows.

Pure: it looks nothing up. A domain may be written as U-label or A-label (RFC 5890); both are one domain here. Hazards:
`of` is asked for every new lane, of which there may be hundreds of thousands, so answers are remembered, up to a bound;
and what was learnt is bounded too, so a domain that was not looked up for long may be without a group again.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from itertools import islice
from typing import Final, TypeVar

import idna
import msgspec

__all__ = ["Group", "Groups", "a_label", "matches_nothing", "shipped"]

_REMEMBERED: Final = 100_000

# `yahoo.*` means `yahoo.co.uk` and not `yahoo.example.uk`, which is a host of somebody's: two labels are an ending only
# where the first is what registries of countries put below their own (publicsuffix.org has them all).
_SECOND_LEVEL: Final = frozenset(["ac", "co", "com", "edu", "go", "gob", "gov", "ne", "net", "nom", "or", "org"])

_T = TypeVar("_T")


class Group(msgspec.Struct, frozen=True):
    """`match`: `gmail.com`, `*.example.org` (any subdomain), `yahoo.*` (any public ending of one or two labels). `mx`:
    ends of MX host names, `.google.com`."""

    name: str
    match: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()

    @property
    def bare(self) -> bool:
        """Only a name."""
        return not self.match and not self.mx


@cache
def shipped() -> tuple[Group, ...]:
    """The groups that come with mailerd."""
    data = tomllib.loads(files("mailerd.flow").joinpath("data/domains.toml").read_text("utf-8"))
    return tuple(msgspec.convert(group, Group) for group in data["domain"])


_default = shipped  # under a name that no parameter hides


def matches_nothing(own: Sequence[Group]) -> list[str]:
    """The user's groups that can match no domain: without patterns, and no shipped group has their name."""
    names = {group.name for group in shipped()}
    return [group.name for group in own if group.bare and group.name not in names]


class Groups:
    """`of` a domain, its group. `own` go first; `shipped`: those of the data file, unless others are given."""

    def __init__(self, own: Sequence[Group] = (), shipped: Sequence[Group] | None = None) -> None:
        replaced = {group.name for group in own if not group.bare}
        theirs = [group for group in (_default() if shipped is None else shipped) if group.name not in replaced]
        mine = {group.name: place for place, group in reversed(list(enumerate(own)))}
        by_name = {group.name: group for group in theirs}
        self._groups = (
            *(by_name.get(group.name, group) for group in own),
            *(group for group in theirs if group.name not in mine),
        )
        self._own = _Patterns(own)
        self._shipped = _Patterns(theirs)
        # Places in the order of all: a shipped group that was taken over stands where the user named it.
        self._own_names = [group.name for group in own]
        self._shipped_names = [group.name for group in theirs]
        self._shipped_places = [mine.get(group.name, len(own) + n) for n, group in enumerate(theirs)]
        self._matched: dict[str, str | None] = {}
        self._learnt: dict[str, str] = {}

    def names(self) -> tuple[str, ...]:
        """All groups, in the order in which they are tried."""
        return tuple(group.name for group in self._groups)

    def all(self) -> tuple[Group, ...]:
        """All groups with their patterns, in that order."""
        return self._groups

    def of(self, domain: str) -> str | None:
        """The group of a (lower-cased) domain, or None."""
        domain = a_label(domain)
        return self._by_pattern(domain) or self._learnt.get(domain)

    def matched(self, domain: str) -> bool:
        """Is it named by a pattern, so that no MX look-up can change its group?"""
        return self._by_pattern(a_label(domain)) is not None

    def of_mx(self, hosts: Iterable[str]) -> str | None:
        """The group that runs these MX hosts (the most preferred first): of the first that anybody known runs."""
        for host in hosts:
            host = host.lower().removesuffix(".")
            if (found := self._first(self._own.host(host), self._shipped.host(host))) is not None:
                return found
        return None

    def learn(self, domain: str, group: str | None) -> bool:
        """What an MX look-up said; True if that changes the answer of `of`, for both spellings of the domain."""
        domain = a_label(domain)
        before = self.of(domain)
        self._learnt.pop(domain, None)
        if group is not None:
            _make_room(self._learnt)
            self._learnt[domain] = group
        return self.of(domain) != before

    def _by_pattern(self, domain: str) -> str | None:
        try:
            return self._matched[domain]
        except KeyError:
            pass
        found = self._first(self._own.domain(domain), self._shipped.domain(domain))
        _make_room(self._matched)
        self._matched[domain] = found
        return found

    def _first(self, own: int | None, theirs: int | None) -> str | None:
        if theirs is not None and (own is None or self._shipped_places[theirs] < own):
            return self._shipped_names[theirs]
        return None if own is None else self._own_names[own]


class _Patterns:
    """Which of some groups matches first, by its place among them."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._exact: dict[str, int] = {}
        self._below: dict[str, int] = {}  # "*.x", by x
        self._ending: dict[str, int] = {}  # "x.*", by x
        self._hosts: dict[str, int] = {}  # ".x", by x
        for place, group in enumerate(groups):
            for pattern in group.match:
                pattern = pattern.lower().removesuffix(".")
                if pattern.startswith("*."):
                    self._below.setdefault(a_label(pattern[2:]), place)
                elif pattern.endswith(".*"):
                    self._ending.setdefault(a_label(pattern[:-2]), place)
                else:
                    self._exact.setdefault(a_label(pattern), place)
            for end in group.mx:
                self._hosts.setdefault(a_label(end.lower().removesuffix(".").removeprefix(".")), place)

    def domain(self, domain: str) -> int | None:
        places = [self._exact.get(domain)]
        if self._below:
            places += [self._below.get(above) for above in _above(domain)]
        *start, last = domain.split(".")
        places.append(self._ending.get(".".join(start)))
        if self._ending and len(start) > 1 and len(last) == 2 and start[-1] in _SECOND_LEVEL:
            places.append(self._ending.get(".".join(start[:-1])))
        return min((place for place in places if place is not None), default=None)

    def host(self, host: str) -> int | None:
        places = [self._hosts.get(host), *(self._hosts.get(above) for above in _above(host))]
        return min((place for place in places if place is not None), default=None)


def _above(domain: str) -> Iterator[str]:
    """`b.c` and `c`, for `a.b.c`."""
    at = domain.find(".")
    while at >= 0:
        domain = domain[at + 1 :]
        yield domain
        at = domain.find(".")


def _make_room(remembered: dict[str, _T]) -> None:
    """Before one more: the oldest tenth goes when it is full. One by one, each would cost a walk over the gaps."""
    if len(remembered) >= _REMEMBERED:
        for domain in list(islice(remembered, max(1, _REMEMBERED // 10))):
            del remembered[domain]


def a_label(domain: str) -> str:
    """How DNS writes a lower-cased domain (RFC 5891 §4.4), label by label; a label that DNS cannot hold stays as it is."""
    return domain if domain.isascii() else _a_labels(domain)


@lru_cache(10_000)
def _a_labels(domain: str) -> str:
    if len(domain) > 253:
        return domain
    # UTS 46 first, over the whole: it makes dots of what East Asian keyboards have in their place.
    try:
        domain = idna.uts46_remap(domain, std3_rules=False)
    except (idna.IDNAError, UnicodeError):
        return domain
    return ".".join(label if label.isascii() else _encoded(label) for label in domain.split("."))


def _encoded(label: str) -> str:
    try:
        return idna.alabel(label).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return label
