"""What the public listener counts: requests, webhooks, opens and clicks, and what it had to refuse or drop.

A collector of its own beside `Metrics`, on the same registry. Hot paths add to a dict. Labels are routes, statuses, names
from the configuration and words of ours: never a path, an address or a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Traffic"]


class Traffic(Collector):
    """Counters; `gauges` gives figures of the moment by name."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.responses: dict[int, int] = {}
        self.visits: dict[tuple[str, str], int] = {}  # (route, result)
        self.webhooks: dict[tuple[str, str], int] = {}  # (provider, result)
        self.reports: dict[tuple[str, str], int] = {}  # (provider, type of feedback)
        self.gauges: Callable[[], dict[str, float]] = dict
        if registry is not None:
            registry.register(self)

    def response(self, status: int) -> None:
        """An answer left."""
        self.responses[status] = self.responses.get(status, 0) + 1

    def visit(self, route: str, result: str) -> None:
        """A pixel, link or page was asked for: `person`, `bot`, `invalid`, `limited`, `dropped`, `unsubscribed` …"""
        key = (route, result)
        self.visits[key] = self.visits.get(key, 0) + 1

    def webhook(self, provider: str, result: str, count: int = 1) -> None:
        """Webhook requests: `stored`, `refused`, `overload`, `unavailable`, `read`, `unreadable`."""
        key = (provider, result)
        self.webhooks[key] = self.webhooks.get(key, 0) + count

    def report(self, provider: str, type: str) -> None:  # noqa: A002 (the label's public name)
        """A webhook's request reported this."""
        key = (provider, type)
        self.reports[key] = self.reports.get(key, 0) + 1

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering needs no first collection."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        responses = CounterMetricFamily("mailerd_public_responses", "Answers by status.", labels=("status",))
        for status, count in sorted(self.responses.items()):
            responses.add_metric((str(status),), count)
        yield responses
        for name, help_, labels, counts in (
            ("mailerd_visits", "Pixels, links and pages asked for.", ("route", "result"), self.visits),
            ("mailerd_webhooks", "Webhook requests.", ("provider", "result"), self.webhooks),
            ("mailerd_webhook_reports", "What webhooks reported.", ("provider", "type"), self.reports),
        ):
            family = CounterMetricFamily(name, help_, labels=labels)
            for key, count in list(counts.items()):
                family.add_metric(key, count)
            yield family
        for name, value in self.gauges().items():
            gauge = GaugeMetricFamily(f"mailerd_public_{name}", "The public listener's " + name.replace("_", " ") + ".")
            gauge.add_metric((), value)
            yield gauge
