"""Rows of the outbox with anything in their columns, as a strategy, and the configuration they are composed with.

Most of a row is good, so that what is not is looked at: a row with ten bad columns is refused for the first.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mailerd.config.base import Size
from mailerd.config.model import Config, Identity, Limits, Stream, Templates

__all__ = ["COLUMNS", "IDENTITIES", "TEMPLATES", "configuration", "rows"]

COLUMNS = {
    "stream": "text", "priority": "smallint", "send_at": "timestamptz", "expires_at": "timestamptz", "dedup_key": "text",
    "sender": "text", "recipient": "text", "cc": "text[]", "bcc": "text[]", "reply_to": "text", "subject": "text",
    "text_body": "text", "html_body": "text", "template": "text", "params": "jsonb", "locale": "text", "raw": "bytea",
    "headers": "jsonb", "attachments": "jsonb", "thread_key": "text", "campaign": "text", "tags": "text[]", "metadata": "jsonb",
}  # fmt: skip

TEMPLATES = {
    "welcome/subject.j2": "Hello {{ name }}",
    "welcome/text.j2": "Dear {{ name }},\n\nit is {{ more }}.\n",
    "welcome/html.j2": "<p>Dear {{ name }},</p>\n<p>it is {{ more }}.</p>\n",
    "welcome/pt/text.j2": "Olá {{ name }}!\n",
    "lines/text.j2": "{% for item in items %}{{ item }}\n{% endfor %}",
    "broken/text.j2": "{% for %}",
}
IDENTITIES = {"shop": '"The Shop" <shop@shop.example>', "ünï": "Ünï <news@bücher.example>"}


def configuration(folder: Path) -> Config:
    """What the rows are composed with; writes the templates into `folder`."""
    for name, text in TEMPLATES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return Config(
        templates=Templates(path=str(folder)),
        limits=Limits(message_size=Size(3_000_000)),
        identity=tuple(Identity(name=name, sender=sender) for name, sender in IDENTITIES.items()),
        stream=(Stream(name="transactional"), Stream(name="marketing", identity="ünï")),
    )


# -- parts of rows ----------------------------------------------------------------------------------------------------------------

_SPIKES = [
    "", " ", "\t", "\r\nBcc: evil@evil.example", "x\nX-Evil: 1", "a\rb", "\r\n\r\n<b>body</b>", "\r\n.\r\nQUIT\r\n", "\0", "\x01\x1b[2J", "\x7f", "\x0b\x0c",
    "\x1c\x1d\x1e", "=?utf-8?q?x?=", "=?utf-8?b?//8=?=", "=?", "?=", "é", "日本語 メール", "🦊👩‍👩‍👧" * 9, "ﷺ", "\u202egnp.exe", "\u2028", "\u2029", "\x85", "\xa0", "\ufeff", "\u200b",
    "e\u0301", "\u1e9e", "İ", "\U000e0001", "\U0010ffff", "\ufffe", " leading", "trailing ", "two  spaces", "a\tb", ".", "..", ".\r\n.\r\n", "From here", "--=_1", "=_", "=", "=\n",
    "%s%n", "{{ name }}", "{{ missing }}", "{{ 7 * 7 }}", "{%", "{% raw %}{{{% endraw %}", "{# c #}", "{{", "<b>&amp;\"'</b>", "<!--", "\\", '"', "'", "(", ")", "<", ">", ",", ";", ":", "@", "a@b.example",
    "<a@b.example>", "x" * 75, "x" * 998, "x" * 999, "word " * 300, "é" * 700, "日" * 500, "a,b;c", "-", "_", "a=b", "multipart/mixed", "utf-8''x",
]  # fmt: skip
_anything = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
text = st.one_of(
    st.sampled_from(["Hello", "Your order 7", "Müller & Söhne", "Größe\nund Preis\n"]),
    st.sampled_from(_SPIKES),
    _anything,
    st.lists(st.one_of(st.sampled_from(_SPIKES), _anything), min_size=2, max_size=4).map("".join),
)
body = st.one_of(
    text,
    st.builds(lambda one, times, two: (one * times)[:90_000] + two, text, st.sampled_from([1, 2, 40, 2000]), text),
    st.lists(text, max_size=6).map("\n".join),
)
_domain = st.one_of(
    st.sampled_from(
        ["example.org", "d.example", "EXAMPLE.ORG", "example.org.", "bücher.example", "BÜCHER.example", "日本.example", "faß.example", "xn--bcher-kva.example",
         "xn--.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "[IPv6:fe80::1%eth0]", "[1.2.3]", "192.0.2.1", "a_b.example", "-a.example", "a..example", ".", "localhost",
         "x" * 63 + ".example", "x" * 64 + ".example", ".".join(["x" * 60] * 4), "é" * 60 + ".example", "a\u200db.example", "a。example", "İ.example", "example.org>", "b@c.example"]
    ),
    _anything,
)  # fmt: skip
_local = st.one_of(
    st.sampled_from(["ann", "ann.bee", "ANN", "o'neill+tag", "jörg", "jo\u0308rg", '"a b"', '"ab"', "a..b", ".a", "a.", "x" * 64, "x" * 65, "é" * 32, "é" * 33, "a\u200bb", "a\xa0b", "a\u202eb", "%", "a b", "日本"]),
    _anything,
)  # fmt: skip
_good = st.sampled_from(
    [
        "ann@example.org",
        "Ann <ann@example.org>",
        '"Bee, Ann" <ann@example.org>',
        "Jörg Müller <joerg@bücher.example>",
        "bob@d.example",
        "jörg@d.example",
    ]
)
mailbox = st.one_of(
    _good,
    _good,
    st.builds("{}@{}".format, _local, _domain),
    st.builds("{} <{}@{}>".format, text, _local, _domain),
    st.builds('"{}" <ann@example.org>'.format, text),
    text,
)
_scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), text)
_json = st.recursive(
    _scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)
_deep = st.sampled_from(["[" * n + "]" * n for n in (100, 1000, 5000)]).map(lambda t: f'{{"name": {t}, "more": 1}}')
_awkward = st.sampled_from(
    ['{"name": 1e400}', '{"name": 123456789012345678901234567890}', '{"name": "\\u0000"}', '{"name": "\\ud800"}', '{"name": "a", "name": "b"}', "{", "null", '"x"', "[]", '{"": ""}']
)  # fmt: skip


@st.composite
def _rarely(draw: st.DrawFn, odd: st.SearchStrategy[Any], usual: st.SearchStrategy[Any]) -> Any:
    """`odd` once in seven times. (`one_of` makes arms of the arms of what it is given, and so does not weigh them.)"""
    return draw(odd if draw(st.sampled_from("...!...")) == "!" else usual)


def _document(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    return _rarely(st.one_of(_deep, _awkward, _json.map(json.dumps)), strategy.map(json.dumps))


_params = st.fixed_dictionaries(
    {}, optional={"name": _json, "more": _json, "items": st.lists(text, max_size=4), "x": _json}
)
# What a row could smuggle into a line of ours, where no constraint looks.
_smuggled = st.sampled_from(
    [
        "x\r\nBcc: evil@evil.example",
        "x\nX-Evil: 1",
        "x\rX-Evil: 1",
        "x\r\n\r\n<b>body</b>",
        'x"; y="z',
        "x\x0bX-Evil: 1",
        "x\x85y",
        "x\0y",
    ]
)
_inside = _rarely(_smuggled, text)
_header_names = _rarely(
    st.one_of(st.sampled_from(["Bcc", "From", "To", "Subject", "Content-Type", "MIME-Version", "Received", "X Y", "X:Y", "X-É", "X\r\nY", "x" * 77]), text),
    st.sampled_from(["X-Tag", "x-tag", "X-Campaign", "Comments", "Keywords", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "In-Reply-To", "References", "Message-ID",
                     "Feedback-ID", "Date", "Sender", "Precedence", "Auto-Submitted", "Importance"]),
)  # fmt: skip
_header_values = _rarely(
    _smuggled,
    st.one_of(
        st.sampled_from(["<https://shop.example/u?x=1>, <mailto:u@shop.example>", "List-Unsubscribe=One-Click", "<1@shop.example>", "<1@a.example> <2@b.example>", "Tue, 01 Dec 2026 10:00:00 +0100", "bulk"]),
        text, st.integers(-9, 9), st.booleans(), st.none(), st.lists(_inside, max_size=2),
    ),
)  # fmt: skip
_base64 = st.one_of(
    st.binary(max_size=90).map(lambda b: base64.b64encode(b).decode()),
    st.sampled_from([0, 1, 57, 58, 3000, 60_000]).map(lambda n: base64.encodebytes(bytes(range(256)) * (n // 256 + 1)).decode()),
    st.sampled_from(["", "=", "A", "A===", "QQ", "QQ==", "Q Q = =", "Q\r\nQ==", "QQ==QQ==", "é", "-_-_"]),
)  # fmt: skip
_attachment = st.fixed_dictionaries(
    {"content": _rarely(_base64, st.binary(max_size=90).map(lambda b: base64.b64encode(b).decode()))},
    optional={
        "filename": st.one_of(st.sampled_from(["a.pdf", "Größe.txt", "a\"b\\c.txt", "x" * 61, "x" * 256, "日本" * 40, "a/b", "..", "a.tar.gz"]), _inside),
        "content_type": _rarely(_inside, st.sampled_from(["text/plain", "text/html; charset=latin-1", "IMAGE/png", "application/pdf", "message/rfc822", "multipart/mixed", 'a/b; name="x"'])),
        "disposition": _rarely(_inside, st.sampled_from(["inline", "attachment"])),
        "cid": _rarely(_inside, st.sampled_from(["logo", "<logo@x>"])),
    },
)  # fmt: skip
_attachments = st.lists(_rarely(_json, _attachment), max_size=2)
_NOW = datetime(2026, 11, 25, tzinfo=UTC)
_moment = st.one_of(
    st.integers(-4000, 4000).map(lambda days: _NOW + timedelta(days=days)),
    st.sampled_from([datetime(1, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)]),
)  # fmt: skip
_RAW = b"From: a@b.example\r\nSubject: x\r\nMessage-ID: <1@b.example>\r\n\r\nHello\r\n"
_raw = st.one_of(
    st.just(_RAW),
    st.binary(max_size=120),
    st.builds(lambda a, b: _RAW[:a] + b.encode() + _RAW[a:], st.integers(0, len(_RAW)), text),
    st.sampled_from([b"", b"\r\n", b"\n", b"x" * 998, b"x" * 999, _RAW + b"y" * 70_000, _RAW.replace(b"\r\n", b"\n") * 600]),
)  # fmt: skip

_columns: dict[str, st.SearchStrategy[Any]] = {
    "stream": _rarely(text, st.sampled_from(["transactional", "marketing", "other", "a" * 63, "a" * 64])),
    "priority": _rarely(st.sampled_from([-32768, -1, 10, 32767]), st.integers(0, 9)),
    "send_at": _moment, "expires_at": _moment,
    "dedup_key": st.one_of(text, st.sampled_from(["k", "k" * 500, "é" * 251])),
    "sender": st.one_of(st.sampled_from(["shop", "ünï", "nobody", "Sales <shop@shop.example>"]), mailbox),
    "cc": st.one_of(st.lists(_rarely(mailbox, _good), max_size=3), st.lists(_good, max_size=70), st.just(["a@b.example", None])),
    "bcc": st.lists(_rarely(mailbox, _good), max_size=3),
    "reply_to": _rarely(mailbox, _good), "subject": st.one_of(text, body),
    "params": _document(_params),
    "locale": _rarely(text, st.sampled_from(["pt", "pt-BR", "PT_br", "de", "../..", "x" * 36])),
    "headers": _document(st.dictionaries(_header_names, _header_values, min_size=1, max_size=4)),
    "attachments": _document(_attachments),
    "thread_key": st.one_of(text, st.just("t" * 501)), "campaign": st.one_of(text, st.just("ä" * 100)),
    "tags": st.lists(st.one_of(text, st.none()), max_size=4), "metadata": _document(st.dictionaries(text, _json, max_size=3)),
}  # fmt: skip
_parts = {name: _columns[name] for name in ("headers", "attachments")}
_contents = st.one_of(
    st.fixed_dictionaries({"subject": text, "text_body": body}, optional=_parts),
    st.fixed_dictionaries({"subject": text, "html_body": body}, optional={"text_body": body} | _parts),
    st.fixed_dictionaries({"text_body": text, "params": _params.map(json.dumps)}, optional={"subject": text, "html_body": text}),
    st.fixed_dictionaries(
        {"template": _rarely(text, st.sampled_from([*sorted({n.partition("/")[0] for n in TEMPLATES}), "none", "../x", "a//b"])), "params": _params.map(json.dumps)},
        optional={"subject": text, "locale": _columns["locale"]},
    ),
    st.fixed_dictionaries({"raw": _raw}),
)  # fmt: skip
_mixed = st.fixed_dictionaries(
    {}, optional={"text_body": text, "html_body": text, "template": text, "raw": _raw, "subject": text}
)
_content = _rarely(_mixed, _contents)


# What is written into a message more often than what only waits beside it.
_NAMES = [*sorted(_columns), *["sender", "cc"] * 3]


@st.composite
def _row(draw: st.DrawFn) -> dict[str, Any]:
    # Few columns beside the content: a row with ten of them is refused for one, and says nothing of the others.
    names = dict.fromkeys(draw(st.lists(st.sampled_from(_NAMES), max_size=draw(st.sampled_from([0, 1, 2, 2, 4])))))
    content = draw(_content)
    return {
        "recipient": draw(_rarely(mailbox, _good)),
        **content,
        **{name: draw(_columns[name]) for name in names if name not in content},
    }


rows = st.lists(_row(), min_size=1, max_size=5)
