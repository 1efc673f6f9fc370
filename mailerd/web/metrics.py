"""The metrics of one instance: counted in plain dicts and lists, turned into Prometheus families at a scrape.

The hot path adds to a dict or a list, 0.2 µs a call and without a lock; prometheus_client's own children take a mutex
and cost several times that. `Metrics` names every metric that the daemon may touch, so names and labels exist once.
It never queries anything: queue figures are handed to it, and a scrape reads what is there.

Hazards: one thread (the event loop's) writes; a scrape may read in another thread, and takes copies. Labels are names
from the configuration or from our own enumerations; what an application may invent (`stream`) is cut off at
`SERIES` label sets, the rest is counted under `other`.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mailerd import __version__
from mailerd.smtp.timing import BOUNDS as PHASE_BOUNDS
from mailerd.smtp.timing import Timing

__all__ = ["BOUNDS", "SERIES", "LatencyHistogram", "Metrics"]

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Upper bounds in seconds: from a pipelined reply on the loopback to a grey-listing hour."""

SERIES: Final = 1000
_LAG_WINDOW: Final = 15.0  # seconds, a usual scrape interval: a peak is seen by at least one scrape
_LE: Final = (*(repr(float(bound)) for bound in BOUNDS), "+Inf")  # OpenMetrics wants canonical numbers

Labels = tuple[str, ...]


class LatencyHistogram:
    """Counts of durations by `BOUNDS`. Keep the child that `Metrics` gives and call `observe` on it."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Adds one duration. A negative one (two machines' clocks) counts as 0."""
        if seconds < 0.0:
            seconds = 0.0
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def observe_all(self, durations: Iterable[float]) -> None:
        """Adds a batch."""
        counts = self._counts
        for seconds in durations:
            if seconds < 0.0:
                seconds = 0.0
            counts[bisect_left(BOUNDS, seconds)] += 1
            self._sum += seconds

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """(upper bound, durations up to it) for each bound, and the sum of all."""
        total, buckets = 0, []
        for le, count in zip(_LE, list(self._counts), strict=True):
            total += count
            buckets.append((le, float(total)))
        return buckets, self._sum


class _Counters(dict[Labels, float]):
    """Label values to a number; at most `SERIES` of them."""

    def add(self, labels: Labels, count: float) -> None:
        if labels in self:
            self[labels] += count
        else:
            labels = _bounded(labels, len(self))
            self[labels] = self.get(labels, 0) + count


class _Histograms(dict[Labels, LatencyHistogram]):
    def child(self, labels: Labels) -> LatencyHistogram:
        found = self.get(labels)
        return found if found is not None else self.setdefault(_bounded(labels, len(self)), LatencyHistogram())


def _bounded(labels: Labels, known: int) -> Labels:
    return labels if known < SERIES else ("other",) * len(labels)


class Metrics(Collector):
    """Everything that one instance counts. Methods are for the event loop's thread; `render` for any."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._messages = _Counters()
        self._retries = _Counters()
        self._events = _Counters()
        self._webhooks = _Counters()
        self._rates: dict[Labels, float] = {}
        self._alerts: dict[Labels, float] = {}
        self._throttle_wait = _Counters()
        self._inbound = _Counters()
        self._inbound_stored = _Counters()
        self._inbound_refused = _Counters()
        self._leases = self._lease_expired = self._fenced = 0
        self._enqueue_to_sent = _Histograms()
        self._phases: dict[tuple[str, str], Timing] = {}
        self._statements: dict[Labels, Timing] = {}
        self._queue: dict[Labels, float] = {}
        self._oldest: dict[Labels, float] = {}
        self._connections: dict[str, dict[str, int]] = {}
        self._reload_success = 1
        self._lag = [0.0, 0.0]  # the worst of this window and of the one before
        self._lag_turn = self.started
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    # What the daemon says.

    def sent(self, stream: str, provider: str, outcome: str, count: int = 1) -> None:
        """`count` recipients came to `outcome` (an `OutcomeKind`) at `provider` ('' when none was asked)."""
        self._messages.add((stream, provider, outcome), count)

    def enqueue_to_sent(self, stream: str) -> LatencyHistogram:
        """The histogram of seconds from the insert to the provider's acceptance. Keep it."""
        return self._enqueue_to_sent.child((stream,))

    def phases(self, timings: Mapping[tuple[str, str], Timing]) -> None:
        """Replaces the durations by (provider, phase) that connections have measured."""
        self._phases = dict(timings)

    def statement(self, name: str) -> Timing:
        """The durations of a statement (`lease`, `settle`, `renew`, `intend`), round trip included. Keep it."""
        return self._statements.setdefault((name,), Timing())

    def leased(self, count: int) -> None:
        """Messages were leased."""
        self._leases += count

    def lease_expired(self, count: int) -> None:
        """Messages were leased whose earlier lease had run out without a settle."""
        self._lease_expired += count

    def fenced(self, count: int) -> None:
        """Settles found that their lease had gone to somebody else."""
        self._fenced += count

    def retried(self, provider: str, category: str, count: int = 1) -> None:
        """Messages were put off after a temporary failure of this class."""
        self._retries.add((provider, category), count)

    def event(self, type: str, count: int = 1) -> None:  # noqa: A002 (the label's public name)
        """Events were written."""
        self._events.add((type,), count)

    def webhook(self, name: str, outcome: str) -> None:
        """A request to a webhook was `delivered`, or has `failed`."""
        self._webhooks.add((name, outcome), 1)

    def rates(self, shares: Iterable[tuple[Labels, float]], alerts: Iterable[Labels]) -> None:
        """Replaces the shares by (rate, window, stream, provider, group), and the alerts by (stream, kind, level)."""
        self._rates = {}
        for labels, share in shares:
            if len(self._rates) < SERIES:
                self._rates[labels] = share
        self._alerts = dict.fromkeys(alerts, 1.0)

    def throttle_wait(self, kind: str, seconds: float) -> None:
        """A lane with messages waited this long for a bucket of `kind` (provider, pool, domain, stream)."""
        self._throttle_wait.add((kind,), seconds)

    def inbound(self, source: str, kind: str) -> None:
        """A mail that came back was read, and is of this kind."""
        self._inbound.add((_way(source), kind), 1)

    def inbound_stored(self, source: str) -> None:
        """A mail that came back was stored."""
        self._inbound_stored.add((_way(source),), 1)

    def inbound_refused(self, reason: str) -> None:
        """A recipient, a connection or a mail was not taken."""
        self._inbound_refused.add((reason,), 1)

    def queue(self, rows: Iterable[tuple[str, str, int, float]]) -> None:
        """Replaces the queue's figures: (stream, state, messages, age in seconds of the oldest)."""
        queue, oldest = _Counters(), _Counters()
        for stream, state, messages, seconds in rows:
            queue.add((stream, state), messages)
            if state == "ready" and len(oldest) < SERIES:
                oldest[(stream,)] = seconds
        self._queue, self._oldest = queue, oldest

    def connections(self, provider: str, counts: Mapping[str, int]) -> None:
        """Replaces a provider's connections by state (`busy`, `idle`, `connecting`)."""
        self._connections[provider] = dict(counts)

    def loop_lag(self, seconds: float) -> None:
        """A timer of the event loop came this much too late."""
        self._turn_lag()
        self._lag[0] = max(self._lag[0], seconds)

    def reload(self, success: bool) -> None:
        """The configuration was read, or could not be."""
        self._reload_success = int(success)

    # What pages and tests read.

    def outcomes(self) -> dict[tuple[str, str, str], int]:
        """Recipients so far by (stream, provider, outcome)."""
        return {(k[0], k[1], k[2]): int(v) for k, v in list(self._messages.items())}

    def connection_counts(self) -> dict[str, dict[str, int]]:
        """Connections by provider and state."""
        return dict(self._connections)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics if `accept` asks for it, else Prometheus text."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering needs no first collection."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families of this moment, for the registry."""
        yield _counter("mailerd_messages", "Recipients by outcome.", ("stream", "provider", "outcome"), self._messages)
        yield _timings("mailerd_send_duration_seconds", "Time a phase took.", ("provider", "phase"), self._phases)
        yield _timings(
            "mailerd_statement_seconds", "Time a statement took in Postgres.", ("statement",), self._statements
        )
        yield _histogram(
            "mailerd_enqueue_to_sent_seconds", "From insert to acceptance.", ("stream",), self._enqueue_to_sent
        )
        yield _gauge("mailerd_queue_messages", "Messages waiting.", ("stream", "state"), self._queue)
        yield _gauge("mailerd_queue_oldest_ready_seconds", "Age of the oldest ready one.", ("stream",), self._oldest)
        yield _counter("mailerd_leases", "Messages leased.", (), {(): self._leases})
        yield _counter("mailerd_lease_expired", "Leases that ran out unsettled.", (), {(): self._lease_expired})
        yield _counter("mailerd_fenced", "Settles whose lease another had taken.", (), {(): self._fenced})
        yield _counter("mailerd_retries", "Messages put off.", ("provider", "class"), self._retries)
        yield _gauge(
            "mailerd_connections",
            "Connections open.",
            ("provider", "state"),
            {(p, s): n for p, states in list(self._connections.items()) for s, n in states.items()},
        )
        yield _counter(
            "mailerd_throttle_wait_seconds", "Time lanes waited for tokens.", ("bucket_kind",), self._throttle_wait
        )
        yield _counter("mailerd_events", "Events written.", ("type",), self._events)
        yield _counter("mailerd_inbound_stored", "Mails that came back.", ("source",), self._inbound_stored)
        yield _counter("mailerd_inbound_read", "Mails that came back, by kind.", ("source", "kind"), self._inbound)
        yield _counter("mailerd_inbound_refused", "What was not taken, by reason.", ("reason",), self._inbound_refused)
        yield _counter("mailerd_webhook_requests", "Webhook requests.", ("webhook", "outcome"), self._webhooks)
        yield _gauge(
            "mailerd_event_rate_ratio",
            "Shares of what was sent: bounced, complained, opened, …",
            ("rate", "window", "stream", "provider", "group"),
            self._rates,
        )
        yield _gauge("mailerd_alert", "Always 1: this alert stands.", ("stream", "kind", "level"), self._alerts)
        self._turn_lag()
        yield _gauge("mailerd_event_loop_lag_seconds", "Worst delay of a timer lately.", (), {(): max(self._lag)})
        yield _gauge(
            "mailerd_config_reload_success", "Whether the last (re)load worked.", (), {(): self._reload_success}
        )
        yield _gauge("mailerd_build_info", "Always 1.", ("version", "python"), {(__version__, _PYTHON): 1})

    def _turn_lag(self) -> None:
        windows = int((time.monotonic() - self._lag_turn) / _LAG_WINDOW)
        if windows:
            self._lag = [0.0, self._lag[0] if windows == 1 else 0.0]
            self._lag_turn += windows * _LAG_WINDOW


def _way(source: str) -> str:
    """listen, maildir or imap."""
    return source.partition(":")[0]


_PYTHON: Final = platform.python_version()


def _counter(name: str, help: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:  # noqa: A002
    family = CounterMetricFamily(name, help, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, value)
    return family


def _gauge(name: str, help: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:  # noqa: A002
    family = GaugeMetricFamily(name, help, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, value)
    return family


def _histogram(name: str, help: str, labels: Labels, values: Mapping[Labels, LatencyHistogram]) -> Metric:  # noqa: A002
    family = HistogramMetricFamily(name, help, labels=labels)
    for key, histogram in list(values.items()):
        buckets, total = histogram.cumulative()
        family.add_metric(key, buckets, total)
    return family


def _timings(name: str, help: str, labels: Labels, values: Mapping[Any, Timing]) -> Metric:  # noqa: A002
    family = HistogramMetricFamily(name, help, labels=labels)
    for key, timing in list(values.items()):
        total, buckets = 0, []
        for le, count in zip(
            (*(repr(float(bound)) for bound in PHASE_BOUNDS), "+Inf"), list(timing.counts), strict=True
        ):
            total += count
            buckets.append((le, float(total)))
        family.add_metric(key, buckets, timing.total)
    return family
