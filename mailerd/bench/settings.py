"""What a load test is asked to do, and the daemon's configuration that follows from it. No I/O."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import msgspec

from mailerd.bench.fault import Kind
from mailerd.config.kinds import HTTP

__all__ = ["Scenario", "Settings", "Target", "configuration"]

Scenario = Literal["throughput", "backlog", "latency", "isolation"]


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """The options of `mailerd bench`, as its help explains them. Sizes in octets, times in seconds."""

    scenario: Scenario = "throughput"
    messages: int = 20_000
    size: int = 4096
    content: Literal["template", "inline"] = "template"
    streams: int = 1
    domains: int = 200
    campaigns: int = 1
    rate: int = 0
    backlog: int = 0
    paused: int = 0
    interval: float = 0.05
    wake: Literal["notify", "poll"] = "notify"
    instances: int = 1
    connections: int = 20
    provider: str = "smtp"  # or whose HTTP API is spoken
    on_uncertain: Literal["resend", "hold"] = "resend"
    limited: bool = False  # five limits a message, too high to hold anything up: what they cost by themselves
    faults: float = 0.0
    kinds: tuple[Kind, ...] = tuple(Kind)
    latency: float = 0.0
    tls: bool = False
    dkim: bool = False
    sink: tuple[str, int] | None = None
    sink_processes: int = 1
    database: str | None = None
    postgres: int | None = None
    seed: int = 1
    deadline: float = 0.0
    stages: bool = False  # sample where the daemons' CPU time goes

    @property
    def stream_names(self) -> list[str]:
        """`transactional` and `marketing` for the isolation test, else as many as asked for."""
        if self.scenario == "isolation":
            return ["transactional", "marketing"]
        return ["transactional", *(f"stream{n}" for n in range(2, self.streams + 1))]

    @property
    def limit(self) -> float:
        """Seconds after which the measured part has failed: generous, as it only guards against never ending."""
        waiting = self.messages + (self.messages / self.rate * 300 if self.rate else 0)
        paced = self.messages * self.interval * 2 if self.scenario == "latency" else 0
        return self.deadline or max(60.0, waiting / 300 + paced)


_NO_LIMIT = "50000/s"


class Target(msgspec.Struct, kw_only=True, frozen=True):
    """Where one daemon of the test finds the others."""

    database: str
    schema: str
    host: str
    port: int
    ops: int
    templates: Path
    ca: Path | None = None
    dkim: Path | None = None  # the key that signs


def configuration(settings: Settings, target: Target, name: str) -> str:
    """The TOML file of one daemon."""
    q = json.dumps  # a JSON string of ours is a TOML basic string
    listen = '\nlisten_url = "off"' if settings.wake == "poll" else ""
    tls = f'tls = "starttls"\ntls_ca = {q(str(target.ca))}' if target.ca else 'tls = "none"'
    rate = f'rate = "{_NO_LIMIT}"\n' if settings.limited else ""
    dkim = f'[[identity.dkim]]\nselector = "bench"\nkey = {q(str(target.dkim))}\n' if target.dkim else ""
    limits = (
        f'[[pool]]\nname = "default"\nproviders = ["sink"]\n{rate}[[pool.domain]]\nname = "bench"\n{rate}'
        f'[[domain]]\nname = "bench"\nmatch = ["*.example"]\n{rate}'
        if settings.limited
        else ""
    )
    if settings.provider == "smtp":
        where = f"host = {q(target.host)}\nport = {target.port}\n{tls}\nmessages_per_connection = 0"
    else:
        scheme = "https" if target.ca else "http"
        where = f'kind = {q(settings.provider)}\nendpoint = "{scheme}://{target.host}:{target.port}"\n'
        where += f"tls_ca = {q(str(target.ca))}\n" if target.ca else ""
        where += "\n".join(f'{key} = "bench"' for key in sorted(HTTP[settings.provider].must))
    streams = "\n".join(
        # Retries come soon and are many, so that a test with faults ends; a real one would wait longer.
        f"[[stream]]\nname = {q(stream)}\nconcurrency = {settings.connections}\n"
        'retry = { first = "1s", factor = 1.5, max = "5s", attempts = 50 }\n'
        f"on_uncertain = {q(settings.on_uncertain)}\n{rate}"
        for stream in settings.stream_names
    )
    return f"""\
[database]
url = {q(target.database)}
schema = {q(target.schema)}{listen}

[instance]
name = {q(name)}

[ops]
listen = "127.0.0.1:{target.ops}"

[log]
level = "warning"

[templates]
path = {q(str(target.templates))}

[[identity]]
name = "shop"
from = "Oak & Wool <orders@shop.example>"
return_path = "bounces@shop.example"
{dkim}
[[provider]]
name = "sink"
{where}
connections = {settings.connections * len(settings.stream_names)}
{rate}
{limits}
{streams}"""
