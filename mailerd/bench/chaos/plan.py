"""What one chaos run is: its knobs, the streams it sends through, and the daemon's configuration. No I/O.

Three streams: two that resend what is uncertain (one urgent, one bulk), and one that holds it. Leases are short, so
that what a death leaves behind is taken over within seconds instead of a minute.
"""

from __future__ import annotations

import json

import msgspec

from mailerd.bench.fault import Kind

__all__ = ["HOLDING", "STREAMS", "Knobs", "configuration"]

STREAMS = ("transactional", "marketing", "receipts")
HOLDING = "receipts"  # the stream whose on_uncertain is "hold"
SHARES = (0.5, 0.35, 0.15)  # of the messages, by stream


class Knobs(msgspec.Struct, kw_only=True, frozen=True):
    """A scenario's settings. Times in seconds, sizes in octets, rates in messages a second."""

    instances: int = 2
    seconds: float = 8.0  # of faults
    rate: int = 300  # enqueued while it lasts
    backlog: int = 0  # enqueued before it begins
    size: int = 1_000  # of a message's text
    ttl: float = 5.0
    max_unsettled: int = 512
    connections: int = 8  # to the provider, of each stream, all instances together
    # Connections that the sink counts and no instance can end: of one that stands still until the others forget it, and
    # those whose end is still on its way through the proxy.
    zombies: int = 0
    latency: float = 0.0  # of the sink's every answer
    faults: float = 0.0  # share of the messages that the sink treats badly
    kinds: tuple[Kind, ...] = tuple(Kind)
    slack: float = 1.0  # how late an acceptance may come: what was on its way when its time was over
    patience: float = 90.0  # for everything to end after the last fault
    timeouts: str = ""  # the provider's, as TOML
    statement_timeout: float = 10.0

    @property
    def cap(self) -> int:
        """The provider's limit on connections, all instances and streams together. One instance could use all of it."""
        return self.connections * len(STREAMS)

    @property
    def bound(self) -> int:
        """Messages that the death of one instance may send twice: its connections, and what it had not settled.

        It may hold all of the provider's connections while its neighbours are away.
        """
        return self.cap + self.max_unsettled


def configuration(
    knobs: Knobs, *, database: str, listen: str, prepare: str, provider: tuple[str, int], ops: int, name: str
) -> str:
    """The TOML file of one instance. `listen` is the URL for LISTEN, or "off"."""
    q = json.dumps  # a JSON string of ours is a TOML basic string
    streams = "\n".join(
        f"[[stream]]\nname = {q(stream)}\nconcurrency = {knobs.connections}\n"
        f'on_uncertain = "{"hold" if stream == HOLDING else "resend"}"\n'
        # Retries come soon and are many, so that a run ends; a real configuration would wait longer.
        'retry = { first = "500ms", factor = 1.5, max = "3s", attempts = 100 }\n'
        for stream in STREAMS
    )
    return f"""\
[database]
url = {q(database)}
listen_url = {q(listen)}
prepare = {q(prepare)}
statement_timeout = "{knobs.statement_timeout:g}s"
connect_timeout = "3s"

[instance]
name = {q(name)}

[ops]
listen = "127.0.0.1:{ops}"

[lease]
ttl = "{knobs.ttl:g}s"
max_unsettled = {knobs.max_unsettled}

[[identity]]
name = "shop"
from = "Oak & Wool <orders@shop.example>"
return_path = "bounces@shop.example"

[[provider]]
name = "sink"
host = {q(provider[0])}
port = {provider[1]}
tls = "none"
connections = {knobs.cap}
messages_per_connection = 0
{knobs.timeouts}

{streams}"""
