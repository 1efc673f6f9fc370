"""What `status` prints once and `top` over and over: an overview as panels, each a heading, columns and rows.

Pure. Nothing is cut or coloured here; cells hold the words of strangers, which `output` makes visible where it prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from mailerd.cli.times import ago, span
from mailerd.config.values import show_rate
from mailerd.store.overview import Overview, Stream
from mailerd.store.throttle import Listed

__all__ = ["Panel", "panels"]


class Panel(msgspec.Struct, frozen=True):
    """One table. `right`: columns that are aligned right. `none`: what to say where it has no row."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    right: Sequence[str] = ()
    none: str = "none"


def panels(found: Overview, waits: Mapping[int, str], rates: Sequence[Listed]) -> Iterator[Panel]:
    """Streams, the longest lanes (`waits`: for what, by number), limits that hold for now, providers, instances, and what
    is paused; those that say nothing when they are empty are left out."""
    yield _streams(found)
    if found.lanes:
        yield _lanes(found, waits)
    if rates:
        yield _rates(found, rates)
    yield _providers(found)
    yield _instances(found)
    if found.paused:
        yield _paused(found)


def _streams(found: Overview) -> Panel:
    measured = found.measured_at
    when = "now" if measured == found.at else ago(measured, found.at) if measured else ""
    notes = any(_note(stream) for stream in found.streams)
    return Panel(
        f"streams, counted {when}" if when else "streams, never counted",
        ("STREAM", "READY", "OLDEST", "LEASED", "SCHEDULED", "DEFERRED", "DOUBT", "DEAD", *(["NOTE"] if notes else [])),
        [
            (
                stream.name,
                stream.ready,
                span(stream.oldest_ready_seconds) if stream.ready else None,
                stream.leased,
                stream.scheduled,
                stream.deferred,
                stream.in_doubt,
                stream.dead,
                *([_note(stream)] if notes else []),
            )
            for stream in found.streams
        ],
        right=("READY", "OLDEST", "LEASED", "SCHEDULED", "DEFERRED", "DOUBT", "DEAD"),
    )


def _note(stream: Stream) -> str:
    return "paused" if stream.paused else "" if stream.live else "no instance"


def _lanes(found: Overview, waits: Mapping[int, str]) -> Panel:
    return Panel(
        "longest lanes" + (", estimated" if found.sampled else ""),
        ("MESSAGES", "STREAM", "PRIORITY", "DOMAIN", "CAMPAIGN", *(["WAITS FOR"] if waits else [])),
        [
            (
                lane.messages,
                lane.stream,
                lane.priority,
                lane.domain,
                lane.campaign or None,
                *([waits.get(number)] if waits else []),
            )
            for number, lane in enumerate(found.lanes)
        ],
        right=("MESSAGES", "PRIORITY"),
    )


def _rates(found: Overview, rates: Sequence[Listed]) -> Panel:
    return Panel(
        "limits that hold for now",
        ("LIMIT", "RATE", "BY", "UNTIL", "REASON"),
        [
            (r.key, show_rate(r.rate) if r.rate else "stopped", r.source, _when(r.until, found.at), r.reason)
            for r in rates
        ],
        right=("RATE",),
    )


def _providers(found: Overview) -> Panel:
    return Panel(
        "providers",
        ("PROVIDER", "STATE", "CONNECTIONS", "UNTIL", "REASON"),
        [
            (p.name, "paused" if p.paused else p.state, p.connections, _when(p.until, found.at), p.reason or None)
            for p in found.providers
        ],
        right=("CONNECTIONS",),
    )


def _instances(found: Overview) -> Panel:
    return Panel(
        "instances",
        ("INSTANCE", "STATE", "PID", "VERSION", "UP", "SEEN", "STREAMS"),
        [
            (
                instance.name,
                instance.state if instance.live else "gone",
                str(instance.pid),
                instance.version,
                span((instance.seen_at - instance.started_at).total_seconds()),
                ago(instance.seen_at, found.at),
                ", ".join(instance.streams),
            )
            for instance in found.instances
        ],
        right=("PID",),
        none="none is running: start one with `mailerd run`",
    )


def _paused(found: Overview) -> Panel:
    return Panel(
        "paused",
        ("WHAT", "SINCE", "BY", "REASON"),
        [(f"{p.kind}:{p.name}", ago(p.at, found.at), p.actor, p.reason) for p in found.paused],
    )


def _when(until: datetime | None, now: datetime) -> str | None:
    return ago(until, now) if until is not None and until > now else None
