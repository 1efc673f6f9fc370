"""The status page: one HTML document without scripts or anything from elsewhere, readable on a phone.

A pure function of what the daemon last said; it refreshes itself every five seconds. Every word that came from a row,
a configuration or a peer is escaped, and the content security policy allows nothing but the page's own style.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Final

from mailerd import __version__
from mailerd.store.overview import Overview
from mailerd.web.health import Health
from mailerd.web.throughput import INTERVAL, Throughput

__all__ = ["CSP", "render"]

_STYLE: Final = """
:root{color-scheme:light dark;--fg:#1c1e21;--dim:#6a7077;--bg:#fff;--card:#f5f6f8;--line:#dfe3e8;--ok:#1a7f37;--bad:#c62828;--accent:#2f6feb}
@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--dim:#99a1ab;--bg:#14171a;--card:#1d2126;--line:#31373e;--ok:#4cc46a;--bad:#ff6b62;--accent:#79a6ff}}
*{box-sizing:border-box}body{margin:0 auto;max-width:64rem;padding:1rem;font:15px/1.45 system-ui,sans-serif;color:var(--fg);background:var(--bg)}
header{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:baseline}h1{font-size:1.25rem;margin:0}
h2{font-size:.8rem;text-transform:uppercase;letter-spacing:.06em;color:var(--dim);margin:1.5rem 0 .4rem}
.dim{color:var(--dim)}.ok{color:var(--ok)}.bad{color:var(--bad);font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.6rem;margin-top:1rem}
.card{background:var(--card);border-radius:.5rem;padding:.6rem .8rem}.card b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:4rem;margin-top:.6rem;background:var(--card);border-radius:.5rem}
polyline{fill:none;stroke:var(--accent);stroke-width:1.5;vector-effect:non-scaling-stroke}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:500;color:var(--dim)}.n{text-align:right;font-variant-numeric:tabular-nums}td.w{white-space:normal;min-width:12rem}
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CSP: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(
    health: Health,
    throughput: Throughput,
    connections: Mapping[str, Mapping[str, int]],
    uptime: float,
    overview: Overview | None,
) -> str:
    """The document. `connections` and `throughput` are this instance's; the overview is of all (None: not read yet)."""
    problems = health.problems()
    state = "draining" if health.draining else "not ready" if problems else "ready"
    body = [
        f"<header><h1>mailerd</h1><span class='{'bad' if problems else 'ok'}'>{state}</span>",
        f"<span class=dim>{escape(__version__)} · up {age(uptime)}</span></header>",
        *(f"<p class=bad>{escape(line)}</p>" for line in problems if line != "draining"),
        "<div class=cards>",
        *(_card(f"{throughput.rate(s):,.0f}/s", label) for s, label in ((10, "10 s"), (60, "1 min"), (300, "5 min"))),
        _card(f"{sum(n for states in connections.values() for n in states.values()):,}", "connections here"),
        "</div>",
        _sparkline(throughput.series()),
    ]
    if overview is None:
        body.append("<p class=dim>The queue has not been read yet.</p>")
    else:
        body += _sections(overview, throughput, connections)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>mailerd</title>"
        "<meta name=viewport content='width=device-width,initial-scale=1'><meta http-equiv=refresh content=5>"
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _sections(
    overview: Overview, throughput: Throughput, connections: Mapping[str, Mapping[str, int]]
) -> Iterable[str]:
    measured = overview.measured_at
    counted = f"counted {_ago(overview.at, measured)}" if measured else "not counted yet"
    yield _heading("Streams", counted)
    yield _table(
        ("stream", "", "/s here", "ready", "oldest", "leased", "scheduled", "deferred", "in doubt", "dead"),
        [
            (
                s.name,
                "!paused" if s.paused else "" if s.live else "!no instance",
                f"{throughput.rate(60, s.name):,.0f}",
                f"{s.ready:,}",
                age(s.oldest_ready_seconds) if s.ready else "–",
                *(f"{n:,}" for n in (s.leased, s.scheduled, s.deferred, s.in_doubt, s.dead)),
            )
            for s in overview.streams
        ],
        numbers=range(2, 10),
    )
    yield _heading("Providers", "")
    yield _table(
        ("provider", "state", "connections", "here", ""),
        [
            (
                p.name,
                "!paused" if p.paused else p.state if p.state in ("closed", "unused") else f"!{p.state}",
                f"{p.connections:,}",
                ", ".join(f"{n} {state}" for state, n in connections.get(p.name, {}).items() if n) or "–",
                p.reason or "",
            )
            for p in overview.providers
        ],
        numbers=(2,),
    )
    yield _heading("Instances", "")
    yield _table(
        ("instance", "state", "version", "up", "seen", "streams"),
        [
            (
                i.name,
                i.state if i.live else "!gone",
                i.version,
                age((i.seen_at - i.started_at).total_seconds()),
                _ago(overview.at, i.seen_at),
                ", ".join(i.streams),
            )
            for i in overview.instances
        ],
    )
    if overview.paused:
        yield _heading("Paused", "")
        yield _table(
            ("what", "by", "since", "reason"),
            [(f"{p.kind}:{p.name}", p.actor, _ago(overview.at, p.at), p.reason or "") for p in overview.paused],
        )
    for p in overview.partitions:
        if not p.ok:
            yield f"<p class=bad>{escape(p.table)}: only {p.days_ahead} partitions ahead</p>"


def _heading(words: str, note: str) -> str:
    return f"<h2>{words}{f' <span class=dim>· {escape(note)}</span>' if note else ''}</h2>"


def _card(figure: str, label: str) -> str:
    return f"<div class=card><b>{figure}</b><span class=dim>{label}</span></div>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Cells that begin with `!` are alarming."""
    right = set(numbers)

    def cell(i: int, text: str) -> str:
        kinds = [
            *(["n"] if i in right else []),
            *(["bad"] if text.startswith("!") else []),
            *(["w"] if len(text) > 40 else []),
        ]
        return f"<td class='{' '.join(kinds)}'>{escape(text.removeprefix('!'))}</td>"

    head = "".join(f"<th{' class=n' if i in right else ''}>{escape(c)}</th>" for i, c in enumerate(columns))
    lines = ["<tr>" + "".join(cell(i, text) for i, text in enumerate(row)) + "</tr>" for row in rows]
    return f"<div class=wide><table><tr>{head}</tr>{''.join(lines) or '<tr><td class=dim>none</td></tr>'}</table></div>"


def _sparkline(series: Sequence[float]) -> str:
    if len(series) < 2:
        return ""
    top = max(series) or 1.0
    first = 150 - len(series)
    points = " ".join(f"{(first + i) * 2},{58 - 54 * value / top:.1f}" for i, value in enumerate(series))
    title = f"Messages a second, every {INTERVAL:.0f} s for five minutes; at most {top:,.0f}"
    return (
        f"<svg viewBox='0 0 300 60' preserveAspectRatio=none role=img aria-label='{title}'><title>{title}</title>"
        f"<polyline points='{points}'/></svg>"
    )


def age(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `2 d`: the one unit that says enough."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0) / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _ago(now: datetime, then: datetime) -> str:
    return f"{age((now - then).total_seconds())} ago"
