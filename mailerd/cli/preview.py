"""What a template becomes, for eyes: composed as the daemon composes it, and a page that shows all of it side by side.

The message is made by `compose.composer` for a made-up recipient, so that every field is there which the stream adds.
What is secret or needs a key is stood in for: links and return paths are signed with a word that nobody uses, and no
DKIM signature is made, only named. It writes files, and asks neither the database nor the network; pictures are loaded
by the browser that shows the page.
"""

from __future__ import annotations

import html as markup
from collections.abc import Sequence
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from mailerd.compose.bundle import Library, Share, Version
from mailerd.compose.composer import Composer
from mailerd.compose.judge import CLIP
from mailerd.config.model import Config, Identity, Stream
from mailerd.message import Job, Lease

__all__ = ["RECIPIENT", "Previewed", "compose", "page", "write"]

RECIPIENT: Final = "Ann Example <ann@example.org>"
_NOBODYS: Final = "a secret of nobody, for previews alone"
_SENDER: Final = Identity(name="preview", sender="Example Shop <shop@example.org>")


class Previewed(msgspec.Struct, frozen=True):
    """A composed message, its header as (name, value) unfolded, and its parts. `notes` say what it has not."""

    content: bytes
    envelope: str
    fields: list[tuple[str, str]]
    subject: str
    html: str | None
    text: str
    amp: str | None
    notes: list[str]


def compose(config: Config, stream: Stream, version: Version, params: dict[str, Any], locale: str | None) -> Previewed:
    """The message that `version` becomes in that stream. Raises `Failure`."""
    notes = []
    if not config.identity:
        notes.append("no identity is configured: From is made up")
    identities = config.identity or (_SENDER,)
    signed = next((i for i in identities if i.name == stream.identity), identities[0]).dkim
    if signed:
        keys = ", ".join(f"s={key.selector}" for key in signed)
        notes.append(f"DKIM-Signature ({keys}) is added when it is sent")
    public = replace(config.public, secret=(_NOBODYS,)) if config.public.secret else config.public
    made_up = replace(
        config,
        identity=tuple(replace(identity, dkim=()) for identity in identities),
        stream=tuple(replace(s, require_dkim=False) for s in config.stream),
        public=public,
    )
    library = Library()
    library.put([version], {version.name: (Share(version.version, 100.0),)})
    job = Job(
        id=1,
        stream=stream.name,
        priority=5,
        domain="example.org",
        campaign="",
        lease=Lease(0, 0.0),
        created_at=datetime.now(UTC),
        recipient=RECIPIENT,
        template=version.name,
        params=msgspec.json.encode(params).decode(),
        locale=locale,
        subject="(each row brings its own)" if any(e.subject is None for e in version.editions.values()) else None,
    )
    outgoing = Composer(made_up, library).compose(job)
    message = message_from_bytes(outgoing.content, policy=policy.compat32)
    fields = [(name, " ".join(str(value).split())) for name, value in message.items()]
    parts: dict[str, str] = {}
    for part in message.walk():
        payload: Any = part.get_payload(decode=True)
        if payload is not None:
            parts.setdefault(part.get_content_type(), payload.decode().replace("\r\n", "\n"))
    subject = _decoded(outgoing.content)
    return Previewed(
        outgoing.content,
        outgoing.sender,
        fields,
        subject,
        parts.get("text/html"),
        parts.get("text/plain", ""),
        parts.get("text/x-amp-html"),
        notes,
    )


def _decoded(content: bytes) -> str:
    return str(message_from_bytes(content, policy=policy.default)["Subject"] or "")


def write(base: Path, shown: Previewed, page_: str) -> Path:
    """`BASE.html`, `.txt`, `.eml`, … and the page, whose path it returns."""
    base.parent.mkdir(parents=True, exist_ok=True)
    files = {".html": shown.html, ".txt": shown.text, ".amp.html": shown.amp, ".subject.txt": shown.subject}
    for suffix, text in (files | {".preview.html": page_}).items():
        if text is not None:
            Path(f"{base}{suffix}").write_text(text, "utf-8")
    Path(f"{base}.eml").write_bytes(shown.content)
    return Path(f"{base}.preview.html")


def page(name: str, stream: Stream, shown: Previewed, problems: Sequence[tuple[str, bool]]) -> str:
    """The HTML page. `problems`: (text, is it a warning)."""
    esc = markup.escape
    rows = "".join(f"<tr><th>{esc(n)}<td>{esc(v)}" for n, v in shown.fields)
    octets = len((shown.html or "").encode())
    facts = [
        f"stream {stream.name} ({'marketing' if stream.marketing else 'transactional'})",
        f"{len(shown.content):,} octets as sent",
        f"{octets:,} of HTML, {octets * 100 // CLIP} % of what Gmail shows",
        f"{len(shown.text.encode()):,} of text",
        *([f"{len(shown.amp.encode()):,} of AMP"] if shown.amp is not None else []),
    ]
    said = [f"<li class={'warning' if warning else 'fault'}>{esc(text)}" for text, warning in problems]
    said += [f"<li>{esc(note)}" for note in shown.notes]
    panes = []
    if shown.html is not None:
        source = esc(shown.html, quote=True)
        for title, kind in (("Desktop", "desktop"), ("Phone, 375 px", "phone")):
            panes.append(
                f'<section class={kind}><h2>{title}</h2><iframe sandbox title="{title}" srcdoc="{source}"></iframe></section>'
            )
    panes.append(f"<section class=text><h2>Text</h2><pre>{esc(shown.text)}</pre></section>")
    if shown.amp is not None:
        panes.append(f"<section class=wide><h2>AMP, source</h2><pre>{esc(shown.amp)}</pre></section>")
    return _PAGE.format(
        name=esc(name),
        subject=esc(shown.subject) or "(no subject)",
        facts=" · ".join(map(esc, facts)),
        envelope=f"<tr class=env><th>MAIL FROM<td>&lt;{esc(shown.envelope)}&gt;",
        rows=rows,
        said=f"<ul>{''.join(said)}</ul>" if said else "",
        panes="".join(panes),
    )


_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{name}: {subject}</title>
<style>
:root {{ --line: #8883; --soft: #667085; --ground: #f6f7f9; --card: #fff; --warn: #9a6700; --bad: #c62828 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --line: #fff2; --soft: #98a2b3; --ground: #121418; --card: #1b1e24; --warn: #e3b341; --bad: #ff7b72 }}
}}
* {{ box-sizing: border-box }}
body {{ margin: 0; padding: 24px; background: var(--ground); font: 14px/1.5 system-ui, sans-serif }}
header {{ margin-bottom: 16px }}
h1 {{ margin: 0; font-size: 20px }}
h2 {{ margin: 0 0 8px; font-size: 13px; font-weight: 600; color: var(--soft) }}
p {{ margin: 2px 0 0; color: var(--soft) }}
.head, pre, iframe {{ border: 1px solid var(--line); border-radius: 8px; background: var(--card) }}
.head {{ padding: 12px 16px; margin-bottom: 16px; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; font: 12px/1.6 ui-monospace, monospace }}
th {{ text-align: left; vertical-align: top; padding-right: 16px; white-space: nowrap; font-weight: 600; color: var(--soft) }}
td {{ vertical-align: top }}
.env td {{ padding-bottom: 6px }}
ul {{ margin: 0 0 16px; padding-left: 20px; color: var(--soft) }}
.warning {{ color: var(--warn) }} .fault {{ color: var(--bad) }}
main {{ display: grid; grid-template-columns: minmax(0, 680px) 377px minmax(260px, 1fr); gap: 20px; align-items: start }}
iframe {{ display: block; width: 100%; height: 820px; background: #fff; background-clip: padding-box; color-scheme: light dark }}
pre {{ margin: 0; padding: 16px; height: 820px; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; font: 12px/1.6 ui-monospace, monospace }}
.wide {{ grid-column: 1 / -1 }}
@media (max-width: 1180px) {{ main {{ grid-template-columns: minmax(0, 1fr) 377px }} .text {{ grid-column: 1 / -1 }} .text pre {{ height: auto }} }}
@media (max-width: 800px) {{ main {{ grid-template-columns: minmax(0, 1fr) }} .phone {{ max-width: 377px }} }}
</style></head><body>
<header><h1>{subject}</h1><p>{name} · {facts}</p></header>
{said}
<div class="head"><table>{envelope}{rows}</table></div>
<main>{panes}</main>
</body></html>
"""
