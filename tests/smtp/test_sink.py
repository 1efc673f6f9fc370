"""The sink: a correct SMTP server at any chunking, whatever it is told to do wrong; and its processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.bench import ledger
from mailerd.bench.fault import Kind
from mailerd.bench.listener import PortTaken, bind
from mailerd.bench.sink import Session, Settings, Sink


class Wire(asyncio.Transport):
    """What a session writes, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.out = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.out += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def talk(chunks: list[bytes], settings: Settings | None = None, record: Path | None = None) -> tuple[Wire, Sink]:
    book = ledger.Ledger(record / "t.ledger") if record else None
    sink = Sink(settings or Settings(), book)
    session = Session(sink)
    wire = Wire()
    session.connection_made(wire)
    for chunk in chunks:
        if not wire.closed:
            session.data_received(chunk)
    if book:
        book.close()
    return wire, sink


def message(number: int, body: bytes) -> bytes:
    return b"Subject: x\r\nMessage-ID: <%d.5e0be100@example.org>\r\n\r\n%s" % (number, body)


def envelope(parameters: bytes = b"") -> bytes:
    return b"MAIL FROM:<a@example.org>%s\r\nRCPT TO:<b@example.net>\r\nDATA\r\n" % parameters


PIPELINED = (
    b"EHLO me.example\r\n"
    + envelope(b" SIZE=1000 BODY=8BITMIME")
    + message(11, b"one\r\n")
    + b".\r\n"
    + envelope()
    + b".\r\n"  # an empty message: the lone dot is all
    + b"mail from:<> SMTPUTF8\r\nRCPT TO:<b\xc3\xa9@example.net>\r\nrcpt to:<c@example.net>\r\ndata\r\n"
    + message(12, b"..dots\r\n\r\n..\r\n.\n.\r.\r\r\n")
    + b".\r\n"
    + envelope(b" SMTPUTF8")
    + message(1234567890123456, b"long line " * 5000 + b"\r\n")
    + b".\r\nRSET\r\nNOOP\r\nQUIT\r\n"
)


def codes(wire: Wire) -> list[int]:
    return [int(line[:3]) for line in wire.out.split(b"\r\n") if line[3:4] == b" "]


def test_pipelined_envelopes_behind_the_dot(tmp_path: Path) -> None:
    wire, sink = talk([PIPELINED], record=tmp_path)
    one = [250, 250, 354, 250]
    assert codes(wire) == [220, 250, *one, *one, 250, 250, 250, 354, 250, *one, 250, 250, 221]
    assert wire.closed
    assert (sink.tally.messages, sink.tally.recipients, sink.tally.refused) == (4, 5, 0)
    assert [entry.id for entry in ledger.read(tmp_path)] == [11, -1, 12, 1234567890123456]
    assert ledger.accepted(tmp_path) == 4


@given(cuts=st.lists(st.integers(0, len(PIPELINED)), max_size=12))
def test_chunking_changes_nothing(cuts: list[int]) -> None:
    whole, sink = talk([PIPELINED])
    edges = [0, *sorted(cuts), len(PIPELINED)]
    parts, same = talk([PIPELINED[a:b] for a, b in itertools.pairwise(edges)])
    assert parts.out == whole.out
    assert same.tally == sink.tally


def test_octet_by_octet(tmp_path: Path) -> None:
    whole, sink = talk([PIPELINED])
    parts, same = talk([PIPELINED[n : n + 1] for n in range(len(PIPELINED))], record=tmp_path)
    assert (parts.out, same.tally) == (whole.out, sink.tally)
    assert [entry.id for entry in ledger.read(tmp_path)] == [11, -1, 12, 1234567890123456]


def test_octets_are_those_of_the_content() -> None:
    content = message(5, b"body\r\n")
    _, sink = talk([b"EHLO x\r\n", envelope(), content, b".\r\n"])
    assert sink.tally.octets == len(content)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"MAIL FROM:<a@example.org>\r\n", 503),
        (b"EHLO x\r\nRCPT TO:<a@example.org>\r\n", 503),
        (b"EHLO x\r\nDATA\r\n", 503),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nDATA\r\n", 554),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nMAIL FROM:<a@b.c>\r\n", 503),
        (b"EHLO x\r\nMAIL FROM:<a@b.c> SIZE=99999999\r\n", 552),
        (b"EHLO x\r\nMAIL FROM:<a@b.c> HOLDFOR=3\r\n", 555),
        (b"EHLO x\r\nMAIL FROM:<\xc3\xa9@b.c>\r\n", 550),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<\xc3\xa9@b.c>\r\n", 553),
        (b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<>\r\n", 501),
        (b"EHLO x\r\nMAIL TO:<a@b.c>\r\n", 501),
        (b"EHLO x\r\nSTARTTLS\r\n", 500),
        (b"EHLO\r\n", 501),
        (b"NOOP\n", 500),
        (b"x" * 5000, 500),
        (b"x" * 5000 + b"\r\n", 500),
    ],
)
def test_refusals(said: bytes, code: int) -> None:
    wire, _ = talk([said])
    assert codes(wire)[-1] == code


def test_message_too_big() -> None:
    wire, sink = talk([b"EHLO x\r\n" + envelope() + b"x" * 100 + b"\r\n.\r\n" + envelope()], Settings(size=50))
    assert codes(wire)[-4:] == [552, 250, 250, 354]
    assert sink.tally.messages == 0


@pytest.mark.parametrize(
    ("kind", "replies", "taken"),
    [
        (Kind.MAIL_4XX, [451, 503, 503], 0),
        (Kind.MAIL_421, [421], 0),
        (Kind.RCPT_4XX, [250, 450, 554], 0),
        (Kind.RCPT_5XX, [250, 550, 554], 0),
        (Kind.DOT_4XX, [250, 250, 354, 451], 0),
        (Kind.DOT_5XX, [250, 250, 354, 554], 0),
        (Kind.DOT_421, [250, 250, 354, 421], 0),
        (Kind.DOT_CLOSE, [250, 250, 354], 1),
    ],
)
def test_faults(kind: Kind, replies: list[int], taken: int, tmp_path: Path) -> None:
    settings = Settings(faults=1.0, kinds=(kind,))
    chunks = [b"EHLO x\r\n", envelope()]
    if 354 in replies:
        chunks.append(message(7, b"x\r\n") + b".\r\n")
    wire, sink = talk(chunks, settings, tmp_path)
    assert codes(wire)[2:] == replies
    assert wire.closed == (kind in (Kind.MAIL_421, Kind.DOT_421, Kind.DOT_CLOSE))
    assert sink.tally.messages == taken
    assert sink.tally.faults == {kind: 1}
    assert [(entry.id, entry.answered) for entry in ledger.read(tmp_path)] == [(7, False)] * taken


def test_faults_are_repeatable() -> None:
    def draw(seed: int) -> list[Kind | None]:
        sink = Sink(Settings(faults=0.3, seed=seed))
        return [sink.fault() for _ in range(1000)]

    assert draw(1) == draw(1) != draw(2)
    share = sum(kind is not None for kind in draw(1))
    assert 230 < share < 370
    assert set(draw(1)) == {None, *Kind}


async def test_latency_delays_and_keeps_the_order() -> None:
    sink = Sink(Settings(latency=0.05))
    server = await asyncio.get_running_loop().create_server(sink, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(10):
        begin = time.monotonic()
        assert (await reader.readline())[:3] == b"220"
        assert time.monotonic() - begin >= 0.045
        for number in range(5):
            writer.write(b"RSET\r\n" if number % 2 else b"VRFY x\r\n")
            await asyncio.sleep(0.003)
        said = [(await reader.readline())[:3] for _ in range(5)]
        assert said == [b"252", b"250", b"252", b"250", b"252"]
        writer.write(b"QUIT\r\n")
        assert (await reader.read())[:3] == b"221"
    writer.close()
    server.close()


async def test_idle_sessions_are_closed() -> None:
    sink = Sink(Settings())
    server = await asyncio.get_running_loop().create_server(sink, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(10):
        await reader.readline()
        sink.close_idle()  # it connected since the last call
        writer.write(b"NOOP\r\n")
        assert (await reader.readline())[:3] == b"250"
        sink.close_idle()
        sink.close_idle()
        assert (await reader.read())[:3] == b"421"
    writer.close()
    server.close()


# -- the command -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """`mailerd sink` on a free port."""
    command = [sys.executable, "-m", "mailerd", "sink", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "listening on" in line)
            yield int(line.split(";")[0].rpartition(":")[2]), process
        finally:
            process.kill()


def send(client: smtplib.SMTP, count: int) -> None:
    for number in range(count):
        mail = EmailMessage()
        mail["Message-ID"] = f"<{number}.abc@example.org>"
        mail["Subject"] = "x"
        mail.set_content(".\n..\nbody\n" * 3)
        client.send_message(mail, "a@example.org", ["b@example.net", "c@example.net"])


def test_processes_share_the_port_and_add_up(tmp_path: Path) -> None:
    with running("--processes", "2", "--record", str(tmp_path), "--json") as (port, process):
        for _ in range(8):
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
                send(client, 3)
        with pytest.raises(PortTaken):
            bind("127.0.0.1", port, 2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    told = json.loads(out)
    assert (told["connections"], told["messages"], told["recipients"]) == (8, 24, 48)
    assert sorted(entry.id for entry in ledger.read(tmp_path)) == sorted(list(range(3)) * 8)
    wall, monotonic = ledger.clocks(next(tmp_path.glob("*.ledger")))
    assert abs((time.time() - wall) - (time.monotonic() - monotonic)) < 1


def test_a_process_that_dies_ends_the_sink() -> None:
    with running("--processes", "2") as (_, process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("needs Linux")
        first, second = map(int, children.read_text().split())
        os.kill(first, signal.SIGKILL)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 1
        assert "died" in err
        assert not Path(f"/proc/{second}").exists()


def test_children_end_with_their_parent() -> None:
    with running() as (_, process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("needs Linux")
        child = int(children.read_text())
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_port_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mailerd", "sink", "--listen", f"127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 69
    assert (
        done.stderr == f"mailerd: cannot listen on 127.0.0.1:{port}: Address already in use: choose another --listen\n"
    )


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_tls_and_auth(mode: str, tmp_path: Path) -> None:
    with running("--tls", mode, "--ca", str(tmp_path), "--json") as (port, process):
        trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        client: smtplib.SMTP
        if mode == "implicit":
            client = smtplib.SMTP_SSL("localhost", port, timeout=10, context=trust)
        else:
            client = smtplib.SMTP("localhost", port, timeout=10)
            client.starttls(context=trust)
        with client:
            client.ehlo()
            assert "starttls" not in client.esmtp_features
            client.login("anybody", "anything")
            client.auth("LOGIN", client.auth_login)
            send(client, 3)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert json.loads(out)["messages"] == 3


def test_what_is_pipelined_behind_starttls_is_dropped(tmp_path: Path) -> None:
    with (
        running("--tls", "starttls", "--ca", str(tmp_path)) as (port, _),
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
    ):
        plain.recv(1000)
        plain.sendall(b"EHLO x\r\n")
        assert b"STARTTLS" in plain.recv(1000)
        plain.sendall(b"STARTTLS\r\nEHLO injected\r\n")
        assert plain.recv(1000) == b"220 2.0.0 go ahead\r\n"
        trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with trust.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(b"MAIL FROM:<a@b.c>\r\n")
            assert secure.recv(1000)[:3] == b"503"  # nobody has said EHLO yet


def test_the_peak_is_counted_when_a_session_greets() -> None:
    """The end of one connection may be read in the same turn of the loop as the beginning of the next, and after it."""
    sink = Sink(Settings())
    first, second, third = (Session(sink) for _ in range(3))
    first.connection_made(Wire())
    first.data_received(b"EHLO me.example\r\n")
    second.connection_made(Wire())
    first.connection_lost(None)
    second.data_received(b"EHLO me.example\r\n")
    assert sink.tally.peak == 1
    third.connection_made(Wire())
    third.data_received(b"EHLO me.example\r\n")
    assert sink.tally.peak == 2


def test_what_exceeds_the_limit_is_refused_until_there_is_room() -> None:
    sink = Sink(Settings(limit=2.0))
    session, wire = Session(sink), Wire()
    session.connection_made(wire)
    session.data_received(b"EHLO me.example\r\nMAIL FROM:<a@example.org>\r\n" + b"RCPT TO:<b@example.net>\r\n" * 3)
    assert wire.out.count(b"250 2.1.5 ok") == 2
    assert wire.out.endswith(b"451 4.7.1 rate limit exceeded, slow down\r\n")
    assert (sink.tally.refused, sink.tally.limited) == (1, 1)
    assert sink.admits(time.monotonic() + 1.0)
    # The short way of a pipelined envelope knows of it, too.
    other, heard = Session(Sink(Settings(limit=1.0))), Wire()
    other.connection_made(heard)
    other.data_received(b"EHLO me.example\r\n" + envelope() + message(1, b"x\r\n") + b".\r\n" + envelope())
    assert b"451 4.7.1" in heard.out


@given(st.sampled_from([0.2, 1.0, 2.5, 40.0]), st.lists(st.floats(0, 3), min_size=1, max_size=80), st.floats(0.1, 20))
def test_the_limit_takes_its_rate_and_one_second_more_at_most(limit: float, gaps: list[float], width: float) -> None:
    sink = Sink(Settings(limit=limit))
    now, taken = 1000.0, []
    assert sink.admits(now)  # however slow it is
    for gap in gaps:
        now += gap
        if sink.admits(now):
            taken.append(now)
    burst = max(1.0, limit)
    for begin in taken:
        assert sum(begin <= at <= begin + width for at in taken) <= limit * width + burst + 1e-6
    assert len(taken) + sink.tally.limited == len(gaps)
    # And it gives again what it takes in a while.
    assert sink.admits(now + 1.01 / limit)
