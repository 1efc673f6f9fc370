"""Bounces that are only text: where the report ends and the original begins, whom it names, and what it says of each.

Pure, line by line. The programs' own wordings are data (`data/bounces.toml`); here is what they have in common: a text,
then often the original; a recipient on a line, then the reason. Addresses of the reader's own side are not recipients.
"""

from __future__ import annotations

import re
from typing import Final

from mailerd.inbound.phrases import ADDRESS, phrases
from mailerd.inbound.report import Result
from mailerd.inbound.standard import result

__all__ = ["addresses_in", "results_of", "split_original"]

_LINES: Final = 1500
_LINE: Final = 600
_RECIPIENTS: Final = 200
_anywhere: Final = re.compile(f"({ADDRESS})")
_ADDRESS: Final = re.compile(ADDRESS)
_ORIGINAL: Final = re.compile(
    r"^(?:> ?)?(?:received|return-path|message-id|dkim-signature|x-received|x-google-[\w-]{1,40}|mime-version|x-envelope-from):",
    re.IGNORECASE | re.MULTILINE,
)
_TRANSCRIPT: Final = re.compile(r"\s{0,9}(?:<<<|\d{3})[ -]")
_EXPANDED: Final = re.compile(
    rf"\((?:expanded|generated) from:?\s{{1,20}}<?({ADDRESS})", re.IGNORECASE
)  # Sendmail, Exim
_REPLY: Final = re.compile(r"(?<![\d.])[45]\d\d[ :-]|[45]\.\d{1,3}\.\d{1,3}")


def split_original(text: str) -> tuple[str, str]:
    """`text` before and from the original message that it quotes; the second is '' where it quotes none."""
    starts = [found.start() for pattern in (phrases().marker, _ORIGINAL) if (found := pattern.search(text, 1))]
    if not starts:
        return text, ""
    return text[: min(starts)], text[min(starts) :]


def addresses_in(value: str) -> list[str]:
    """The addresses in a field's value, in order, each once."""
    return list(dict.fromkeys(found.strip(".") for found in _ADDRESS.findall(value[:4096]) if len(found) <= 320))


def results_of(text: str, named: list[str], ours: set[str], action: str, fallback: list[str]) -> list[Result]:
    """What `text`, without the original, says. `named`: recipients that are known already (X-Failed-Recipients).

    `ours`: addresses, in lower case, that are nobody's who was written to. `fallback`: whom the original was for, if
    the text names nobody.
    """
    lines = [line[:_LINE] for line in text.split("\n")[:_LINES]]
    places = _named(lines, named) if named else _found(lines, ours)
    if not places:
        places = dict.fromkeys((named or fallback)[:_RECIPIENTS], -1)
    starts = sorted({place for place in places.values() if place >= 0})
    results = []
    for address, place in places.items():
        later = [start for start in starts if start > place]
        own = "\n".join(lines[place : later[0] if later else None]) if place >= 0 else text
        if place >= 0 and _TRANSCRIPT.match(lines[place]):  # the words that led to it stand before
            earlier = [start for start in starts if start < place]
            own = "\n".join(lines[earlier[-1] + 1 if earlier else 0 : place + 1])
        if not _REPLY.search(own) and (len(places) == 1 or len(own.split()) < 3):
            own = text
        from_ = _EXPANDED.search("\n".join(lines[place : place + 3])) if place >= 0 else None
        before = from_[1].strip(".") if from_ and from_[1].lower() != address.lower() else ""
        results.append(result(address, action, "", own.strip(), original=before))
    return results


def _named(lines: list[str], named: list[str]) -> dict[str, int]:
    places, lowered = {}, [line.lower() for line in lines]
    for address in named[:_RECIPIENTS]:
        low, local = address.lower(), address.partition("@")[0].lower()
        at = [i for i, line in enumerate(lowered) if low in line or line.strip() == local]
        places[address] = at[0] if at else -1
    return places


def _found(lines: list[str], ours: set[str]) -> dict[str, int]:
    avoided = phrases().not_recipient
    candidates = [(i, line) for i, line in enumerate(lines) if "@" in line]
    mine: dict[str, int] = {}
    named = phrases().recipients[-1]
    itself, ours = (
        ours,
        ours
        | {
            found[1].strip(".").lower()
            for _, line in candidates
            if (found := named.search(line) or _anywhere.search(line)) and avoided.search(line, 0, found.start(1))
        },
    )
    for form in phrases().recipients:
        places: dict[str, int] = {}
        for i, line in candidates:
            found = form.search(line)
            if found is None or len(places) >= _RECIPIENTS:
                continue
            address = found[1].strip(".")
            if avoided.search(line, 0, found.start(1)):
                continue
            if address.lower() in itself:
                mine.setdefault(address, i)
            if address.lower() not in ours and address.lower() not in {known.lower() for known in places}:
                places[address] = i
        if places:
            return places
    return mine if len(mine) == 1 else {}
