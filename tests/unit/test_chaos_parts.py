"""What chaos is made with: proxy, saboteur, standby, bouncer, small disk. Real sockets and processes, a real Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import asyncpg
import pytest

from mailerd.bench.chaos import proxy as proxying
from mailerd.bench.chaos.bouncer import Bouncer
from mailerd.bench.chaos.disk import SmallDisk
from mailerd.bench.chaos.nothere import NotHere
from mailerd.bench.chaos.proxy import Proxy
from mailerd.bench.child import ChildFailed
from mailerd.bench.postgres import Postgres
from mailerd.config.base import Duration
from mailerd.config.load import parse
from mailerd.config.model import Database
from mailerd.store.database import Session, Unavailable


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def before(handler: Handler, folder: Path) -> AsyncIterator[Proxy]:
    """A proxy before a server that does this with each connection."""
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    started = Proxy(("127.0.0.1", server.sockets[0].getsockname()[1]), folder / "log", seed=1)
    try:
        yield started
    finally:
        await asyncio.to_thread(started.stop)  # the server sees the end of its connections
        server.close()
        if served:
            await asyncio.wait(served, timeout=5)
        await asyncio.sleep(0)


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with before(_echo, tmp_path) as started:
        yield started


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[Proxy], Awaitable[Ends]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[Ends] = []

    async def one(proxy: Proxy) -> Ends:
        opened.append(await asyncio.open_connection("127.0.0.1", proxy.port))
        return opened[-1]

    yield one
    for _, writer in opened:
        writer.transport.abort()
    await asyncio.sleep(0)


async def echoed(ends: Ends, data: bytes) -> bytes:
    ends[1].write(data)
    return await asyncio.wait_for(ends[0].readexactly(len(data)), 5)


async def silent(ends: Ends, data: bytes) -> bool:
    """Says it, and hears nothing: no answer and no end."""
    ends[1].write(data)
    try:
        await asyncio.wait_for(ends[0].read(1), 0.15)
    except TimeoutError:
        return True
    return False


async def test_proxy_passes_and_counts(proxy: Proxy, connect: Connect) -> None:
    first, second = await connect(proxy), await connect(proxy)
    assert await echoed(first, b"x" * 300_000) == b"x" * 300_000
    assert await echoed(second, b"hello") == b"hello"
    assert proxy.counts() == (2, 2, 2, 600_010)


async def test_proxy_cuts_by_reset_and_refuses(proxy: Proxy, connect: Connect) -> None:
    ends = await connect(proxy)
    await echoed(ends, b"a")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(ends[0].read(), 5)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    proxy.freeze()
    assert await silent(await connect(proxy), b"b")
    proxy.cut()
    proxy.heal()
    assert await echoed(await connect(proxy), b"c") == b"c"


async def test_proxy_freezes_for_ever(proxy: Proxy, connect: Connect) -> None:
    before = await connect(proxy)
    await echoed(before, b"a")
    proxy.freeze()
    during = await connect(proxy)
    assert await silent(before, b"b")
    assert await silent(during, b"c")
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(before[0].read(), 5)
    assert await echoed(await connect(proxy), b"d") == b"d"


async def test_proxy_freezes_what_is_being_connected(tmp_path: Path, connect: Connect) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await reader.read()

    async with before(greet, tmp_path) as proxy:
        proxy.slow(0.1)
        ends = await connect(proxy)
        await asyncio.sleep(0.02)
        proxy.freeze()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ends[0].read(1), 0.4)


async def test_proxy_loses_answers_that_are_on_their_way(proxy: Proxy, connect: Connect) -> None:
    ends = await connect(proxy)
    await echoed(ends, b"a")
    proxy.slow(0.1)
    ends[1].write(b"b")
    await asyncio.sleep(0.15)  # it is there; its answer is not here
    proxy.deafen()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ends[0].read(1), 0.3)


async def test_proxy_deafens(proxy: Proxy, connect: Connect) -> None:
    ends = await connect(proxy)
    await echoed(ends, b"a")
    passed = proxy.counts()[3]
    proxy.deafen()
    assert await silent(ends, b"bcd")
    assert proxy.counts()[3] == passed + 3  # it arrived; the answer did not


async def test_proxy_slows_and_keeps_the_order(proxy: Proxy, connect: Connect) -> None:
    ends = await connect(proxy)
    await echoed(ends, b"a")
    proxy.slow(0.05, 0.05)
    begin = time.monotonic()
    data = b"".join(b"%06d" % number for number in range(2_000))
    for at in range(0, len(data), 600):
        ends[1].write(data[at : at + 600])
        await asyncio.sleep(0.001)
    assert await asyncio.wait_for(ends[0].readexactly(len(data)), 5) == data
    assert time.monotonic() - begin >= 0.1


async def test_proxy_ends_a_connection_behind_its_last_octets(tmp_path: Path, connect: Connect) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(40):
            writer.write(b"%02d" % number)
            await asyncio.sleep(0.002)
        writer.close()
        await writer.wait_closed()

    async with before(talk, tmp_path) as proxy:
        proxy.slow(0.02, 0.2)
        ends = await connect(proxy)
        assert await asyncio.wait_for(ends[0].read(), 5) == b"".join(b"%02d" % number for number in range(40))


async def test_proxy_keeps_to_a_rate(proxy: Proxy, connect: Connect) -> None:
    ends = await connect(proxy)
    proxy.slow(0.0, 0.0, 200_000)
    begin = time.monotonic()
    assert await echoed(ends, b"x" * 80_000) == b"x" * 80_000
    assert time.monotonic() - begin >= 0.4
    proxy.slow(0.0)
    begin = time.monotonic()
    await echoed(ends, b"y" * 80_000)
    assert time.monotonic() - begin < 0.4


async def test_proxy_holds_little_for_one_who_does_not_read(tmp_path: Path, connect: Connect) -> None:
    reads = asyncio.Event()

    async def sulk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reads.wait()
        while size := len(await reader.read(1 << 20)):
            writer.write(b"%d\n" % size)

    async with before(sulk, tmp_path) as proxy:
        reader, writer = await connect(proxy)
        whole = 64 * 2**20  # several times what the kernel's own buffers take
        writer.write(bytes(whole))
        passed = -1
        while passed != (passed := proxy.counts()[3]):
            await asyncio.sleep(0.1)
        assert 0 < passed < whole / 2
        reads.set()
        taken = 0
        while taken < whole:
            taken += int(await asyncio.wait_for(reader.readline(), 5))
        assert taken == whole


async def test_proxy_cuts_some(proxy: Proxy, connect: Connect) -> None:
    ends = [await connect(proxy) for _ in range(30)]
    for each in ends:
        await echoed(each, b"a")
    cut = proxy.cut_some(0.5)
    assert 5 <= cut <= 25
    answers = await asyncio.gather(*(echoed(each, b"b") for each in ends), return_exceptions=True)
    assert sum(isinstance(answer, Exception) for answer in answers) == cut


async def test_proxy_says_when_it_is_gone(proxy: Proxy) -> None:
    proxy._process.kill()
    proxy._process.wait()
    with pytest.raises(ChildFailed):
        proxy.heal()


async def test_a_proxy_that_does_not_answer_holds_up_nobody(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxying, "_DEADLINE", 0.3)
    os.kill(proxy._process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ChildFailed, match="does not answer"):
            proxy.counts()
    finally:
        os.kill(proxy._process.pid, signal.SIGCONT)


def script(options: Sequence[str], code: str) -> str:
    """A program that runs `code` where the command line would run."""
    return f"""
import runpy
def main(module, run_name):
    assert (module, run_name) == ("mailerd", "__main__")
    {code}
runpy.run_module = main
from mailerd.bench.chaos.saboteur import main as sabotage
sabotage({[*options, "--", "run"]!r})
"""


def sabotaged(*options: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script(options, code)], capture_output=True, text=True, timeout=30, check=False
    )


def test_saboteur_moves_the_wall_clock_alone() -> None:
    code = (
        "import json, time, datetime; print(json.dumps([time.time(), time.time_ns() / 1e9, time.monotonic(),"
        " datetime.datetime.now().timestamp(), datetime.datetime.now(datetime.UTC).timestamp(),"
        " datetime.datetime.today().timestamp(),"
        " datetime.datetime.utcnow().replace(tzinfo=datetime.UTC).timestamp()]))"
    )
    done = sabotaged("--skew", "3600", code=code)
    wall, wall_ns, monotonic, *moments = json.loads(done.stdout)
    for skewed in (wall, wall_ns, *moments):
        assert 3590 < skewed - time.time() < 3610
    assert abs(monotonic - time.monotonic()) < 10


def test_saboteur_leaves_instants_what_they_are() -> None:
    """What a C library makes (asyncpg's rows) or asks for (msgspec) has the true type."""
    code = """
    import datetime, msgspec
    row = msgspec.msgpack.decode(msgspec.msgpack.encode(datetime.datetime.now(datetime.UTC)))
    print(isinstance(row, datetime.datetime), isinstance(datetime.datetime(2020, 1, 1), datetime.datetime), isinstance(datetime.date(2020, 1, 1), datetime.datetime))
"""
    assert sabotaged("--skew", "-3600", code=code.strip()).stdout == "True True False\n"


def test_saboteur_limits_memory() -> None:
    code = """
    try:
        bytearray(300 * 2**20)
    except MemoryError:
        print("refused")
"""
    assert sabotaged("--memory", str(256 * 2**20), code=code.strip()).stdout == "refused\n"
    assert sabotaged("--memory", str(512 * 2**20), code=code.strip()).stdout == ""


def test_saboteur_stalls_the_loop() -> None:
    code = """
    import asyncio, os, signal, time, uvloop
    async def lag():
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGUSR2)
        begin = time.monotonic()
        await asyncio.sleep(0.1)
        return time.monotonic() - begin
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(*[runner.run(lag()) for _ in range(2)])
"""
    lags = [float(lag) for lag in sabotaged("--stall", "0.4", code=code.strip()).stdout.split()]
    assert len(lags) == 2
    assert min(lags) > 0.4


def test_saboteur_stalls_a_loop_that_waits() -> None:
    """By a signal from outside, while the loop sleeps in the kernel, as often as it comes."""
    code = """
    import asyncio, sys, time, uvloop
    async def watch():
        print("here", flush=True)
        for _ in range(2):
            begin = time.monotonic()
            await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline), 20)
            await asyncio.sleep(0)
            print(time.monotonic() - begin, flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watch())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script(["--stall", "0.5"], code.strip())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        for _ in range(2):
            time.sleep(0.1)
            process.send_signal(signal.SIGUSR2)
            time.sleep(0.1)
            process.stdin.write("\n")  # the loop learns of it only when it turns again
            process.stdin.flush()
            assert float(process.stdout.readline()) > 0.5


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where another user's Postgres may go, too."""
    with tempfile.TemporaryDirectory(prefix="mailerd-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# Nothing here loses its page cache, so a Postgres without fsync keeps what it promised.
SMALL = {"shared_buffers": "16MB", "fsync": "off"}


@pytest.fixture(scope="module")
def primary(folder: Path) -> Iterator[Postgres]:
    """Tests leave it running, with nobody to wait for."""
    with Postgres(folder / "first", settings=SMALL) as server:
        yield server


async def count(url: str) -> int:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM kept"))
    finally:
        await connection.close()


async def test_postgres_comes_back_where_it_was(primary: Postgres) -> None:
    connection = await asyncpg.connect(primary.url, timeout=5)
    await connection.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS n")
    await connection.close()
    for mode in ("fast", "immediate"):
        primary.restart(mode)
        assert await count(primary.url) == 1
    primary.kill()
    with pytest.raises(ConnectionRefusedError):
        await count(primary.url)
    primary.start()  # beside the dead one's postmaster.pid, which says that it is ready
    assert await count(primary.url) == 1


async def test_a_synchronous_standby_has_what_was_acknowledged(primary: Postgres, folder: Path) -> None:
    standby = primary.standby(folder / "second", "second")
    url = standby.url_with(primary)  # the one that takes no writes comes first
    bare = url.removesuffix("?target_session_attrs=read-write")
    assert bare != url
    loaded = parse(f'[database]\nurl = "{url}"\nlisten_url = "{url}"\n', None, {})
    assert (loaded.config.database.url, loaded.config.database.listen_url) == (url, url)
    settings = Database(url=bare, connect_timeout=Duration(5.0))
    try:
        primary.configure({"synchronous_standby_names": "FIRST 1 (second)"})
        async with Session(settings, "chaos") as session:
            assert await session.value("SELECT inet_server_port()") == primary.port
            async with asyncio.timeout(10):
                while "sync" not in await session.value("SELECT array_agg(sync_state) FROM pg_stat_replication"):
                    await asyncio.sleep(0.02)
            await session.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept (n int)")
            for n in range(20):
                await session.execute("INSERT INTO kept VALUES ($1)", n)
            primary.kill()
            for _ in range(2):  # the connection is lost; then the standby answers, and takes no writes
                with pytest.raises(Unavailable):
                    await session.value("SELECT 1")
            standby.promote()
            assert await session.value("SELECT count(*) FROM kept") == 20
            await session.execute("INSERT INTO kept VALUES ($1)", 20)
        # Where the URL itself says what it wants, and as anybody's asyncpg reads it.
        async with Session(settings, "chaos", url=url) as session:
            assert await session.value("SELECT count(*) FROM kept") == 21
        assert await count(url) == 21
    finally:
        standby.stop("immediate")
        primary.configure({"synchronous_standby_names": ""})
        primary.restart()


@pytest.mark.debian
async def test_bouncer_comes_back_where_it_was(primary: Postgres, folder: Path) -> None:
    bouncer = Bouncer(primary.port, folder / "bouncer", pool=1)
    bouncer.start()
    try:
        for _ in range(2):
            pids = set()
            for _ in range(3):
                connection = await asyncpg.connect(bouncer.url, timeout=5, statement_cache_size=0)
                pids.add(await connection.fetchval("SELECT pg_backend_pid()"))
                await connection.close()
            assert len(pids) == 1
            bouncer.kill()
            with pytest.raises(ConnectionRefusedError):
                await asyncpg.connect(bouncer.url, timeout=5)
            bouncer.start()
    finally:
        bouncer.stop()


def test_bouncer_is_not_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(NotHere, match="apt-get install pgbouncer"):
        Bouncer(1, folder / "bouncer")


def test_a_small_disk_is_full_and_gone_again(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 2**20)
    try:
        disk.mount()
    except NotHere as why:
        pytest.skip(str(why))
    try:
        disk.fill()
        with pytest.raises(OSError, match="No space left"), (disk.folder / "more").open("wb", buffering=0) as file:
            file.write(bytes(65_536))
        disk.free()
        (disk.folder / "more").write_bytes(bytes(65_536))
        busy = (disk.folder / "more").open("rb")
    finally:
        disk.unmount()
    with busy:
        assert not list(disk.folder.iterdir())
    with pytest.raises(NotHere):  # the disk below is not ours to fill
        disk.fill()
    assert not list(disk.folder.iterdir())
