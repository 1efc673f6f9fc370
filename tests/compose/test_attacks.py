"""Templates that want all of the machine: each ends as a failure, in a fraction of a second and a few megabytes."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from mailerd.compose.ration import NODES, SPACE, VALUE_LIMIT
from mailerd.compose.template import Templates
from mailerd.message import Failure

NEST = "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
TUPLES = NEST.replace("x=[]", "x=()").replace("[ns.x, ns.x]", "(ns.x, ns.x)")
BOTH = NEST + NEST.replace("ns", "n2")
BIG = "{% set x = 'x' * 8000000 %}"
LIST = "{% set l = [1] * 100000 %}"
WIDE = "{% set w = ['x' * 4000000] * 50 %}"

ATTACKS = [
    # What is asked for at once.
    "{{ 'x' * 10**9 }}", "{{ ('x'|safe) * 10**9 }}", "{{ 'x'.encode() * 10**10 }}", "{{ [0] * 10**9 }}", "{{ (1,) * 10**7 }}",
    "{{ range(10**9) }}", "{{ range(10**30) }}", "{{ range(10**9)|list }}", "{{ 10**(10**8) }}", "{{ (10**1000) * (10**1000) }}",
    "{% set ns = namespace(x=2) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "{{ '%9999999999d' % 1 }}", "{{ '%9999999999d'|format(1) }}", "{{ '{:9999999999}'.format(1) }}", "{{ '{:.999999999f}'.format(1.5) }}",
    "{{ ('%999d' * 100000) % ((1,) * 100000) }}", "{{ ('%(a)999d' * 100000) % {'a': 1} }}", "{{ ('{0:999}' * 1000000).format(1) }}",
    "{{ (('{0}' * 1000)|safe).format('x' * 80000) }}", "{{ ('%s' * 99) % (('x' * 100000,) * 99) }}",
    "{{ 'a'|center(10**9) }}", "{{ 'a'|center(width=10**9) }}", "{{ 'a'|indent(10**9) }}", "{{ 'a'|indent(width='x' * 8000000, first=true)|indent('y' * 8000000, true) }}",
    "{{ ('\n' * 8000)|indent(width='x' * 8000, blank=true) }}", "{{ 'a'|wordwrap(0) }}", "{{ 'x'.encode().ljust(10**10) }}",
    "{{ 'x'.center(width=10**10) }}", "{{ (5).to_bytes(10**9, 'big') }}", "{{ (0).from_bytes('x') }}", "{{ 1.5|round(10**9) }}",
    "{{ [1]|batch(10**9, 'x')|list }}", "{{ [1]|slice(slices=10**9)|list }}", "{{ {'a': 1}|tojson(indent=10**9) }}",
    "{{ ('http://e.com ' * 5000)|urlize(target='x' * 100000) }}", "{{ 'x'|truncate(1, end='y' * 8000000) ~ 'y' * 8000000 }}",
    "{% filter indent(10**9) %}a\nb{% endfilter %}", "{{ lipsum(n=10**6) }}",
    # Lists in lists: sixty lines, and 2**60 elements.
    *(NEST + use for use in (
        "{{ ns.x }}", "{{ ns.x|string }}", "{{ ns.x|tojson }}", "{{ ns.x|pprint }}", "{{ ns.x ~ '' }}", "{{ [ns.x]|join }}",
        "{{ ns.x|join }}", "{{ ns.x|urlencode }}", "{{ ns.x|e }}", "{{ ns.x|trim }}", "{{ ns.x|upper }}", "{{ 'a'|replace('a', ns.x) }}",
        "{{ '%s' % (ns.x,) }}", "{{ '%s' % [ns.x] }}", "{{ '{}'.format(ns.x) }}", "{{ ns }}", "{{ {'a': ns.x}|xmlattr }}", "{{ {'a': ns.x} }}",
        "{{ {'a': ns.x}.values() }}", "{{ [ns.x].count(ns.x) }}", "{{ ns.x|map('string')|list }}", "{{ 'x'|center(5, ns.x) }}{{ ns.x }}",
        "{{ ns.x|sort }}", "{{ ns.x|unique|list }}", "{{ ns.x|wordcount }}", "{{ ns.x|default('')|string }}", "{% if ns.x|string %}{% endif %}",
    )),
    *(BOTH + use for use in (
        "{{ ns.x == n2.x }}", "{{ ns.x < n2.x }}", "{{ ns.x in [n2.x] }}", "{{ ns.x is eq n2.x }}", "{{ [ns.x]|select('eq', n2.x)|list }}",
        "{{ 1 if ns.x != n2.x }}",
    )),
    *(TUPLES + use for use in ("{{ {ns.x: 1} }}", "{{ {}[ns.x] }}", "{{ [ns.x]|unique|list }}", "{{ {}.get(ns.x) }}", "{{ {'a': 1}.fromkeys([ns.x]) }}")),
    "{% macro m(n) %}{% if n %}{{ m(n - 1, varargs, varargs) }}{% else %}{{ varargs }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1, a=kwargs, b=kwargs) }}{% else %}{{ kwargs }}{% endif %}{% endmacro %}{{ m(60) }}",
    *(WIDE + use for use in ("{{ w }}", "{{ w|string }}", "{{ w|join }}", "{{ w|tojson }}", "{{ w|upper }}", "{{ ''.join(w) }}", "{{ w ~ '' }}", "{{ 'x'|join(w) }}{{ w }}")),
    # Much work in few turns, of which a thousand are free.
    BIG + "{% for i in range(900) %}{% if x.upper() %}{% endif %}{% endfor %}",
    BIG + "{% for i in range(900) %}{% if x|upper|lower %}{% endif %}{% endfor %}",
    BIG + "{% for i in range(900) %}{% if x == x ~ '' %}{% endif %}{% endfor %}",
    BIG + "{% for i in range(900) %}{% if 'yx' in x %}{% endif %}{% endfor %}",
    BIG + "{% for i in range(900) %}{% if x[::-1] %}{% endif %}{% endfor %}",
    BIG + "{% for i in range(900) %}{% if x.count('yx') %}{% endif %}{% endfor %}",
    BIG + "{% for c in x %}{% endfor %}",
    LIST + "{% for i in range(900) %}{% if l[::-1] %}{% endif %}{% endfor %}",
    LIST + "{% for i in range(900) %}{% if 2 in l %}{% endif %}{% endfor %}",
    LIST + "{% for i in range(900) %}{% if l|map('string')|list %}{% endif %}{% endfor %}",
    LIST + "{{ l|sort }}", LIST + "{{ l|groupby('real') }}", LIST + "{{ l|unique|list }}", LIST + "{{ l|pprint }}", LIST + "{{ l|map('string')|list|map('center', 1000)|list }}",
    LIST + "{{ l|map('string')|sort }}", "{{ ([[1]] * 30000)|sum(start=[]) }}", "{{ [(1,)]|sum(start=()) }}",
    BIG + "{{ x|list }}", BIG + "{{ x|title }}", BIG + "{{ x|urlencode }}", BIG + "{{ x|wordcount }}", BIG + "{{ x.split('x') }}", BIG + "{{ x|striptags }}",
    BIG + "{{ (x|safe).striptags() }}", BIG + "{{ (x|safe).unescape() }}", BIG + "{{ (x|replace('x', '<')|safe).escape('<' * 8000000) }}", BIG + "{{ x.split() }}",
    "{{ ('é' * 600000).encode('punycode') }}", "{{ ('x' * 8000000).encode('idna') }}", "{{ 'x'.encode('zip') }}", "{{ ('1' * 8000000)|int }}",
    "{{ ('f' * 8000000)|int(0, 16) }}", "{{ ('ΐ' * 3000000).upper() }}", "{{ ('ΐ' * 3000000)|upper }}", "{{ ('<' * 8000000)|e|forceescape|forceescape }}",
    "{{ 'x'.translate({}) }}",
    # Work that is the product of two lengths.
    BIG + "{{ x|trim('y' * 1000000 ~ 'x') }}", BIG + "{{ x.strip('y' * 1000000 ~ 'x') }}", BIG + "{{ x.rfind('y' ~ 'x' * 4000000) }}",
    BIG + "{{ x[:1000000].rsplit('y' ~ 'x' * 100000) }}", BIG + "{{ x.rindex('y' ~ 'x' * 4000000) }}",
    BIG + "{{ x.rpartition('y' ~ 'x' * 4000000) }}", BIG + "{{ x.encode().rfind(('y' ~ 'x' * 400000).encode()) }}",
    *("{{ [{}]|" + use + " }}" for use in (
        "map(attribute='a.' * 4000000)|list", "sort(attribute='a.' * 4000000)", "groupby('a.' * 4000000)", "join(attribute='a.' * 4000000)",
        "sum(attribute='a.' * 4000000)", "selectattr('a.' * 4000000)|list", "min(attribute='a.' * 4000000)",
    )),
    # A little each time, and none of it given back.
    "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = ns.l + ['x' * 8000000] %}{% endfor %}{{ ns.l|length }}",
    "".join(f"{{% set a{i} = 'x' * 8000000 %}}" for i in range(200)),
    "{% macro m(n) %}{% set x = 'x' * 8000000 %}{{ m(n + 1) }}{{ x }}{% endmacro %}{{ m(0) }}",
    "{% set j = joiner('x' * 8000000) %}{{ j() }}" + "{{ j() ~ 'x' }}" * 20,
    "{% set x %}{% for i in range(9999) %}{{ 'x' * 10000 }}{% endfor %}{% endset %}{{ x|length }}",
    "{% set c = cycler(*(['x' * 1000000] * 50)) %}{% for i in range(100) %}{{ c.next() }}{% endfor %}",
    # Round and round.
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "{% for i in range(9000) recursive %}{{ loop(range(9000)) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% macro m() %}{% for i in range(9999) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", "{% block a %}{{ self.a() }}{% endblock %}",
    "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    # Out of the sandbox.
    "{{ '{0.__class__}'.format(1) }}", "{{ ('{0.__class__}'|safe).format(1) }}", "{{ ['{0.__class__}']|map('format', 1)|list }}{{ ''.__class__ }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}", "{{ ''['__cl' ~ 'ass__'] }}", "{{ ''|attr('__cl' ~ 'ass__') }}", "{{ [1]|map(attribute='__class__')|list|string }}{{ [].__class__ }}",
    "{{ namespace.mro() }}", "{{ dict.__subclasses__() }}", "{{ cycler.next.__globals__ }}", "{{ cycler('a').next.__func__ }}",
    "{{ joiner.__init__.__globals__ }}", "{{ self._TemplateReference__context }}", "{{ range.__self__ }}", "{{ x.append(1) }}", "{{ ns.x.__class__ }}",
    "{{ environ }}", "{{ ''.join.__self__.__class__ }}", "{{ (1).real.__class__ }}", "{{ caller.__globals__ }}",
]  # fmt: skip


@pytest.mark.parametrize("source", ATTACKS)
def test_it_ends(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailerd.compose.ration.CPU_LIMIT", 0.05)
    templates = Templates(None, 200_000)
    start, peak = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Failure) as e:
        templates.inline(None, source, None, {"x": [1], "ns": {"x": 1}})
    assert e.value.category == "template"
    assert time.thread_time() - start < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 250_000  # kB


def test_constants_are_measured_when_they_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jinja works constants out while it compiles, where no loop is metered."""
    monkeypatch.setattr("mailerd.compose.ration.CPU_LIMIT", 0.05)
    source = '{{ "' + "w." * 30_000 + '"|urlize }}'
    start = time.thread_time()
    with pytest.raises(Failure):
        Templates(None, 200_000).inline(None, source * 16, None, {})
    assert time.thread_time() - start < 1.0


def test_files_that_include_themselves(tmp_path: Path) -> None:
    for name, text in {
        "a.j2": "{% include 'b.j2' %}",
        "b.j2": "{% include 'a.j2' %}",
        "c.j2": "{% extends 'c.j2' %}",
        "d.j2": "{% extends 'e.j2' %}",
        "e.j2": "{% extends 'd.j2' %}",
        "f.j2": "{% import 'f.j2' as f %}{{ f }}",
        "g.j2": "{% for i in range(9999) %}{% include 'h.j2' %}{% endfor %}",
        "h.j2": "{% for i in range(9999) %}x{% endfor %}",
    }.items():
        (tmp_path / name).write_text(text)
    templates = Templates(str(tmp_path), 200_000)
    for name in "acdfg":
        start = time.thread_time()
        with pytest.raises(Failure):
            templates.inline(None, f"{{% include '{name}.j2' %}}", None, {})
        assert time.thread_time() - start < 1.0


def test_params_are_data_but_large_ones_are_counted() -> None:
    templates = Templates(None, 1_000_000)
    rows = [{"n": i} for i in range(NODES)]
    with pytest.raises(Failure, match="elements"):
        templates.inline(None, "{{ rows|tojson }}", None, {"rows": rows})
    assert templates.inline(None, "{{ rows|length }}", None, {"rows": rows}).text == str(NODES)
    assert templates.inline(None, "{{ rows|map(attribute='n')|first }}", None, {"rows": rows}).text == "0"
    # A long text goes through as it came.
    long = "x" * (VALUE_LIMIT + 1)
    assert Templates(None, SPACE).inline(None, "{{ a }}", None, {"a": long}).text == long


def test_what_people_write_goes_through() -> None:
    templates = Templates(None, 1_000_000)
    params = {
        "rows": [{"name": f"n{i}", "price": i / 4, "tags": ["a", "b"]} for i in range(300)],
        "d": {"b": 1, "a": [1, 2]},
    }
    for source, result in {
        "{{ rows|sort(attribute='price', reverse=true)|map(attribute='name')|first }}": "n299",
        "{{ rows|sum(attribute='price') }}": "11212.5",
        "{% for k, g in rows|groupby('tags') %}{{ g|length }}{% endfor %}": "300",
        "{{ rows[:2]|map(attribute='tags')|list }}": "[['a', 'b'], ['a', 'b']]",
        "{{ d }} {{ d.a ~ 'x' }} {{ d|tojson }} {{ d|dictsort }}": "{'b': 1, 'a': [1, 2]} [1, 2]x {\"a\": [1, 2], \"b\": 1} [('a', [1, 2]), ('b', 1)]",
        "{{ rows|selectattr('price', 'gt', 74)|map(attribute='name')|join(', ') }}": "n297, n298, n299",
        "{{ rows|batch(100)|map('length')|join('+') }} {{ rows|slice(7)|list|length }}": "100+100+100 7",
        "{{ d.a == [1, 2] and 1 in d.a and d.a < [2] }} {{ {'x': 1, 2: 3}[2] }} {{ 7 // 2 - 1 / 2 }}": "True 3 2.5",
        "{{ ('%-5s|%05.2f' % ('a', 1.5)) }} {{ '{:>6}|{:,}'.format('b', 12345) }}": "a    |01.50      b|12,345",
        "{{ 'a b c'.split() }} {{ ','.join(['x', 'y']) }} {{ 'é'.encode('utf-8')|length }} {{ '12'|int + 1 }}": "['a', 'b', 'c'] x,y 2 13",
        "{% macro m() %}{{ varargs|join }}{{ kwargs.z }}{% endmacro %}{{ m(1, 2, z=d.a) }}": "12[1, 2]",
        "{{ 'see http://e.com'|urlize(target='_blank', rel='x') }}": 'see <a href="http://e.com" rel="noopener x" target="_blank">http://e.com</a>',
    }.items():  # fmt: skip
        assert templates.inline(None, source, None, params).text == result, source
