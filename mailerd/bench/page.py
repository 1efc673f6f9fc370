"""The load test's page: one HTML file with everything in it, no script, light and dark, wide and narrow.

Every text that is not ours (settings, CPU names) is escaped. It draws what a `Result` holds and computes no figure.
"""

from __future__ import annotations

import math
from html import escape
from typing import Final

from mailerd.bench.chart import Line, chart, number
from mailerd.bench.result import Point, Result

__all__ = ["page"]

_CSS: Final = """
:root{color-scheme:light dark;--ink:#1d2433;--soft:#5c6579;--faint:#dfe3ea;--ground:#f6f7f9;--card:#fff;
--a:#2f6fde;--b:#d9822b;--c:#2d9a6a;--d:#8a5bd6;--bad:#c6362c}
@media (prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#9aa3b5;--faint:#2e3542;--ground:#12151b;--card:#1a1e27;
--a:#6ea2f7;--b:#f0a95b;--c:#5fc797;--d:#b795f2;--bad:#ff8177}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1120px;margin:0 auto;padding:28px 20px 48px}h1{font-size:24px;line-height:1.25;margin:0 0 4px}
header p{margin:0 0 22px;color:var(--soft)}h2{font-size:16px;margin:0 0 8px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-bottom:12px}
.tiles div,figure,section{background:var(--card);border:1px solid var(--faint);border-radius:10px;padding:14px 16px;margin:0}
.tiles b{display:block;font-size:26px;line-height:1.2;font-weight:650;white-space:nowrap}.tiles span{color:var(--soft);font-size:13px}
.tiles .bad b{color:var(--bad)}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:12px;margin-bottom:12px}
figcaption small{color:var(--soft)}figcaption p{margin:0 0 12px;color:var(--soft);font-size:13px}
figcaption i{float:right;font-style:normal;font-size:13px;color:var(--soft);margin-left:14px}
figcaption i::before{content:"";display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px;background:var(--k)}
.a{--k:var(--a)}.b{--k:var(--b)}.c{--k:var(--c)}.d{--k:var(--d)}.e{--k:#c2588a}.f{--k:#3d9fb0}.g{--k:#8c8f3c}.h{--k:#8a93a3}
.plot{position:relative;height:200px;margin:0 22px 24px 54px}.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.y span{position:absolute;right:100%;margin-right:10px;transform:translateY(-50%);font-size:12px;color:var(--soft)}
.x span{position:absolute;top:100%;margin-top:5px;transform:translateX(-50%);font-size:12px;color:var(--soft);white-space:nowrap}
.grid{stroke:var(--faint);fill:none;vector-effect:non-scaling-stroke}
.line{stroke:var(--k);fill:none;stroke-width:2;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.area{fill:var(--k);opacity:.14}.hint{fill:transparent}.hint:hover{fill:var(--soft);opacity:.12}
.bar{display:flex;height:34px;border-radius:6px;overflow:hidden;margin:4px 0 10px}
.bar div{background:var(--k);min-width:2px}.key{display:flex;flex-wrap:wrap;gap:6px 20px;font-size:14px}
.key span::before{content:"";display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:7px;background:var(--k)}
section{margin-bottom:12px}table{border-collapse:collapse;width:100%}td{padding:5px 0;border-top:1px solid var(--faint);vertical-align:top}
tr:first-child td{border-top:0}td:first-child{color:var(--soft);width:42%;padding-right:12px}td:last-child{overflow-wrap:anywhere}
"""

_GROUPS: Final = (("mailerd", "a"), ("postgres", "b"), ("sink", "c"))


def _tile(value: str, words: str, bad: bool = False) -> str:
    return f"<div{' class=bad' if bad else ''}><b>{escape(value)}</b><span>{escape(words)}</span></div>"


def _tiles(result: Result) -> str:
    cpu = result.cpu_us_per_message["mailerd"]
    tiles = [_tile(number(result.messages_per_second), "messages a second")]
    if result.latency_ms is not None:
        latency = result.latency_ms
        tiles.append(_tile(_duration(latency.p50), f"median to 250, p99 {_duration(latency.p99)}"))
    if cpu is not None:
        tiles.append(_tile(f"{number(cpu)} µs", "CPU of mailerd a message"))
    tiles.append(_tile(f"{number(result.peak_rss_mb)} MB", "memory of a daemon, at most"))
    tiles.append(_tile(number(result.lost), "messages lost", bool(result.lost)))
    twice = "?" if result.duplicates is None else number(result.duplicates)
    tiles.append(_tile(twice, "sent twice", bool(result.duplicates)))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _nines(share: float) -> float:
    """0 % is 0, 90 % is 1, 99 % is 2, …"""
    return -math.log10(1 - share / 100)


def _duration(milliseconds: float) -> str:
    return f"{number(milliseconds)} ms" if milliseconds < 10_000 else f"{number(milliseconds / 1000)} s"


def _seconds(at: float) -> str:
    return f"{number(at)} s"


def _over_time(series: list[Point], get: str, group: str) -> list[tuple[float, float]]:
    return [(point.at, getattr(point, get)[group]) for point in series if group in getattr(point, get)]


def _charts(result: Result) -> str:
    series = result.series
    figures = [
        chart(
            "Throughput",
            "Messages that the sink accepted, over the time of the test.",
            [Line("accepted", "a", [(point.at, point.messages_per_second) for point in series], True)],
            unit="messages/s",
            x_label=_seconds,
        )
    ]
    if result.latency_curve:
        # Each nine gets the same room: what happens in the last percent is what users feel.
        curve = [(_nines(share), value) for share, value in result.latency_curve]
        figures.append(
            chart(
                "Latency",
                f"Commit of the insert to 250, {result.latency_of}: this share was at least as fast.",
                [Line("latency", "d", curve, True)],
                unit="ms",
                x_label=lambda nines: f"{number(100 - 100 * 10**-nines)} %",
                x_ticks=[_nines(share) for share in (50, 90, 99, 99.9)],
                log=True,
            )
        )
    groups = [(group, colour) for group, colour in _GROUPS if any(group in point.cpu for point in series)]
    figures.append(
        chart(
            "CPU",
            f"Cores in use, of {result.machine['cores']}: all daemons, Postgres with its backends, the sink.",
            [Line(group, colour, _over_time(series, "cpu", group)) for group, colour in groups],
            unit="cores",
            x_label=_seconds,
        )
    )
    figures.append(
        chart(
            "Memory",
            "Resident memory, all daemons together.",
            [Line("mailerd", "a", _over_time(series, "rss", "mailerd"), True)],
            unit="MB",
            x_label=_seconds,
        )
    )
    return f'<div class="grid2">{"".join(figures)}</div>'


def _bar(title: str, parts: list[tuple[str, str, float]]) -> str:
    """One stacked bar of (name, colour, µs), with its key."""
    total = sum(value for _, _, value in parts)
    if not total:
        return ""
    bar = "".join(
        f'<div class="{colour}" style="width:{value / total * 100:.1f}%" title="{escape(name)} {number(value)} µs"></div>'
        for name, colour, value in parts
    )
    key = "".join(f'<span class="{colour}">{escape(name)} {number(value)} µs</span>' for name, colour, value in parts)
    return (
        f"<section><h2>{escape(title)}: {number(total)} µs</h2>"
        f'<div class="bar">{bar}</div><div class="key">{key}</div></section>'
    )


def _bars(result: Result) -> str:
    processes = [(group, colour, result.cpu_us_per_message[group] or 0.0) for group, colour in _GROUPS]
    stages = [
        (stage, colour, value)
        for (stage, value), colour in zip(result.stages_us_per_message.items(), "adbcefgh", strict=False)
    ]
    return _bar("CPU a message, all processes", processes) + _bar("CPU a message of mailerd, by stage", stages)


def _table(title: str, rows: dict[str, object]) -> str:
    cells = "".join(f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>" for key, value in rows.items())
    return f"<section><h2>{escape(title)}</h2><table>{cells}</table></section>"


def page(result: Result) -> str:
    """The whole document."""
    settings: dict[str, object] = {
        key.replace("_", " "): value for key, value in result.settings.items() if value not in (None, 0, False)
    }
    outcome: dict[str, object] = {
        "messages measured": f"{result.messages:,}",
        "seconds": number(result.seconds),
        "lost": result.lost,
        "duplicates": "unknown" if result.duplicates is None else result.duplicates,
        "sent again after no answer": result.resent_in_doubt,
        "refused for good by the sink": result.refused,
        "still waiting at the end": f"{result.waiting:,}",
        "memory, first to last": f"{number(result.memory_mb.first)} to {number(result.memory_mb.last)} MB",
        "synchronous_commit": result.synchronous_commit,
    }
    if result.latency_ms is not None:
        latency = result.latency_ms
        outcome["latency p50, p95, p99, max"] = " · ".join(
            _duration(value) for value in (latency.p50, latency.p95, latency.p99, latency.max)
        )
    headline = f"{result.messages:,} messages, {result.instances} instance{'s' * (result.instances > 1)}"
    place = f"Postgres {result.versions['postgres']}, {result.machine['cores']} cores for everything"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>mailerd bench: {escape(result.scenario)}</title><style>{_CSS}</style></head><body><main>"
        f"<header><h1>mailerd bench: {escape(result.scenario)}</h1><p>{escape(headline)} · {escape(place)}</p></header>"
        f"{_tiles(result)}{_charts(result)}{_bars(result)}"
        f'<div class="grid2">{_table("What came out", outcome)}{_table("What was asked", settings)}'
        f"{_table('Versions', dict(result.versions))}{_table('Machine', dict(result.machine))}</div></main></body></html>\n"
    )
