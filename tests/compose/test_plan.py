"""Plans: what goes out decodes to what the template gives as text, with the links that a tracker finds in that."""

from __future__ import annotations

import json
import quopri
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jinja2 import DictLoader
from markupsafe import Markup

from mailerd.compose import plan
from mailerd.compose.bundle import Library, Share
from mailerd.compose.composer import Composer
from mailerd.compose.plan import Unplanned, Wire, following
from mailerd.compose.press import press
from mailerd.compose.sandbox import Sandbox, start_meter
from mailerd.compose.template import Templates, _Plans
from mailerd.compose.tokens import Tokens
from mailerd.compose.track import Tracker
from mailerd.config.model import Config, Stream
from mailerd.config.model import Templates as Folder
from mailerd.config.public import Public
from mailerd.config.tracking import Tracking
from mailerd.message import Failure

from .jobs import NEWS, SHOP, check_wire, job, parse, text_of

ID = 456_640_300_056_577
TRACKER = Tracker("https://m.example/mail", Tokens(["a secret of the tests"]), opens=True, clicks=True, source="news")
FILES = {
    "layout": "<html><head><title>{{ a }}</title></head>\n<body>{% block b %}{% endblock %}<a href='https://l.example'>l</a></body>",
    "part": "<p>{{ b }} <a href='{{ a }}'>p</a></p>\n",
    "macros": "{% macro m(x) %}<b>{{ x }}</b>\n{% endmacro %}",
}
LIMIT = 100_000


def octets(source: str, params: dict[str, Any], tracked: bool) -> bytes:
    """What the plan gives. Raises `Unplanned`."""
    environment = Wire(DictLoader(FILES), LIMIT, links=tracked)
    template = environment.from_string(source)
    start_meter()
    following(TRACKER.trail(ID, "may") if tracked else None)
    context = template.new_context(params)
    return environment.octets(environment.concat(template.root_render_func(context)))


def text(source: str, params: dict[str, Any], tracked: bool) -> str:
    environment = Sandbox(DictLoader(FILES), LIMIT, html=True, keep_trailing_newline=True)
    template = environment.from_string(source)
    start_meter()
    html = environment.concat(template.root_render_func(template.new_context(params)))
    html = html.replace("\r\n", "\n").replace("\r", "\n")
    return TRACKER.html(html, ID, "may")[0] if tracked else html


def decoded(wire: bytes) -> str:
    assert b"\r\n".join(wire.split(b"\r\n")).count(b"\n") == wire.count(b"\r\n")
    for line in wire.split(b"\r\n"):
        assert len(line) <= 76
        assert not line.endswith((b" ", b"\t"))
    return quopri.decodestring(wire).decode().replace("\r\n", "\n")


_PARTS = [
    "{{ a }}", "{{ b }}", "{{ n }}", "{{ a|safe }}", "{{ b|upper|e }}", "{{ 'x<' }}", "x", " ", "=", "\n", ".\n", "é", "~" * 74, "&amp;", "&", "<", "<p>", "</p>",
    "{% for i in l %}<td>{{ i }}{{ loop.index }}</td>\n{% endfor %}", "{% if n %}<b>{{ a }}{% else %}<i>{% endif %}", "{% if n %}", "{% endif %}",
    '<a href="https://a.example/?x={{ a }}&amp;y={{ b }}#{{ n }}">', "<a href='{{ a }}'>", '<a href="https://a.example/é" title="{{ b }}">', "<a href={{ a }}>",
    '<a href="https://a.example/{{ a }}" data-no-track class="{{ b }}">', "<A HREF = https://a.example>", '<a href="mailto:{{ a }}">', '<a href="?x=1&b{{ a }}">',
    '<a href="https://a.example/{% if n %}1{% endif %}">', '<td style="color:{{ a }}">', "<td {{ a }}>", "<{{ b }}>", "<!-- {{ a }} -->", "<!-- x --><!--[if mso]>y<![endif]-->",
    "<!--", "-->", "<style>a { b: {{ a }} }</style>", "</body>", "{% set z %}<a href='x'>{{ a }}</a>{% endset %}{{ z }}", "{{ loop }}", "<area href='https://b.example' alt='<'>",
    "{% include 'part' %}", "{% import 'macros' as q %}{{ q.m(a) }}", "{% from 'macros' import m %}{{ m(b) }}", "{% filter upper %}x{{ a }}{% endfilter %}", "{{ super() }}",
    "{% from 'macros' import m %}{% for i in l %}{{ m(i) }}<p class='{{ m(n) }}'>{% endfor %}", "{% macro k3(x, y) %}<p>{{ x }}<a href='https://k.example/{{ y }}'>{{ y|safe }}</a>{% endmacro %}{{ k3(b, a) }}{{ k3(n, n)|upper }}",
    "{% macro k(x) %}<a href='https://k.example'>{{ x }}</a>{% endmacro %}{{ k(a) }}", "{% call k2() %}{% endcall %}", "{% block b %}<h1>{{ b }}</h1>{% endblock %}", "{% raw %}{{ é }}{% endraw %}",
]  # fmt: skip
_SOURCES = st.lists(st.sampled_from(_PARTS), max_size=12).map("".join)
_VALUES = st.sampled_from(
    ["Ann", "", "ö", "a b ", "<a href='https://v.example'>v</a>", "https://v.example/?q=1&r=\"2\"", "=", "x" * 200, "\n", "a\r\nb", "\r", "\0", "\ud800", "&copy", "'\"", " ", "日本" * 9]
) | st.text(max_size=9)  # fmt: skip


@given(_SOURCES, _VALUES, _VALUES, st.integers(0, 2), st.booleans(), st.booleans())
@example("{% extends 'layout' %}{% block b %}<p>{{ a }}</p>{% endblock %}", "Ann", "", 1, False, True)
@example("<a href='https://a.example/?x=1&co{{ a }}'>", "py;", "", 1, False, True)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_goes_out_is_what_the_template_says(
    source: str, a: str, b: str, n: int, extends: bool, tracked: bool
) -> None:
    if extends:
        source = (
            "{% extends 'layout' %}{% block b %}" + source.replace("{% block b %}", "{% block c %}") + "{% endblock %}"
        )
    params = {"a": a, "b": b, "n": n, "l": [a, 2, b]}
    try:
        wire = octets(source, params, tracked)
    except Exception:
        return  # it is rendered as text, and what is wrong is said then
    assert decoded(wire) == text(source, params, tracked)


@pytest.mark.parametrize(
    "source",
    [
        "{% extends 'layout' %}{% block b %}<p>{{ a }}</p>{% include 'part' %}{% endblock %}",
        '{% for i in l %}<tr><td style="c:{{ i }}"><a href="https://a.example/{{ i }}?b={{ a }}&amp;c=1">{{ i }}</a></td></tr>{% else %}none{% endfor %}',
        "{% if n %}<a href='https://a.example' data-no-track title='{{ a }}'>x</a>{% endif %}<!--[if mso]><b>x</b><![endif]-->",
        "{% from 'macros' import m %}{% macro k(u, t='x') %}<a href='{{ u }}'>{{ t }}{{ m(n) }}</a>\n{% endmacro %}{{ k(a) }}{{ k('mailto:x', a) }}{{ m(b) }}",
        "{% from 'macros' import m %}{{ m(a) }}\n{% set z %}<b>{{ a }}\n</b>{% endset %}{{ z }}",
        '{% set z = a|upper %}<p title="{{ z }}">{{ a|e }} {{ n }} {{ "%.2f"|format(n) }}</p>',
    ],
)  # fmt: skip
def test_what_is_planned(source: str) -> None:
    params = {"a": "https://v.example/ü?q=1&r", "b": "=", "n": 3, "l": ["x", "y z"]}
    for tracked in (False, True):
        if not tracked or "{% set z %}" not in source:
            assert decoded(octets(source, params, tracked)) == text(source, params, tracked)


@pytest.mark.parametrize(
    ("source", "tracked"),
    [
        ("{% filter upper %}x{% endfilter %}", False),
        ("{% extends 'layout' %}{% block b %}{{ super() }}{% endblock %}", False),
        ("{% import 'macros' as q %}{{ q }}", False),
        ("{% for i in l recursive %}{{ i }}{% endfor %}", False),
        ("{% set z %}{% include 'part' %}{% endset %}{{ z }}", False),
        ("日本語の手紙です", False),
        ("\ue000", False),
        ("{% macro k(x) %}<b>{{ x }}</b>{% endmacro %}<p title='{{ k(n) }}'>", True),
        ("{% macro k(x) %}<b>{{ x }}</b>{% endmacro %}<title>{{ k(n) }}</title>", True),
        ("{% macro k(x) %}<b>{{ x }}</b>{% endmacro %}<!-- <p> {{ k(n) }} -->", True),
        ("{% macro k(x) %}<b>{{ x }}</b>{% endmacro %}{{ k(n) + a }}", True),
        ("{% macro k(x) %}<b>{{ x }}</b>{% endmacro %}{{ k(a) }}", True),
        ("{% macro k(x) %}</body>{% endmacro %}{{ k(a) }}", True),
        ("{% set z %}<a href='x'>{% endset %}{{ z }}", True),
        ("<a {% if n %}href='https://a.example'{% endif %}>", True),
        ("<a href={{ a }}>", True),
        ("<{{ a }}>", True),
        ("<style>{% if n %}a{% endif %}</style>", True),
        ("<a href='https://a.example/?x&co{{ a }}'>", True),
        ("</body></body>", True),
        ("<a href='{{ a }}' data-no-track>", True),
        ("{{ a|safe }}", True),
    ],
)
def test_what_is_not(source: str, tracked: bool) -> None:
    with pytest.raises(Unplanned) as refused:
        octets(source, {"a": Markup("<p>"), "n": 1, "l": []}, tracked)
    assert refused.value.lasting


@pytest.mark.parametrize("value", ["a\rb", "\0", "\ud800", "日" * 200, "x" * (LIMIT + 1)])
def test_a_value_that_is_not_does_not_last(value: str) -> None:
    with pytest.raises(Unplanned) as refused:
        octets("<p>{{ a }}</p>", {"a": value}, False)
    assert not refused.value.lasting


def composer(folder: Path, library: Library | None = None) -> Composer:
    return Composer(
        Config(
            templates=Folder(path=str(folder)),
            public=Public(base_url="https://m.example", secret=("a secret of the tests",)),
            identity=(SHOP, NEWS),
            stream=(
                Stream(name="transactional"),
                Stream(name="marketing", tracking=Tracking(opens=True, clicks=True, utm=True)),
            ),
        ),
        library,
    )


TEXT = "{{ a }}: https://a.example/t https://b.example/{{ n }}\n"
HTML = """<html><body><p>{{ a }}</p> \n<a href="https://a.example/{{ n }}">x</a>
<a href="https://a.example/t" data-no-track>×</a>{% if h is defined %}{{ h|safe }}{% endif %}</body></html>\n"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "text.j2").write_text(TEXT, "utf-8")
    (tmp_path / "t" / "html.j2").write_text(HTML, "utf-8")
    return tmp_path


@pytest.mark.parametrize("stream", ["transactional", "marketing"])
@pytest.mark.parametrize("cc", [None, ["b@b.example"]])
@pytest.mark.parametrize(
    "a", ["Ann", "é\r\nx", "a=b c", "日" * 999, "<b> "], ids=["plain", "break", "equals", "dense", "markup"]
)
def test_a_message_says_the_same_with_and_without_a_plan(
    folder: Path, stream: str, cc: list[str] | None, a: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"id": ID, "stream": stream, "campaign": "may", "template": "t", "cc": cc}
    row["params"] = json.dumps({"a": a, "n": 7})
    with_plan = composer(folder).compose(job(**row))
    check_wire(with_plan)
    planned = []
    monkeypatch.setattr("mailerd.compose.template._Plans.render", lambda *args: planned.append(args))
    without = composer(folder).compose(job(**row))
    assert planned
    assert [text_of(part) for part in parse(with_plan).get_payload()] == [
        text_of(part) for part in parse(without).get_payload()
    ]
    assert with_plan.content != without.content or a in ("日" * 999, "é\r\nx")


def test_html_in_a_value_ends_the_plan_and_is_tracked(folder: Path) -> None:
    made = composer(folder)
    row = {"id": ID, "stream": "marketing", "template": "t"}
    for _ in range(2):
        params = {"a": "Ann", "n": 7, "h": "<a href='https://v.example'>v</a>"}
        rich = text_of(parse(made.compose(job(params=json.dumps(params), **row))).get_payload()[1])
        assert rich.count("https://m.example/c/") == 2
        assert "https://v.example" not in rich


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"a": "x"}, r"template t/html.j2, line 2: 'n' is undefined"),
        ({"a": "\0", "n": 1}, "text contains NUL"),
    ],
)
def test_what_is_wrong_is_said_as_without_a_plan(folder: Path, params: dict[str, Any], problem: str) -> None:
    (folder / "t" / "text.j2").write_text("{{ a }}", "utf-8")
    with pytest.raises(Failure, match=problem):
        composer(folder).compose(job(template="t", params=json.dumps(params)))


@pytest.mark.parametrize("stream", ["transactional", "marketing"])
def test_a_stored_template_is_planned(folder: Path, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "t" / "subject.j2").write_text("s")
    pressed = press(folder, "t")
    library = Library()
    library.put([pressed.version], {"t": (Share(0, 100.0),)})
    made: list[bytes | None] = []
    render = _Plans.render

    def planned(*args: Any) -> bytes | None:
        made.append(render(*args))
        return made[-1]

    monkeypatch.setattr(_Plans, "render", planned)
    composer(folder, library).compose(job(stream=stream, template="t", params='{"a": "Ann", "n": 7}'))
    assert [octets is not None for octets in made] == [True]


def test_a_plan_is_compiled_once(folder: Path) -> None:
    templates = Templates(str(folder), LIMIT)
    file = templates._file("t", None)
    assert file.plans is not None
    for n in range(3):
        content = templates.file("t", None, {"a": "Ann", "n": n}, wire=True)
        assert content.html is None
        assert content.wire is not None
    assert set(file.plans._made) == {False}
    assert templates.file("t", None, {"a": "Ann", "n": 1}).wire is None
    assert plan._current.trail is None
