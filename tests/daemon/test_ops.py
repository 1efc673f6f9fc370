"""The operations endpoint over real HTTP, the metrics behind it, and the words to systemd on a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mailerd.smtp.timing import Timing
from mailerd.store.overview import Instance, Overview, Partitions, Pause, Provider, Stream
from mailerd.web.health import Health
from mailerd.web.metrics import BOUNDS, SERIES, LatencyHistogram, Metrics
from mailerd.web.notify import Notifier, watchdog_interval
from mailerd.web.ops import OpsServer, PortTaken
from mailerd.web.throughput import Throughput

# Names and labels that dashboards rely on.
CONTRACT = {
    "mailerd_messages": {"stream", "provider", "outcome"},
    "mailerd_send_duration_seconds": {"provider", "phase"},
    "mailerd_enqueue_to_sent_seconds": {"stream"},
    "mailerd_queue_messages": {"stream", "state"},
    "mailerd_queue_oldest_ready_seconds": {"stream"},
    "mailerd_leases": set(),
    "mailerd_lease_expired": set(),
    "mailerd_fenced": set(),
    "mailerd_retries": {"provider", "class"},
    "mailerd_connections": {"provider", "state"},
    "mailerd_throttle_wait_seconds": {"bucket_kind"},
    "mailerd_events": {"type"},
    "mailerd_clipped": {"stream", "template"},
    "mailerd_event_loop_lag_seconds": set(),
    "mailerd_config_reload_success": set(),
    "mailerd_build_info": {"version", "python"},
}


@pytest.fixture
def health() -> Health:
    health = Health()
    for name in ("database", "schema", "config", "partitions"):
        health.set(name, True)
    return health


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.sent("transactional", "relay", "sent", 3)
    metrics.sent("transactional", "relay", "deferred")
    metrics.enqueue_to_sent("transactional").observe_all([0.004, 0.2, 5000, -1])
    timing = Timing()
    timing.observe(0.02)
    metrics.phases({("relay", "dot"): timing})
    metrics.queue([("transactional", "ready", 7, 1.5), ("transactional", "leased", 2, 0.0)])
    metrics.leased(5)
    metrics.lease_expired(1)
    metrics.fenced(2)
    metrics.clipped({("news", "digest"): 4})
    metrics.retried("relay", "greylist")
    metrics.connections("relay", {"busy": 2, "idle": 1})
    metrics.throttle_wait("provider", 0.5)
    metrics.event("sent", 3)
    metrics.loop_lag(0.03)
    return metrics


@pytest.fixture
async def ops(health: Health, metrics: Metrics) -> AsyncIterator[OpsServer]:
    server = OpsServer("127.0.0.1:0", health, metrics)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(ops: OpsServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(ops.url) as session:
        yield session


async def get(client: aiohttp.ClientSession, path: str, **headers: str) -> tuple[int, str]:
    async with client.get(path, headers=headers) as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Python" not in response.headers["Server"]
        return response.status, await response.text()


async def test_ready_while_every_check_is_good(client: aiohttp.ClientSession, health: Health) -> None:
    for path in ("/readyz", "/healthz"):
        assert await get(client, path) == (200, "ok\n")
    health.set("database", False, "no answer from Postgres in time")
    for path in ("/readyz", "/healthz"):
        assert await get(client, path) == (503, "database: no answer from Postgres in time\n")
    assert await get(client, "/livez") == (200, "ok\n"), "a dead database is no reason to restart us"
    health.set("database", True)
    health.draining = True
    assert await get(client, "/readyz") == (503, "draining\n")


async def test_not_ready_before_the_checks_were_made() -> None:
    assert not Health().ready
    assert len(Health().problems()) == 4


async def test_verbose_and_json(client: aiohttp.ClientSession, health: Health) -> None:
    health.set("partitions", False, "tomorrow's are missing")
    status, text = await get(client, "/readyz?verbose")
    assert status == 503
    assert "[+] database: ok" in text
    assert "[-] partitions: tomorrow's are missing" in text
    status, text = await get(client, "/readyz", Accept="application/json")
    assert status == 503
    answer = json.loads(text)
    assert answer["ready"] is False
    assert answer["checks"]["partitions"] == {"ok": False, "detail": "tomorrow's are missing"}


async def test_metrics_have_the_names_and_labels_of_the_contract(client: aiohttp.ClientSession) -> None:
    status, text = await get(client, "/metrics")
    assert status == 200
    families = {family.name: family for family in parse_text(text)}
    for name, labels in CONTRACT.items():
        assert families[name].samples, name
        for sample in families[name].samples:
            assert set(sample.labels) - {"le"} == labels, sample
    values = {(s.name, *sorted(s.labels.values())): s.value for f in families.values() for s in f.samples}
    assert values["mailerd_messages_total", "relay", "sent", "transactional"] == 3
    assert values["mailerd_queue_messages", "ready", "transactional"] == 7
    assert values["mailerd_queue_oldest_ready_seconds", "transactional"] == 1.5
    assert values["mailerd_lease_expired_total",] == 1
    assert values["mailerd_fenced_total",] == 2
    assert values["mailerd_throttle_wait_seconds_total", "provider"] == 0.5
    assert values["mailerd_event_loop_lag_seconds",] == 0.03
    assert values["mailerd_enqueue_to_sent_seconds_count", "transactional"] == 4
    assert values["mailerd_enqueue_to_sent_seconds_bucket", "0.001", "transactional"] == 1, "a clock that ran ahead"
    assert values["mailerd_enqueue_to_sent_seconds_bucket", "3600.0", "transactional"] == 3
    assert values["mailerd_send_duration_seconds_count", "dot", "relay"] == 1
    assert "process_resident_memory_bytes" in families


async def test_openmetrics_by_accept(client: aiohttp.ClientSession) -> None:
    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    async with client.get("/metrics", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        text = await response.text()
    assert text.endswith("# EOF\n")
    assert set(CONTRACT) <= {family.name for family in parse_openmetrics(text)}


async def test_a_name_that_applications_invent_cannot_flood_the_labels(metrics: Metrics) -> None:
    metrics.queue((f"stream{i}", "ready", 1, 0.0) for i in range(3 * SERIES))
    for i in range(3 * SERIES):
        metrics.sent(f"stream{i}", "relay", "sent")
    families = {family.name: family for family in parse_text(metrics.render()[0].decode())}
    for name in ("mailerd_queue_messages", "mailerd_messages"):
        samples = families[name].samples
        assert len(samples) <= SERIES + 1
        assert sum(s.value for s in samples) >= 3 * SERIES
    assert len(families["mailerd_queue_oldest_ready_seconds"].samples) <= SERIES


def test_counting_costs_the_hot_path_next_to_nothing() -> None:
    histogram, metrics = LatencyHistogram(), Metrics()
    started = time.process_time()
    for _ in range(50_000):
        histogram.observe(0.02)
        metrics.sent("transactional", "relay", "sent")
    assert (time.process_time() - started) / 50_000 < 5e-6  # 0.5 µs here; the rest is for slow machines
    buckets, total = histogram.cumulative()
    assert dict(buckets)["0.025"] == 50_000
    assert dict(buckets)["0.01"] == 0
    assert total == pytest.approx(1000)
    assert len(buckets) == len(BOUNDS) + 1


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8025", "localhost.evil.example", "127.0.0.1.evil.example"]
)
async def test_a_foreign_host_name_is_refused_on_the_loopback(client: aiohttp.ClientSession, host: str) -> None:
    assert (await get(client, "/metrics", Host=host))[0] == 421


@pytest.mark.parametrize("host", ["localhost:8025", "127.0.0.1", "[::1]:8025", "mail.localhost", socket.gethostname()])
async def test_our_own_names_are_answered(client: aiohttp.ClientSession, host: str) -> None:
    assert (await get(client, "/livez", Host=host))[0] == 200


async def test_on_an_open_address_any_name_is_answered(health: Health, metrics: Metrics) -> None:
    server = OpsServer("0.0.0.0:0", health, metrics)
    await server.start()
    try:
        async with aiohttp.ClientSession(server.url) as session:
            assert (await get(session, "/livez", Host="mailerd.internal"))[0] == 200
    finally:
        await server.stop()


async def test_nothing_else_is_there_and_nothing_can_be_posted(client: aiohttp.ClientSession) -> None:
    assert (await get(client, "/nothing"))[0] == 404
    async with client.post("/readyz") as response:
        assert response.status == 405
    async with client.head("/livez") as response:
        assert response.status == 200


async def test_a_taken_port_is_one_line_that_says_what_to_do(health: Health, metrics: Metrics) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as refused:
            await OpsServer(f"127.0.0.1:{port}", health, metrics).start()
    assert str(refused.value) == f"port {port} on 127.0.0.1 is taken: change ops.listen"
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1 is no address of this machine: change ops\.listen"):
        await OpsServer("192.0.2.1:8025", health, metrics).start()


async def test_off_and_stop(health: Health, metrics: Metrics) -> None:
    silent = OpsServer("off", health, metrics)
    await silent.start()
    assert silent.url is None
    await silent.stop()
    server = OpsServer("127.0.0.1:0", health, metrics)
    await server.start()
    assert server.address is not None
    address = server.address
    await server.stop()
    with pytest.raises(OSError):
        await asyncio.open_connection(*address)


class _Page(HTMLParser):
    """Collects what a browser would fetch, run and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def overview() -> Overview:
    now = datetime.now(UTC)
    return Overview(
        at=now,
        measured_at=now - timedelta(seconds=7),
        streams=[Stream(name="marketing", ready=1_204_332, oldest_ready_seconds=5400, dead=77, live=True, paused=True)],
        providers=[Provider(name="relay", state="open", connections=0, reason="421 <script>alert(1)</script> & 'x'")],
        instances=[
            Instance(
                id=1, name="mail-1", pid=1, version="0", state="running", streams=["marketing"], providers=["relay"],
                started_at=now - timedelta(hours=5), seen_at=now, live=False,
            )
        ],
        paused=[Pause(kind="stream", name="marketing", at=now, actor="ann@ops1", reason="<b>bold</b>")],
        partitions=[Partitions(table="event", count=3, days_ahead=0, ok=False)],
    )  # fmt: skip


async def test_the_page_shows_everything_and_runs_nothing(client: aiohttp.ClientSession, health: Health) -> None:
    status, text = await get(client, "/")
    assert status == 200
    assert "The queue has not been read yet." in _Page(text).text
    health.overview = overview()
    async with client.get("/") as response:
        assert response.headers["Content-Type"].startswith("text/html")
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        page = _Page(await response.text())
    for words in ("marketing", "1,204,332", "90 min", "77", "paused", "421 <script>alert(1)</script> & 'x'", "mail-1", "gone",
                  "ann@ops1", "<b>bold</b>", "event: only 0 partitions ahead", "2 busy, 1 idle"):  # fmt: skip
        assert words in page.text, words
    assert not {"script", "link", "img", "iframe", "form"} & {tag for tag, _ in page.tags}
    assert not [
        name for _, attributes in page.tags for name in attributes if name in ("src", "href", "style", "onclick")
    ]
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in page.tags


def test_throughput_is_the_mean_over_what_there_is() -> None:
    throughput = Throughput()
    assert throughput.rate(60) == 0
    for i in range(200):
        throughput.sample(i * 2.0, {"a": i * 20, "b": i * 2 if i < 100 else 200})
    assert throughput.rate(60) == pytest.approx(10)
    assert throughput.rate(60, "a") == pytest.approx(10)
    assert throughput.rate(60, "b") == 0
    assert throughput.rate(300, "a") == pytest.approx(10)
    assert throughput.rate(60, "unknown") == 0
    assert len(throughput.series()) == 150
    assert max(throughput.series()) == pytest.approx(11)


# systemd.


@pytest.fixture(params=["path", "abstract"])
def notify_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@mailerd-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(2)
        yield name, receiver


def test_systemd_hears_one_datagram_a_call(notify_socket: tuple[str, socket.socket]) -> None:
    name, receiver = notify_socket
    notifier = Notifier({"NOTIFY_SOCKET": name})
    assert notifier.active

    def heard() -> dict[str, str]:
        return dict(line.split("=", 1) for line in receiver.recv(4096).decode().split("\n"))

    notifier.ready("2 streams")
    assert heard() == {"READY": "1", "STATUS": "2 streams"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    reloading = heard()
    assert reloading["RELOADING"] == "1"
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.stopping("draining")
    assert heard() == {"STOPPING": "1", "STATUS": "draining"}
    notifier.status("8,400/s\nREADY=1")
    assert heard() == {"STATUS": "8,400/s READY=1"}, "a line break would be another assignment"
    notifier.watchdog()
    assert heard() == {"WATCHDOG": "1"}
    notifier.extend(1.5)
    assert heard() == {"EXTEND_TIMEOUT_USEC": "1500000"}
    receiver.close()
    notifier.watchdog()  # nobody listens any more: no error
    notifier.close()


def test_without_systemd_nothing_happens() -> None:
    for env in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}):
        notifier = Notifier(env)
        notifier.ready()
        notifier.close()
    assert not Notifier({}).active


def test_the_watchdog_is_fed_at_half_its_limit_and_only_by_its_process() -> None:
    assert watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 15
    assert watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15
    assert watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval({}) is None
    assert watchdog_interval({"WATCHDOG_USEC": "soon"}) is None
    assert watchdog_interval({"WATCHDOG_USEC": "0"}) is None


def test_progress_feeds_and_a_stall_starves() -> None:
    health = Health()
    health.progress()
    assert not health.stalled(5)
    time.sleep(0.02)
    assert health.stalled(0.01)


def test_one_stuck_stream_starves_the_watchdog_whatever_the_others_do() -> None:
    health = Health()
    health.progress("stuck")
    time.sleep(0.02)
    health.progress("busy")
    assert health.stalled(0.01)
    health.forget("stuck")
    assert not health.stalled(5)
