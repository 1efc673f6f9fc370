"""A pipelining SMTP client that does nothing else: what the fastest possible sender asks of a sink.

Each of its connections writes a message's content and the next envelope at once (RFC 2920), then waits for the three
replies. `python bench/blast.py HOST:PORT --messages 200000 --connections 20 --size 4096`
"""

from __future__ import annotations

import argparse
import selectors
import socket
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--size", type=int, default=4096)
    options = parser.parse_args()
    host, _, port = options.server.rpartition(":")
    head = b"Message-ID: <1234567890123456.5e0be100@example.org>\r\nFrom: a@example.org\r\nSubject: x\r\n\r\n"
    content = head + (b"x" * 76 + b"\r\n") * (max(options.size - len(head), 78) // 78) + b".\r\n"
    envelope = b"MAIL FROM:<bounces@example.org>\r\nRCPT TO:<ann@d1.example>\r\nDATA\r\n"
    selector = selectors.DefaultSelector()
    for _ in range(options.connections):
        connection = socket.create_connection((host, int(port)))
        assert connection.recv(1000).startswith(b"220")
        connection.sendall(b"EHLO blast.example\r\n")
        assert b"PIPELINING" in connection.recv(1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(envelope)
        selector.register(connection, selectors.EVENT_READ, [b""])
    begin, begin_cpu = time.perf_counter(), time.process_time()
    sent = done = 0
    while done < options.messages:
        for key, _ in selector.select(5):
            connection, said = key.fileobj, key.data
            said[0] += connection.recv(4096)
            if b"354" in said[0] and said[0].endswith(b"\n"):
                done += said[0].count(b"250 2.0.0")
                said[0] = b""
                if sent < options.messages:
                    sent += 1
                    connection.sendall(content + envelope)
            elif said[0].count(b"\n") > 4:
                raise SystemExit(f"unexpected: {said[0]!r}")
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    print(
        f"{done} messages of {len(content)} octets over {options.connections} connections: {done / seconds:,.0f}/s, "
        f"{cpu / done * 1e6:.1f} µs of this client's CPU each"
    )


if __name__ == "__main__":
    main()
