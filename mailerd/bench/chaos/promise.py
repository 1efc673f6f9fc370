"""The promises of mailerd, held against the facts of a chaos run. Pure: facts in, verdicts out.

A message is *lost* when the application was told of its commit and it neither ended nor waits for a stated reason, or
when its end says `sent` and nobody accepted it. A *duplicate* is a second acceptance; each needs a cause: the answer
before it was withheld, its loss is on record (an `in_doubt` event), or a death fell between the two. Duplicates of a
death count against its bound. Whatever has no cause breaks the promise.

Hazard: who sent a message is not in the sink's ledger; a duplicate is ascribed to the first death after its first
acceptance.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from mailerd.bench.chaos.facts import Facts, Fault

__all__ = ["Duplicates", "Promise", "Verdict", "judge"]

ENDS = frozenset(("sent", "delivered", "bounced", "rejected", "failed", "suppressed", "expired", "cancelled"))
GRACE = 1.0  # seconds after a death in which the sink still takes what was in its sockets
_SHOWN = 5  # ids that a broken promise names


class Promise(msgspec.Struct):
    """One promise, and whether it was kept; `detail` says how, or what broke it. `timed`: a busy machine may break it."""

    name: str
    kept: bool
    detail: str
    timed: bool = False


class Duplicates(msgspec.Struct):
    """Second acceptances by cause. `by_death` has one count for each death, in order, `worst` the largest of them."""

    total: int = 0
    unanswered: int = 0  # the sink withheld its answer
    in_doubt: int = 0  # the answer was lost, and an event says so
    by_death: list[int] = []
    unexplained: int = 0

    @property
    def worst(self) -> int:
        return max(self.by_death, default=0)


class Verdict(msgspec.Struct):
    """Counts of messages, and the promises."""

    messages: int
    acknowledged: int
    accepted: int
    lost: int
    forgotten: int  # acknowledged, and gone from the database itself
    held: int
    ends: dict[str, int]
    duplicates: Duplicates
    promises: list[Promise]

    @property
    def kept(self) -> bool:
        return all(promise.kept for promise in self.promises)


def judge(facts: Facts, *, forgetful: bool = False) -> Verdict:
    """`forgetful`: the database itself may forget what it acknowledged (a standby that is not synchronous)."""
    known = facts.rows.keys() | facts.acknowledged.keys()
    forgotten = facts.acknowledged.keys() - facts.rows.keys()
    nothing: frozenset[str] = frozenset()
    accepted = facts.accepted.keys()
    unfinished = [
        i for i in facts.rows if i not in facts.waiting and not facts.events.get(i, nothing) & ENDS
    ]  # neither ended nor waiting
    phantoms = [i for i, kinds in facts.events.items() if "sent" in kinds and i not in accepted]
    stuck = [i for i, where in facts.waiting.items() if where != "in_doubt"]
    silent = [i for i in accepted if i in facts.rows and not facts.events.get(i, nothing) & {"sent", "in_doubt"}]
    unknown = [i for i in accepted if i not in known]
    duplicates, strange, held_twice = _duplicates(facts)
    too_late = [
        i for i, end in facts.expiries.items() if any(at > end + facts.slack for at, _ in facts.accepted.get(i, ()))
    ]
    after_cancel = [i for i, at in facts.cancelled.items() if any(a > at for a, _ in facts.accepted.get(i, ()))]
    if forgetful:  # what it forgets of commits, cancels and intents is no instance's fault
        silent, unknown, after_cancel, held_twice = [], [], [], []
    promises = [
        _promise("nothing is lost", [*unfinished, *phantoms], f"{len(facts.acknowledged):,} commits were acknowledged"),
        _promise(
            "what Postgres acknowledged is there", () if forgetful else forgotten, f"{len(forgotten):,} forgotten"
        ),
        _promise("every row ends, or waits for a reason", stuck, _reasons(facts)),
        _promise("nothing is accepted without an event", [*silent, *unknown], f"{len(accepted):,} were accepted"),
        _promise("every duplicate has a cause", strange, f"{duplicates.total:,} of {len(accepted):,} came twice"),
        *_bounds(facts, duplicates),
        _promise("a stream that holds never sends twice", held_twice, f"stream {facts.holding}"),
        _promise("nothing is sent after it expired", too_late, f"{len(facts.expiries):,} had an end"),
        _promise("nothing is sent after its cancel", after_cancel, f"{len(facts.cancelled):,} were cancelled"),
    ]
    if facts.peak is not None:
        text = f"{facts.peak:,} of {facts.cap:,} connections at most"
        promises.append(Promise("no limit is exceeded", facts.peak <= facts.cap, text))
    ends: dict[str, int] = {}
    for kinds in facts.events.values():
        for kind in kinds & ENDS:
            ends[kind] = ends.get(kind, 0) + 1
    return Verdict(
        messages=len(known),
        acknowledged=len(facts.acknowledged),
        accepted=len(accepted),
        lost=len(unfinished) + len(phantoms) + (0 if forgetful else len(forgotten)),
        forgotten=len(forgotten),
        held=sum(1 for where in facts.waiting.values() if where == "in_doubt"),
        ends=dict(sorted(ends.items())),
        duplicates=duplicates,
        promises=promises,
    )


def _promise(name: str, broken: Iterable[int | str], kept: str) -> Promise:
    ids = list(broken)
    if not ids:
        return Promise(name, True, kept)
    shown = ", ".join(map(str, ids[:_SHOWN])) + (" …" if len(ids) > _SHOWN else "")
    return Promise(name, False, f"{len(ids):,} messages: {shown}")


def _reasons(facts: Facts) -> str:
    held = sum(1 for where in facts.waiting.values() if where == "in_doubt")
    return f"{held:,} are in doubt, held" if held else "all ended"


def _bounds(facts: Facts, duplicates: Duplicates) -> list[Promise]:
    deaths = _deaths(facts)
    if not deaths:
        return []
    over = [
        f"{count} after {death} (bound {death.deaths * facts.bound})"
        for count, death in zip(duplicates.by_death, deaths, strict=True)
        if count > death.deaths * facts.bound
    ]
    name = "duplicates of a death stay within its bound"
    return [
        Promise(name, not over, "; ".join(over[:_SHOWN]) or f"at most {duplicates.worst} of {facts.bound} an instance")
    ]


def _deaths(facts: Facts) -> list[Fault]:
    return sorted((fault for fault in facts.faults if fault.deaths), key=lambda fault: fault.at)


def _duplicates(facts: Facts) -> tuple[Duplicates, list[str], list[int]]:
    """(counts, ids of those without a cause, ids sent twice by the stream that holds)."""
    deaths = _deaths(facts)
    counts = Duplicates(by_death=[0] * len(deaths))
    strange: list[str] = []
    held_twice: list[int] = []
    for message_id, taken in facts.accepted.items():
        if len(taken) < 2:
            continue
        counts.total += len(taken) - 1
        if facts.rows.get(message_id) == facts.holding:
            held_twice.append(message_id)
        doubted = "in_doubt" in facts.events.get(message_id, ())
        for (first, answered), (second, _) in pairwise(taken):
            if not answered:
                counts.unanswered += 1
            elif doubted:
                counts.in_doubt += 1
            else:
                number = next((n for n, death in enumerate(deaths) if _may_cause(death, first, second)), None)
                if number is None:
                    counts.unexplained += 1
                    strange.append(
                        f"{message_id} ({facts.rows.get(message_id, '?')}, {first - facts.begin:.2f} and "
                        f"{second - facts.begin:.2f} s, {'+'.join(sorted(facts.events.get(message_id, ())))})"
                    )
                else:
                    counts.by_death[number] += 1
    return counts, strange, held_twice


def _may_cause(death: Fault, first: float, second: float) -> bool:
    """Did the death fall between the two? What a stopped process had handed to its event loop for writing, past its
    dot as far as it knows, leaves when it goes on: that is the same death's."""
    woken = death.until <= first <= death.until + GRACE
    return second >= death.at and (first <= death.at + GRACE or woken)
