"""What a template, or a row that carries one, may not do: reach Python, or run or grow without end."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from pathlib import Path

import pytest

from mailerd.compose.template import Templates
from mailerd.message import Failure

LIMIT = 200_000


def render(source: str, html: bool = False, folder: str | None = None, **params: object) -> str | None:
    templates = Templates(folder, LIMIT)
    content = templates.inline(None, None if html else source, source if html else None, params)
    return content.html if html else content.text


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}", "{{ ''.__class__.__mro__ }}", "{{ ''['__class__'] }}", "{{ ''|attr('__class__') }}",
        "{{ [].__class__.__base__.__subclasses__() }}", "{{ range.__globals__ }}", "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}", "{{ self._TemplateReference__context }}", "{{ dict.__base__ }}",
        "{{ '{0.__class__}'.format(1) }}", "{{ '{0.__class__.__mro__}'.format_map({'0': 1}) }}",
        "{{ ('{0.__class__}'|attr('format'))(1) }}", "{{ x.append(1) }}", "{{ d.update({'a': 1}) }}", "{{ d.pop('k') }}",
        "{% set m %}{{ ''.mro() }}{% endset %}{{ m }}", "{{ (x|map(attribute='__class__')|list)[0].__name__ }}",
        "{{ lipsum() }}", "{{ open('/etc/passwd') }}", "{{ environment }}", "{{ config }}", "{{ os.environ }}",
        "{% import 'os' as os %}{{ os }}", "{% include '/etc/passwd' %}", "{% extends '/etc/passwd' %}",
        "{{ joiner.__init__.__globals__ }}", "{{ namespace.__init__ }}", "{{ loop }}", "{{ caller() }}",
    ],
)  # fmt: skip
def test_no_way_out(source: str, tmp_path: Path) -> None:
    with pytest.raises(Failure) as e:
        render(source, folder=str(tmp_path), x=[1], d={"k": 1})
    assert e.value.category == "template"
    assert "root:" not in e.value.reason


GROWTH = [
    "{{ 'x' * 10**9 }}", "{{ 10**9 * 'x' }}", "{{ [0] * 10**9 }}", "{{ (1, 2) * 10**9 }}", "{{ 2 ** 1000000000 }}",
    "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set a %}xxxxxxxxxx{% endset %}"
    + "".join(f"{{% set {b} %}}" + f"{{{{ {a} }}}}" * 100 + "{% endset %}" for a, b in ("ab", "bc", "cd", "de", "ef"))
    + "{{ f|length }}",
    "{{ 'x'|center(10**9) }}", "{{ 'a\nb'|indent(10**9) }}", "{{ 'x'.ljust(10**9) }}", "{{ 'x'['rjust'](10**9) }}",
    "{{ 'x'.zfill(10**9) }}", "{{ '\t'.expandtabs(10**9) }}", "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (10**9, 1) }}",
    "{{ '%.1000000000f' % 1.5 }}", "{{ '%1000000000d'|format(1) }}", "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}", "{{ '{:>{w}}'.format(1, w=10**9) }}", "{{ [1]|batch(10**9, 0)|list }}",
    "{{ [1]|slice(10**9)|list }}", "{{ 1.5|round(10**9) }}", "{{ [1]|tojson(10**9) }}",
    "{% set a = 'x' * 100000 %}{{ a|replace('x', a)|length }}", "{% set a = 'x' * 100000 %}{{ a.replace('x', a)|length }}",
    "{% set a = 'x' * 100000 %}{{ a.join([a] * 10000)|length }}", "{% set a = 'x' * 100000 %}{{ ([a] * 10000)|join|length }}",
    "{% set a = 'x' * 100000 %}{{ ([{'v': a}] * 10000)|join(attribute='v')|length }}",
    "{% set a = 'x' * 100000 %}{{ ('{0}' * 10000).format(a)|length }}", "{% set a = 'x' * 100000 %}{{ (a ~ '%s%s') % (a, a) }}",
    "{% set a = 'x' * 60000 %}{{ a|wordwrap(1, true, a)|length }}", "{{ range(10**9)|list }}",
    "{{ 'x'.translate({120: 'y' * 1000}) }}",
    "{% for i in range(9999) %}{% for j in range(9999) %}xxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    "{% macro m(n) %}x{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
]  # fmt: skip

ENDLESS = [
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "{% for i in range(9999) %}{% if range(9999)|sum %}{% endif %}{% endfor %}",
    "{% for i in range(9999) recursive %}{% if loop.depth < 9 %}{% set x = loop(range(9999)) %}{% endif %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{% set x = m(n - 1) ~ m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{% call m() %}{% endcall %}{{ caller() }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
]


@pytest.mark.parametrize("html", [False, True])
@pytest.mark.parametrize("source", GROWTH + ENDLESS)
def test_mistakes_end_soon_and_small(source: str, html: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailerd.compose.ration.CPU_LIMIT", 0.1)
    start, peak = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Failure) as e:
        render(source, html)
    assert e.value.category == "template"
    assert time.thread_time() - start < 3.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # kB


def test_file_templates_that_include_themselves(tmp_path: Path) -> None:
    (tmp_path / "loop.j2").write_text("{% include 'loop.j2' %}")
    (tmp_path / "tree.j2").write_text(
        "{% if n %}{% with n = n - 1 %}{% include 'tree.j2' %}{% include 'tree.j2' %}{% endwith %}{% endif %}"
    )
    for source in ("{% include 'loop.j2' %}", "{% set n = 50 %}{% include 'tree.j2' %}"):
        start = time.thread_time()
        with pytest.raises(Failure):
            render(source, folder=str(tmp_path))
        assert time.thread_time() - start < 3.0


@pytest.mark.parametrize("text", ["<!--" * 50_000, "<" * 200_000, "x@" * 100_000, "http://" * 50_000, "w. " * 60_000])
@pytest.mark.parametrize("filter_", ["striptags", "urlize", "wordwrap", "title", "trim", "e", "truncate(20)", "upper"])
def test_hostile_values_do_not_stall_filters(text: str, filter_: str) -> None:
    start = time.thread_time()
    with contextlib.suppress(Failure):
        render(f"{{{{ text|{filter_} }}}}", text=text)
    assert time.thread_time() - start < 3.0


def test_values_that_nest_deeply() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(Failure, match=r"too deeply|RecursionError"):
        render("{{ deep }}", deep=deep)


def test_usual_templates_are_not_disturbed() -> None:
    rows = [{"n": i, "t": f"Item {i} " + "x" * 20} for i in range(1000)]
    text = render(
        "{% for r in rows %}{{ loop.index }}. {{ r.t|replace('x', 'yy')|truncate(30) }}\n{% endfor %}", rows=rows
    )
    assert text is not None
    assert text.count("\n") == 1000
    assert (
        render("{{ '{:,.2f}'.format(1234.5) }} {{ '%05.1f' % 2.25 }} {{ '%s of %s'|format(1, 2) }}")
        == "1,234.50 002.2 1 of 2"
    )
    assert (
        render("{{ ', '.join(x) }} {{ x|join('; ') }} {{ 'ab'.upper().replace('A', 'cc') }}", x=["a", "b"])
        == "a, b a; b ccB"
    )
    assert render(
        "{{ 'a\nb'|indent }}|{{ 'x'|center(5) }}|{{ 3 * 4 }}|{{ 2 ** 8 }}|{{ 7 % 4 }}|{{ 'a' * 3 }}|{{ [1] + [2] }}"
    ) == ("a\n    b|  x  |12|256|3|aaa|[1, 2]")
    assert render("{{ [1,2,3]|batch(2)|list }} {{ 2.345|round(2) }} {{ [1]|tojson }}") == "[[1, 2], [3]] 2.35 [1]"
    assert render("{{ x|join('<') }} {{ '<b>' ~ x[0] }}", html=True, x=["<i>"]) == "&lt;i&gt; &lt;b&gt;&lt;i&gt;"
    assert render("{% macro m(a) %}<b>{{ a }}</b>{% endmacro %}{{ m('<') }}", html=True) == "<b>&lt;</b>"
    assert render("{% set x %}<b>{{ '<' }}</b>{% endset %}{{ x }}", html=True) == "<b>&lt;</b>"
    assert (
        render("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}")
        == "3"
    )


def test_the_allowance_is_each_renderings_own() -> None:
    """One that runs away in one thread takes nothing from those before, after and beside it."""
    templates = Templates(None, LIMIT)
    usual = "{% for i in range(2000) %}{{ i }} {% endfor %}"
    failures: list[Failure] = []

    def run_away() -> None:
        try:
            templates.inline(None, ENDLESS[0], None, {})
        except Failure as failure:
            failures.append(failure)

    thread = threading.Thread(target=run_away)
    thread.start()
    while thread.is_alive():
        assert templates.inline(None, usual, None, {}).text
    thread.join()
    assert "CPU time" in failures[0].reason
    assert templates.inline(None, usual, None, {}).text
