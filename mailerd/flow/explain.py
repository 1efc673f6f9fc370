"""Why a message is not sent yet: from facts about it to the gates it stands at. Pure; the store gathers the facts.

The first gate is the one that holds it now, the others would hold it next; a message that nothing holds has the gate
`queue`. Each gate says until when it holds, if anybody can know, and the command that opens it, if there is one.

It mirrors what the daemon does and decides nothing: whoever gives the daemon a new reason to wait adds its gate here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from mailerd.config.resolved import base_of

__all__ = ["AHEAD_LIMIT", "WARMUP", "Breaker", "Dead", "Doubt", "Facts", "Gate", "Pause", "Place", "Throttle", "gates"]

WARMUP: Final = "warm-up"  # the source of a limit that a schedule has set to nothing for a day
AHEAD_LIMIT: Final = 10_000  # messages ahead are counted up to here
_LONGEST: Final = 10 * 365 * 86400.0
_UNKNOWN_STREAM_AFTER: Final = timedelta(hours=1)


class Place(StrEnum):
    """Where the row is."""

    READY = "ready"
    LEASED = "leased"
    SCHEDULED = "scheduled"  # send_at lies ahead
    DEFERRED = "deferred"  # waits for its next attempt
    IN_DOUBT = "in_doubt"
    SETTLED = "settled"  # nothing is left to do


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's pause (`kind` is stream, provider, domain or campaign)."""

    kind: str
    name: str
    at: datetime
    actor: str
    reason: str | None


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as one live instance that sends this stream sees it."""

    provider: str
    state: str
    until: datetime | None
    reason: str | None


class Throttle(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that the message falls under. `opens`: when its next token is free; None: there are some now."""

    key: str
    words: str  # of the limit itself: `20/s`, `50000/d`
    rate: float  # messages a second; 0 for a quota, or where it is stopped
    opens: datetime | None
    stopped: bool = False  # somebody set it to nothing, until `opens` if that is known
    source: str = ""  # who set it, if not the configuration
    reason: str | None = None


class Dead(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letter: recipients that were given up."""

    at: datetime
    reason: str
    attempts: int
    category: str | None


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """The message may have been accepted, and its stream holds such messages for an operator."""

    at: datetime
    provider: str | None
    detail: str | None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that `gates` looks at. `providers` may carry the stream; `breakers` are what live instances report of them."""

    now: datetime
    id: int
    created_at: datetime
    stream: str
    domain: str
    campaign: str
    place: Place
    group: str = ""  # of domains
    run_at: datetime | None = None
    last_reply: str | None = None
    expires_at: datetime | None = None
    lease_until: datetime | None = None
    holder: str | None = None  # the instance's name, '' when it is not live any more
    leases: int = 0
    live: int = 0  # instances
    serving: int = 0  # live instances that list the stream
    pauses: Sequence[Pause] = ()
    providers: Sequence[str] = ()
    breakers: Sequence[Breaker] = ()
    throttles: Sequence[Throttle] = ()
    dead: Dead | None = None
    doubt: Doubt | None = None
    ahead: int = 0
    beside: int = 0  # messages of other lanes of its stream to the same domain: they share its limits
    urgent_ahead: int = 0


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One reason to wait: its name for programs, words for people, the instant it ends by itself, the command."""

    name: str
    words: str
    until: datetime | None = None
    release: str | None = None


def gates(facts: Facts) -> list[Gate]:
    """The gates, the one that holds it now first. Empty when the message is settled."""
    found: list[Gate] = []
    match facts.place:
        case Place.LEASED:
            found.append(_leased(facts))
        case Place.IN_DOUBT:
            found.append(_in_doubt(facts))
        case Place.SCHEDULED | Place.DEFERRED:
            found += [*_time(facts), *_closed(facts)]
        case Place.READY:
            found += [*_closed(facts), *_throttled(facts)] or [_queue(facts)]
        case Place.SETTLED:
            pass
    if facts.dead is not None:
        found.append(_dead(facts, facts.dead))
    return found


def _leased(facts: Facts) -> Gate:
    if not facts.holder:
        words = "leased by an instance that is gone; any other takes it over when the lease ends"
    else:
        words = f"leased by instance {facts.holder}, which is sending it and renews the lease while it does"
    return Gate(name="leased", words=words, until=facts.lease_until)


def _in_doubt(facts: Facts) -> Gate:
    doubt = facts.doubt
    where = f" by {doubt.provider}" if doubt and doubt.provider else ""
    why = f": {doubt.detail}" if doubt and doubt.detail else ""
    return Gate(
        name="in_doubt",
        words=f"may have been accepted{where}{why}; its stream says on_uncertain = hold",
        release=f"mailerd doubt resend {facts.id}",
    )


def _dead(facts: Facts, dead: Dead) -> Gate:
    whole = facts.place is Place.SETTLED
    return Gate(
        name="dead_letter",
        words=f"{'' if whole else 'some recipients '}given up after {_count(dead.attempts, 'attempt')}: {dead.reason}",
        release=f"mailerd dead retry {facts.id}" if whole else None,
    )


def _time(facts: Facts) -> Iterator[Gate]:
    if facts.run_at is None or facts.run_at <= facts.now:
        if facts.live:
            yield Gate(name="due", words="its time has come; an instance moves it to its lane within a second")
    elif facts.place is Place.DEFERRED:
        said = f" after: {facts.last_reply}" if facts.last_reply else ""
        yield Gate(name="deferred", words=f"waits for its next attempt{said}", until=facts.run_at)
    else:
        yield Gate(name="scheduled", words="its send_at lies ahead", until=facts.run_at)


def _closed(facts: Facts) -> Iterator[Gate]:
    """What keeps its lane from being leased, the widest reason first."""
    if facts.expires_at is not None and facts.expires_at <= facts.now:
        yield Gate(name="expired", words="past its end: it will be settled as expired, not sent")
    if not facts.live:
        yield Gate(name="no_instance", words="no instance of mailerd is running", release="mailerd run")
    elif not facts.serving:
        yield Gate(
            name="unknown_stream",
            words=f"no live instance lists stream {facts.stream}; it is failed after an hour in which none did",
            until=facts.created_at + _UNKNOWN_STREAM_AFTER,
        )
    mine = {("stream", facts.stream), ("domain", facts.domain), ("domain", facts.group), ("campaign", facts.campaign)}
    for pause in facts.pauses:
        if (pause.kind, pause.name) in mine:
            yield _paused(pause)
    yield from _providers(facts)


def _paused(pause: Pause) -> Gate:
    why = f": {pause.reason}" if pause.reason else ""
    return Gate(
        name=f"{pause.kind}_paused",
        words=f"{pause.kind} {pause.name} was paused by {pause.actor} at {pause.at:%Y-%m-%d %H:%M} UTC{why}",
        release=f"mailerd resume {shlex.quote(f'{pause.kind}:{pause.name}')}",
    )


def _providers(facts: Facts) -> Iterator[Gate]:
    """A gate only if no provider of the stream takes mail; else mail flows through the others."""
    found: list[Gate] = []
    paused = {pause.name: pause for pause in facts.pauses if pause.kind == "provider"}
    for provider in facts.providers:
        seen = [b for b in facts.breakers if b.provider == provider]
        pause = paused.get(provider) or paused.get(base_of(provider))
        if pause is not None:
            found.append(_paused(pause))
        elif seen and all(b.state == "open" for b in seen):
            soonest = min((b.until for b in seen if b.until is not None), default=None)
            reason = next((b.reason for b in seen if b.reason), None)
            found.append(
                Gate(
                    name="provider_down",
                    words=f"provider {provider} is not used for now{f': {reason}' if reason else ''}",
                    until=soonest,
                )
            )
        else:
            return
    yield from found


def _throttled(facts: Facts) -> Iterator[Gate]:
    """The limits that have no token now, the slowest first. A limit that has some holds nobody."""
    short = [throttle for throttle in facts.throttles if throttle.opens is not None or throttle.stopped]
    ahead = facts.ahead + facts.beside
    more = "more than " if facts.ahead >= AHEAD_LIMIT or facts.beside >= AHEAD_LIMIT else ""
    for throttle in sorted(short, key=lambda t: t.rate):
        by = f", set by {throttle.source}" if throttle.source else ""
        why = f": {throttle.reason}" if throttle.reason else ""
        words = f"{throttle.key} is limited to {throttle.words}{by}{why}"
        if ahead:
            words += f"; {more}{_count(ahead, 'message')} ahead of it or beside it"
        until = throttle.opens
        if throttle.rate and until is not None:
            # Lanes take turns: at worst everything that waits beside it goes first.
            until += timedelta(seconds=min(ahead / throttle.rate, _LONGEST))
        release: str | None = None
        if throttle.source == WARMUP:
            pass  # the day ends; no command makes receivers trust an address
        elif throttle.source:
            release = f"mailerd throttle clear {shlex.quote(throttle.key)}"
        elif throttle.rate:
            release = f"mailerd throttle set {shlex.quote(throttle.key)} RATE"
        yield Gate(name="lane_paused" if throttle.stopped else "throttled", words=words, until=until, release=release)


def _queue(facts: Facts) -> Gate:
    more = "more than " if facts.ahead >= AHEAD_LIMIT else ""
    words = f"{more}{_count(facts.ahead, 'message')} ahead of it in its lane" if facts.ahead else "next in its lane"
    if facts.urgent_ahead:
        more = "more than " if facts.urgent_ahead >= AHEAD_LIMIT else ""
        words += f", {more}{facts.urgent_ahead} more urgent in its stream"
    if facts.leases:
        words += f"; leased {_count(facts.leases, 'time')} without an end (at 10 it is given up)"
    return Gate(name="queue", words=words)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
